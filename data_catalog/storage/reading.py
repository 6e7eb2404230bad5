"""What take-downs ask of readers: to open no root in which one is unfinished, and to write nothing of what is gone.

A reader notes the snapshots that it opens (`open_to_readers`). Whatever it writes later gets its place within
`putting_in_place`, which waits while a take-down is under way, and refuses if one has removed any of them. So what a
reader writes is there before a take-down, which then finds it, or not at all.
"""

import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from data_catalog.errors import DamagedError
from data_catalog.plain_text import command

logger = logging.getLogger(__name__)

TOMBSTONES_FILE = "forgotten.json"
# Of disks that know no locks, or none on folders.
_LOCKLESS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)

# What tells one content of the tombstones' file from another, since it is replaced and never changed; None: no file.
_State = tuple[int, int, int] | None
# Of this process: the folders of snapshots that were opened, with their root and its state, while `reading`; and the
# roots in which it carries out a take-down.
_opened: dict[Path, tuple[Path, _State]] | None = None
_taken_down: set[Path] = set()


@contextmanager
def reading() -> Iterator[None]:
    """Note from here on which snapshots are opened: around one command, or one flow.

    Raises:
        DamagedError: something failed after a take-down had removed what was opened, which is why.
    """
    global _opened
    before, _opened = _opened, {}
    try:
        yield
    except Exception:
        _require_there()
        raise
    finally:
        _opened = before


def open_to_readers(root: Path, folders: Iterable[Path]) -> None:
    """Note that the snapshots in some folders of a root are read.

    Raises:
        DamagedError: a take-down is unfinished there, or has removed what was opened before.
    """
    root = root.resolve()
    if root in _taken_down:
        return
    state = _state(root)
    _require_finished(root)
    if _opened is not None:
        _require_there()
        for folder in folders:
            _opened.setdefault(folder.resolve(), (root, state))


@contextmanager
def putting_in_place() -> Iterator[None]:
    """Hold take-downs off while something that may hold what was read gets its place.

    Raises:
        DamagedError: a take-down has removed what was read, or was killed before its end.
    """
    with ExitStack() as stack:
        for root in {root for root, _ in (_opened or {}).values()}:
            stack.enter_context(_locked(root, fcntl.LOCK_SH))
        _require_there()
        yield


@contextmanager
def taking_down(root: Path) -> Iterator[None]:
    """Let this process alone read a root and write what was read there; call it with the writer's lock held."""
    root = root.resolve()
    with _locked(root, fcntl.LOCK_EX):
        for folder in [folder for folder, (own, _) in (_opened or {}).items() if own == root]:
            del (_opened or {})[folder]
        _taken_down.add(root)
        try:
            yield
        finally:
            _taken_down.remove(root)


class OpenSnapshot:
    """A snapshot that a program keeps open for longer than a command takes: it asks before every access."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._folder = root.resolve(), folder.resolve()
        self._state = _state(self._root)
        _require_finished(self._root)
        self.require_there()

    def require_there(self) -> None:
        """Refuse to hand out more of a snapshot that was taken down, or may be at this moment.

        Raises:
            DamagedError: it is gone, or a take-down has begun and not ended.
        """
        state = _state(self._root)
        if state != self._state:
            _require_finished(self._root)
        if not self._folder.is_dir():
            raise DamagedError(
                f"{self._folder} was taken down or removed meanwhile, so nothing more of it is handed out: open the "
                "dataset again"
            )
        self._state = state


def _require_there() -> None:
    for folder, (root, state) in list((_opened or {}).items()):
        if _state(root) != state:
            _require_finished(root)
            if not folder.is_dir():
                raise DamagedError(
                    f"what was read in {root} was taken down meanwhile, so nothing is made of it: run the same command "
                    "again"
                )


def _require_finished(root: Path) -> None:
    path = root / TOMBSTONES_FILE
    try:
        is_unfinished = bool(json.loads(path.read_bytes())["unfinished"])
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(
            f"{path} cannot be read, so that nobody knows what is forgotten: put a copy of it in its place"
        ) from error
    if is_unfinished:
        raise DamagedError(
            f"a take-down in {root} has begun and not ended, so nothing is handed out: run "
            f"`{command('forget', '--root', root)}`, which ends it"
        )


def _state(root: Path) -> _State:
    try:
        found = (root / TOMBSTONES_FILE).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@contextmanager
def _locked(root: Path, how: int) -> Iterator[None]:
    """Hold a lock on a root's folder, which readers need not be able to write to; it dies with its process."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            try:
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("waiting for another process that takes down or writes what was read in %s", root)
                fcntl.flock(descriptor, how)
        except OSError as error:
            if error.errno not in _LOCKLESS:
                raise
            logger.warning("%s: its disk knows no locks, so do not read there while something is taken down", root)
        yield
    finally:
        os.close(descriptor)
