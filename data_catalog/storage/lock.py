"""One writer at a time: a lock on a root, or on a single place, that dies with its process."""

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
# Of folders that nobody writes to, and of disks that know no locks.
_READ_ONLY, _LOCKLESS = (errno.EROFS, errno.EACCES, errno.EPERM), (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
TRIES, TRIES_TO_READ, SECONDS_BETWEEN_TRIES = 3, 25, 0.02


@contextmanager
def writer_lock(root: Path) -> Iterator[None]:
    """Hold the right to write below `root`; a root that was made for it goes again if nothing comes to lie in it.

    Raises:
        BusyError: another process holds it; the text names that process.
        DiskError: nothing can be written there.
        InputError: a link is in the place of the lock.
    """
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    file = _lock(root, root / LOCK_FILE, is_beside=False)
    assert file is not None
    with file:
        _sign(file, root / LOCK_FILE)
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
    """Remove the folders in and below a folder that hold nothing, itself included."""
    for inner, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            Path(inner).rmdir()


@contextmanager
def place_lock(place: Path) -> Iterator[None]:
    """Hold the right to put something in a place, there or not; the lock is a file beside it, removed in the end.

    What a killed process leaves of it holds nobody up, and goes with the next one. Where nobody may write nothing is
    locked.

    Raises:
        BusyError: another process holds it, and is named, or another user may.
        DiskError: nothing can be written beside the place.
        InputError: a link is in the place of the lock.
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
                _sign(file, path)
                yield
            finally:
                path.unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # of a folder that has something in it now
            for folder in made:
                folder.rmdir()


def _lock(place: Path, path: Path, *, is_beside: bool) -> TextIO | None:
    """Return the lock's file, open and locked; None where there can be no lock beside a place."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                try:
                    file = stack.enter_context(_open(path))
                except FileNotFoundError:
                    continue  # the one who made the folder has just taken it back
                except PermissionError:
                    if not is_beside or not path.exists():
                        raise
                    _require_left_behind(place, path)
                    continue
                if not _is_taken(file):
                    raise _held(place, path)
                # Who had it may have removed it meanwhile, so that the next one has another file of that name.
                if _is_there(file, path):
                    stack.pop_all()
                    return file
        except OSError as error:
            if is_beside and error.errno in _LOCKLESS:
                logger.warning("%s: its disk knows no locks, so that two at once would harm each other", place)
                path.unlink(missing_ok=True)
                return None
            if is_beside and error.errno in _READ_ONLY:
                return None
            raise DiskError(f"{path.parent} cannot be a folder to write to: {error.strerror}") from error


def _open(path: Path) -> TextIO:
    """Open a lock's file, or make it; refuse a link, since what it leads to would be written over."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP or not path.is_symlink():
            raise
        raise InputError(f"{path} is a link, and nothing is written through it: remove it") from error
    return open(descriptor, "a+", encoding="utf-8")  # noqa: PTH123  a path would be followed


def _require_left_behind(place: Path, path: Path) -> None:
    """Remove another user's lock that nobody holds any more; refuse one that is held, or that cannot be removed."""
    try:
        with path.open(encoding="utf-8") as file:
            if not _is_taken(file):
                raise _held(place, path)
            if _is_there(file, path):
                path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise BusyError(
            f"{place} cannot be locked, since {path} is another user's ({error.strerror}): remove it if nobody is at it"
        ) from error


def _is_there(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _sign(file: TextIO, path: Path) -> None:
    # What the user typed, in one line, without options: they may say what is to be forgotten.
    words = dropwhile(_is_option, sys.argv[1:])
    typed = " ".join([Path(sys.argv[0]).name, *takewhile(lambda word: not _is_option(word), words)])
    with disk_errors(path):
        file.truncate(0)
        json.dump({"pid": os.getpid(), "command": " ".join(typed.split())}, file)
        file.flush()


def _is_option(word: str) -> bool:
    return word.startswith("-")


def _held(place: Path, path: Path) -> BusyError:
    return BusyError(f"{place} is being written by {_holder(path)}: wait until it ends, or stop it")


def _is_taken(file: TextIO) -> bool:
    """Take the lock of an open file, if nobody has it for longer than `holder_of` takes to look."""
    for _ in range(TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(SECONDS_BETWEEN_TRIES)
    return False


def holder_of(root: Path) -> str | None:
    """Who holds the right to write below `root`, such as "process 7 (vernaclip build italian)"; None if nobody does."""
    try:
        with (root / LOCK_FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except BlockingIOError:
        return _holder(root / LOCK_FILE)
    except OSError:
        return None


def _holder(path: Path) -> str:
    """Whom a lock's file names; who has just taken the lock may not have signed yet, and is waited for.

    Until then the file names who had it before. A process that is not here may be on another machine.
    """
    told = "another process"
    for _ in range(TRIES_TO_READ):
        with suppress(OSError, ValueError, KeyError, TypeError):
            holder = json.loads(path.read_text(encoding="utf-8"))
            told = f"process {holder['pid']} ({holder['command']})"
            if Path("/proc", str(holder["pid"])).exists():
                break
        time.sleep(SECONDS_BETWEEN_TRIES)
    return told
