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
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import TextIO

from data_catalog.errors import BusyError, DiskError, InputError
from data_catalog.storage.disk_errors import disk_errors

logger = logging.getLogger(__name__)

LOCK_FILE = ".writer-lock"
# Errors of read-only folders, and of disks that do not support locks.
_READ_ONLY, _LOCKLESS = (errno.EROFS, errno.EACCES, errno.EPERM), (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
TRIES, TRIES_TO_READ, SECONDS_BETWEEN_TRIES = 3, 25, 0.02


@contextmanager
def writer_lock(root: Path) -> Iterator[None]:
    """Hold the writer's lock of `root`; a root that was made for the lock is removed again if it stays empty.

    Raises:
        BusyError: another process holds the lock; the text names that process.
        DiskError: nothing can be written there.
        InputError: the lock's file is a symbolic link.
    """
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    file = _lock(root, root / LOCK_FILE, is_beside=False)
    assert file is not None
    with file:
        _write_holder(file, root / LOCK_FILE)
        try:
            yield
        except BaseException:
            if made:
                remove_empty(root)
                with suppress(OSError):
                    if [entry.name for entry in root.iterdir()] == [LOCK_FILE]:
                        (root / LOCK_FILE).unlink()
                        for folder in made:
                            folder.rmdir()
            raise


def remove_empty(folder: Path) -> None:
    """Remove the empty folders below a folder, and the folder itself if it is empty."""
    for inner, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            Path(inner).rmdir()


@contextmanager
def place_lock(place: Path) -> Iterator[None]:
    """Hold the lock of a path that may not exist yet; its file is beside the path and removed at the end.

    A lock file that a killed process left blocks nobody; the next holder removes it. A read-only folder is not locked.

    Raises:
        BusyError: another process holds the lock and is named, or the lock belongs to another user.
        DiskError: nothing can be written beside the path.
        InputError: the lock's file is a symbolic link.
    """
    path = place.with_name(f".{place.name}{LOCK_FILE}")
    made = [folder for folder in place.parents if not folder.exists()]
    try:
        file = _lock(place, path, is_beside=True)
        if file is None:
            yield
            return
        with file:
            try:
                _write_holder(file, path)
                yield
            finally:
                path.unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # a folder may have content now
            for folder in made:
                folder.rmdir()


def _lock(place: Path, path: Path, *, is_beside: bool) -> TextIO | None:
    """Return the lock's file, open and locked; None if a lock beside a path is not possible."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                try:
                    file = stack.enter_context(_open(path))
                except FileNotFoundError:
                    continue  # the process that made the folder has just removed it
                except PermissionError:
                    if not is_beside or not path.exists():
                        raise
                    _remove_stale_lock(place, path)
                    continue
                if not _is_taken(file):
                    raise _busy(place, path)
                # The last holder may have removed this file, so that another process locks a new one of that name.
                if _is_same_file(file, path):
                    stack.pop_all()
                    return file
        except OSError as error:
            if is_beside and error.errno in _LOCKLESS:
                logger.warning("%s: its disk does not support locks. Run one command at a time there", place)
                path.unlink(missing_ok=True)
                return None
            if is_beside and error.errno in _READ_ONLY:
                return None
            raise DiskError(f"{path.parent} is not a writable folder: {error.strerror}") from error


def _open(path: Path) -> TextIO:
    """Open or create a lock's file; refuse a symbolic link, since its target would be overwritten."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP or not path.is_symlink():
            raise
        raise InputError(f"{path} is a symbolic link, and nothing is written through links: remove it") from error
    return open(descriptor, "a+", encoding="utf-8")  # noqa: PTH123  opening by path would follow a link


def _remove_stale_lock(place: Path, path: Path) -> None:
    """Remove another user's lock file that no process holds; refuse one that is held or cannot be removed."""
    try:
        with path.open(encoding="utf-8") as file:
            if not _is_taken(file):
                raise _busy(place, path)
            if _is_same_file(file, path):
                path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise BusyError(
            f"{place} cannot be locked: {path} belongs to another user ({error.strerror}). Remove it if no process "
            "uses it"
        ) from error


def _is_same_file(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _write_holder(file: TextIO, path: Path) -> None:
    # The command in one line, without options: those of `forget` may name what a take-down removes.
    words = dropwhile(_is_option, sys.argv[1:])
    typed = " ".join([Path(sys.argv[0]).name, *takewhile(lambda word: not _is_option(word), words)])
    with disk_errors(path):
        file.truncate(0)
        json.dump({"pid": os.getpid(), "command": " ".join(typed.split())}, file)
        file.flush()


def _is_option(word: str) -> bool:
    return word.startswith("-")


def _busy(place: Path, path: Path) -> BusyError:
    return BusyError(f"{place} is being written by {_holder(path)}: wait until it ends, or stop it")


def _is_taken(file: TextIO) -> bool:
    """Take the lock of an open file; retry for longer than `holder_of` holds it to look."""
    for _ in range(TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(SECONDS_BETWEEN_TRIES)
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
    """Return the process that a lock's file names; wait for a process that has just taken the lock to write its name.

    Until then the file names the previous holder. A process that does not run here may run on another machine.
    """
    holder_text = "another process"
    for _ in range(TRIES_TO_READ):
        with suppress(OSError, ValueError, KeyError, TypeError):
            holder = json.loads(path.read_text(encoding="utf-8"))
            holder_text = f"process {holder['pid']} ({holder['command']})"
            if Path("/proc", str(holder["pid"])).exists():
                break
        time.sleep(SECONDS_BETWEEN_TRIES)
    return holder_text
