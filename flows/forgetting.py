"""Take-down: tombstones are put in force, then all below a root that holds what they mean is rewritten or removed.

A tombstone comes first, so that whatever is killed afterwards, the next `forget` or build ends what was begun.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_catalog.database.catalog import broken_laws, rebuild, recounted
from data_catalog.errors import PipelineError
from data_catalog.exports.documents import write_documents
from data_catalog.sources.ingest import STEP as INGEST
from data_catalog.storage.history import remove_snapshot, sweep_removed
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.manifest import (
    Snapshot,
    commit_snapshot,
    current_snapshot,
    current_snapshot_name,
    dataset_names,
    datasets_folder,
    is_snapshot_name,
    point_to,
    read_snapshot,
    snapshot_folder,
)
from data_catalog.storage.reading import taking_down
from data_catalog.storage.shards import digest
from data_catalog.take_down import leftovers
from data_catalog.take_down.matching import Matcher
from data_catalog.take_down.rewriting import rewrite_files
from data_catalog.take_down.rows import of_samples
from data_catalog.take_down.sightings import all_snapshots, files_of, is_concerned, lines_in, samples_in, with_sightings
from data_catalog.tombstones import FORGET, FORGET_STEP, Tombstone, Tombstones, read_tombstones, write_tombstones
from flows.report.page import report_path, write_report
from flows.run_log import append_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A dataset that had something of what is forgotten: its snapshot before and now, and how much was forgotten."""

    dataset: str
    before: str
    now: str
    num_samples: int
    num_captions: int


@dataclass(slots=True, kw_only=True)
class TakeDown:
    """What a take-down came to.

    Args:
        rewritten: datasets with a new snapshot.
        removed: dataset and id of the snapshots that are gone.
        gone: what else is gone, by what it is.
        log_lines: how many lines were taken out of fetch logs.
        models: that were trained on snapshots that are gone: they are not changed.
    """

    rewritten: list[Rewritten] = field(default_factory=list)
    removed: list[tuple[str, str]] = field(default_factory=list)
    gone: dict[str, list[Path]] = field(default_factory=dict)
    log_lines: int = 0
    models: list[Path] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concerned:
    """A sample of a snapshot that a tombstone means."""

    dataset: str
    snapshot: str
    sample_id: str
    url: str | None
    num_captions: int
    tombstone: Tombstone


def forget(root: Path, more: Sequence[Tombstone]) -> TakeDown:
    """Put tombstones in force and remove all that they mean from a root.

    Raises:
        ConfigError: another process writes below `root`, or something there is damaged.
    """
    with writer_lock(root), taking_down(root):
        sweep_removed(root)
        known = read_tombstones(root)
        found = with_sightings(root, known.with_more(more))
        write_tombstones(root, replace(found, is_unfinished=True))
        done = _carry_out(root, found, is_resumed=known.is_unfinished)
        for path in done.gone["report"]:
            snapshot = current_snapshot(root, path.parent.name)
            if snapshot is not None:
                write_report(root, snapshot)
        return done


def finish_forgetting(root: Path) -> Tombstones:
    """End a take-down that was killed, if there is one; call it with the writer's lock held.

    Returns:
        The tombstones that are in force.
    """
    found = read_tombstones(root)
    if found.is_unfinished:
        logger.info("forget: ending a take-down that was begun")
        with taking_down(root):
            sweep_removed(root)
            _carry_out(root, found, is_resumed=True)
    return replace(found, is_unfinished=False)


def concerned(root: Path, more: Sequence[Tombstone]) -> Iterator[Concerned]:
    """What tombstones, those in force included, mean in any snapshot of a root; nothing is written."""
    found = with_sightings(root, read_tombstones(root).with_more(more))
    for snapshot in all_snapshots(root):
        matcher = Matcher(found.of(snapshot.dataset))
        samples = samples_in(files_of(snapshot), matcher)
        for sample_id, (url, count) in sorted(_captions_of(snapshot, samples).items()):
            yield Concerned(
                dataset=snapshot.dataset,
                snapshot=snapshot.snapshot,
                sample_id=sample_id,
                url=url,
                num_captions=count,
                tombstone=matcher.tombstones.tombstones[samples[sample_id]],
            )


def _captions_of(snapshot: Snapshot, samples: Mapping[str, int]) -> dict[str, tuple[str | None, int]]:
    """Of some samples, the address and how many captions they have."""
    found: dict[str, tuple[str | None, int]] = {}
    for path in snapshot.caption_files() if samples else ():
        table = pq.read_table(path, columns=["sample_id", "url"])
        for row in table.filter(of_samples(table, samples)).to_pylist():
            url, count = found.get(row["sample_id"], (row["url"], 0))
            found[row["sample_id"]] = (url, count + 1)
    return found


def _carry_out(root: Path, tombstones: Tombstones, *, is_resumed: bool) -> TakeDown:
    """Rewrite and remove; each part looks at what is there, so that it can be done again from the start."""
    done = TakeDown()
    _remove_unfinished(root)
    for dataset in dataset_names(root):
        _take_down(root, dataset, tombstones, done)
    if done.rewritten or is_resumed:
        rebuild(root)
    _remove_snapshots(root, tombstones, done)
    touched = {one.dataset for one in done.rewritten} | {dataset for dataset, _ in done.removed}
    # Nobody can tell what contact sheets show.
    sheets = sorted((root / leftovers.SEARCHES).rglob("*")) if touched or is_resumed else []
    reports = [report_path(root, name) for name in dataset_names(root) if is_resumed or name in touched]
    done.gone = {
        "report": leftovers.clear_files(reports),
        "contact sheet": leftovers.clear_files(sheets),
        "search index": leftovers.clear_indexes(root, dataset_names(root) if is_resumed else sorted(touched)),
        "kept features folder": leftovers.clear_features(root) if touched or is_resumed else [],
        "export": leftovers.clear_exports(root),
        "step output": leftovers.clear_work(root / "work", Matcher(tombstones)),
    }
    for folder in sorted(datasets_folder(root).glob(f"*/{leftovers.FETCH_LOGS}")):
        done.log_lines += leftovers.clear_log(folder, Matcher(tombstones.of(folder.parent.name)))
    done.models = leftovers.models_of(root, done.removed)
    write_tombstones(root, replace(tombstones, is_unfinished=False))
    return done


def _remove_unfinished(root: Path) -> None:
    """Folders of snapshots that were never committed: of killed builds, which publish again, or of a killed forget."""
    folders = (path for path in datasets_folder(root).glob("*/*") if path.is_dir() and is_snapshot_name(path.name))
    for folder in sorted(folders):
        if read_snapshot(root, folder.parent.name, folder.name) is None:
            remove_snapshot(root, folder.parent.name, folder.name)


def _take_down(root: Path, dataset: str, tombstones: Tombstones, done: TakeDown) -> None:
    """Give a dataset a snapshot without what is forgotten, if the current one has any of it."""
    name = current_snapshot_name(root, dataset)
    snapshot = None if name is None else read_snapshot(root, dataset, name)
    if snapshot is None:
        return
    chosen = tombstones.of(dataset)
    samples = samples_in(files_of(snapshot), Matcher(chosen))
    lines = lines_in(snapshot.caption_files(), Matcher(chosen))
    if not samples and not lines:
        return
    num_captions = sum(count for _, count in _captions_of(snapshot, samples).values())
    new = _rewrite(root, snapshot, chosen, samples=list(samples), lines=lines)
    append_run(root, dataset, snapshot=new.snapshot, forget_of=snapshot.snapshot)
    done.rewritten.append(
        Rewritten(
            dataset=dataset,
            before=snapshot.snapshot,
            now=new.snapshot,
            num_samples=len(samples),
            num_captions=num_captions,
        )
    )


def _rewrite(
    root: Path, old: Snapshot, tombstones: Tombstones, *, samples: Sequence[str], lines: Sequence[str]
) -> Snapshot:
    """Commit a snapshot without some samples, and make it the current one.

    Raises:
        PipelineError: a conservation law does not hold; nothing is committed.
    """
    snapshot_id = digest([old.snapshot, tombstones.digest])[:12]
    same = read_snapshot(root, old.dataset, snapshot_id)
    if same is not None:  # a committed snapshot is never written again
        point_to(root, old.dataset, snapshot_id)
        return same
    folder = snapshot_folder(root, old.dataset, snapshot_id)
    files = rewrite_files(old, folder, samples, lines)
    steps = [dict(entry) for entry in old.manifest["steps"]]
    if samples and FORGET not in old.steps:
        steps.insert(old.steps.index(INGEST) + 1, dict(FORGET_STEP))
    manifest: dict[str, Any] = {
        **{name: value for name, value in old.manifest.items() if name != "documents"},
        "snapshot": snapshot_id,
        "forget_of": old.snapshot,
        "tombstones": {"digest": tombstones.digest},
        "steps": steps,
        "files": files,
    }
    new = Snapshot(dataset=old.dataset, snapshot=snapshot_id, folder=folder, manifest=manifest)
    manifest |= recounted(new)
    broken = broken_laws(new)
    if broken:
        raise PipelineError(
            f"the snapshot is not committed, since it breaks: {'; '.join(broken)}. This is a defect: report it"
        )
    documents = write_documents(folder, manifest)
    return commit_snapshot(root, {**manifest, "documents": documents})


def _remove_snapshots(root: Path, tombstones: Tombstones, done: TakeDown) -> None:
    """Remove the snapshots that hold something of what is forgotten, and all that a rewritten one goes on from."""
    for snapshot in list(all_snapshots(root)):
        current = current_snapshot_name(root, snapshot.dataset)
        if snapshot.snapshot != current and (
            _is_superseded(root, snapshot, current)
            or is_concerned(files_of(snapshot), Matcher(tombstones.of(snapshot.dataset)))
        ):
            remove_snapshot(root, snapshot.dataset, snapshot.snapshot)
            done.removed.append((snapshot.dataset, snapshot.snapshot))


def _is_superseded(root: Path, snapshot: Snapshot, current: str | None) -> bool:
    """Whether it is of the same build as a current one that was rewritten: builds look for the last of such a line."""
    now = None if current is None else read_snapshot(root, snapshot.dataset, current)
    if now is None or now.manifest.get("forget_of") is None:
        return False
    return bool(now.manifest.get("build_key") == snapshot.manifest.get("build_key"))
