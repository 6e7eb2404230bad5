"""Ingest step: read upstream rows into shards of caption rows; count unselected rows, reject malformed ones."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from os.path import commonpath
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.base.errors import SettingsError
from data_catalog.base.progress import Progress
from data_catalog.catalog.manifest import SPLITS, NamedHash, SourceCounts
from data_catalog.catalog.sorting import count_samples, sorted_rows
from data_catalog.catalog.work import StepFacts
from data_catalog.disk.failpoints import failpoint
from data_catalog.disk.files import order_key, save_parquet, shard_of
from data_catalog.disk.row_groups import groups_of
from data_catalog.rows.origins import CaptionOrigin
from data_catalog.rows.schema import CAPTIONS, NATIVE, PENDING, REJECTED
from data_catalog.rows.stages import Drop, pending_rows, reject, texts
from data_catalog.sources.files import excerpt
from data_catalog.sources.rows import (
    ALL_ROWS,
    BEYOND_LIMIT,
    DrawnSamples,
    JudgedRow,
    MalformedRow,
    RowLimit,
    SourceRow,
    UnselectedRow,
    UpstreamRow,
)

logger = logging.getLogger(__name__)

STEP = "ingest"
ROWS_PER_STAGED_BATCH = 20_000
CHARS_PER_STAGED_BATCH = 16 * 2**20

STAGED = pa.schema(
    [*CAPTIONS, pa.field("order_key", pa.string(), nullable=False), pa.field("unknown_split", pa.string())]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A source of a recipe."""

    name: str  # value of the column `source`, and prefix of ids
    files: Sequence[Path]
    file_entries: Sequence[NamedHash]  # their names and sha256, in the order of `files`
    settings: Mapping[str, Any]  # those that decide which rows are selected, and their contents
    read: Callable[[], Iterator[SourceRow]]  # opens the files and yields their rows
    # Who wrote the captions of a file, given its path as it is in the rows.
    origin: Callable[[str], CaptionOrigin] = lambda upstream_file: CaptionOrigin()
    limit: RowLimit = ALL_ROWS
    # Whether samples stay in the order of files and lines, so that a shard reads the images of a few files in order.
    in_order: bool = False

    def draw(self) -> DrawnSamples | None:
        """Read all rows and draw the samples within the limit; without a limit return None and read nothing."""
        if not self.limit.limit:
            return None
        base = _common_folder(self.files)
        selected = (row for row in self.read() if not isinstance(row, UnselectedRow))
        drawn = self.limit.draw(_sample_id(row, self.name, base) for row in selected)
        setting = f"sources.{self.name}.limit = {self.limit.limit}"
        if drawn.num_rows and not drawn.num_drawn:
            raise SettingsError(f"{setting} is less than the captions of one image: set a larger limit")
        logger.info("%s: %s of %s rows are read", setting, f"{drawn.num_drawn:,}", f"{drawn.num_rows:,}")
        return drawn

    def rows(self, drawn: DrawnSamples | None) -> Iterator[SourceRow]:
        """Yield the rows; with a limit, rows of samples that were not drawn are unselected."""
        base = _common_folder(self.files)
        for row in self.read():
            if drawn is None or isinstance(row, UnselectedRow):
                yield row
            else:
                is_drawn = self.limit.rank(_sample_id(row, self.name, base)) < drawn.end
                yield row if is_drawn else UnselectedRow(reason=BEYOND_LIMIT)


def ingest(
    folder: Path, sources: Sequence[Source], *, target_lang: str, shard_size: int, keep_splits: bool = False
) -> StepFacts:
    """Read all sources into shards of about `shard_size` samples; all captions of a sample are in one shard.

    The folder gets `00000.parquet`, ... (schema `CAPTIONS`, sorted, rows `pending` or rejected by ingest); the facts
    have the number of shards and the counts of each source. `keep_splits` rejects all rows of an image if one states a
    split with an unknown name.
    """
    staged = folder / "staged"
    counts: dict[str, SourceCounts] = {
        source.name: {"selected": 0, "malformed": 0, "unselected": {}} for source in sources
    }
    with (
        pq.ParquetWriter(staged, STAGED, compression="zstd") as writer,
        Progress("ingest", total=None, unit="rows") as progress,
    ):
        for source in sources:
            records = _staged_rows(source, target_lang, counts[source.name])
            groups = groups_of(records, _num_chars, most_rows=ROWS_PER_STAGED_BATCH, most_bytes=CHARS_PER_STAGED_BATCH)
            for group in groups:
                writer.write_batch(pa.RecordBatch.from_pylist(group, schema=STAGED))
                failpoint("ingest.after_batch", staged)
                progress.advance(len(group), source=source.name)
    # Each source has its own shards, so that a source with slow hosts does not delay the others.
    ranges: dict[str, range] = {}
    num_shards, num_samples_of = 0, count_samples(staged)
    for name, num_samples in num_samples_of.items():
        ranges[name] = range(num_shards, num_shards + -(-num_samples // shard_size))
        num_shards = ranges[name].stop
    cut = _Cut(ranges, {source.name: num_samples_of.get(source.name, 0) for source in sources if source.in_order})
    num_shards = max(1, num_shards)
    empty = set(range(num_shards))  # a few may be
    for number, pieces in groupby(_pieces(staged, cut, counts if keep_splits else None), key=itemgetter(0)):
        rows = pa.concat_tables([CAPTIONS.empty_table(), *(piece for _, piece in pieces)])
        save_parquet(rows, folder / f"{number:05d}.parquet")
        empty.remove(number)
    for number in empty:
        save_parquet(CAPTIONS.empty_table(), folder / f"{number:05d}.parquet")
    staged.unlink()
    return {"num_shards": num_shards, "sources": counts}


def _num_chars(record: Mapping[str, Any]) -> int:
    return sum(len(value) for value in record.values() if isinstance(value, str))


def _staged_rows(source: Source, target_lang: str, counts: SourceCounts) -> Iterator[dict[str, Any]]:
    """Yield the selected rows of a source; count selected, malformed and unselected rows."""
    base = _common_folder(source.files)
    numbers = {str(path): number for number, path in enumerate(source.files)} if source.in_order else {}
    for row in source.rows(source.draw()):
        if isinstance(row, UnselectedRow):
            counts["unselected"][row.reason] = counts["unselected"].get(row.reason, 0) + 1
            continue
        counts["selected"] += 1
        counts["malformed"] += isinstance(row, MalformedRow)
        record = _staged_row(row, source, base, target_lang)
        if source.in_order:
            record["order_key"] = f"{numbers[row.upstream_file]:08x}{row.upstream_line:08x}"
        yield record


def _sample_id(row: JudgedRow, source: str, base: str) -> str:
    """Return the sample id of a row; a malformed row is a sample of its own, identified by its file and line."""
    if isinstance(row, UpstreamRow):
        return f"{source}:{row.sample_key}"
    return f"{source}:malformed-{order_key(f'{_relative(row.upstream_file, base)}:{row.upstream_line}')}"


def _staged_row(row: JudgedRow, source: Source, base: str, target_lang: str) -> dict[str, Any]:
    sample_id = _sample_id(row, source.name, base)
    shared = {
        "sample_id": sample_id,
        "source": source.name,
        "target_lang": target_lang,
        "upstream_file": _relative(row.upstream_file, base),
        "upstream_line": row.upstream_line,
        "order_key": order_key(sample_id),
    }
    if isinstance(row, MalformedRow):
        return shared | {
            "caption_id": f"{sample_id}#{row.reason}",
            "source_caption": row.raw,
            "outcome": REJECTED,
            "step": STEP,
            "drop_reason": row.reason,
            "detail": row.detail,
        }
    said: dict[str, Any] = {"source_caption": row.caption, "source_lang": row.lang}
    if row.lang == target_lang:  # captions in other languages are translated later
        if row.original is not None:
            said = {"source_caption": row.original, "source_lang": row.original_lang, "caption": row.caption}
        made = source.origin(row.upstream_file)
        said |= {"origin": made.origin, "translator": NATIVE if made.origin == NATIVE else made.translator}
    return {
        **shared,
        **said,
        "caption_id": f"{sample_id}#{row.caption_key or order_key(row.caption)[:12]}",
        "upstream_split": row.split,
        "url": row.url,
        "path": row.path,
        "license": row.license,
        "attribution": row.attribution,
        "page_url": row.page_url,
        "outcome": PENDING,
        "unknown_split": None if row.split in SPLITS else row.split,
    }


def _common_folder(files: Sequence[Path]) -> str:
    return commonpath([str(path.absolute().parent) for path in files])


def _relative(file: str, base: str) -> str:
    return Path(file).absolute().relative_to(base).as_posix()


class _Cut:
    """Shards of rows in the dataset's order: by hash or, for sources in order, by position, all of about one size."""

    def __init__(self, ranges: Mapping[str, range], num_samples: Mapping[str, int]) -> None:
        self._ranges, self._num_samples = ranges, num_samples  # the latter of sources in order
        self._last: tuple[str, str] | None = None
        self._position = 0

    def shard(self, source: str, key: str) -> int:
        """Return the shard of the next row."""
        shards = self._ranges[source]
        if source not in self._num_samples:
            return shards.start + shard_of(key, len(shards))
        if self._last != (source, key):
            self._position = self._position + 1 if self._last and self._last[0] == source else 0
            self._last = source, key
        return shards.start + self._position * len(shards) // self._num_samples[source]


def _pieces(staged: Path, cut: _Cut, rejecting: Mapping[str, SourceCounts] | None) -> Iterator[tuple[int, pa.Table]]:
    """Yield the sorted rows cut by shard; reject rows for unknown splits if `rejecting` counts them."""
    for batch in sorted_rows(staged, spread=None if rejecting is None else "unknown_split"):
        table = pa.Table.from_batches([batch])
        if rejecting is not None:
            table = _without_unknown_splits(table, rejecting)
        places = zip(table.column("source").to_pylist(), table.column("order_key").to_pylist(), strict=True)
        shards = [cut.shard(source, key) for source, key in places]
        finished, start = _finish_rows(table), 0
        for shard, rows in groupby(shards):
            num_rows = sum(1 for _ in rows)
            yield shard, finished.slice(start, num_rows)
            start += num_rows


def _without_unknown_splits(table: pa.Table, counts: Mapping[str, SourceCounts]) -> pa.Table:
    """Reject and count all rows of images of which a row states a split that is not train, val or test."""
    rows = pending_rows(table, pc.is_valid(table.column("unknown_split")))
    for source in texts(table, "source", rows):
        counts[source]["malformed"] += 1
    drops = [
        Drop("unknown_split", excerpt(f"the split {name!r} is neither train, val nor test"))
        for name in texts(table, "unknown_split", rows)
    ]
    return reject(table, rows, drops, step=STEP)


def _finish_rows(table: pa.Table) -> pa.Table:
    """Add a suffix to repeated caption ids, and cast to the schema."""
    repeats = table.column("repeat")
    suffixes = pc.binary_join_element_wise("~", pc.cast(repeats, pa.string()), "")
    ids = pc.binary_join_element_wise(table.column("caption_id"), pc.if_else(pc.equal(repeats, 1), "", suffixes), "")
    table = table.set_column(table.schema.get_field_index("caption_id"), "caption_id", ids)
    return table.select(CAPTIONS.names).cast(CAPTIONS)
