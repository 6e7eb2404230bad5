"""SQLite files of translation memories: opened for one use at a time, with errors that say what to do."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from data_catalog.errors import DamagedError, DiskError, PipelineError, TransientError
from data_catalog.storage.disk_errors import raise_if_disk_fails
from data_catalog.storage.shards import make_folder

BUSY_TIMEOUT_S = 60.0


def require_no_file(folder: Path) -> None:
    """Make sure that `folder` is one or can become one, as far as its place goes."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise DiskError(f"{folder} cannot be the folder of the translation memories: {there} is a file, move it away")


def make_memory_folder(folder: Path) -> None:
    """Make the folder of the memories. Raises `DiskError` where that is impossible or the disk is full."""
    try:
        make_folder(folder)
    except OSError as error:
        raise_if_disk_fails(error, folder)
        raise DiskError(f"{folder} cannot be the folder of the translation memories: {error.strerror}") from error


@contextmanager
def open_memory(path: Path, *, create: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection of its own for each use: none is shared by threads, inherited by children or left open.

    Raises:
        DamagedError: the file is damaged.
        DiskError: it cannot be opened, or the disk is full.
        TransientError: it is locked.
    """
    uri = f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        raise _told(error, path) from error


def _told(error: sqlite3.DatabaseError, path: Path) -> PipelineError:
    """What SQLite says, as one of our errors."""
    # Without the particulars; a text that is no UTF-8 is found by Python, and has no code.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        raise_if_disk_fails(error, path)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return DamagedError(damaged(path, error))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return TransientError(f"the translation memory {path} is locked by another process ({error})")
    return DiskError(f"the translation memory {path} cannot be read or written: {error}")


def damaged(path: Path, problem: object) -> str:
    """What a user is told of a damaged memory."""
    return (
        f"the translation memory {path} is damaged ({problem}): remove it, and its captions are translated again; "
        "beside an unfinished build remove work/plan as well"
    )
