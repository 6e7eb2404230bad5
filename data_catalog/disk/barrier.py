"""Coordination of readers with take-downs: no output contains data of a snapshot that was taken down meanwhile.

A reader registers the snapshots that it opens (`open_to_readers`), and moves each output to its final path within
`block_takedowns`. That waits for a take-down in progress, and raises an error if a take-down has removed one of the
registered snapshots. So an output either exists before the take-down, which then finds it, or is never written.
A root with an unfinished take-down cannot be opened.
"""

import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError
from data_catalog.base.plain_text import command
from data_catalog.disk.disk_errors import access_errors, disk_errors

logger = logging.getLogger(__name__)

TOMBSTONES_FILE = "forgotten.json"
# Errors of disks that do not support locks, or locks on folders.
_LOCKLESS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)


class OpenSnapshot:
    """A snapshot that a program keeps open for longer than one command; each access checks that it still exists."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self._folder = root.resolve(), folder.resolve()
        self._state = _state(self.root)
        _require_finished(self.root)

    def was_taken_down(self) -> bool:
        """Return whether a take-down has removed the snapshot; raise DamagedError if one is unfinished."""
        if _state(self.root) == self._state:
            return False
        _require_finished(self.root)
        return not self._folder.is_dir()

    def require_present(self) -> None:
        """Raise DamagedError if the snapshot was removed, or a take-down of its root is unfinished."""
        if self.was_taken_down() or not self._folder.is_dir():
            raise DamagedError(
                f"{self._folder} was taken down or removed while it was open, and can no longer be read: open the "
                "dataset again"
            )


# State of this process: the snapshots opened within `reading`, by folder; and the roots in which this process carries
# out a take-down.
_opened: dict[Path, OpenSnapshot] | None = None
_taken_down: set[Path] = set()


@contextmanager
def reading() -> Iterator[None]:
    """Register the snapshots that one command or flow opens; a take-down of one of them explains any error."""
    global _opened
    before, _opened = _opened, {}
    try:
        yield
    except Exception:
        _require_present()
        raise
    finally:
        _opened = before


@contextmanager
def running_job(root: Path) -> Iterator[None]:
    """Run one command or flow on a root: register what it opens, and report files and disks that cannot be used."""
    with access_errors(), disk_errors(root / "catalog"), reading():
        yield


def open_to_readers(root: Path, folders: Iterable[Path]) -> None:
    """Register that some snapshots of a root are read; raise DamagedError if a take-down of it is unfinished."""
    root = root.resolve()
    if root in _taken_down:
        return
    _require_finished(root)
    if _opened is not None:
        _require_present()
        for folder in folders:
            if folder.resolve() not in _opened:
                _opened[folder.resolve()] = OpenSnapshot(root, folder)


@contextmanager
def block_takedowns() -> Iterator[None]:
    """Block take-downs while an output that may contain data of an opened snapshot is moved to its final path.

    A take-down that has removed such a snapshot, or is unfinished, raises DamagedError.
    """
    with ExitStack() as stack:
        for root in {opened.root for opened in (_opened or {}).values()}:
            stack.enter_context(_locked(root, fcntl.LOCK_SH))
        _require_present()
        yield


@contextmanager
def taking_down(root: Path) -> Iterator[None]:
    """Give this process the only access to a root for a take-down. Call it with the writer's lock held."""
    root = root.resolve()
    with _locked(root, fcntl.LOCK_EX):
        for folder in [folder for folder, opened in (_opened or {}).items() if opened.root == root]:
            del (_opened or {})[folder]
        _taken_down.add(root)
        try:
            yield
        finally:
            _taken_down.remove(root)


def _require_present() -> None:
    for opened in list((_opened or {}).values()):
        if opened.was_taken_down():
            raise DamagedError(
                f"a snapshot in {opened.root} was taken down while it was read, and no result is written: run the same "
                "command again"
            )


def _require_finished(root: Path) -> None:
    path = root / TOMBSTONES_FILE
    with about(path, kind=DamagedError, remedy="the removed images are not known: restore it from a copy"):
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return
        is_unfinished = json.loads(content)["unfinished"]
    if is_unfinished:
        raise DamagedError(
            f"a take-down in {root} is unfinished, and the root cannot be read until it is done: run "
            f"`{command('forget', '--root', root)}` to finish it"
        )


def _state(root: Path) -> tuple[int, int, int] | None:
    """Return what identifies one content of the tombstones' file, which is replaced and never changed."""
    try:
        found = (root / TOMBSTONES_FILE).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@contextmanager
def _locked(root: Path, how: int) -> Iterator[None]:
    """Hold a lock on a root's folder until the end of the block or of the process; readers need no write permission."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process that takes down or writes data of %s", root)
            fcntl.flock(descriptor, how)
        except OSError as error:
            if error.errno not in _LOCKLESS:
                raise
            logger.warning("%s: its disk does not support locks. Do not read there during a take-down", root)
        yield
    finally:
        os.close(descriptor)
