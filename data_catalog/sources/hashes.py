"""Hashes of the contents of upstream files and images, independent of their paths.

Hashes of files are cached by size, inode and times: a second look costs one `stat`.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, suppress
from operator import attrgetter
from pathlib import Path
from typing import Any

from data_catalog.base.errors import BusyError, DamagedError, DiskError, InputError
from data_catalog.catalog.manifest import EXPORTS, NamedHash
from data_catalog.catalog.roots import FEATURE_STORES, WRITTEN
from data_catalog.disk.files import digest, sha256_of
from data_catalog.disk.lock import writer_lock
from data_catalog.disk.records import read_checksummed, write_checksummed
from data_catalog.sources.image_files import ImageFiles, StorePath, image_locations, open_images
from data_catalog.sources.pixels import holds_images
from data_catalog.sources.row_files import table_schema
from data_catalog.sources.test_sets import HuggingFaceTestConfig, TestSetKind, WebDatasetTestConfig

logger = logging.getLogger(__name__)

# Recipes and tables, which a first recipe has beside its images. Any other name may be that of an image.
_NO_IMAGES = (".toml", ".csv", ".tsv", ".jsonl", ".ndjson", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".ndjson.gz")


class FileHashes:
    """Cache of the sha256 of files, in one JSON file of the root.

    A file is read again when its size, inode or times differ: programs can set back all but its change time.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        try:
            if store.is_file():
                self._known = read_checksummed(store, remedy="upstream files are hashed again")
        except DamagedError as error:
            logger.warning("%s", error)

    def sha256(self, path: Path) -> str:
        """Return the hexadecimal sha256 of a file."""
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]
        name = os.fsencode(path.absolute()).decode("utf-8", "backslashreplace")
        if self._known.get(name, [])[:-1] != stamp:
            self._known[name] = [*stamp, sha256_of(path)]
            self._changed = True
        return str(self._known[name][-1])

    def folder_digest(self, folder: Path, *, without: Collection[Path] = ()) -> str:
        """Return the digest of the names and contents of the files below a folder that may be images.

        Left out are hidden files and folders, recipes and tables, which change with runs and settings, and `without`
        (absolute paths): a change of such a file goes unseen. Links are followed, but not to a parent folder. An
        unreadable file counts by its name only: a row that needs it is rejected with a reason.
        """
        hashes: list[list[str]] = []
        for path in sorted(_files_below(folder.absolute(), without)):
            name = path.relative_to(folder.absolute()).as_posix()
            try:
                hashes += [[name, self.sha256(path)]] if path.is_file() else []
            except OSError as error:
                logger.warning("%s cannot be read (%s): rows that need it are rejected", path, error.strerror)
                hashes.append([name, ""])
        return digest(hashes)

    def save(self) -> None:
        """Write new hashes to the cache. Call it with the writer's lock held."""
        if self._changed:
            write_checksummed(self._store, self._known)
            self._changed = False


def _files_below(folder: Path, without: Collection[Path]) -> Iterator[Path]:
    def counts(path: Path) -> bool:
        return not path.name.startswith(".") and path not in without

    inside = {str(folder): {folder.resolve()}}  # by folder, the resolved paths of it and its parents
    for name, subfolders, files in os.walk(folder, followlinks=True):
        above = inside.pop(name)
        found = (Path(name, file) for file in files if _may_hold_images(Path(name, file)))
        yield from filter(counts, found)
        real = {path.name: path.resolve() for path in (Path(name, each) for each in subfolders) if counts(path)}
        subfolders[:] = [subfolder for subfolder, place in real.items() if place not in above]
        inside |= {str(Path(name, subfolder)): above | {real[subfolder]} for subfolder in subfolders}


def _may_hold_images(path: Path) -> bool:
    """Return whether a file may be an image or hold some, as Parquet does if it has a column of images."""
    if path.suffix.lower() != ".parquet":
        return not path.name.lower().endswith(_NO_IMAGES)
    with suppress(InputError):
        return path.is_file() and any(holds_images(field.type) for field in table_schema(path))
    return False


def open_hashes(root: Path) -> FileHashes:
    """Open the cache of hashes of a root."""
    return FileHashes(root / "file-hashes.json")


def save_hashes(hashes: FileHashes, root: Path) -> None:
    """Save new hashes, unless the root cannot be written now; then they are computed again later."""
    with suppress(BusyError, DiskError, InputError, OSError), writer_lock(root):
        hashes.save()


def file_entries(
    files: Iterable[Path], sha256: Callable[[Path], str], name_of: Callable[[Path], str] = attrgetter("name")
) -> list[NamedHash]:
    """Return the name and the sha256 of each file, in the order in which they are read."""
    return [{"name": name_of(file), "sha256": sha256(file)} for file in files]


def entries_identity(entries: Iterable[NamedHash]) -> list[list[str]]:
    """Return the sorted names and hashes of files; names determine language, split, origin and format."""
    return sorted([entry["name"], entry["sha256"]] for entry in entries)


def images_digest(kind: TestSetKind, config: Any, hashes: FileHashes) -> str | None:
    """Hash the images of a test set by name and content, however packed; None if its settings name no location."""
    if config.images is None:
        return None
    if isinstance(config, WebDatasetTestConfig | HuggingFaceTestConfig):
        return digest(entries_identity(file_entries(kind.upstream_files(config), hashes.sha256, config.name_of)))
    places = image_locations(config.images)
    folder = places[0].local if len(places) == 1 and places[0].local and places[0].local.is_dir() else None
    names = sorted(image.name for image in kind.load(config).images)

    def sha256_of_image(images: ImageFiles, name: str) -> str | None:
        try:
            images.size(name)  # raises an error for a name outside the folder
            path = folder / name if folder else None  # none for an image inside a file of the folder
            return hashes.sha256(path) if path and path.is_file() else hashlib.sha256(images.read(name)).hexdigest()
        except OSError:  # it is missing or unreadable
            return None

    with closing(open_images(config.images)) as images:
        return digest([[name, sha256_of_image(images, name)] for name in names])


def location_digest(location: str, root: Path, hashes: FileHashes) -> str:
    """Hash a location of images; the order of several does not matter, nor which of them has an image."""
    digests = sorted(_place_digest(path, root, hashes) for path in image_locations(location))
    return digests[0] if len(digests) == 1 else digest(digests)


def _place_digest(place: StorePath, root: Path, hashes: FileHashes) -> str:
    """Hash a folder, zip or tar of images, without what a catalog writes whose root is in the folder, or is the folder.

    For an object store, names, sizes and the versions that it states are hashed: hashing contents would download them.
    """
    path = place.local
    if path is None:
        return digest([[name, stamp.size, stamp.version] for name, stamp in place.files()])
    if not path.is_dir():
        return hashes.sha256(path)
    root = root.absolute()
    written = {root / name for name in (*WRITTEN, EXPORTS, FEATURE_STORES)} if path == root else {root}
    return hashes.folder_digest(path, without=written if root.is_relative_to(path) else ())
