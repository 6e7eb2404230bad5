"""Every selected upstream row becomes exactly one caption row, whatever the order of reading."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_catalog.schema import CAPTIONS
from data_catalog.sources.ingest import Source, ingest, shard_names
from data_catalog.sources.rows import MalformedRow, SourceRow, UnselectedRow, UpstreamRow
from data_catalog.storage.work import Commit, WorkStore


def source(rows: Sequence[SourceRow], folder: Path, *, name: str = "pairs", content_hash: str = "h") -> Source:
    def read() -> Iterator[SourceRow]:
        return iter(rows)

    return Source(name=name, files=[folder / "a.tsv"], file_hashes=[content_hash], settings={}, read=read)


def row(sample: str, caption: str, line: int, folder: Path, *, key: str | None = None) -> UpstreamRow:
    file = str(folder / "a.tsv")
    return UpstreamRow(
        upstream_file=file,
        upstream_line=line,
        sample_key=sample,
        caption_key=key,
        url=f"http://x/{sample}",
        caption=caption,
        lang="en",
    )


def read_all(commit: Commit) -> pa.Table:
    return pa.concat_tables([pq.read_table(commit.path(name)) for name in shard_names(commit)])


def test_selection_is_counted_and_malformed_rows_are_kept_as_rejects(tmp_path: Path) -> None:
    rows = [
        row("1", "a dog", 1, tmp_path),
        UnselectedRow(reason="language"),
        UnselectedRow(reason="language"),
        MalformedRow(upstream_file=str(tmp_path / "a.tsv"), upstream_line=4, reason="malformed_row", detail="1 field"),
    ]
    commit = ingest(WorkStore(tmp_path / "work"), [source(rows, tmp_path)], target_lang="it", shard_size=10)
    assert commit.facts["sources"] == {"pairs": {"selected": 2, "malformed": 1, "unselected": {"language": 2}}}
    table = read_all(commit)
    assert table.schema.equals(CAPTIONS)
    assert sorted(table.column("outcome").to_pylist()) == ["pending", "rejected"]
    rejected = next(found for found in table.to_pylist() if found["outcome"] == "rejected")
    assert (rejected["step"], rejected["drop_reason"], rejected["upstream_line"]) == ("ingest", "malformed_row", 4)
    assert rejected["upstream_file"] == "a.tsv"


def test_all_captions_of_a_sample_lie_in_one_shard(tmp_path: Path) -> None:
    rows = [row(str(n % 50), f"caption {n}", n, tmp_path) for n in range(500)]
    commit = ingest(WorkStore(tmp_path / "work"), [source(rows, tmp_path)], target_lang="it", shard_size=10)
    shards = [set(pq.read_table(commit.path(name)).column("sample_id").to_pylist()) for name in shard_names(commit)]
    assert len(shards) == 5
    assert sum(len(shard) for shard in shards) == len(set.union(*shards)) == 50


def test_a_shard_holds_one_source_and_no_source_changes_the_shards_of_another(tmp_path: Path) -> None:
    few = [row(str(n), f"caption {n}", n, tmp_path) for n in range(5)]
    many = [row(str(n), f"caption {n}", n, tmp_path) for n in range(35)]
    both = [source(many, tmp_path, name="b"), source(few, tmp_path, name="a"), source([], tmp_path, name="empty")]
    commit = ingest(WorkStore(tmp_path / "work"), both, target_lang="it", shard_size=10)
    alone = ingest(WorkStore(tmp_path / "alone"), both[:1], target_lang="it", shard_size=10)
    found = [pq.read_table(commit.path(name)) for name in shard_names(commit)]
    assert [set(table.column("source").to_pylist()) for table in found] == [{"a"}, *[{"b"}] * 4]
    assert [commit.files[name] for name in shard_names(commit)[1:]] == [
        alone.files[name] for name in shard_names(alone)
    ]


def test_repeated_rows_get_ids_of_their_own(tmp_path: Path) -> None:
    rows = [row("1", "a dog", line, tmp_path) for line in (1, 2, 3)]
    commit = ingest(WorkStore(tmp_path / "work"), [source(rows, tmp_path)], target_lang="it", shard_size=10)
    ids = read_all(commit).column("caption_id").to_pylist()
    assert len(set(ids)) == 3
    assert [found[-2:] for found in ids[1:]] == ["~2", "~3"]


texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("abcdef"), texts), max_size=40), st.randoms(use_true_random=False))
def test_the_order_of_reading_does_not_matter(tmp_path: Path, found: list[tuple[str, str]], random: object) -> None:
    rows = [row(sample, caption, line, tmp_path) for line, (sample, caption) in enumerate(found, start=1)]
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    contents = []
    for number, order in enumerate((rows, shuffled)):
        work = WorkStore(tmp_path / f"work-{number}-{len(list(tmp_path.iterdir()))}")
        commit = ingest(work, [source(order, tmp_path)], target_lang="it", shard_size=3)
        contents.append([commit.files[name] for name in shard_names(commit)])
        assert sum(pq.read_metadata(commit.path(name)).num_rows for name in shard_names(commit)) == len(rows)
    assert contents[0] == contents[1]
