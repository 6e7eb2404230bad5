"""The committed snapshots of a dataset in the order in which they were published: listed, named, removed.

A snapshot goes at once for readers, and all of it in the end, whatever is killed.
"""

import json
import logging
import platform
import shutil
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_catalog.errors import SettingsError
from data_catalog.storage.integrity import checksummed_line, line_problem, record_problem, recorded
from data_catalog.storage.manifest import (
    MANIFEST_FILE,
    Snapshot,
    committed_snapshots,
    current_snapshot_name,
    dataset_names,
    datasets_folder,
    read_snapshot,
    snapshot_folder,
    snapshot_names,
)
from data_catalog.storage.shards import TEMPORARY_PREFIX, append_line, sweep_temporary, sync

logger = logging.getLogger(__name__)

RUN_LOG = "runs.jsonl"  # what happened when, and where: beside the snapshots, never in them
CURRENT, PREVIOUS = "current", "previous"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A committed snapshot and its place in the history of its dataset.

    Args:
        snapshot: the snapshot.
        is_current: whether it is what the catalog shows.
        time: when a build first ended with it, by the run log, in ISO 8601; None where the log does not say.
    """

    snapshot: Snapshot
    is_current: bool
    time: str | None

    def row(self) -> dict[str, Any]:
        """Return what `vernaclip snapshots` lists of it."""
        snapshot = self.snapshot
        manifest, files = snapshot.manifest, snapshot.manifest["files"]
        return {
            "dataset": snapshot.dataset,
            "snapshot": snapshot.snapshot,
            "current": self.is_current,
            "published": self.time,
            "captions": sum(file["rows"] for file in files["captions"]),
            "pairs": sum(file["rows"] for file in files["pairs"]),
            "bytes": sum(file["bytes"] for file in snapshot.entries()),
            "attempt": manifest["attempt"],
            "forget_of": manifest.get("forget_of"),
        }


def runs(root: Path, dataset: str) -> Iterator[Mapping[str, Any]]:
    """The lines of a dataset's run log, oldest first; damaged ones, of which `vernaclip verify` tells, are left out."""
    path = datasets_folder(root) / dataset / RUN_LOG
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        if line_problem(line) is None:
            yield json.loads(line)


def append_run(root: Path, dataset: str, **facts: Any) -> None:
    """Add one line to a dataset's run log: the time, the machine, and the given facts (JSON values)."""
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "host": platform.node(), **facts}
    path = datasets_folder(root) / dataset / RUN_LOG
    problem = record_problem(path)
    if problem is not None:
        logger.warning("%s is not what was written (%s): lines of earlier runs may be lost", path, problem)
    with recorded(path):
        append_line(path, checksummed_line(line))


def history(root: Path, dataset: str) -> list[Published]:
    """All committed snapshots of a dataset, oldest first.

    Raises:
        DamagedError: a manifest, or the pointer to the current snapshot, is damaged.
    """
    current = current_snapshot_name(root, dataset)
    first: dict[str, tuple[str, int]] = {}
    for number, run in enumerate(runs(root, dataset)):
        first.setdefault(str(run.get("snapshot")), (str(run.get("time")), number))
    found = list(committed_snapshots(root, dataset))
    found.sort(key=lambda snapshot: first.get(snapshot.snapshot) or (_manifest_time(snapshot), -1))
    return [
        Published(
            snapshot=snapshot,
            is_current=snapshot.snapshot == current,
            time=first[snapshot.snapshot][0] if snapshot.snapshot in first else None,
        )
        for snapshot in found
    ]


def _manifest_time(snapshot: Snapshot) -> str:
    """When a manifest was written, for snapshots that no run log knows: their build was killed at the very end."""
    try:
        seconds = (snapshot.folder / MANIFEST_FILE).stat().st_mtime
    except OSError:
        return ""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def previous_name(root: Path, dataset: str) -> str | None:
    """The id of the snapshot that was current before the current one is, and is still there; None if there is none."""
    current = current_snapshot_name(root, dataset)
    there = [published.snapshot.snapshot for published in history(root, dataset)]
    logged = [str(run.get("snapshot")) for run in runs(root, dataset)]
    return next((name for name in [*reversed(logged), *reversed(there)] if name in there and name != current), None)


def resolve(root: Path, names: Sequence[str], dataset: str | None) -> list[Snapshot]:
    """The snapshots, all of one dataset, that a user means.

    Args:
        root: of the catalog.
        names: ids or their first letters, or "current", or "previous": the one that was current before.
        dataset: whose; None: of the one that has them all.

    Raises:
        SettingsError: there is no such snapshot, or there are several.
        DamagedError: its manifest, or the pointer to the current snapshot, is damaged.
    """
    candidates = dataset_names(root) if dataset is None else [dataset]
    matches = {name: [_matching(root, name, given) for given in names] for name in candidates}
    whole = {name: found for name, found in matches.items() if all(found)}
    told = " and ".join(dict.fromkeys(names))
    if not whole:
        where = root if dataset is None else f"{dataset} in {root}"
        raise SettingsError(f"{where} holds no snapshot {told}: `vernaclip snapshots` lists what is there")
    if len(whole) > 1:
        raise SettingsError(f"{told} may be of {' or '.join(whole)}: say which with --dataset")
    [(name, found)] = whole.items()
    for given, ids in zip(names, found, strict=True):
        if len(ids) > 1:
            raise SettingsError(f"{given} may be {' or '.join(ids)}: give more of its letters")
    return [_required(root, name, ids[0]) for ids in found]


def _matching(root: Path, dataset: str, given: str) -> list[str]:
    """The ids that a user may mean."""
    if given == CURRENT:
        return [name for name in (current_snapshot_name(root, dataset),) if name is not None]
    if given == PREVIOUS:
        return [name for name in (previous_name(root, dataset),) if name is not None]
    return [name for name in snapshot_names(root, dataset) if given and name.startswith(given)]


def _required(root: Path, dataset: str, name: str) -> Snapshot:
    found = read_snapshot(root, dataset, name)
    if found is None:
        raise SettingsError(f"snapshot {name} of {dataset} is gone: `vernaclip snapshots` lists what is there")
    return found


def remove_snapshot(root: Path, dataset: str, snapshot: str) -> int:
    """Remove a snapshot that is not the current one, committed or unfinished; call it with the writer's lock held.

    It is gone in one rename, manifest and all; a killed process leaves a temporary folder, which `sweep_removed`
    removes. Whoever has one of its files open reads on.

    Returns:
        How many bytes were freed, 0 if there is no such snapshot. Files that other snapshots share (hard links) count
        as nothing.

    Raises:
        SettingsError: it is the dataset's current snapshot.
    """
    if current_snapshot_name(root, dataset) == snapshot:
        raise SettingsError(
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
