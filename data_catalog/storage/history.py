"""History of a dataset: list, find and remove its committed snapshots.

A removal takes a snapshot from its readers in one rename. A killed removal is finished later. `prune` removes the old
snapshots that nothing needs.
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

from data_catalog.database.catalog import rebuild
from data_catalog.errors import InputError, SettingsError
from data_catalog.storage.integrity import (
    checksummed_line,
    content_problem,
    read_checksummed,
    record_problem,
    recorded,
)
from data_catalog.storage.lock import holder_of, writer_lock
from data_catalog.storage.manifest import (
    EXPORT_RECORD,
    EXPORTS,
    MANIFEST_FILE,
    MODELS,
    RUN_FILE,
    RUN_LOG,
    Snapshot,
    committed_snapshots,
    current_snapshot_name,
    dataset_names,
    datasets_folder,
    is_snapshot_name,
    read_snapshot,
    snapshot_folder,
    snapshot_names,
    trained_on,
)
from data_catalog.storage.roots import require_root
from data_catalog.storage.shards import append_line, rename_for_removal, sweep_temporary

logger = logging.getLogger(__name__)

CURRENT, PREVIOUS = "current", "previous"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A committed snapshot and its place in the history of its dataset.

    Args:
        snapshot: the snapshot.
        is_current: whether the catalog shows it.
        time: when a build first ended with it, by the run log, in ISO 8601; None if the log has no such line.
    """

    snapshot: Snapshot
    is_current: bool
    time: str | None

    def row(self) -> dict[str, Any]:
        """Return the row that `vernaclip snapshots` lists."""
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
    """Yield the lines of a dataset's run log, oldest first; skip damaged lines, which `vernaclip verify` reports."""
    path = datasets_folder(root) / dataset / RUN_LOG
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        if content_problem(line) is None:
            yield json.loads(line)


def append_run(root: Path, dataset: str, **facts: Any) -> None:
    """Append one line to a dataset's run log: the time, the machine, and the given facts (JSON values)."""
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "host": platform.node(), **facts}
    path = datasets_folder(root) / dataset / RUN_LOG
    problem = record_problem(path)
    if problem is not None:
        logger.warning("%s: lines of earlier runs may be lost", problem)
    with recorded(path):
        append_line(path, checksummed_line(line))


def history(root: Path, dataset: str) -> list[Published]:
    """Return all committed snapshots of a dataset, oldest first.

    Raises:
        DamagedError: a manifest, or the pointer to the current snapshot, is damaged.
    """
    current = current_snapshot_name(root, dataset)
    first: dict[str, tuple[str, int]] = {}
    for number, run in enumerate(runs(root, dataset)):
        first.setdefault(str(run.get("snapshot")), (str(run.get("time")), number))

    def place(snapshot: Snapshot) -> tuple[str, int]:
        if snapshot.snapshot in first:
            return first[snapshot.snapshot]
        try:  # a build that was killed at its very end has no line in the run log
            seconds = (snapshot.folder / MANIFEST_FILE).stat().st_mtime
        except OSError:
            return "", -1
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds"), -1

    return [
        Published(
            snapshot=snapshot,
            is_current=snapshot.snapshot == current,
            time=first[snapshot.snapshot][0] if snapshot.snapshot in first else None,
        )
        for snapshot in sorted(committed_snapshots(root, dataset), key=place)
    ]


def previous_name(root: Path, dataset: str) -> str | None:
    """Return the id of the snapshot that was current before the current one and still exists; None if there is none."""
    current = current_snapshot_name(root, dataset)
    there = [published.snapshot.snapshot for published in history(root, dataset)]
    # Take-downs and older versions do not log it: theirs were.
    ends = [(str(run.get("snapshot")), run.get("is_current", True)) for run in runs(root, dataset)]
    logged = [name for name, was_current in ends if was_current]
    never = {name for name, _ in ends}.difference(logged)  # builds that kept nothing
    names = [*reversed(logged), *(name for name in reversed(there) if name not in never)]
    return next((name for name in names if name in there and name != current), None)


def resolve(root: Path, names: Sequence[str], dataset: str | None) -> list[Snapshot]:
    """Return the snapshots, all of one dataset, that a user named.

    Args:
        root: root of the catalog.
        names: ids or their first letters, "current", or "previous" (the one that was current before).
        dataset: name of the dataset; None: the one that has them all.

    Raises:
        SettingsError: no snapshot matches, or several do.
        DamagedError: a manifest, or the pointer to the current snapshot, is damaged.
    """
    candidates = dataset_names(root) if dataset is None else [dataset]
    matches = {name: [_matching(root, name, given) for given in names] for name in candidates}
    whole = {name: found for name, found in matches.items() if all(found)}
    unknown = [given for place, given in enumerate(names) if not any(found[place] for found in matches.values())]
    wanted = " and ".join(dict.fromkeys(unknown or names))
    if not whole:
        where = root if dataset is None else f"{dataset} in {root}"
        raise SettingsError(f"{where} holds no snapshot {wanted}: `vernaclip snapshots` lists them")
    if len(whole) > 1:
        raise SettingsError(f"{wanted} matches snapshots of {' and '.join(whole)}: choose one with --dataset")
    [(dataset, found)] = whole.items()
    snapshots = []
    for given, ids in zip(names, found, strict=True):
        if len(ids) > 1:
            raise SettingsError(f"{given} matches {' and '.join(ids)}: give more of its letters")
        snapshot = read_snapshot(root, dataset, ids[0])
        if snapshot is None:
            raise SettingsError(f"snapshot {ids[0]} of {dataset} is gone: `vernaclip snapshots` lists the others")
        snapshots.append(snapshot)
    return snapshots


def _matching(root: Path, dataset: str, given: str) -> list[str]:
    """Return the ids that match a name given by the user."""
    if given in (CURRENT, PREVIOUS):
        found = current_snapshot_name(root, dataset) if given == CURRENT else previous_name(root, dataset)
        return [] if found is None else [found]
    return [name for name in snapshot_names(root, dataset) if given and name.startswith(given)]


def remove_snapshot(root: Path, dataset: str, snapshot: str) -> int:
    """Remove a snapshot, committed or unfinished, that is not the current one. Call it with the writer's lock held.

    One rename removes it for readers, manifest included. A killed process leaves a temporary folder, which
    `sweep_removed` removes. Readers that have one of its files open can still read it.

    Returns:
        The number of bytes freed; 0 if there is no such snapshot. Files that other snapshots share (hard links) do not
        count.

    Raises:
        SettingsError: it is the dataset's current snapshot.
    """
    if current_snapshot_name(root, dataset) == snapshot:
        raise SettingsError(
            f"{snapshot} is the current snapshot of {dataset} and cannot be removed: build another one first"
        )
    folder = snapshot_folder(root, dataset, snapshot)
    if not folder.is_dir():
        return 0
    freed = freed_bytes(folder)
    shutil.rmtree(rename_for_removal(folder))
    logger.debug("removed snapshot %s of %s", snapshot, dataset)
    return freed


def sweep_removed(root: Path) -> None:
    """Finish removals that were killed. Call it with the writer's lock held."""
    sweep_temporary(path for path in datasets_folder(root).glob("*") if path.is_dir())


def freed_bytes(*folders: Path) -> int:
    """Return how many bytes a removal of these folders frees: files with a hard link elsewhere do not count."""
    links: Counter[tuple[int, int]] = Counter()
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                links[status.st_dev, status.st_ino] += 1
                sizes[status.st_dev, status.st_ino] = status.st_size, status.st_nlink
    return sum(size for file, (size, all_links) in sizes.items() if links[file] >= all_links)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removable:
    """A snapshot to remove; an unfinished one was left by a killed build."""

    dataset: str
    snapshot: str
    folder: Path
    is_finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NeededSnapshot:
    """An old snapshot that is kept, and the reason."""

    dataset: str
    snapshot: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """Result of pruning, or of its dry run.

    Args:
        removed: removed snapshots.
        freed: bytes freed; files that other snapshots share do not count.
        kept: old snapshots that are still needed.
        exports: folders of exports made from a removed snapshot; they stay complete.
        num_urls: images whose outcomes no other snapshot in the root has: a later build fetches these URLs again.
    """

    removed: tuple[Removable, ...]
    freed: int
    kept: tuple[NeededSnapshot, ...]
    exports: tuple[Path, ...]
    num_urls: int


def prune(root: Path, *, dataset: str | None, keep: int, dry_run: bool) -> Pruned:
    """Remove the old snapshots of one dataset, or of all datasets, and unfinished ones that killed builds left.

    The current snapshot, the newest `keep` snapshots and all that `needed_snapshots` yields are kept.

    Raises:
        SettingsError: `keep` is less than 1.
        InputError: there is no such dataset.
        DamagedError: a manifest is damaged.
        BusyError: another process writes below `root`.
    """
    if keep < 1:
        raise SettingsError(f"--keep must be at least 1, got {keep}: the current snapshot is always kept")
    require_root(root)
    with writer_lock(root):
        # This includes datasets whose first build was killed.
        there = sorted(path.name for path in datasets_folder(root).glob("*") if path.is_dir())
        if dataset is not None and dataset not in there:
            raise InputError(f"{root} holds no dataset {dataset!r}: it holds {', '.join(there) or 'none'}")
        names = there if dataset is None else [dataset]
        kept = [need for name in names for need in needed_snapshots(root, name)]
        needed = {(need.dataset, need.snapshot) for need in kept}
        found = [
            each
            for name in names
            for each in _removable(root, name, keep=keep)
            if (each.dataset, each.snapshot) not in needed
        ]
        gone = {(each.dataset, each.snapshot) for each in found}
        records = [
            (path.parent, read_checksummed(path, remedy=f"remove the folder {path.parent} and export again"))
            for path in sorted((root / EXPORTS).glob(f"*/*/{EXPORT_RECORD}"))
        ]
        pruned = Pruned(
            removed=tuple(found),
            freed=freed_bytes(*(each.folder for each in found)),
            kept=tuple(need for need in kept if need.snapshot != current_snapshot_name(root, need.dataset)),
            exports=tuple(place for place, of in records if (of.get("dataset"), of.get("snapshot")) in gone),
            num_urls=_num_forgotten(root, gone),
        )
        if not dry_run:
            sweep_removed(root)
            if found and dataset_names(root):
                rebuild(root)  # a killed build may have left views of a snapshot that is removed now
            for each in found:
                remove_snapshot(root, each.dataset, each.snapshot)
    return pruned


def needed_snapshots(root: Path, dataset: str) -> Iterator[NeededSnapshot]:
    """Yield the snapshots that are needed whatever their age; a snapshot may come twice.

    Raises:
        DamagedError: a model's dataset.json, or the pointer to the newest model, is damaged.
    """
    for run in sorted((root / MODELS / dataset).glob(f"[!.]*/{RUN_FILE}")):
        stated = trained_on(run.parent)
        if stated is not None:
            reason = f"the model {dataset}/{run.parent.name} was trained on it"
            yield NeededSnapshot(dataset=dataset, snapshot=stated[1], reason=reason)
    training = holder_of(root / MODELS / dataset)
    if training is not None:
        for name in snapshot_names(root, dataset):
            yield NeededSnapshot(dataset=dataset, snapshot=name, reason=f"{training} may be training on it")


def _removable(root: Path, dataset: str, *, keep: int) -> list[Removable]:
    """Return the unfinished snapshots of a dataset, then, oldest first, all committed ones but the newest `keep`.

    The current snapshot, if there is one, counts towards `keep`. Call it with the writer's lock held.
    """
    found = history(root, dataset)
    num_current = sum(published.is_current for published in found)
    old = [published.snapshot for published in found if not published.is_current]
    old = old[: max(0, len(old) - max(0, keep - num_current))]
    committed = {published.snapshot.snapshot for published in found}
    folders = (datasets_folder(root) / dataset).iterdir()
    unfinished = sorted(path for path in folders if path.is_dir() and is_snapshot_name(path.name))
    return [
        Removable(dataset=dataset, snapshot=path.name, folder=path, is_finished=False)
        for path in unfinished
        if path.name not in committed
    ] + [Removable(dataset=dataset, snapshot=each.snapshot, folder=each.folder, is_finished=True) for each in old]


def _num_forgotten(root: Path, gone: set[tuple[str, str]]) -> int:
    """Count the URLs whose outcomes only the removed snapshots have."""
    import duckdb

    files: dict[str, list[str]] = {"going": [], "staying": []}
    for dataset in dataset_names(root):
        for snapshot in committed_snapshots(root, dataset):
            kinds = snapshot.manifest["files"]
            paths = [str(snapshot.folder / entry["path"]) for entry in (*kinds["images"], *kinds["spare"])]
            files["going" if (dataset, snapshot.snapshot) in gone else "staying"] += paths
    if not files["going"]:
        return 0
    there = {name: paths for name, paths in files.items() if paths}
    urls = " EXCEPT ".join(
        f"SELECT coalesce(canonical_url, url) AS url FROM read_parquet(${name}, hive_partitioning = false)"
        for name in there
    )
    with duckdb.connect() as connection:
        (count,) = connection.execute(f"SELECT count(DISTINCT url) FROM ({urls})", there).fetchall()[0]
    return int(count)
