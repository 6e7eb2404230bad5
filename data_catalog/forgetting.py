"""Take-down: tombstones are put in force, then all below a root that holds what they mean is rewritten or removed.

A tombstone comes first, so that whatever is killed afterwards, the next `forget` or build ends what was begun.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.database.catalog import broken_laws, rebuild, recounted
from data_catalog.database.story import FETCH_LOGS
from data_catalog.errors import DamagedError, DefectError
from data_catalog.exports.documents import write_documents
from data_catalog.exports.place import RECORD_FILE, RECORD_KEYS, WITHOUT_EXPORTS
from data_catalog.overview import REPORT_FILE
from data_catalog.sources.ingest import STEP as INGEST
from data_catalog.storage.history import append_run, remove_snapshot, sweep_removed
from data_catalog.storage.integrity import take_record_away, write_recorded
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.manifest import (
    CURRENT_FILE,
    MODELS,
    Manifest,
    Snapshot,
    commit_snapshot,
    current_snapshot,
    current_snapshot_name,
    dataset_names,
    datasets_folder,
    is_snapshot_name,
    model_pointer,
    point_to,
    read_snapshot,
    snapshot_folder,
)
from data_catalog.storage.reading import taking_down
from data_catalog.storage.roots import KEPT_FEATURES
from data_catalog.storage.shards import TEMPORARY_PREFIX, digest, read_json, sweep_temporary, sync
from data_catalog.storage.verify import EXPORTS
from data_catalog.takedown import (
    Matcher,
    all_snapshots,
    concerned_files,
    files_of,
    is_concerned,
    is_gone,
    lines_in,
    rewrite_files,
    samples_in,
    texts_of_forgotten_alone,
    with_sightings,
    work_files,
    work_folders,
)
from data_catalog.tombstones import FORGET, FORGET_STEP, Tombstone, Tombstones, read_tombstones, write_tombstones

logger = logging.getLogger(__name__)

# Takes out of the translation memories what is of or into some texts; returns how many translations those were.
ForgetTexts = Callable[[Collection[str]], int]

# Contact sheets.
SEARCHES = "searches"
# In a model's folder: features of all images that were searched.
INDEX_FOLDER = "index"
# What a killed export, or a killed removal of one, leaves.
_KILLED = tuple(f"{TEMPORARY_PREFIX}{kind}-" for kind in ("new", "old", "removed"))
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")  # of a model, whose folder of features is called so


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
        num_translations: how many were taken out of translation memories.
        models: that were trained on snapshots that are gone: they are not changed.
    """

    rewritten: list[Rewritten] = field(default_factory=list)
    removed: list[tuple[str, str]] = field(default_factory=list)
    gone: dict[str, list[Path]] = field(default_factory=dict)
    log_lines: int = 0
    num_translations: int = 0
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


def forget(
    root: Path,
    more: Sequence[Tombstone],
    *,
    forget_texts: ForgetTexts,
    write_report: Callable[[Path, Snapshot], object],
) -> TakeDown:
    """Put tombstones in force and remove all that they mean from a root.

    Args:
        root: of the catalog.
        more: tombstones beside those in force.
        forget_texts: clears the translation memories.
        write_report: writes the page of a dataset that had one anew.

    Raises:
        BusyError: another process writes below `root`.
        DamagedError: something there is damaged.
    """
    with writer_lock(root), taking_down(root):
        sweep_removed(root)
        known = read_tombstones(root)
        found = with_sightings(root, known.with_more(more))
        write_tombstones(root, replace(found, is_unfinished=True))
        done = _carry_out(root, found, forget_texts, is_resumed=known.is_unfinished)
        for path in done.gone["report"]:
            snapshot = current_snapshot(root, path.parent.name)
            if snapshot is not None:
                write_report(root, snapshot)
        return done


def finish_forgetting(root: Path, *, forget_texts: ForgetTexts) -> Tombstones:
    """End a take-down that was killed, if there is one; call it with the writer's lock held.

    Returns:
        The tombstones that are in force.
    """
    found = read_tombstones(root)
    if found.is_unfinished:
        logger.info("forget: ending a take-down that was begun")
        with taking_down(root):
            sweep_removed(root)
            _carry_out(root, found, forget_texts, is_resumed=True)
    return replace(found, is_unfinished=False)


def concerned(root: Path, more: Sequence[Tombstone]) -> Iterator[Concerned]:
    """Yield what tombstones, those in force included, mean in any snapshot of a root; nothing is written."""
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
    """Return the address of each of some samples, and how many captions go with it, those of others included."""
    found: dict[str, tuple[str | None, int]] = {}
    for path in snapshot.caption_files() if samples else ():
        table = pq.read_table(path, columns=["sample_id", "merged_into", "url"])
        for row in table.filter(is_gone(table, samples)).to_pylist():
            is_own = row["sample_id"] in samples
            name = row["sample_id"] if is_own else row["merged_into"]
            url, count = found.get(name, (None, 0))
            found[name] = (url or (row["url"] if is_own else None), count + 1)
    return found


def _carry_out(root: Path, tombstones: Tombstones, forget_texts: ForgetTexts, *, is_resumed: bool) -> TakeDown:
    """Rewrite and remove; each part looks at what is there, so that it can be done again from the start."""
    done = TakeDown()
    # First, while it is known what they say: translations of and into what only forgotten captions say.
    texts = texts_of_forgotten_alone(root, tombstones)
    done.num_translations = forget_texts(texts) if texts else 0
    _remove_unfinished(root)
    for dataset in dataset_names(root):
        _take_down(root, dataset, tombstones, done)
    if done.rewritten or is_resumed:
        rebuild(root)
    _remove_snapshots(root, tombstones, done)
    touched = {one.dataset for one in done.rewritten} | {dataset for dataset, _ in done.removed}
    sweep_temporary([root / "work"])
    # Nobody can tell what contact sheets show.
    sheets = sorted((root / SEARCHES).rglob("*")) if touched or is_resumed else []
    reports = [
        datasets_folder(root) / name / REPORT_FILE for name in dataset_names(root) if is_resumed or name in touched
    ]
    done.gone = {
        "report": clear_files(reports),
        "contact sheet": clear_files(sheets),
        "search index": clear_indexes(root, dataset_names(root) if is_resumed else sorted(touched)),
        "kept features folder": clear_features(root) if touched or is_resumed else [],
        "export": clear_exports(root),
        "step output": [path for folder in work_folders(root) for path in clear_work(folder, tombstones)],
    }
    for folder in sorted(datasets_folder(root).glob(f"*/{FETCH_LOGS}")):
        done.log_lines += clear_log(folder, Matcher(tombstones.of(folder.parent.name)))
    done.models = models_of(root, done.removed)
    write_tombstones(root, replace(tombstones, is_unfinished=False))
    return done


def _remove_unfinished(root: Path) -> None:
    """Remove snapshots that were never committed: of killed builds, which publish again, or of a killed forget."""
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
    new = _rewrite(root, snapshot, chosen, samples=list(samples), lines=lines)
    append_run(root, dataset, snapshot=new.snapshot, forget_of=snapshot.snapshot)
    done.rewritten.append(
        Rewritten(
            dataset=dataset,
            before=snapshot.snapshot,
            now=new.snapshot,
            num_samples=len(samples),
            num_captions=sum(count for _, count in _captions_of(snapshot, samples).values()),
        )
    )


def _rewrite(
    root: Path, old: Snapshot, tombstones: Tombstones, *, samples: Sequence[str], lines: Sequence[str]
) -> Snapshot:
    """Commit a snapshot without some samples, and make it the current one.

    Raises:
        DefectError: a conservation law does not hold; nothing is committed.
    """
    snapshot_id = digest([old.snapshot, tombstones.digest])[:12]
    same = read_snapshot(root, old.dataset, snapshot_id)
    if same is not None:  # a committed snapshot is never written again
        point_to(root, old.dataset, snapshot_id)
        return same
    folder = snapshot_folder(root, old.dataset, snapshot_id)
    files = rewrite_files(old, folder, samples, lines)
    steps = list(old.manifest["steps"])
    if FORGET not in old.steps and _captions_of(old, dict.fromkeys(samples, 0)):
        steps.insert(old.steps.index(INGEST) + 1, FORGET_STEP)
    manifest: Manifest = {
        **old.manifest,
        "snapshot": snapshot_id,
        "forget_of": old.snapshot,
        "tombstones": {"digest": tombstones.digest},
        "steps": steps,
        "files": files,
    }
    new = Snapshot(dataset=old.dataset, snapshot=snapshot_id, folder=folder, manifest=manifest)
    counted = recounted(new)
    manifest["funnel"], manifest["drop_reasons"] = counted["funnel"], counted["drop_reasons"]
    broken = broken_laws(new)
    if broken:
        raise DefectError(f"the snapshot is not committed, since it breaks: {'; '.join(broken)}")
    manifest["documents"] = write_documents(folder, manifest)
    return commit_snapshot(root, manifest)


def _remove_snapshots(root: Path, tombstones: Tombstones, done: TakeDown) -> None:
    """Remove the snapshots, but the current ones, that hold something of what is forgotten."""
    for snapshot in list(all_snapshots(root)):
        current = current_snapshot_name(root, snapshot.dataset)
        if snapshot.snapshot != current and is_concerned(files_of(snapshot), Matcher(tombstones.of(snapshot.dataset))):
            remove_snapshot(root, snapshot.dataset, snapshot.snapshot)
            done.removed.append((snapshot.dataset, snapshot.snapshot))


def clear_work(folder: Path, tombstones: Tombstones) -> list[Path]:
    """Remove the step outputs of a dataset that hold images or rows that the dataset's tombstones mean.

    A build that was under way makes them again, without. Call it with the writer's lock held.

    Args:
        folder: the dataset's in `work/`.
        tombstones: those in force, of whichever datasets.
    """
    sweep_temporary([folder, *folder.glob("*/")])
    matcher = Matcher(tombstones.of(folder.name))
    return _remove_folders(dict.fromkeys(path.parent for path in concerned_files(work_files(folder), matcher)))


def clear_log(folder: Path, matcher: Matcher) -> int:
    """Take the lines of what is meant out of a dataset's fetch log; return how many those were.

    Call it with the writer's lock held.
    """
    sweep_temporary([folder])
    count = 0
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path)
        kept = table.filter(pa.array(matcher.numbers(table.select(["sample_id", "url"])) < 0))
        if kept.num_rows < table.num_rows:
            count += table.num_rows - kept.num_rows
            write_recorded(path, partial(pq.write_table, kept, compression="zstd"))
    return count


def clear_exports(root: Path) -> list[Path]:
    """Remove exports of snapshots that are not there any more: nobody can tell what these held.

    They are looked for in the whole root; where exports go by default those without a record go as well, and links are
    followed: behind one only what has a record goes, since the rest of that disk is somebody's.
    """
    return _remove_folders(sorted(folder for folder in _exports(root, root) if not _stays(root, folder)))


def _exports(root: Path, top: Path) -> Iterator[Path]:
    """Yield folders of exports below `top`, on another disk too where `exports/` or a folder in it is a link to one."""
    for place, folders, files in os.walk(top):
        folder = Path(place)
        folders[:] = sorted(set(folders) - (WITHOUT_EXPORTS if folder == root else set()))
        if RECORD_FILE in files or _is_default_place(root, folder) or folder.name.startswith(_KILLED):
            folders.clear()
            yield folder
        for link in (folder / name for name in folders):
            leads_out = link.is_symlink() and not link.resolve().is_relative_to(root.resolve())
            if leads_out and link.is_relative_to(root / EXPORTS):
                yield from _exports(root, link)


def _is_default_place(root: Path, folder: Path) -> bool:
    return folder.parent.parent == root / EXPORTS


def _stays(root: Path, folder: Path) -> bool:
    if folder.resolve().name.startswith(_KILLED):
        return False
    try:
        record = read_json(folder / RECORD_FILE)
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or not record.keys() >= RECORD_KEYS:
        return not _is_default_place(root, folder) or _lies_elsewhere(root, folder)
    return read_snapshot(root, str(record["dataset"]), str(record["snapshot"])) is not None


def _lies_elsewhere(root: Path, folder: Path) -> bool:
    """Tell if a folder without a record lies behind a link, and warn of it."""
    if folder.resolve().is_relative_to(root.resolve()):
        return False
    logger.warning("%s has no record of an export, so it stays: if it is one of ours, remove it yourself", folder)
    return True


def clear_indexes(root: Path, datasets: Iterable[str]) -> list[Path]:
    """Remove what `vernaclip search` keeps of the images of some datasets; it looks at them anew."""
    models = [model for name in datasets for model in sorted((root / "models" / name).glob("*")) if model.is_dir()]
    for model in models:  # of a removal that was killed
        shutil.rmtree(model / f"{TEMPORARY_PREFIX}removed-{INDEX_FOLDER}", ignore_errors=True)
    return _remove_folders(model / INDEX_FOLDER for model in models if (model / INDEX_FOLDER).is_dir())


def clear_features(root: Path) -> list[Path]:
    """Remove what `vernaclip scoreboard` keeps of test sets, one folder a model; it encodes them anew.

    Where the folder of these is a link to a larger disk, the link stays, and so does what else may lie there.
    """
    folder = root / KEPT_FEATURES
    if not folder.is_dir():
        return []
    for killed in folder.glob(f"{TEMPORARY_PREFIX}removed-*"):  # a removal was
        shutil.rmtree(killed, ignore_errors=True)
    return _remove_folders(sorted(path for path in folder.iterdir() if _FINGERPRINT.fullmatch(path.name)))


def clear_files(paths: Iterable[Path]) -> list[Path]:
    """Remove files, those that are there; return which those were."""
    found = [path for path in paths if path.is_file()]
    for path in found:
        take_record_away(path)
        path.unlink()
        sync(path.parent)
    return found


def _remove_folders(folders: Iterable[Path]) -> list[Path]:
    """Remove folders in their order, each in one move for its readers; return them."""
    found = list(folders)
    for folder in [path.resolve() for path in found]:
        doomed = folder.with_name(f"{TEMPORARY_PREFIX}removed-{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        sync(doomed.parent)
        shutil.rmtree(doomed)
    return found


def models_of(root: Path, removed: Iterable[tuple[str, str]]) -> list[Path]:
    """Return the models that were trained on snapshots that are removed, as far as they say so."""
    gone = set(removed)
    found = []
    for pointer in sorted((root / MODELS).glob(f"*/{CURRENT_FILE}")):
        try:
            record = model_pointer(root, pointer.parent.name)
        except DamagedError as error:
            logger.warning("%s", error)  # what is to be forgotten goes all the same
            continue
        if (pointer.parent.name, record.get("snapshot")) in gone:
            found.append(pointer.parent / str(record.get("model")))
    return found
