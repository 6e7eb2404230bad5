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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from data_catalog.base.errors import DefectError, InputError, SettingsError
from data_catalog.catalog.connections import rows_text, scratch_connection
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


def history(root: Path, dataset: str) -> list[dict[str, Any]]:
    """Return a row for each committed snapshot of a dataset, oldest first, as `vernaclip snapshots` lists them.

    "published" is the time when a build first ended with it, by the run log; None for a build that was killed then.
    """
    current = current_snapshot_name(root, dataset)
    ends: dict[str, tuple[str, int]] = {}
    for number, run in enumerate(runs(root, dataset)):
        ends.setdefault(str(run.get("snapshot")), (str(run.get("time")), number))
    found = []
    for snapshot in committed_snapshots(root, dataset):
        manifest, name = snapshot.manifest, snapshot.snapshot
        row = {
            "dataset": dataset,
            "snapshot": name,
            "current": name == current,
            "published": ends[name][0] if name in ends else None,
            "captions": sum(file["rows"] for file in manifest["files"]["captions"]),
            "pairs": snapshot.num_pairs,
            "bytes": sum(file["bytes"] for file in snapshot.entries()),
            "attempt": manifest["attempt"],
            "forget_of": manifest.get("forget_of"),
        }
        found.append((ends.get(name) or (_written(snapshot), -1), row))
    return [row for _, row in sorted(found, key=lambda one: one[0])]


def _written(snapshot: Snapshot) -> str:
    path = snapshot.folder / MANIFEST_FILE
    seconds = path.stat().st_mtime if path.exists() else 0.0  # `prune` may have just removed it
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def resolve(root: Path, names: Sequence[str], dataset: str | None) -> list[Snapshot]:
    """Return the snapshots, all of one dataset, that a user named.

    A name is an id or its first letters, "current", or "previous" (the one that was current before). Without a
    `dataset`, the one that has them all is meant.
    """
    candidates = dataset_names(root) if dataset is None else [dataset]
    matches = {name: [_matching(root, name, given) for given in names] for name in candidates}
    having = [name for name, found in matches.items() if all(found)]
    wanted = " and ".join(names)
    if not having:
        raise SettingsError(f"{root} holds no snapshot {wanted}: `vernaclip snapshots` lists them")
    if len(having) > 1:
        raise SettingsError(f"{wanted} matches snapshots of {' and '.join(having)}: choose one with --dataset")
    [chosen] = having
    for given, ids in zip(names, matches[chosen], strict=True):
        if len(ids) > 1:
            raise SettingsError(f"{given} matches {' and '.join(ids)}: give more of its letters")
    found = [read_snapshot(root, chosen, name) for [name] in matches[chosen]]
    return [snapshot for snapshot in found if snapshot is not None]


def _matching(root: Path, dataset: str, given: str) -> list[str]:
    """Return the ids of committed snapshots that match a name given by the user."""
    there, current = snapshot_names(root, dataset), current_snapshot_name(root, dataset)
    if given == "current":
        return [name for name in there if name == current]
    if given != "previous":
        return [name for name in there if given and name.startswith(given)]
    # Take-downs and older versions do not log whether a snapshot became the current one: theirs did.
    ends = [(run.get("snapshot"), run.get("is_current", True)) for run in runs(root, dataset)]
    logged = [name for name, was_current in ends if was_current]
    never = {name for name, _ in ends}.difference(logged)  # builds that kept nothing
    listed = [row["snapshot"] for row in history(root, dataset) if row["snapshot"] not in never]
    return [name for name in [*reversed(logged), *reversed(listed)] if name in there and name != current][:1]


def remove_snapshot(root: Path, dataset: str, snapshot: str) -> int:
    """Remove a snapshot, committed or unfinished, that is not the current one; return the number of bytes freed.

    One rename removes it for readers, manifest included. A killed process leaves a temporary folder, which
    `sweep_removed` removes. Readers that have one of its files open can still read it. Call it with the writer's lock
    held.
    """
    if current_snapshot_name(root, dataset) == snapshot:
        raise DefectError(f"{snapshot} is the current snapshot of {dataset} and is not removed: report this defect")
    folder = snapshot_folder(root, dataset, snapshot)
    if not folder.is_dir():
        return 0
    freed = freed_bytes(folder)
    shutil.rmtree(rename_for_removal(folder))
    logger.debug("removed snapshot %s of %s", snapshot, dataset)
    return freed


def sweep_removed(root: Path) -> None:
    """Finish removals that were killed. Call it with the writer's lock held."""
    sweep_temporary(datasets_folder(root).glob("*/"))


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


class Pruned(NamedTuple):
    """Result of pruning, or of its dry run."""

    removed: Sequence[Old]
    freed: int
    """Bytes."""
    kept: Sequence[Old]
    """Old snapshots that are still needed."""
    exports: Sequence[Path]
    """Folders of exports that were made from a removed snapshot; they stay complete."""
    num_urls: int
    """Images whose outcomes no other snapshot in the root has: a later build fetches these URLs again."""


def prune(root: Path, *, dataset: str | None, keep: int, dry_run: bool) -> Pruned:
    """Remove the old snapshots of one dataset, or of all datasets, and unfinished ones that killed builds left.

    The current snapshot, the newest `keep` snapshots and all that something needs are kept.
    """
    if keep < 1:
        raise SettingsError(f"--keep must be at least 1, got {keep}: the current snapshot is always kept")
    require_root(root)
    with writer_lock(root):
        # This includes datasets whose first build was killed.
        there = sorted(path.name for path in datasets_folder(root).glob("*/"))
        if dataset is not None and dataset not in there:
            raise InputError(f"{root} holds no dataset {dataset!r}: it holds {', '.join(there) or 'none'}")
        names = there if dataset is None else [dataset]
        kept = [need for name in names for need in _needed(root, name)]
        needed = {need[:2] for need in kept}
        found = [each for name in names for each in _old(root, name, keep) if each[:2] not in needed]
        gone = {each[:2] for each in found}
        exports = {
            path.parent: read_checksummed(path, remedy=f"remove the folder {path.parent} and export again")
            for path in sorted((root / EXPORTS).glob(f"*/*/{EXPORT_RECORD}"))
        }
        pruned = Pruned(
            removed=found,
            freed=freed_bytes(*(snapshot_folder(root, *each) for each in gone)),
            kept=[need for need in kept if need.snapshot != current_snapshot_name(root, need.dataset)],
            exports=[place for place, of in exports.items() if (of.get("dataset"), of.get("snapshot")) in gone],
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
    rows = history(root, dataset)
    for name in sorted(path.name for path in (datasets_folder(root) / dataset).glob("*/")):
        if is_snapshot_name(name) and not any(row["snapshot"] == name for row in rows):
            yield Old(dataset, name, "unfinished snapshot of a killed build")
    old = [row["snapshot"] for row in rows if not row["current"]]
    num_kept = keep - (len(rows) - len(old))
    for name in old[: max(0, len(old) - num_kept)]:
        yield Old(dataset, name, "")


def _num_forgotten(root: Path, gone: set[tuple[str, str]]) -> int:
    """Count the URLs whose outcomes only the removed snapshots have."""
    files: dict[bool, list[Path]] = {True: [], False: []}
    for dataset in dataset_names(root):
        for snapshot in committed_snapshots(root, dataset):
            is_gone = (dataset, snapshot.snapshot) in gone
            files[is_gone] += [*snapshot.files("images"), *snapshot.files("spare")]
    going, staying = (
        rows_text({"url": "VARCHAR"}, [("coalesce(canonical_url, url) AS url", files[is_gone])])
        for is_gone in (True, False)
    )
    with scratch_connection("the snapshots cannot be pruned") as connection:
        rows = connection.execute(f"SELECT count(DISTINCT url) FROM (({going}) EXCEPT ({staying}))").fetchall()
    return int(rows[0][0])
