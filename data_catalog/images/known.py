"""What an earlier snapshot knows of its images, so that only what may end better is asked of the web again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_catalog.errors import ShardError
from data_catalog.images.reasons import is_retryable
from data_catalog.images.tables import Row, read_groups
from data_catalog.manifest import Snapshot
from data_catalog.schema import IMAGES, OUTCOMES
from data_catalog.shards import digest

_SHARED_COLUMNS = [name for name in IMAGES.names if name in OUTCOMES.names]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownShard:
    """What a snapshot has of the images of one shard.

    Args:
        snapshot: its id.
        outcomes: its file of the schema `OUTCOMES`.
        pairs: its pair files, which hold the good images that were published.
        identity: hash of all these files' content.
    """

    snapshot: str
    outcomes: Path
    pairs: tuple[Path, ...]
    identity: str

    def settled(self) -> set[str]:
        """Samples that are not to be asked for again: they are good, or failed for a final reason."""
        rows = pq.read_table(self.outcomes, columns=["sample_id", "drop_reason"]).to_pylist()
        return {row["sample_id"] for row in rows if not is_retryable(row["drop_reason"])}

    def merged_rows(self, sample_ids: Iterable[str], tried_again: Path) -> Iterator[Row]:
        """Rows of the schema `IMAGES`, in the order of `sample_ids`: the settled ones, and those that were tried again.

        A good image that no pair file has, since its sample was dropped as a duplicate, comes without its bytes: it is
        dropped for the same reason again, since all better ones are still there.

        Raises:
            ShardError: a sample is in neither.
        """
        known = {row["sample_id"]: row for row in pq.read_table(self.outcomes).to_pylist()}
        images = dict(self._published())
        again = {row["sample_id"]: row for group in read_groups(tried_again) for row in group}
        for sample_id in sample_ids:
            if sample_id in again:
                yield again[sample_id]
            elif sample_id in known:
                yield _image_row(known[sample_id], images.get(sample_id, {}))
            else:
                raise ShardError(
                    f"images: snapshot {self.snapshot} says nothing of {sample_id}: build without retrying"
                )

    def _published(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for path in self.pairs:
            for row in pq.read_table(path, columns=["sample_id", "image", "original"]).to_pylist():
                yield row["sample_id"], {"bytes": row["image"]["bytes"], "original": row["original"]}


def _image_row(outcome: Row, image: Mapping[str, Any]) -> Row:
    shared = {name: outcome[name] for name in _SHARED_COLUMNS}
    return {**dict.fromkeys(IMAGES.names), **shared, **image}


def known_shards(snapshot: Snapshot) -> dict[int, KnownShard]:
    """What a snapshot knows, by shard number; a snapshot that was written before outcomes were knows nothing."""
    outcomes: Sequence[Mapping[str, Any]] = snapshot.manifest["files"].get("images", [])
    pairs: Sequence[Mapping[str, Any]] = snapshot.manifest["files"]["pairs"]
    return {entry["shard"]: _known_shard(snapshot, entry, pairs) for entry in outcomes}


def _known_shard(snapshot: Snapshot, entry: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]]) -> KnownShard:
    mine = [pair for pair in pairs if pair["shard"] == entry["shard"]]
    return KnownShard(
        snapshot=snapshot.snapshot,
        outcomes=snapshot.folder / entry["path"],
        pairs=tuple(snapshot.folder / pair["path"] for pair in mine),
        identity=digest([entry["sha256"], *(pair["sha256"] for pair in mine)]),
    )


def num_retryable(shards: Iterable[KnownShard]) -> int:
    """How many images a snapshot lacks for reasons that may have passed."""
    reasons = (pq.read_table(shard.outcomes, columns=["drop_reason"]).column("drop_reason") for shard in shards)
    return sum(is_retryable(reason) for column in reasons for reason in column.to_pylist())
