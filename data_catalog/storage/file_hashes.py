"""Content hashes of upstream files, remembered by size and modification time so that a second look costs a `stat`."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from data_catalog.errors import DamagedError
from data_catalog.storage.integrity import read_checksummed, write_checksummed
from data_catalog.storage.shards import digest, sha256_of

logger = logging.getLogger(__name__)


def _files_below(folder: Path) -> Iterator[Path]:
    inside = {str(folder): {folder.resolve()}}  # by folder: what it and all above it really are
    for name, subfolders, files in os.walk(folder, followlinks=True):
        above = inside.pop(name)
        yield from (Path(name, file) for file in files)
        real = {subfolder: Path(name, subfolder).resolve() for subfolder in subfolders}
        subfolders[:] = [subfolder for subfolder in subfolders if real[subfolder] not in above]
        inside |= {str(Path(name, subfolder)): above | {real[subfolder]} for subfolder in subfolders}


def _remembered(store: Path) -> dict[str, list[object]]:
    """What was learnt earlier; nothing where that is damaged, since all of it can be learnt again."""
    try:
        return read_checksummed(store, remedy="upstream files are read once more") if store.is_file() else {}
    except DamagedError as error:
        logger.warning("%s", error)
        return {}


class FileHashes:
    """sha256 of files, kept in one JSON file of the root.

    A file is read again when its size, its modification time (nanoseconds) or its inode differs.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._known = _remembered(store)
        self._changed = False

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
