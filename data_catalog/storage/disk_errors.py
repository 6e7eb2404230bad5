"""A disk that is full or fails, as one sentence that says what to do, whichever library met it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from data_catalog.errors import DiskError, PipelineError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# What pyarrow, DuckDB and SQLite say, where they give no number.
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "database or disk is full")
_FAILED_TEXTS = ("Input/output error", "disk I/O error")
_NO_ROOM_BYTES = 1024 * 1024
# Errors of these are their own classes, not `OSError`.
_LIBRARIES = ("duckdb", "_duckdb", "sqlite3", "pyarrow")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """While `path` is written, or what lies below it, tell of a full or failing disk as `raise_if_disk_fails` does."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        raise_if_disk_fails(error, path)
        raise


def raise_if_disk_fails(error: Exception, path: Path) -> None:
    """Turn "no space left" and "input/output error" into a sentence; other errors are left to the caller.

    Args:
        error: of the system, or of DuckDB, SQLite or pyarrow.
        path: what was being written.

    Raises:
        DiskError: the disk, or the user's share of it, is full, or could not read or write.
    """
    number, text = error.errno if isinstance(error, OSError) else None, str(error)
    # Of libraries that give no number the text tells; neither is to be imported for their classes.
    is_known = isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _LIBRARIES
    is_full = number in _FULL or (is_known and any(told in text for told in _FULL_TEXTS))
    is_failed = number == errno.EIO or (is_known and any(told in text for told in _FAILED_TEXTS))
    if number is None and is_failed:  # as SQLite calls a full disk, where it meets it in the file of its log
        with suppress(OSError):
            room = os.statvfs(path.parent)
            is_full = is_full or room.f_bavail * room.f_frsize < _NO_ROOM_BYTES
    if not is_full and not is_failed:
        return
    # The file that the error names, unless that is a temporary one, which nobody knows.
    named = Path(str(getattr(error, "filename", None) or path))
    if is_full:
        folder = Path(*takewhile(lambda part: not part.startswith(".tmp-"), named.parent.parts))
        raise DiskError(f"the disk that holds {folder} is full: free space and run the same command again") from error
    place = path if any(part.startswith(".tmp-") for part in named.parts) else named
    raise DiskError(
        f"the disk failed at {place} (input/output error): check the disk, then run the same command again, which goes "
        "on with what was finished"
    ) from error


def nearest_existing(path: Path) -> Path:
    """Return the path, or its nearest folder that exists: of which the system tells room and rights."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def make_writable_folder(folder: Path, option: str) -> None:
    """Make a folder for results before the work that gives them.

    Raises:
        DiskError: it cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"{option} {folder} is no folder and cannot be made one: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DiskError(f"{option} {folder} is a folder that may not be written to: name another")
