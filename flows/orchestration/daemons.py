"""Background processes of a project that outlive the command which starts them.

A daemon holds a lock on a file for as long as it lives, through a descriptor that it inherits and never uses. So
"is it running?" has a true answer after any crash, and no stale process id is ever signalled.
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

from data_catalog.errors import BusyError

POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """A background process: its name and the folder of its lock (with its process id) and log."""

    name: str
    folder: Path

    @property
    def lock_path(self) -> Path:
        """Return the file that the process keeps locked."""
        return self.folder / f"{self.name}.pid"

    @property
    def log_path(self) -> Path:
        """Return the file that its output goes to."""
        return self.folder / f"{self.name}.log"

    def last_words(self, num_lines: int = 5) -> str:
        """Return the last lines that it printed, for an error message."""
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
    """Start a daemon in a session of its own, so that no Ctrl-C or closed terminal reaches it.

    Args:
        daemon: not running.
        command: program and arguments.
        environment: its variables, on top of ours.
        working_dir: its current folder.
        stdin: a descriptor that it reads.

    Returns:
        Its process id.

    Raises:
        BusyError: it is running already.
    """
    with daemon.lock_path.open("a+", encoding="ascii") as lock:
        if not try_lock(lock.fileno()):
            raise BusyError(f"the {daemon.name} of {daemon.folder.parent} is running already")
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
        lock.truncate(0)
        lock.write(f"{process.pid}\n")
        pid = process.pid
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # "still running": that is the purpose
            del process
    return pid


def running_pid(daemon: Daemon) -> int | None:
    """Return the process id of a daemon that runs now, or None."""
    if not daemon.lock_path.is_file():
        return None
    with daemon.lock_path.open("r", encoding="ascii") as lock:
        if try_lock(lock.fileno()):
            return None
        text = lock.read().strip()
    return int(text) if text.isdigit() else None


def try_lock(descriptor: int) -> bool:
    """Lock an open file for whoever holds its descriptor, or return False if another process has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_until(ready: Callable[[], bool], daemon: Daemon, *, timeout_s: float) -> bool:
    """Wait until something is so; False if the daemon has ended, or after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and running_pid(daemon) is not None:
        if ready():
            return True
        time.sleep(POLL_S)
    return False


def end(daemon: Daemon, *, timeout_s: float) -> None:
    """Ask a daemon, if it runs, to end in its own time (SIGTERM); after `timeout_s` it is killed."""
    pid = running_pid(daemon)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        if not wait_for_end(daemon, timeout_s=timeout_s):
            kill(daemon)


def kill(daemon: Daemon) -> None:
    """End a daemon and every process of its session at once (SIGKILL)."""
    pid = running_pid(daemon)
    if pid is not None:
        os.killpg(pid, signal.SIGKILL)
        wait_for_end(daemon, timeout_s=10)


def wait_for_end(daemon: Daemon, *, timeout_s: float) -> bool:
    """Wait until a daemon has ended; False if it still runs after `timeout_s`."""
    wait_until(lambda: False, daemon, timeout_s=timeout_s)
    return running_pid(daemon) is None
