"""What a root keeps beside its snapshots, without what is forgotten: step outputs, logs, exports, pages, sheets."""

import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.errors import ConfigError
from data_catalog.exports.place import RECORD_FILE, RECORD_KEYS, WITHOUT_EXPORTS
from data_catalog.storage.history import freed_bytes
from data_catalog.storage.integrity import read_checksummed, take_record_away, write_recorded
from data_catalog.storage.manifest import read_snapshot
from data_catalog.storage.shards import TEMPORARY_PREFIX, read_json, sweep_temporary, sync
from data_catalog.storage.work import COMMIT_FILE
from data_catalog.take_down.matching import Matcher
from data_catalog.take_down.sightings import is_concerned, work_files

logger = logging.getLogger(__name__)

EXPORTS, SEARCHES = "exports", "searches"
# What a killed export, or a killed removal of one, leaves.
_KILLED = tuple(f"{TEMPORARY_PREFIX}{kind}-" for kind in ("new", "old", "removed"))
# Beside the snapshots: how each image was fetched, a file a shard.
FETCH_LOGS = "fetch-log"
# In a model's folder: features of all images that were searched.
INDEX_FOLDER = "index"
# In a root: features of the images and texts of test sets, by the sha256 of their bytes.
KEPT_FEATURES = "kept-features"
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")  # of a model, whose folder of them is called so
# Step outputs of texts alone, that do not say of which sample each is.
_ANONYMOUS_STEPS = ("plan",)


def clear_work(work: Path, matcher: Matcher) -> list[Path]:
    """Remove the step outputs that hold images or rows that are meant, and all lists of texts beside them.

    A build that was under way makes them again, without. Call it with the writer's lock held.
    """
    _sweep(work)
    doomed = {path.parent for path in work_files(work) if is_concerned([path], matcher)}
    if doomed:
        doomed |= {path.parent for step in _ANONYMOUS_STEPS for path in work.glob(f"{step}/*/{COMMIT_FILE}")}
    for folder in sorted(doomed):
        remove_folder(folder)
    return sorted(doomed)


def _sweep(work: Path) -> None:
    if work.is_dir():
        sweep_temporary([work, *(entry for entry in work.iterdir() if entry.is_dir())])


def clear_log(folder: Path, matcher: Matcher) -> int:
    """Take the lines of what is meant out of a dataset's fetch log; returns how many those were.

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
    doomed = [folder for folder in _exports(root, root) if not _stays(root, folder)]
    for folder in doomed:
        remove_folder(folder.resolve())
    return doomed


def _exports(root: Path, top: Path) -> Iterator[Path]:
    """Folders of exports below `top`, on another disk too where `exports/` or a folder in it is a link to one."""
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
    """Tell whether a folder without a record lies behind a link, and warn of it."""
    if folder.resolve().is_relative_to(root.resolve()):
        return False
    logger.warning("%s has no record of an export, so it stays: if it is one of ours, remove it yourself", folder)
    return True


def clear_indexes(root: Path, datasets: Iterable[str]) -> list[Path]:
    """Remove what `vernaclip search` keeps of the images of some datasets; it looks at them anew."""
    models = [model for name in datasets for model in sorted((root / "models" / name).glob("*")) if model.is_dir()]
    doomed = [model / INDEX_FOLDER for model in models if (model / INDEX_FOLDER).is_dir()]
    for model in models:  # of a removal that was killed
        shutil.rmtree(model / f"{TEMPORARY_PREFIX}removed-{INDEX_FOLDER}", ignore_errors=True)
    for folder in doomed:
        remove_folder(folder)
    return doomed


def clear_features(root: Path) -> list[Path]:
    """Remove what `vernaclip scoreboard` keeps of test sets, one folder a model; it encodes them anew.

    Where the folder of these is a link to a larger disk, the link stays, and so does what else may lie there.
    """
    folder = root / KEPT_FEATURES
    if not folder.is_dir():
        return []
    for killed in folder.glob(f"{TEMPORARY_PREFIX}removed-*"):  # a removal was
        shutil.rmtree(killed, ignore_errors=True)
    found = sorted(path for path in folder.iterdir() if _FINGERPRINT.fullmatch(path.name))
    for path in found:
        remove_folder(path)
    return found


def clear_files(paths: Iterable[Path]) -> list[Path]:
    """Remove files, those that are there; returns which those were."""
    found = [path for path in paths if path.is_file()]
    for path in found:
        take_record_away(path)
        path.unlink()
        sync(path.parent)
    return found


def remove_folder(folder: Path) -> int:
    """Remove a folder in one move for its readers; returns how many bytes were freed."""
    freed = freed_bytes(folder)
    doomed = folder.with_name(f"{TEMPORARY_PREFIX}removed-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    sync(doomed.parent)
    shutil.rmtree(doomed)
    return freed


def models_of(root: Path, removed: Iterable[tuple[str, str]]) -> list[Path]:
    """The models that were trained on snapshots that are removed, as far as they say so."""
    gone = set(removed)
    found = []
    for pointer in sorted((root / "models").glob("*/current.json")):
        try:
            record = read_checksummed(pointer, remedy="remove it and train again, which finds the trained model")
        except ConfigError as error:
            logger.warning("%s", error)  # what is to be forgotten goes all the same
            continue
        if (pointer.parent.name, record.get("snapshot")) in gone:
            found.append(pointer.parent / str(record.get("model")))
    return found
