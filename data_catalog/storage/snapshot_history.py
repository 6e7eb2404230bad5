"""The committed snapshots of a dataset in the order in which they were published, and how a user names one of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.storage.checksummed import line_problem
from data_catalog.storage.manifest import (
    MANIFEST_FILE,
    Snapshot,
    committed_snapshots,
    current_snapshot_name,
    dataset_names,
    datasets_folder,
    read_snapshot,
    snapshot_names,
)

RUN_LOG = "runs.jsonl"
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


def runs(root: Path, dataset: str) -> Iterator[Mapping[str, Any]]:
    """The lines of a dataset's run log, oldest first; damaged ones, of which `vernaclip verify` tells, are left out."""
    path = datasets_folder(root) / dataset / RUN_LOG
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        if line_problem(line) is None:
            yield json.loads(line)


def history(root: Path, dataset: str) -> list[Published]:
    """All committed snapshots of a dataset, oldest first.

    Raises:
        ConfigError: a manifest, or the pointer to the current snapshot, is damaged.
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
        ConfigError: there is no such snapshot, or there are several.
    """
    candidates = dataset_names(root) if dataset is None else [dataset]
    matches = {name: [_matching(root, name, given) for given in names] for name in candidates}
    whole = {name: found for name, found in matches.items() if all(found)}
    told = " and ".join(dict.fromkeys(names))
    if not whole:
        where = root if dataset is None else f"{dataset} in {root}"
        raise ConfigError(f"{where} holds no snapshot {told}: `vernaclip snapshots` lists what is there")
    if len(whole) > 1:
        raise ConfigError(f"{told} may be of {' or '.join(whole)}: say which with --dataset")
    [(name, found)] = whole.items()
    for given, ids in zip(names, found, strict=True):
        if len(ids) > 1:
            raise ConfigError(f"{given} may be {' or '.join(ids)}: give more of its letters")
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
        raise ConfigError(f"snapshot {name} of {dataset} is gone: `vernaclip snapshots` lists what is there")
    return found
