"""Removing snapshots: at once for readers, all of it in the end whatever is killed, and never one that is in use."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from data_catalog.errors import ConfigError
from data_catalog.manifest import current_snapshot_name, datasets_folder, snapshot_folder
from data_catalog.shards import TEMPORARY_PREFIX, sweep_temporary, sync

logger = logging.getLogger(__name__)


def remove_snapshot(root: Path, dataset: str, snapshot: str) -> int:
    """Remove a snapshot that is not the current one, committed or unfinished; call it with the writer's lock held.

    It is gone in one rename, manifest and all; a killed process leaves a temporary folder, which `sweep_removed`
    removes. Whoever has one of its files open reads on.

    Returns:
        How many bytes were freed, 0 if there is no such snapshot. Files that other snapshots share (hard links) count
        as nothing.

    Raises:
        ConfigError: it is the dataset's current snapshot.
    """
    if current_snapshot_name(root, dataset) == snapshot:
        raise ConfigError(
            f"{snapshot} is the current snapshot of {dataset} and is not removed: build another one first"
        )
    folder = snapshot_folder(root, dataset, snapshot)
    if not folder.is_dir():
        return 0
    freed = freed_bytes(folder)
    doomed = folder.with_name(f"{TEMPORARY_PREFIX}removed-{snapshot}")
    if doomed.exists():
        shutil.rmtree(doomed)
    folder.rename(doomed)
    sync(doomed.parent)
    shutil.rmtree(doomed)
    logger.debug("removed snapshot %s of %s", snapshot, dataset)
    return freed


def sweep_removed(root: Path) -> None:
    """Finish removals that were killed; call it with the writer's lock held."""
    sweep_temporary(path for path in datasets_folder(root).glob("*") if path.is_dir())


def freed_bytes(folder: Path) -> int:
    """Bytes that go when a folder goes: of its files that have no other name elsewhere."""
    return sum(status.st_size for status in (path.stat() for path in _files(folder)) if status.st_nlink == 1)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
