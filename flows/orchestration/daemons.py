"""Background processes of a project, each known by the lock that it holds on a file.

It inherits the lock, so that it is known whether it runs, also after a crash, and no stale process id gets a signal.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from data_catalog.base.errors import BusyError, InputError

POLL_S = 0.1
START_TIMEOUT_S = 300.0  # for a server or a worker, on a busy machine
KILLED_S = 10.0  # that the kernel may take to end a killed process
LOG_LINES = 5  # of an error message


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A process `python -m MODULE`, by its name and the folder of its lock file and log; it outlives its starter."""

    name: str
    folder: Path

    @property
    def lock_path(self) -> Path:
        """Return the file that the process keeps locked, with its id and the URL of its API."""
        return self.folder / f"{self.name}.pid"

    def start(
        self, command: Sequence[str], *, api_url: str, environment: Mapping[str, str], inherited: Sequence[int] = ()
    ) -> None:
        """Start it in the project's folder, in a session that neither Ctrl-C nor a closed terminal ends.

        Args:
            command: a module and its arguments.
            inherited: file descriptors that it needs.
        """
        with self.lock_path.open("a+", encoding="utf-8") as lock:
            if not try_lock(lock):
                raise BusyError(f"the {self.name} of {self.folder.parent} is running already")
            lock.truncate(0)  # first: a kill must not leave the id of an earlier process with the lock of the new one
            with self._log_path.open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", *command],
                    env={**os.environ, **environment},
                    cwd=self.folder.parent,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(lock.fileno(), *inherited),
                    start_new_session=True,
                )
            lock.write(f"{process.pid} {api_url}\n")
            process.returncode = 0  # it goes on without us, and without a warning of that

    def pid(self) -> int | None:
        """Return its process id, or None if it is not running."""
        return int(words[0]) if (words := self._words()) else None

    def is_for(self, api_url: str) -> bool:
        """Return True if it is running, and for this API."""
        return self._words()[1:] == [api_url]

    def wait_until(self, ready: Callable[[], bool], *, timeout_s: float) -> bool:
        """Wait until `ready` returns True. Return False if the process ends, or after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.pid() is not None:
            if ready():
                return True
            time.sleep(POLL_S)
        return False

    def require(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready` returns True; raise an error with the end of the log if the process does not start."""
        if not self.wait_until(ready, timeout_s=START_TIMEOUT_S):
            self.end(timeout_s=0)
            lines = self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
            raise InputError(
                f"Prefect's {self.name} did not start. Use --executor local to run without Prefect. The end of "
                f"{self._log_path}:\n" + "\n".join(lines)
            )

    def end(self, *, timeout_s: float) -> None:
        """Ask the process to end (SIGTERM) if it runs; after `timeout_s`, kill it and all processes of its session."""
        for send, number, seconds in ((os.kill, signal.SIGTERM, timeout_s), (os.killpg, signal.SIGKILL, KILLED_S)):
            if (pid := self.pid()) is not None:
                with suppress(ProcessLookupError):
                    send(pid, number)
                self.wait_until(lambda: False, timeout_s=seconds)

    @property
    def _log_path(self) -> Path:
        return self.folder / f"{self.name}.log"

    def _words(self) -> list[str]:
        """Return the content of its lock file, or nothing if it is not running."""
        with suppress(FileNotFoundError), self.lock_path.open(encoding="utf-8") as lock:
            return [] if try_lock(lock) else lock.read().split()
        return []


def try_lock(file: IO[Any]) -> bool:
    """Lock a file for all processes that inherit it from this one. Return False if it is locked already."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
