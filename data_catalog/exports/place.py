"""Where an export goes: a folder that it may replace, and that readers find whole, the old one or the new one."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_catalog.errors import DamagedError, DiskError, SettingsError
from data_catalog.exports.card import CARD_FILE
from data_catalog.exports.documents import CROISSANT_FILE, TERMS_FILE
from data_catalog.storage.disk_errors import disk_errors, raise_if_disk_fails
from data_catalog.storage.integrity import read_checksummed
from data_catalog.storage.lock import place_lock
from data_catalog.storage.manifest import EXPORT_RECORD
from data_catalog.storage.reading import putting_in_place
from data_catalog.storage.shards import TEMPORARY_PREFIX, make_folder, sha256_of, sync

# What every record of an export has; other people's files may be called so.
RECORD_KEYS = frozenset({"dataset", "snapshot", "format", "files"})
# Folders of a root that hold no exports: what builds and training make is kept in order there.
WITHOUT_EXPORTS = frozenset({"datasets", "models", "work"})
# What people add to before they publish.
_EDITED = (CARD_FILE, CROISSANT_FILE, TERMS_FILE)
_ELSEWHERE = "name another place with --out"


def place_of(folder: Path, root: Path) -> Path:
    """Return the folder as the disk has it.

    Raises:
        SettingsError: no folder there can be replaced, or it is one of a root's own.
        DiskError: the disk knows no such place.
    """
    with _as_place(folder):
        place = folder.resolve()
        if Path.cwd().is_relative_to(place):
            raise SettingsError(f"an export replaces its folder, and cannot go into the current one: {_ELSEWHERE}")
        if place.is_mount():
            raise SettingsError(f"{folder} is where a disk is mounted, which nothing can replace: name a folder in it")
        for name in sorted(WITHOUT_EXPORTS):
            if place.is_relative_to((root / name).resolve()):
                raise SettingsError(f"{folder} lies in {root / name}, which is not for exports: {_ELSEWHERE}")
        for path in _beside(place):
            path.exists()  # which is an error where a name is too long
    return place


@contextmanager
def _as_place(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # the latter of links in a circle
        raise_if_disk_fails(error, folder)
        raise DiskError(f"{folder} cannot be an export's folder: {error}") from error


def _beside(place: Path) -> tuple[Path, Path]:
    """Return where a new export is filled, and where the old one is while the new one takes its place."""
    new, old = (place.with_name(f"{TEMPORARY_PREFIX}{what}-{place.name}") for what in ("new", "old"))
    return new, old


@contextmanager
def exporting_to(place: Path) -> Iterator[None]:
    """Be the only one that exports to a place, which is whole then, also if a killed export had moved it away.

    Raises:
        BusyError: another process exports to it, which is named.
        DiskError: nothing can be written there.
    """
    with place_lock(place):
        with _as_place(place):
            temporary, old = _beside(place)
            if old.is_dir() and not place.exists():
                try:
                    record = record_of(old)
                except (DamagedError, SettingsError):
                    record = None
                if record is not None and is_whole(old, record):  # or the export was killed while this was removed
                    old.rename(place)
            for leftover in (temporary, old):
                if leftover.exists():
                    shutil.rmtree(leftover)
        yield


def record_of(place: Path) -> dict[str, Any] | None:
    """Return the record of an export that is there, or None where there is none.

    Raises:
        SettingsError: the folder holds something else.
        DamagedError: the record of the export is damaged.
    """
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return None
    path = place / EXPORT_RECORD
    record = None
    if path.is_file():
        remedy = f"if {place} is an export, remove it and export again; if not, {_ELSEWHERE}"
        record = read_checksummed(path, remedy=remedy)
    if record is None or not record.keys() >= RECORD_KEYS:
        raise SettingsError(f"{place} is there and is no export of ours: {_ELSEWHERE}")
    return record


def is_whole(place: Path, record: Mapping[str, Any]) -> bool:
    """Tell if all files are there in full; their content is `vernaclip verify`'s business."""
    sizes: Mapping[str, int] = record["bytes"]
    return all((place / name).is_file() and (place / name).stat().st_size == size for name, size in sizes.items())


def require_nothing_of_others(place: Path, record: Mapping[str, Any]) -> None:
    """Refuse to replace an export to which somebody added a file or in which somebody edited a document.

    Raises:
        SettingsError: there is such a file; it is named.
    """
    files: Mapping[str, str] = record["files"]
    for path in sorted(place.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        name = path.relative_to(place).as_posix()
        is_ours = name in files or name == EXPORT_RECORD
        if not is_ours or (name in _EDITED and sha256_of(path) != files[name]):
            raise SettingsError(
                f"{path} was added or edited by somebody, and would go with the export that it is in: move it away, or "
                f"{_ELSEWHERE}"
            )


@contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """Yield a new folder to fill, which then is put in its place, once all of it is on the disk.

    Call it within `exporting_to`. Killed between the two renames it leaves no export; that puts the old one back.

    Raises:
        DiskError: nothing can be written there, or the disk is full or fails.
    """
    temporary, old = _beside(place)
    with disk_errors(place):
        try:
            make_folder(temporary)
        except OSError as error:
            raise_if_disk_fails(error, temporary)
            raise DiskError(f"{place.parent} cannot be a folder to write to: {error.strerror}") from error
        try:
            yield temporary
            for path in sorted(temporary.rglob("*"), reverse=True):
                sync(path)
            sync(temporary)
            with putting_in_place():
                if place.exists():
                    place.rename(old)
                temporary.rename(place)
                sync(place.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # of one that failed: it may be what fills the disk
        shutil.rmtree(old, ignore_errors=True)
