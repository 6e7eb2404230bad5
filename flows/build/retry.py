"""Trying again: which snapshot's missing images are asked for once more, and for which time."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.fetch.known import KnownShard, known_shards
from data_catalog.storage.integrity import read_checksummed, write_checksummed
from data_catalog.storage.manifest import Snapshot, current_snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """One attempt, from its first request until it is told to have ended; a killed one goes on under its number.

    Args:
        snapshot: whose images are tried again.
        attempt: its number.
        shards: what the snapshot knows, by shard number; nothing where all that is left to do is to end the attempt.
    """

    snapshot: Snapshot
    attempt: int
    shards: Mapping[int, KnownShard]

    def num_retryable(self) -> int:
        """How many images may come. Raises `ConfigError` where the snapshot is damaged."""
        return sum(shard.num_retryable() for shard in self.shards.values())

    def end(self, root: Path) -> None:
        """Let the next attempt be another one, which asks again."""
        write_checksummed(_path(root, self.snapshot.dataset), {"attempts": self.attempt + 1})


def open_retry(root: Path, dataset: str, snapshot: Snapshot | None) -> Retry | None:
    """The attempt that is to be made, gone on with or ended; None where nothing has been built yet.

    Args:
        snapshot: of the build that is asked for, None if there is none.

    Raises:
        ConfigError: the dataset was built otherwise, or long ago, so that nothing is known of its images.
    """
    if snapshot is None:
        if current_snapshot(root, dataset) is not None:
            raise ConfigError(
                f"--retry-failed goes on with what was built, and {dataset} was built with other settings, files or "
                "versions: give the same ones, or build without it, which asks for all images"
            )
        return None
    state = _state(root, dataset)
    attempt = int(state.get("attempts", 0))
    tried = state.get("snapshot")
    if tried is not None and snapshot.manifest.get("retry_of") == tried:
        return Retry(snapshot=snapshot, attempt=attempt, shards={})  # it was killed between its snapshot and its end
    found = Retry(snapshot=snapshot, attempt=attempt, shards=known_shards(snapshot, attempt=attempt))
    write_checksummed(_path(root, dataset), {"attempts": attempt, "snapshot": snapshot.snapshot})
    return found


def unfinished_retry(root: Path, dataset: str) -> str | None:
    """The id of the snapshot whose images were being tried again when the process died; None if none is unfinished."""
    snapshot = _state(root, dataset).get("snapshot")
    return None if snapshot is None else str(snapshot)


def _state(root: Path, dataset: str) -> Mapping[str, Any]:
    path = _path(root, dataset)
    return read_checksummed(path, remedy="remove it, and attempts are counted anew") if path.is_file() else {}


def _path(root: Path, dataset: str) -> Path:
    return root / "work" / f"retries-{dataset}.json"
