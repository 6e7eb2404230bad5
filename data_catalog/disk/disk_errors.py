"""Full and failing disks, reported in the same way whichever library meets them."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from data_catalog.base.errors import DiskError

_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FAILED = (errno.EIO, errno.ESTALE)  # ESTALE: of a network file system
# Messages of pyarrow, DuckDB and SQLite, which may give no errno.
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "database or disk is full")
_FAILED_TEXTS = ("Input/output error", "disk I/O error")
# These raise their own error classes, not `OSError`, and importing them is slow.
_LIBRARIES = ("duckdb", "_duckdb", "sqlite3", "pyarrow")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise a `DiskError` for a full or failing disk while `path`, or something below it, is written."""
    try:
        yield
    except Exception as error:
        raise_if_disk_fails(error, path)
        raise


@contextmanager
def access_errors() -> Iterator[None]:
    """Raise a `DiskError` for a file or folder that this user may not use, or not write; for the end of a job."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DENIED or not isinstance(error.filename, str | bytes):
            raise
        named = Path(os.fsdecode(error.filename))
        is_temporary = named.name.startswith(".tmp-")  # users do not know it
        place, what = (named.absolute().parent, "written") if is_temporary else (named, "used")
        raise DiskError(
            f"{place} cannot be {what} ({error.strerror}): change its permissions, or choose another place"
        ) from error


def raise_if_disk_fails(error: Exception, path: Path) -> None:
    """Raise a `DiskError` for a full or failing disk while `path` was written; leave other errors to the caller."""
    number, text = getattr(error, "errno", None), str(error)
    if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _LIBRARIES:
        return
    named = Path(str(getattr(error, "filename", None) or path))
    known = Path(*takewhile(lambda part: not part.startswith(".tmp-"), named.parts))  # no user knows temporary files
    if number in _FULL or any(message in text for message in _FULL_TEXTS):
        folder = named.parent if known == named else known
        raise DiskError(f"the disk that holds {folder} is full: free space and run the same command again") from error
    if number in _FAILED or any(message in text for message in _FAILED_TEXTS):
        place = named if known == named else path
        raise DiskError(
            f"the disk failed at {place} (input/output error): check the disk, then run the same command again. It "
            "resumes from the finished steps"
        ) from error


def nearest_existing(path: Path) -> Path:
    """Return the path itself or its nearest existing folder: free space and permissions can be read there."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def make_writable_folder(folder: Path, option: str) -> None:
    """Make a folder for results, which an option named, and check that it is writable, before the work starts."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"{option} {folder} cannot be created: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DiskError(f"{option} {folder} is not writable: name another folder")
