"""What upstream files and images are, wherever they lie: by the hashes of their contents.

Those of files are remembered by size and modification time, so that a second look costs a `stat`.
"""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from data_catalog.errors import BusyError, DamagedError, DiskError, InputError
from data_catalog.sources.image_files import ImageFiles, Stamp, StorePath, image_locations, open_images
from data_catalog.storage.integrity import read_checksummed, write_checksummed
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.manifest import NamedHash
from data_catalog.storage.shards import digest, sha256_of
from data_catalog.test_sets import TestSetKind

logger = logging.getLogger(__name__)

_SAMPLED_BYTES = 32 * 1024


class FileHashes:
    """sha256 of files, kept in one JSON file of the root.

    A file is read again when its size, its modification time (nanoseconds) or its inode differs.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._known: dict[str, list[object]] = {}
        self._changed = False
        try:
            if store.is_file():
                self._known = read_checksummed(store, remedy="upstream files are read once more")
        except DamagedError as error:  # all of it can be learnt again
            logger.warning("%s", error)

    def sha256(self, path: Path) -> str:
        """Hexadecimal sha256 of a file."""
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
        name = os.fsencode(path.absolute()).decode("utf-8", "backslashreplace")
        known = self._known.get(name)
        if known is None or known[:3] != stamp:
            known = [*stamp, sha256_of(path)]
            self._known[name] = known
            self._changed = True
        return str(known[3])

    def folder_digest(self, folder: Path, *, without: Path) -> str:
        """Digest of the names and contents of all files below a folder, those below `without` aside.

        Links to folders are followed, as whoever reads the images follows them; one that leads back up is not. A file
        that cannot be read counts by its name: if a row wants it, that row ends with a reason.
        """
        left_out = without.absolute()
        found = _files_below(folder.absolute())
        files = sorted(path for path in found if not path.is_relative_to(left_out))
        hashes = [(path.relative_to(folder.absolute()).as_posix(), self._sha256_if_readable(path)) for path in files]
        return digest([[name, sha256] for name, sha256 in hashes if sha256 is not None])

    def _sha256_if_readable(self, path: Path) -> str | None:
        """Return a file's hash, "" where it cannot be read, None of what is no file."""
        try:
            return self.sha256(path) if path.is_file() else None
        except OSError as error:
            logger.warning("%s cannot be read: a row that wants it is rejected (%s)", path, error.strerror)
            return ""

    def save(self) -> None:
        """Write what was learnt; call it with the writer's lock held."""
        if self._changed:
            write_checksummed(self._store, self._known)
            self._changed = False


def _files_below(folder: Path) -> Iterator[Path]:
    inside = {str(folder): {folder.resolve()}}  # by folder: what it and all above it really are
    for name, subfolders, files in os.walk(folder, followlinks=True):
        above = inside.pop(name)
        yield from (Path(name, file) for file in files)
        real = {subfolder: Path(name, subfolder).resolve() for subfolder in subfolders}
        subfolders[:] = [subfolder for subfolder in subfolders if real[subfolder] not in above]
        inside |= {str(Path(name, subfolder)): above | {real[subfolder]} for subfolder in subfolders}


def open_hashes(root: Path) -> FileHashes:
    """Open the hashes that a root remembers."""
    return FileHashes(root / "file-hashes.json")


def save_hashes(hashes: FileHashes, root: Path) -> None:
    """Remember what was learnt, unless the root cannot be written to now: then it is learnt again another time."""
    with suppress(BusyError, DiskError, InputError, OSError), writer_lock(root):
        hashes.save()


def file_entries(files: Iterable[Path], hashes: FileHashes) -> list[NamedHash]:
    """Return the name and the sha256 of each file, in the order in which they are read."""
    return [{"name": file.name, "sha256": hashes.sha256(file)} for file in files]


def entries_identity(entries: Iterable[NamedHash]) -> list[list[str]]:
    """Return what a test set is read from, in any order: contents, and names, which tell languages and formats."""
    return sorted([entry["name"], entry["sha256"]] for entry in entries)


def images_digest(kind: TestSetKind, config: Any, hashes: FileHashes) -> str | None:
    """Hash a test set's own images, by name and content; None where its settings name no place of them.

    Where they lie, how they are packed, and what else lies there make no difference.

    Raises:
        InputError: the set's files or the place of its images are gone or damaged.
    """
    location: str | None = config.images
    if location is None:
        return None
    names = kind.image_names(config)
    places = image_locations(location)
    folder = places[0].local if len(places) == 1 else None
    folder = folder if folder and folder.is_dir() else None
    with closing(open_images(location)) as images:
        return digest([[name, _image_sha256(images, folder, name, hashes)] for name in sorted(names)])


def _image_sha256(images: ImageFiles, folder: Path | None, name: str, hashes: FileHashes) -> str | None:
    """Hash an image's bytes, remembered where it is a file in a folder; None where it is not there, or unreadable."""
    try:
        images.size(name)  # which names are no names of anything inside is known there
        return hashes.sha256(folder / name) if folder else hashlib.sha256(images.read(name)).hexdigest()
    except OSError:
        return None


def location_digest(location: str, root: Path, hashes: FileHashes) -> str:
    """Hash a location of images; several, in any order, since which of them holds an image makes no difference."""
    digests = sorted(_place_digest(path, root, hashes) for path in image_locations(location))
    return digests[0] if len(digests) == 1 else digest(digests)


def _place_digest(place: StorePath, root: Path, hashes: FileHashes) -> str:
    """Hash a folder, zip or tar of images; a root inside the folder is no part of it.

    Of what an object store has, names, sizes and the versions that it states are hashed, since to read all of it would
    be to download it.
    """
    path = place.local
    if path is None:
        files = place.files()
        return digest([[name, stamp.size, stamp.version or _sampled(file, stamp)] for name, file, stamp in files])
    if not path.is_dir():
        return hashes.sha256(path)
    return hashes.folder_digest(path, without=root / "datasets" if path.is_relative_to(root.absolute()) else root)


def _sampled(file: StorePath, stamp: Stamp) -> str:
    """Hash the first and last 32 KiB of a file of which the store states no version."""
    with file.open(stamp.size) as opened:
        sampled = opened.read(_SAMPLED_BYTES)
        opened.seek(max(_SAMPLED_BYTES, stamp.size - _SAMPLED_BYTES))
        return hashlib.sha256(sampled + opened.read(_SAMPLED_BYTES)).hexdigest()
