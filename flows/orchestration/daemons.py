"""Background processes of a project that outlive the command which starts them.

A daemon holds a lock on a file through a descriptor that it inherits. So it is always known whether it runs, even after
a crash, and no signal is sent to a stale process id.
"""

import fcntl
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from data_catalog.base.errors import BusyError

POLL_S = 0.1
KILLED_S = 10.0  # that the kernel may take to end a killed process


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A background process: its name, and the folder of its lock file (with its process id) and its log."""

    name: str
    folder: Path

    @property
    def lock_path(self) -> Path:
        """Return the file that the process keeps locked."""
        return self.folder / f"{self.name}.pid"

    @property
    def log_path(self) -> Path:
        """Return the file of its output."""
        return self.folder / f"{self.name}.log"

    def start(self, command: Sequence[str], *, environment: Mapping[str, str], working_dir: Path) -> int:
        """Start it in its own session, so that Ctrl-C or a closed terminal does not end it; return its process id."""
        with self.lock_path.open("a+", encoding="ascii") as lock, self.log_path.open("ab") as log:
            if not try_lock(lock.fileno()):
                raise BusyError(f"the {self.name} of {self.folder.parent} is running already")
            lock.truncate(0)  # first: a kill must not leave the id of an earlier process with the lock of the new one
            log.truncate(0)
            process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                cwd=working_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lock.fileno(),),
                start_new_session=True,
            )
            lock.write(f"{process.pid}\n")
            pid = process.pid
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)  # the process is meant to keep running
                del process
        return pid

    def pid(self) -> int | None:
        """Return its process id, or None if it is not running."""
        if not self.lock_path.is_file():
            return None
        with self.lock_path.open("r", encoding="ascii") as lock:
            text = "" if try_lock(lock.fileno()) else lock.read().strip()
        return int(text) if text.isdigit() else None

    def wait_until(self, ready: Callable[[], bool], *, timeout_s: float) -> bool:
        """Wait until `ready` returns True. Return False if the process ends, or after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.pid() is not None:
            if ready():
                return True
            time.sleep(POLL_S)
        return False

    def end(self, *, timeout_s: float) -> None:
        """Ask the process to end (SIGTERM) if it runs; after `timeout_s`, kill it and all processes of its session."""
        for send, number, seconds in ((os.kill, signal.SIGTERM, timeout_s), (os.killpg, signal.SIGKILL, KILLED_S)):
            if (pid := self.pid()) is not None:
                with suppress(ProcessLookupError):
                    send(pid, number)
                self.wait_until(lambda: False, timeout_s=seconds)

    def last_words(self, num_lines: int = 5) -> str:
        """Return the last lines of its output, for an error message."""
        if not self.log_path.is_file():
            return ""
        return "\n".join(self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])


def try_lock(descriptor: int) -> bool:
    """Lock an open file; the lock is shared by all holders of the descriptor. Return False if it is locked already."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
