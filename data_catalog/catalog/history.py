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
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.catalog.duckdb_file import rebuild
from data_catalog.catalog.manifest import (
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
from data_catalog.catalog.roots import require_root
from data_catalog.disk.files import append_line, rename_for_removal, sweep_temporary
from data_catalog.disk.lock import holder_of, writer_lock
from data_catalog.disk.records import checksummed_line, content_problem, read_checksummed, record_problem, recorded

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """A committed snapshot, whether the catalog shows it, and when a build first ended with it, by the run log."""

    snapshot: Snapshot
    is_current: bool
    time: str | None

    def row(self) -> dict[str, Any]:
        """Return the row that `vernaclip snapshots` lists."""
        manifest, files = self.snapshot.manifest, self.snapshot.manifest["files"]
        return {
            "dataset": self.snapshot.dataset,
            "snapshot": self.snapshot.snapshot,
            "current": self.is_current,
            "published": self.time,
            "captions": sum(file["rows"] for file in files["captions"]),
            "pairs": self.snapshot.num_pairs,
            "bytes": sum(file["bytes"] for file in self.snapshot.entries()),
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
    """Return all committed snapshots of a dataset, oldest first."""
    current = current_snapshot_name(root, dataset)
    ends: dict[str, tuple[str, int]] = {}
    for number, run in enumerate(runs(root, dataset)):
        ends.setdefault(str(run.get("snapshot")), (str(run.get("time")), number))
    found = []
    for snapshot in committed_snapshots(root, dataset):
        time, number = ends.get(snapshot.snapshot, (None, -1))
        start = time or ""
        if time is None:  # a build that was killed at its very end has no line in the run log
            with suppress(FileNotFoundError):  # `prune` has just removed it
                written = (snapshot.folder / MANIFEST_FILE).stat().st_mtime
                start = datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds")
        found.append(((start, number), Published(snapshot, snapshot.snapshot == current, time)))
    return [published for _, published in sorted(found, key=lambda one: one[0])]


def resolve(root: Path, names: Sequence[str], dataset: str | None) -> list[Snapshot]:
    """Return the snapshots, all of one dataset, that a user named.

    Args:
        root: root of the catalog.
        names: ids or their first letters, "current", or "previous" (the one that was current before).
        dataset: name of the dataset; None: the one that has them all.
    """
    candidates = dataset_names(root) if dataset is None else [dataset]
    matches = {name: [_matching(root, name, given) for given in names] for name in candidates}
    whole = [name for name, found in matches.items() if all(found)]
    unknown = [given for place, given in enumerate(names) if not any(found[place] for found in matches.values())]
    wanted = " and ".join(dict.fromkeys(unknown or names))
    if not whole:
        where = root if dataset is None else f"{dataset} in {root}"
        raise SettingsError(f"{where} holds no snapshot {wanted}: `vernaclip snapshots` lists them")
    if len(whole) > 1:
        raise SettingsError(f"{wanted} matches snapshots of {' and '.join(whole)}: choose one with --dataset")
    snapshots = []
    for given, ids in zip(names, matches[whole[0]], strict=True):
        if len(ids) > 1:
            raise SettingsError(f"{given} matches {' and '.join(ids)}: give more of its letters")
        snapshot = read_snapshot(root, whole[0], ids[0])
        if snapshot is None:
            raise SettingsError(f"snapshot {ids[0]} was removed meanwhile: `vernaclip snapshots` lists the others")
        snapshots.append(snapshot)
    return snapshots


def _matching(root: Path, dataset: str, given: str) -> list[str]:
    """Return the ids that match a name given by the user."""
    current = current_snapshot_name(root, dataset)
    if given == "current":
        return [] if current is None else [current]
    if given != "previous":
        return [name for name in snapshot_names(root, dataset) if given and name.startswith(given)]
    there = [published.snapshot.snapshot for published in history(root, dataset)]
    # Take-downs and older versions do not log whether a snapshot became the current one: theirs did.
    ends = [(str(run.get("snapshot")), run.get("is_current", True)) for run in runs(root, dataset)]
    logged = [name for name, was_current in ends if was_current]
    never = {name for name, _ in ends}.difference(logged)  # builds that kept nothing
    names = [*reversed(logged), *(name for name in reversed(there) if name not in never)]
    return [name for name in names if name in there and name != current][:1]


def remove_snapshot(root: Path, dataset: str, snapshot: str) -> int:
    """Remove a snapshot, committed or unfinished, that is not the current one. Call it with the writer's lock held.

    One rename removes it for readers, manifest included. A killed process leaves a temporary folder, which
    `sweep_removed` removes. Readers that have one of its files open can still read it.

    Returns:
        The number of bytes freed; 0 if there is no such snapshot.
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
    files = [path.lstat() for folder in folders for path in folder.rglob("*")]
    files = [status for status in files if stat.S_ISREG(status.st_mode)]
    links = Counter((status.st_dev, status.st_ino) for status in files)
    found = {(status.st_dev, status.st_ino): status for status in files}
    return sum(status.st_size for file, status in found.items() if links[file] >= status.st_nlink)


class Old(NamedTuple):
    """A snapshot that is not the current one, and a note: why it is needed, or that its build was killed."""

    dataset: str
    snapshot: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """Result of pruning, or of its dry run.

    `freed` are bytes. `kept` are old snapshots that are still needed. `exports` are folders of exports made from a
    removed snapshot; they stay complete. `num_urls` counts the images whose outcomes no other snapshot in the root has:
    a later build fetches these URLs again.
    """

    removed: Sequence[Old]
    freed: int
    kept: Sequence[Old]
    exports: Sequence[Path]
    num_urls: int


def prune(root: Path, *, dataset: str | None, keep: int, dry_run: bool) -> Pruned:
    """Remove the old snapshots of one dataset, or of all datasets, and unfinished ones that killed builds left.

    The current snapshot, the newest `keep` snapshots and all that something needs are kept.
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
        kept = [need for name in names for need in _needed(root, name)]
        needed = {need[:2] for need in kept}
        found = [each for name in names for each in _old(root, name, keep) if each[:2] not in needed]
        gone = {each[:2] for each in found}
        records = [
            (path.parent, read_checksummed(path, remedy=f"remove the folder {path.parent} and export again"))
            for path in sorted((root / EXPORTS).glob(f"*/*/{EXPORT_RECORD}"))
        ]
        pruned = Pruned(
            removed=found,
            freed=freed_bytes(*(snapshot_folder(root, *each) for each in gone)),
            kept=[need for need in kept if need.snapshot != current_snapshot_name(root, need.dataset)],
            exports=[place for place, of in records if (of.get("dataset"), of.get("snapshot")) in gone],
            num_urls=_num_forgotten(root, gone),
        )
        if not dry_run:
            sweep_removed(root)
            if found and dataset_names(root):
                rebuild(root)  # a killed build may have left views of a snapshot that is removed now
            for each in found:
                remove_snapshot(root, each.dataset, each.snapshot)
    return pruned


def _needed(root: Path, dataset: str) -> Iterator[Old]:
    """Yield the snapshots that are needed whatever their age; a snapshot may come twice."""
    for run in sorted((root / MODELS / dataset).glob(f"[!.]*/{RUN_FILE}")):
        if (stated := trained_on(run.parent)) is not None:
            yield Old(dataset, stated[1], f"the model {dataset}/{run.parent.name} was trained on it")
    if (training := holder_of(root / MODELS / dataset)) is not None:
        for name in snapshot_names(root, dataset):
            yield Old(dataset, name, f"{training} may be training on it")


def _old(root: Path, dataset: str, keep: int) -> Iterator[Old]:
    """Yield the unfinished snapshots of a dataset, then, oldest first, all committed ones but the newest `keep`.

    The current snapshot, if there is one, counts towards `keep`.
    """
    found = history(root, dataset)
    committed = {published.snapshot.snapshot for published in found}
    for path in sorted((datasets_folder(root) / dataset).iterdir()):
        if path.is_dir() and is_snapshot_name(path.name) and path.name not in committed:
            yield Old(dataset, path.name, "unfinished snapshot of a killed build")
    old = [published.snapshot.snapshot for published in found if not published.is_current]
    num_kept = keep - (len(found) - len(old))
    for name in old[: max(0, len(old) - num_kept)]:
        yield Old(dataset, name, "")


def _num_forgotten(root: Path, gone: set[tuple[str, str]]) -> int:
    """Count the URLs whose outcomes only the removed snapshots have."""
    import duckdb

    going, staying = list[str](), list[str]()
    for dataset in dataset_names(root):
        for snapshot in committed_snapshots(root, dataset):
            kinds = snapshot.manifest["files"]
            paths = [str(snapshot.folder / entry["path"]) for entry in (*kinds["images"], *kinds["spare"])]
            (going if (dataset, snapshot.snapshot) in gone else staying).extend(paths)
    if not going:
        return 0
    files = {"going": going} | ({"staying": staying} if staying else {})
    urls = " EXCEPT ".join(
        f"SELECT coalesce(canonical_url, url) AS url FROM read_parquet(${name}, hive_partitioning = false)"
        for name in files
    )
    with duckdb.connect() as connection:
        [(count,)] = connection.execute(f"SELECT count(DISTINCT url) FROM ({urls})", files).fetchall()
    return int(count)
