"""Full and failing disks, reported in the same way whichever library meets them."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from data_catalog.errors import DiskError, PipelineError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FAILED = (errno.EIO, errno.ESTALE)  # ESTALE: of a network file system
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
# Messages of pyarrow, DuckDB and SQLite, which may give no errno.
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "database or disk is full")
_FAILED_TEXTS = ("Input/output error", "disk I/O error")
_NO_ROOM_BYTES = 1024 * 1024
# These raise their own error classes, not `OSError`.
_LIBRARIES = ("duckdb", "_duckdb", "sqlite3", "pyarrow")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise a `DiskError` for a full or failing disk while `path`, or something below it, is written."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        raise_if_disk_fails(error, path)
        raise


@contextmanager
def access_errors() -> Iterator[None]:
    """Raise a `DiskError` for a file or folder that this user may not use, or not write; for the end of a job.

    Whoever can say more of such a file, such as which setting names it, does so before.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DENIED or not isinstance(error.filename, str | bytes):
            raise
        named = Path(os.fsdecode(error.filename))
        place, what = named, "used"
        if named.name.startswith(".tmp-"):  # users do not know the temporary file
            place, what = named.parent if named.parent.name else Path.cwd(), "written"
        raise DiskError(
            f"{place} cannot be {what} ({error.strerror}): change its permissions, or choose another place"
        ) from error


def raise_if_disk_fails(error: Exception, path: Path) -> None:
    """Raise a `DiskError` for "no space left" and "input/output error"; leave other errors to the caller.

    Args:
        error: error of the operating system, DuckDB, SQLite or pyarrow.
        path: the path that was being written.

    Raises:
        DiskError: the disk or the user's quota is full, or the disk could not be read or written.
    """
    number, text = error.errno if isinstance(error, OSError) else None, str(error)
    # Libraries that give no errno are recognised by their message: importing them for their classes is too slow.
    is_known = isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _LIBRARIES
    is_full = number in _FULL or (is_known and any(message in text for message in _FULL_TEXTS))
    is_failed = number in _FAILED or (is_known and any(message in text for message in _FAILED_TEXTS))
    if number is None and is_failed:  # SQLite reports a disk that is full for its log as an I/O error
        with suppress(OSError):
            room = os.statvfs(path.parent)
            is_full = is_full or room.f_bavail * room.f_frsize < _NO_ROOM_BYTES
    if not is_full and not is_failed:
        return
    # Users do not know the temporary file that an error may name.
    named = Path(str(getattr(error, "filename", None) or path))
    if is_full:
        folder = Path(*takewhile(lambda part: not part.startswith(".tmp-"), named.parent.parts))
        raise DiskError(f"the disk that holds {folder} is full: free space and run the same command again") from error
    place = path if any(part.startswith(".tmp-") for part in named.parts) else named
    raise DiskError(
        f"the disk failed at {place} (input/output error): check the disk, then run the same command again. It resumes "
        "from the finished steps"
    ) from error


def nearest_existing(path: Path) -> Path:
    """Return the path itself or its nearest existing folder: free space and permissions can be read there."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def make_writable_folder(folder: Path, option: str) -> None:
    """Make a folder for results, and check that it is writable, before the work starts.

    Args:
        folder: the folder.
        option: the option that named it, for the error's text.

    Raises:
        DiskError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"{option} {folder} cannot be created: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DiskError(f"{option} {folder} is not writable: name another folder")
