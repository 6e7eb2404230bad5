"""Every selected upstream row becomes exactly one caption row, whatever the order of reading."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_catalog.base.errors import SettingsError
from data_catalog.disk.files import sha256_of
from data_catalog.rows.schema import CAPTIONS
from data_catalog.sources.ingest import Source, ingest
from data_catalog.sources.rows import ALL_ROWS, MalformedRow, RowLimit, SourceRow, UnselectedRow, UpstreamRow


def source(rows: Sequence[SourceRow], folder: Path, *, name: str = "pairs", limit: RowLimit = ALL_ROWS) -> Source:
    def read() -> Iterator[SourceRow]:
        return iter(rows)

    files = [folder / "a.tsv"]
    return Source(name=name, files=files, file_entries=[], settings={}, read=read, limit=limit)


def row(sample: str, caption: str, line: int, folder: Path) -> UpstreamRow:
    file, url = str(folder / "a.tsv"), f"http://x/{sample}"
    return UpstreamRow(upstream_file=file, upstream_line=line, sample_key=sample, url=url, caption=caption, lang="en")


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
        *(row("1", "a dog", line, tmp_path) for line in (1, 2, 3)),
        UnselectedRow(reason="language"),
        UnselectedRow(reason="language"),
        MalformedRow(upstream_file=str(tmp_path / "a.tsv"), upstream_line=4, reason="malformed_row", detail="1 field"),
    ]
    shards, counts = ingested(tmp_path / "work", [source(rows, tmp_path)], shard_size=10)
    assert counts == {"pairs": {"selected": 4, "malformed": 1, "unselected": {"language": 2}}}
    table = read_all(shards)
    assert table.schema.equals(CAPTIONS)
    assert sorted(table.column("outcome").to_pylist()) == ["pending"] * 3 + ["rejected"]
    rejected = next(found for found in table.to_pylist() if found["outcome"] == "rejected")
    assert (rejected["step"], rejected["drop_reason"], rejected["upstream_line"]) == ("ingest", "malformed_row", 4)
    assert rejected["upstream_file"] == "a.tsv"
    ids = [found["caption_id"] for found in table.to_pylist() if found["outcome"] == "pending"]
    assert [identity.removeprefix(ids[0]) for identity in ids] == ["", "~2", "~3"], "repeated rows have their own"


def test_a_shard_holds_whole_samples_of_one_source_and_no_source_changes_the_shards_of_another(tmp_path: Path) -> None:
    few = [row(str(n), f"caption {n}", n, tmp_path) for n in range(5)]
    many = [row(str(n % 50), f"caption {n}", n, tmp_path) for n in range(200)]
    both = [source(many, tmp_path, name="b"), source(few, tmp_path, name="a"), source([], tmp_path, name="empty")]
    together, _ = ingested(tmp_path / "work", both, shard_size=10)
    alone, _ = ingested(tmp_path / "alone", both[:1], shard_size=10)
    found = [pq.read_table(path) for path in together]
    assert [set(table.column("source").to_pylist()) for table in found] == [{"a"}, *[{"b"}] * 5]
    assert [path.read_bytes() for path in together[1:]] == [path.read_bytes() for path in alone]
    samples = [set(table.column("sample_id").to_pylist()) for table in found[1:]]
    assert sum(map(len, samples)) == len(set.union(*samples)) == 50


# Each example ingests twice or more.
FEW = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=settings().max_examples // 5)


def limited(rows: Sequence[SourceRow], folder: Path, *, shard_size: int = 3, **limit: int) -> tuple[pa.Table, Any]:
    """The rows that a limit leaves, and the counts of the source."""
    shards, counts = ingested(folder, [source(rows, folder.parent, limit=RowLimit(**limit))], shard_size=shard_size)
    return read_all(shards), counts["pairs"]


@FEW
@given(
    captions=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    num_malformed=st.integers(0, 3),
    limits=st.tuples(st.integers(5, 70), st.integers(5, 70)).map(sorted),
    shuffle=st.randoms(use_true_random=False),
)
def test_neither_the_rows_nor_the_whole_samples_that_a_limit_draws_depend_on_the_order(
    tmp_path_factory: pytest.TempPathFactory, captions: Any, num_malformed: int, limits: Any, shuffle: Any
) -> None:
    folder = tmp_path_factory.mktemp("limit")
    file = str(folder / "a.tsv")
    rows: list[SourceRow] = [
        row(f"s{sample}", f"caption {number % 3}", 10 * sample + number, folder)
        for sample, count in enumerate(captions)
        for number in range(count)
    ]
    rows += [
        MalformedRow(upstream_file=file, upstream_line=1000 + number, reason="malformed_row", detail="")
        for number in range(num_malformed)
    ]
    fewer, counts = limited(rows, folder / "fewer", limit=limits[0])
    assert fewer.num_rows == counts["selected"] <= limits[0]
    assert counts["selected"] + counts["unselected"].get("limit", 0) == len(rows)
    samples = fewer.column("sample_id").to_pylist()
    assert all(samples.count(f"pairs:s{sample}") in (0, count) for sample, count in enumerate(captions))
    more, _ = limited(rows, folder / "more", limit=limits[1])
    assert set(fewer.column("caption_id").to_pylist()) <= set(more.column("caption_id").to_pylist())
    assert more.num_rows == len(rows) or more.num_rows > limits[1] - 5, "no image is left out that has room"
    shuffle.shuffle(rows)
    contents = []
    for name, some in (("whole", rows), ("shuffled", shuffle.sample(rows, len(rows)))):
        shards, counted = ingested(folder / name, [source(some, folder)], shard_size=3)
        contents.append(list(map(sha256_of, shards)))
        assert read_all(shards).num_rows == counted["pairs"]["selected"] == len(rows)
    assert contents[0] == contents[1]
    again, _ = limited(rows, folder / "again", shard_size=7, limit=limits[0])
    assert sorted(again.column("caption_id").to_pylist()) == sorted(fewer.column("caption_id").to_pylist())


def test_another_seed_draws_other_rows_and_rows_that_are_not_asked_for_do_not_count(tmp_path: Path) -> None:
    rows = [row(str(number), "a dog", number, tmp_path) for number in range(200)]
    unasked = [UnselectedRow(reason="language")] * 50
    found = {}
    for seed in (0, 1, 2):
        table, counts = limited([*unasked, *rows], tmp_path / f"work{seed}", limit=20, limit_seed=seed)
        assert counts == {"selected": 20, "malformed": 0, "unselected": {"language": 50, "limit": 180}}
        found[seed] = frozenset(table.column("sample_id").to_pylist())
    assert len(set(found.values())) == 3
    assert len(found[0] & found[1]) < 10, "the seeds have nothing to do with each other"


def test_a_limit_below_the_captions_of_an_image_is_refused(tmp_path: Path) -> None:
    rows = [row("1", f"caption {number}", number, tmp_path) for number in range(7)]
    assert limited(rows, tmp_path / "fits", limit=7)[1]["selected"] == 7
    with pytest.raises(SettingsError, match=r"sources\.pairs\.limit = 4 is less than the captions of one image"):
        limited(rows, tmp_path / "work", limit=4)
