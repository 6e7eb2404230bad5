"""Locks that allow one writer at a time on a root or a folder; the kernel releases them when the process ends."""

import errno
import fcntl
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from data_catalog.base.boundary import about
from data_catalog.base.errors import BusyError, DiskError
from data_catalog.disk.disk_errors import disk_errors

logger = logging.getLogger(__name__)

LOCK_FILE = ".writer-lock"
# Errors of folders where nothing can be written, and of disks that do not support locks.
_LOCKLESS = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
_TRIES, _SECONDS_BETWEEN_TRIES = 3, 0.02


@contextmanager
def writer_lock(root: Path) -> Iterator[None]:
    """Hold the writer's lock of `root`; a root that was made for the lock is removed again if it stays empty.

    Another holder is named in a `BusyError`.
    """
    path = root / LOCK_FILE
    made = [folder for folder in path.parents if not folder.exists()]
    with _locked(root, path):
        try:
            yield
        except BaseException:
            if made:
                remove_empty(root)
                with suppress(OSError):
                    if [entry.name for entry in root.iterdir()] == [LOCK_FILE]:
                        path.unlink()
                        _remove(made)
            raise


@contextmanager
def place_lock(place: Path) -> Iterator[None]:
    """Hold the lock of a path that may not exist yet, by a file beside it.

    Where nothing can be written, or the disk does not support locks, nothing is locked.
    """
    path = place.with_name(f".{place.name}{LOCK_FILE}")
    made = [folder for folder in path.parents if not folder.exists()]
    with ExitStack() as stack:
        stack.callback(_remove, made)
        try:
            stack.enter_context(_locked(place, path))
            stack.callback(path.unlink, missing_ok=True)
        except DiskError as error:
            if getattr(error.__cause__, "errno", None) not in _LOCKLESS:
                raise
            logger.warning("%s is not locked (%s). Run one command at a time there", place, error)
        yield


def remove_empty(folder: Path) -> None:
    """Remove the empty folders below a folder, and the folder itself if it is empty."""
    for inner, _, _ in os.walk(folder, topdown=False):
        _remove([Path(inner)])


def _remove(folders: list[Path]) -> None:
    """Remove the folders that are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def _locked(place: Path, path: Path) -> Iterator[None]:
    with about(f"{path.parent} is not a writable folder", kind=DiskError):
        file = _lock(place, path)
    with file:
        # In one line, without options: those of `forget` may name what a take-down removes.
        words = [Path(sys.argv[0]).name, *(word for word in sys.argv[1:3] if not word.startswith("-"))]
        with disk_errors(path):
            file.truncate(0)
            json.dump({"pid": os.getpid(), "command": " ".join(" ".join(words).split())}, file)
            file.flush()
        yield


def _lock(place: Path, path: Path) -> TextIO:
    def open_no_link(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)  # the target of a link would be overwritten

    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                file = stack.enter_context(open(path, "a+", encoding="utf-8", opener=open_no_link))
            except FileNotFoundError:
                continue  # the process that made the folder has just removed it
            except PermissionError as error:
                if not path.exists():
                    raise
                text = f"{place} cannot be locked: {path} belongs to another user. Remove it if no process uses it"
                raise BusyError(text) from error
            if not _is_taken(file):
                raise BusyError(f"{place} is being written by {_holder(path)}: wait until it ends, or stop it")
            # The last holder may have removed this file, so that another process locks a new one of that name.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    stack.pop_all()
                    return file


def _is_taken(file: TextIO) -> bool:
    """Take the lock of an open file; retry for longer than `holder_of` holds it to look."""
    for _ in range(_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_SECONDS_BETWEEN_TRIES)
    return False


def holder_of(root: Path) -> str | None:
    """Return the holder of a root's lock, such as "process 7 (vernaclip build italian)"; None if nobody holds it."""
    try:
        with (root / LOCK_FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except BlockingIOError:
        return _holder(root / LOCK_FILE)
    except OSError:
        return None


def _holder(path: Path) -> str:
    """Return the process that a lock's file names, which may for a moment be the previous holder."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} ({holder['command']})"
    return "another process"
