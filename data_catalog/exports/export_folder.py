"""The folder of an export: checks that it may be replaced, and a replacement that readers never see half-done."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, DiskError, SettingsError
from data_catalog.catalog.manifest import EXPORT_RECORD
from data_catalog.catalog.roots import refuse_misread
from data_catalog.disk.barrier import block_takedowns
from data_catalog.disk.disk_errors import disk_errors
from data_catalog.disk.files import TEMPORARY_PREFIX, make_folder, sha256_of, sync
from data_catalog.disk.lock import place_lock
from data_catalog.disk.records import read_checksummed, write_checksummed
from data_catalog.exports.card import CARD_FILE
from data_catalog.exports.documents import TERMS_FILE

# Keys that every record of an export has; a file of that name without them is not ours.
RECORD_KEYS = frozenset({"dataset", "snapshot", "format", "files"})
# Folders of a root that belong to builds and training, so that no export may be in them.
WITHOUT_EXPORTS = frozenset({"datasets", "models", "work"})
# Documents that users edit before they publish an export, the last one of an earlier version.
EDITED = (CARD_FILE, TERMS_FILE, "croissant.json")
_ELSEWHERE = "name another folder with --out"


def resolve_export_folder(folder: Path, root: Path) -> Path:
    """Return the resolved path of an export's folder."""
    refuse_misread(folder)
    with about(folder, kind=DiskError, remedy=_ELSEWHERE):  # links in a circle
        place = folder.resolve()
    if Path.cwd().is_relative_to(place):
        raise SettingsError(f"an export replaces its folder, which cannot be the current one: {_ELSEWHERE}")
    for name in sorted(WITHOUT_EXPORTS):
        if place.is_relative_to((root / name).resolve()):
            raise SettingsError(f"{folder} is in {root / name}, which is not for exports: {_ELSEWHERE}")
    return place


def _beside(place: Path) -> tuple[Path, Path]:
    """Return the temporary path where a new export is written, and that of the old one during the swap."""
    new, old = (place.with_name(f"{TEMPORARY_PREFIX}{what}-{place.name}") for what in ("new", "old"))
    return new, old


@contextmanager
def export_lock(place: Path) -> Iterator[None]:
    """Hold the lock of an export's folder; put back an export that a killed process had moved away."""
    with place_lock(place):
        temporary, old = _beside(place)
        if old.is_dir() and not place.exists():
            with suppress(DamagedError, SettingsError):  # a partial one, which was being removed
                if is_whole(old, record_of(old) or {}):
                    old.rename(place)
        for leftover in (temporary, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        yield


def record_of(place: Path) -> dict[str, Any] | None:
    """Return the record of an existing export; None if there is none."""
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return None
    path = place / EXPORT_RECORD
    remedy = f"if {place} is an export, remove it and export again; if not, {_ELSEWHERE}"
    record = read_checksummed(path, remedy=remedy) if path.is_file() else {}
    if not record.keys() >= RECORD_KEYS:
        raise SettingsError(f"{place} exists and is not an export of vernaclip: {_ELSEWHERE}")
    return record


def is_whole(place: Path, record: Mapping[str, Any]) -> bool:
    """Return whether all files of an export are there, with their recorded sizes unless users edit them.

    `vernaclip verify` checks their contents.
    """
    sizes: Mapping[str, int] = record.get("bytes", {})
    return bool(sizes) and all(
        (place / name).is_file() and (name in EDITED or (place / name).stat().st_size == size)
        for name, size in sizes.items()
    )


def require_no_foreign_files(place: Path, record: Mapping[str, Any]) -> None:
    """Refuse to replace an export with an added file or an edited document."""
    ours: Mapping[str, str] = record["files"]
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if name == EXPORT_RECORD or (path.is_dir() and not path.is_symlink()):
            continue
        if name not in ours or (name in EDITED and sha256_of(path) != ours[name]):
            raise SettingsError(
                f"{path} was added to the export or edited, and a new export would remove it: move it away, or "
                f"{_ELSEWHERE}"
            )


@contextmanager
def replace_folder(place: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill, then sync it to the disk and swap it in.

    Call it within `export_lock`. A process that is killed between the two renames leaves no export; `export_lock`
    then puts the old one back.
    """
    temporary, old = _beside(place)
    with disk_errors(place):
        try:
            make_folder(temporary)
            yield temporary
            for path in sorted(temporary.rglob("*"), reverse=True):
                sync(path)
            sync(temporary)
            with block_takedowns():
                if place.exists():
                    place.rename(old)
                temporary.rename(place)
                sync(place.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # a failed export may fill the disk
        shutil.rmtree(old, ignore_errors=True)


def current_record(
    place: Path, wanted: Mapping[str, Any], fill: Callable[[Path], Mapping[str, Any]]
) -> tuple[dict[str, Any], bool]:
    """Return the record of an export, and whether the export was there already, made from what is `wanted`.

    If not, `fill` writes its files into a new folder, and returns facts for the record, which is written last. Call it
    within `export_lock`.
    """
    record = record_of(place)
    if record is not None:
        if record.items() >= wanted.items() and is_whole(place, record):
            return record, True
        require_no_foreign_files(place, record)
    with replace_folder(place) as folder:
        facts = fill(folder)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        record = {
            **wanted,
            **facts,
            "files": {name: sha256_of(path) for name, path in files.items()},
            "bytes": {name: path.stat().st_size for name, path in files.items()},
        }
        write_checksummed(folder / EXPORT_RECORD, record)
    return record, False
