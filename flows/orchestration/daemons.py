"""Background processes of a project that outlive the command which starts them.

A daemon inherits a descriptor with a lock on a file, and so holds the lock as long as it lives. It is therefore always
known whether a daemon runs, even after a crash, and a signal is never sent to a stale process id.
"""

import fcntl
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_catalog.base.errors import BusyError

POLL_S = 0.1


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

    def last_words(self, num_lines: int = 5) -> str:
        """Return the last lines of its output, for an error message."""
        if not self.log_path.is_file():
            return ""
        return "\n".join(self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])


def start(
    daemon: Daemon,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    working_dir: Path,
    stdin: int = subprocess.DEVNULL,
) -> int:
    """Start a daemon in its own session, so that Ctrl-C or a closed terminal does not end it.

    Args:
        daemon: a daemon that is not running.
        command: program and arguments.
        environment: environment variables, in addition to those of this process.
        working_dir: current folder of the daemon.
        stdin: descriptor of its standard input.

    Returns:
        The process id of the daemon.

    Raises:
        BusyError: the daemon is running already.
    """
    with daemon.lock_path.open("a+", encoding="ascii") as lock:
        if not try_lock(lock.fileno()):
            raise BusyError(f"the {daemon.name} of {daemon.folder.parent} is running already")
        lock.truncate(0)  # first: a kill must not leave the id of an earlier process with the lock of the new one
        with daemon.log_path.open("wb") as log:
            process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                cwd=working_dir,
                stdin=stdin,
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


def running_pid(daemon: Daemon) -> int | None:
    """Return the process id of a daemon, or None if it is not running."""
    if not daemon.lock_path.is_file():
        return None
    with daemon.lock_path.open("r", encoding="ascii") as lock:
        if try_lock(lock.fileno()):
            return None
        text = lock.read().strip()
    return int(text) if text.isdigit() else None


def try_lock(descriptor: int) -> bool:
    """Lock an open file; the lock is shared by all holders of the descriptor. Return False if it is locked already."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_until(ready: Callable[[], bool], daemon: Daemon, *, timeout_s: float) -> bool:
    """Wait until `ready` returns True. Return False if the daemon ends, or after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and running_pid(daemon) is not None:
        if ready():
            return True
        time.sleep(POLL_S)
    return False


def end(daemon: Daemon, *, timeout_s: float) -> None:
    """Ask a daemon to end (SIGTERM) if it runs, and kill it after `timeout_s`."""
    pid = running_pid(daemon)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        if not wait_for_end(daemon, timeout_s=timeout_s):
            kill(daemon)


def kill(daemon: Daemon) -> None:
    """Kill a daemon and all processes of its session (SIGKILL)."""
    pid = running_pid(daemon)
    if pid is not None:
        os.killpg(pid, signal.SIGKILL)
        wait_for_end(daemon, timeout_s=10)


def wait_for_end(daemon: Daemon, *, timeout_s: float) -> bool:
    """Wait until a daemon has ended; return False if it still runs after `timeout_s`."""
    wait_until(lambda: False, daemon, timeout_s=timeout_s)
    return running_pid(daemon) is None
