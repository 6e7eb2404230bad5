"""Text queries against a folder of image files, whose features are kept and follow the folder's changes."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.errors import InputError
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.shards import digest
from training.data.features import KeptFeatures, keep_features, read_features, stacked
from training.data.image_files import IMAGE_SUFFIXES, encode_files
from training.data.images import Features
from training.towers.model import LoadedModel, open_model
from training.use.nearest import nearest
from training.use.search import Hit, SearchResult, check_query, query_features

logger = logging.getLogger(__name__)

FOLDER_INDEX = ".vernaclip"  # in the folder that is searched
ELSEWHERE = "folder-indexes"  # below a root, for folders that cannot be written to
PORTION, MOST_PORTIONS = 8192, 10  # files that are read before the index is written, and how often it is at most
_NAME_IS_NO_TEXT = "its name is not valid UTF-8: rename it"


@dataclass(frozen=True, slots=True)
class _File:
    """An image file and what tells that it has not changed.

    Args:
        name: below the folder, with "/".
        stamp: its size in bytes and when its content changed, in nanoseconds.
        touched_ns: when anything of it changed, its permissions too.
    """

    name: str
    stamp: tuple[int, int]
    touched_ns: int


def search_folder(
    query: str, folder: Path, model: LoadedModel | Path, *, k: int = 12, root: Path | None = None
) -> SearchResult:
    """The `k` images of a folder, and of the folders in it, that are most like a text.

    Features are kept in the folder, one index a model. Only files whose size or time of change is new are encoded
    again. Hidden files and folders, and links to folders, are left out.

    Args:
        root: below which the index goes if the folder cannot be written to; None for an index in memory then.

    Raises:
        SettingsError: an empty query.
        InputError: no such folder, no image that can be read, or no trained model.
        DamagedError: the model's files are damaged.
    """
    check_query(query, k)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder")
    files, nameless = _image_files(folder)
    if not files:
        raise InputError(f"{folder} holds no image files ({', '.join(sorted(IMAGE_SUFFIXES))})")
    loaded = open_model(model)
    kept = _up_to_date(loaded, folder, files, _index_place(folder, loaded, root))
    names = [name for name, *_ in kept.facts["files"]]
    unreadable = (*nameless, *((folder / name, str(told[-1])) for name, told in sorted(kept.facts["broken"].items())))
    if not names:
        raise InputError(f"none of the {len(files):,} image files of {folder} can be read: {unreadable[0][1]}")
    found = nearest(kept.features, query_features(loaded, query), k)
    hits = tuple(
        Hit(rank=rank, cosine=float(cosine), name=names[index], path=folder / names[index])
        for rank, (index, cosine) in enumerate(zip(found.indices[0], found.cosines[0], strict=True), start=1)
    )
    return SearchResult(
        query=query, hits=hits, num_images=len(names), model_sha256=loaded.sha256, unreadable=unreadable
    )


def _image_files(folder: Path) -> tuple[list[_File], list[tuple[Path, str]]]:
    """Image files by their names' ends, in the order of their names; and those whose names are no text."""
    files, nameless = [], []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(place, name)
            if name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            below = path.relative_to(folder).as_posix()
            if any("\ud800" <= letter <= "\udfff" for letter in below):
                nameless.append((path, _NAME_IS_NO_TEXT))
            else:
                files.append(_seen(path, below))
    return sorted(files, key=lambda file: file.name), sorted(nameless)


def _seen(path: Path, name: str) -> _File:
    try:
        found = path.stat()
    except OSError:  # a link to nothing; decoding says so
        return _File(name, (-1, -1), -1)
    return _File(name, (found.st_size, found.st_mtime_ns), found.st_ctime_ns)


def _index_place(folder: Path, model: LoadedModel, root: Path | None) -> Path | None:
    inside = folder / FOLDER_INDEX
    if _may_be_written(inside if inside.exists() else folder):
        return inside / model.sha256[:12]
    if root is None:
        return None
    return root / ELSEWHERE / digest([str(folder.resolve()), model.sha256])[:12]


def _may_be_written(folder: Path) -> bool:
    """Root could write anywhere, but a folder that grants that to nobody is not meant to be."""
    return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK | os.X_OK)


def _up_to_date(model: LoadedModel, folder: Path, files: Sequence[_File], place: Path | None) -> KeptFeatures:
    """The features of the files as they are now, one row a readable file, in their order."""
    if place is None:
        return _renewed(model, folder, files, None)
    kept = _kept(place, model)
    if kept is None or not _is_of(kept.facts, files):
        with writer_lock(place):
            kept = _kept(place, model)
            for some in _portions(files, kept):
                kept = _renewed(model, folder, some, kept)
                keep_features(place, kept.features, kept.facts)
    assert kept is not None, "there is one portion at least"
    return kept


def _portions(files: Sequence[_File], kept: KeptFeatures | None) -> Iterator[list[_File]]:
    """The files that are known and more and more of the others: what an interrupted search has read stays read."""
    known = {tuple(file) for file in kept.facts["files"]} if kept is not None else set()
    fresh = [file.name for file in files if (file.name, *file.stamp) not in known]
    step = max(PORTION, len(files) // MOST_PORTIONS)
    for end in range(step, max(len(fresh), 1) + step, step):
        later = set(fresh[end:])
        yield [file for file in files if file.name not in later]


def _kept(place: Path, model: LoadedModel) -> KeptFeatures | None:
    kept = read_features(place)
    return kept if kept is not None and kept.facts["model"] == model.sha256 else None


def _is_of(facts: dict[str, Any], files: Sequence[_File]) -> bool:
    """Whether an index is of these files as they are."""
    good = {name: tuple(stamp) for name, *stamp in facts["files"]}
    broken = {name: tuple(told[:-1]) for name, told in facts["broken"].items()}
    seen = {file.name: file.stamp if file.name in good else (*file.stamp, file.touched_ns) for file in files}
    return good | broken == seen


def _renewed(model: LoadedModel, folder: Path, files: Sequence[_File], kept: KeptFeatures | None) -> KeptFeatures:
    """Old rows where files are as they were, new ones for the others."""
    rows = _rows(kept) if kept is not None else {}
    fresh = [folder / file.name for file in files if (file.name, *file.stamp) not in rows]
    encoded, reasons = encode_files(model, fresh)
    good = [file for file in files if folder / file.name not in reasons]
    facts = {
        "model": model.sha256,
        "files": [[file.name, *file.stamp] for file in good],
        "broken": {
            file.name: [*file.stamp, file.touched_ns, reasons[folder / file.name]]
            for file in files
            if folder / file.name in reasons
        },
    }
    logger.info("%s: %d of %d files read, the others were known", folder, len(fresh), len(files))
    found = [encoded[folder / f.name] if folder / f.name in encoded else rows[f.name, *f.stamp] for f in good]
    return KeptFeatures(stacked(found), facts)


def _rows(kept: KeptFeatures) -> dict[tuple[Any, ...], Features]:
    """What is known, by the name of a file and how it was."""
    return {tuple(file): row for file, row in zip(kept.facts["files"], np.asarray(kept.features), strict=True)}
