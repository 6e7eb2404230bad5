"""Every selected upstream row becomes exactly one caption row, whatever the order of reading."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_catalog.schema import CAPTIONS
from data_catalog.sources.ingest import Source, ingest
from data_catalog.sources.rows import MalformedRow, SourceRow, UnselectedRow, UpstreamRow
from data_catalog.storage.shards import sha256_of


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


def ingested(folder: Path, sources: Sequence[Source], *, shard_size: int) -> tuple[list[Path], Mapping[str, Any]]:
    """The shards, and what was counted."""
    folder.mkdir()
    facts = ingest(folder, sources, target_lang="it", shard_size=shard_size)
    shards = sorted(folder.iterdir())
    assert [path.name for path in shards] == [f"{number:05d}.parquet" for number in range(facts["num_shards"])]
    return shards, facts["sources"]


def read_all(shards: Sequence[Path]) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in shards])


def test_selection_is_counted_and_malformed_rows_are_kept_as_rejects(tmp_path: Path) -> None:
    rows = [
        row("1", "a dog", 1, tmp_path),
        UnselectedRow(reason="language"),
        UnselectedRow(reason="language"),
        MalformedRow(upstream_file=str(tmp_path / "a.tsv"), upstream_line=4, reason="malformed_row", detail="1 field"),
    ]
    shards, counts = ingested(tmp_path / "work", [source(rows, tmp_path)], shard_size=10)
    assert counts == {"pairs": {"selected": 2, "malformed": 1, "unselected": {"language": 2}}}
    table = read_all(shards)
    assert table.schema.equals(CAPTIONS)
    assert sorted(table.column("outcome").to_pylist()) == ["pending", "rejected"]
    rejected = next(found for found in table.to_pylist() if found["outcome"] == "rejected")
    assert (rejected["step"], rejected["drop_reason"], rejected["upstream_line"]) == ("ingest", "malformed_row", 4)
    assert rejected["upstream_file"] == "a.tsv"


def test_all_captions_of_a_sample_lie_in_one_shard(tmp_path: Path) -> None:
    rows = [row(str(n % 50), f"caption {n}", n, tmp_path) for n in range(500)]
    paths, _ = ingested(tmp_path / "work", [source(rows, tmp_path)], shard_size=10)
    shards = [set(pq.read_table(path).column("sample_id").to_pylist()) for path in paths]
    assert len(shards) == 5
    assert sum(len(shard) for shard in shards) == len(set.union(*shards)) == 50


def test_a_shard_holds_one_source_and_no_source_changes_the_shards_of_another(tmp_path: Path) -> None:
    few = [row(str(n), f"caption {n}", n, tmp_path) for n in range(5)]
    many = [row(str(n), f"caption {n}", n, tmp_path) for n in range(35)]
    both = [source(many, tmp_path, name="b"), source(few, tmp_path, name="a"), source([], tmp_path, name="empty")]
    together, _ = ingested(tmp_path / "work", both, shard_size=10)
    alone, _ = ingested(tmp_path / "alone", both[:1], shard_size=10)
    found = [pq.read_table(path) for path in together]
    assert [set(table.column("source").to_pylist()) for table in found] == [{"a"}, *[{"b"}] * 4]
    assert [path.read_bytes() for path in together[1:]] == [path.read_bytes() for path in alone]


def test_repeated_rows_get_ids_of_their_own(tmp_path: Path) -> None:
    rows = [row("1", "a dog", line, tmp_path) for line in (1, 2, 3)]
    shards, _ = ingested(tmp_path / "work", [source(rows, tmp_path)], shard_size=10)
    ids = read_all(shards).column("caption_id").to_pylist()
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
        folder = tmp_path / f"work-{number}-{len(list(tmp_path.iterdir()))}"
        shards, _ = ingested(folder, [source(order, tmp_path)], shard_size=3)
        contents.append(list(map(sha256_of, shards)))
        assert sum(pq.read_metadata(path).num_rows for path in shards) == len(rows)
    assert contents[0] == contents[1]
