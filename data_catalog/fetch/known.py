"""What an earlier snapshot knows of its images, so that only what may end better is asked of the web again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_catalog.errors import ConfigError, ShardError
from data_catalog.fetch.reasons import is_retryable
from data_catalog.images.tables import Row, read_groups
from data_catalog.schema import IMAGES, OUTCOMES, OUTCOMES_VERSION
from data_catalog.storage.manifest import Snapshot
from data_catalog.storage.shards import digest, sha256_of

_SHARED_COLUMNS = [name for name in IMAGES.names if name in OUTCOMES.names]
# Original bytes may be large.
_ROWS_AT_ONCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownShard:
    """What a snapshot has of the images of one shard.

    Args:
        snapshot: its id.
        attempt: how often what it lacks has been asked for already.
        outcomes: its file of the schema `OUTCOMES`.
        pairs: its pair files, which hold the good images that were published.
        sha256: what the manifest says of each of these files.
    """

    snapshot: str
    attempt: int
    outcomes: Path
    pairs: tuple[Path, ...]
    sha256: Mapping[Path, str]

    @property
    def identity(self) -> str:
        """Hash of the content of all files."""
        return digest([self.sha256[path] for path in (self.outcomes, *self.pairs)])

    def settled(self) -> set[str]:
        """Samples that are not to be asked for again: they are good, or failed for a final reason.

        Raises:
            ConfigError: the snapshot is damaged.
        """
        rows = self._read_outcomes(["sample_id", "drop_reason"])
        return {row["sample_id"] for row in rows if not is_retryable(row["drop_reason"])}

    def num_retryable(self) -> int:
        """How many images are missing for reasons that may have passed. Raises `ConfigError` as `settled` does."""
        return sum(is_retryable(row["drop_reason"]) for row in self._read_outcomes(["drop_reason"]))

    def merged_rows(self, sample_ids: Iterable[str], tried_again: Path) -> Iterator[Row]:
        """Rows of the schema `IMAGES`, in the order of `sample_ids`: the settled ones, and those that were tried again.

        A good image that no pair file has, since its sample was dropped as a duplicate, comes without its bytes: it is
        dropped again (`cleaning.duplicates.images`).

        Raises:
            ConfigError: the snapshot is damaged.
            ShardError: a sample is in neither.
        """
        known = {row["sample_id"]: row for row in self._read_outcomes(OUTCOMES.names)}
        published = [_Stream(self._published(path)) for path in self.pairs]
        again = _Stream(row for group in read_groups(tried_again) for row in group)
        for sample_id in sample_ids:
            row = again.take(sample_id)
            if row is None and sample_id not in known:
                raise ShardError(
                    f"images: snapshot {self.snapshot} says nothing of {sample_id}: build without retrying"
                )
            images = (stream.take(sample_id) for stream in published)
            image = next((image for image in images if image is not None), {})
            yield row or _image_row(known[sample_id], image)

    def _read_outcomes(self, columns: Sequence[str]) -> list[Row]:
        self._require_whole(self.outcomes)
        rows: list[Row] = pq.read_table(self.outcomes, columns=list(columns)).to_pylist()
        return rows

    def _published(self, path: Path) -> Iterator[Row]:
        self._require_whole(path)
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=["sample_id", "image", "original"]):
                for row in batch.to_pylist():
                    yield {name: row[name] for name in ("sample_id", "original")} | {"bytes": row["image"]["bytes"]}

    def _require_whole(self, path: Path) -> None:
        if not path.is_file() or sha256_of(path) != self.sha256[path]:
            raise ConfigError(
                f"{path} is missing or damaged, so that nothing can be built on it: see `vernaclip verify`; "
                f"without the folder {path.parents[1]} everything is built anew"
            )


class _Stream:
    """Rows in the order in which they will be asked for, some of them never."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self._head = next(rows, None)

    def take(self, sample_id: str) -> Row | None:
        """The row at the head if it is of that sample."""
        row = self._head
        if row is None or row["sample_id"] != sample_id:
            return None
        self._head = next(self._rows, None)
        return row


def _image_row(outcome: Row, image: Mapping[str, Any]) -> Row:
    shared = {name: outcome[name] for name in _SHARED_COLUMNS}
    return {**dict.fromkeys(IMAGES.names), **image, **shared}


def known_shards(snapshot: Snapshot, *, attempt: int) -> dict[int, KnownShard]:
    """What a snapshot knows, by shard number.

    Raises:
        ConfigError: it was written before snapshots kept what became of images, or their thumbnails.
    """
    if "images" not in snapshot.manifest["files"]:
        raise ConfigError(
            f"snapshot {snapshot.snapshot} does not say what became of its images, so that none can be tried again: "
            f"without the folder {snapshot.folder} everything is built anew"
        )
    if snapshot.manifest["schemas"]["images"] < OUTCOMES_VERSION:
        raise ConfigError(
            f"snapshot {snapshot.snapshot} has no thumbnails of its images, by which duplicates are told, so that none "
            f"can be tried again: without the folder {snapshot.folder} everything is built anew"
        )
    pairs: Sequence[Mapping[str, Any]] = snapshot.manifest["files"]["pairs"]
    outcomes: Sequence[Mapping[str, Any]] = snapshot.manifest["files"]["images"]
    return {entry["shard"]: _known_shard(snapshot, entry, pairs, attempt) for entry in outcomes}


def _known_shard(
    snapshot: Snapshot, entry: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]], attempt: int
) -> KnownShard:
    mine = [pair for pair in pairs if pair["shard"] == entry["shard"]]
    return KnownShard(
        snapshot=snapshot.snapshot,
        attempt=attempt,
        outcomes=snapshot.folder / entry["path"],
        pairs=tuple(snapshot.folder / pair["path"] for pair in mine),
        sha256={snapshot.folder / file["path"]: file["sha256"] for file in (entry, *mine)},
    )


def num_settled(images: Path) -> int:
    """How many rows of a file of the schema `IMAGES` came, or will never come."""
    reasons = pq.read_table(images, columns=["drop_reason"]).column("drop_reason").to_pylist()
    return sum(not is_retryable(reason) for reason in reasons)
