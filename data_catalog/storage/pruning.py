"""Removing snapshots: at once for readers, all of it in the end whatever is killed, and never one that is in use."""

import logging
import shutil
import stat
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from data_catalog.errors import ConfigError
from data_catalog.storage.manifest import current_snapshot_name, datasets_folder, is_snapshot_name, snapshot_folder
from data_catalog.storage.shards import TEMPORARY_PREFIX, sweep_temporary, sync
from data_catalog.storage.snapshot_history import history

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Removable:
    """A snapshot that goes.

    Args:
        dataset: whose.
        snapshot: its id.
        folder: where it lies.
        is_finished: whether it was committed; else it is what a killed build left.
    """

    dataset: str
    snapshot: str
    folder: Path
    is_finished: bool


def removable(root: Path, dataset: str, *, keep: int, needed: Collection[str]) -> list[Removable]:
    """The snapshots of a dataset that can go, oldest first; call it with the writer's lock held.

    Args:
        root: of the catalog.
        dataset: whose.
        keep: how many of the newest stay, the current one, where there is one, among them.
        needed: ids of those that stay whatever their age.

    Raises:
        ConfigError: a manifest is damaged.
    """
    found = history(root, dataset)
    newest = [published.snapshot.snapshot for published in reversed(found) if not published.is_current]
    current = {published.snapshot.snapshot for published in found if published.is_current}
    staying = {*current, *newest[: max(0, keep - len(current))], *needed}
    committed = [published.snapshot for published in found]
    there = {snapshot.snapshot for snapshot in committed}
    folder = datasets_folder(root) / dataset
    unfinished = sorted(path for path in folder.iterdir() if path.is_dir() and is_snapshot_name(path.name))
    return [
        Removable(dataset=dataset, snapshot=path.name, folder=path, is_finished=False)
        for path in unfinished
        if path.name not in there and path.name not in needed
    ] + [
        Removable(dataset=dataset, snapshot=snapshot.snapshot, folder=snapshot.folder, is_finished=True)
        for snapshot in committed
        if snapshot.snapshot not in staying
    ]


def freed_bytes(*folders: Path) -> int:
    """Bytes that go when these folders go: of files that have no other name (hard link) elsewhere."""
    links: Counter[tuple[int, int]] = Counter()
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                links[status.st_dev, status.st_ino] += 1
                sizes[status.st_dev, status.st_ino] = status.st_size, status.st_nlink
    return sum(size for file, (size, all_links) in sizes.items() if links[file] >= all_links)
