"""The pairs of a snapshot with a verdict on each: its pixels go along, or why not."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.errors import PipelineError
from data_catalog.exports.rights import Policy
from data_catalog.storage.integrity import file_problem
from data_catalog.storage.manifest import Snapshot

PIXEL_COLUMNS = ("image", "original")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedShard:
    """One shard of pairs.

    Args:
        path: of the shard, whose bytes are as they were written.
        entry: its line in the manifest.
        rows: all columns but pixels.
        reasons: for each row why its pixels stay away, or None.
    """

    path: Path
    entry: Mapping[str, Any]
    rows: pa.Table
    reasons: Sequence[str | None]

    @property
    def goes_along(self) -> pa.Array:
        """A Boolean for each row: whether its pixels go along."""
        return pa.array([reason is None for reason in self.reasons], pa.bool_())

    @property
    def is_listed(self) -> pa.Array:
        """A Boolean for each row: whether it has an address by which it is listed, since its pixels stay away."""
        urls = self.rows.column("url").to_pylist()
        return pa.array([bool(reason and url) for reason, url in zip(self.reasons, urls, strict=True)], pa.bool_())


def judged_shards(snapshot: Snapshot, policy: Policy, split: str) -> Iterator[JudgedShard]:
    """The shards of a split in order, each held against its sha256 first.

    Raises:
        PipelineError: a shard is not what was written.
    """
    for entry in snapshot.manifest["files"]["pairs"]:
        if entry["split"] != split:
            continue
        path = snapshot.folder / entry["path"]
        problem = file_problem(path, entry["sha256"])
        if problem is not None:
            raise PipelineError(f"{problem}: nothing is exported; `vernaclip verify` lists all that is damaged")
        names = [name for name in pq.read_schema(path).names if name not in PIXEL_COLUMNS]
        rows = pq.read_table(path, columns=names)
        asked = rows.select(["source", "license", "attribution", "page_url"]).to_pylist()
        yield JudgedShard(path=path, entry=entry, rows=rows, reasons=[policy.why_not(row) for row in asked])


def pair_groups(shard: JudgedShard) -> Iterator[pa.Table]:
    """The pairs whose pixels go along, with them, a row group at a time."""
    goes_along, start = shard.goes_along, 0
    with pq.ParquetFile(shard.path) as source:
        for number in range(source.num_row_groups):
            rows = source.metadata.row_group(number).num_rows
            chosen = goes_along.slice(start, rows)
            start += rows
            if chosen.true_count:
                yield source.read_row_group(number).filter(chosen)


def sample_key(sample_id: str) -> str:
    """A name for a sample that is safe anywhere: 24 hexadecimal digits of its identity's sha256."""
    return hashlib.sha256(sample_id.encode()).hexdigest()[:24]
