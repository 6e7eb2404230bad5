"""Child processes that exchange messages with this one over a socket; limits of their memory."""

import ctypes
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import recv_handle
from pathlib import Path

logger = logging.getLogger(__name__)

CLOSED = "images: the child processes have been ended. Open new ImageWorkers"
# Deaths of children before their first row, after which a job fails: the cause is this machine, not a row.
MAX_EARLY_DEATHS = 3
START_S = 180.0  # imports from a cold disk on a busy machine
_EXIT_WAIT_S = 5.0
_TAIL_BYTES = 2000
_STATM = Path("/proc/self/statm")
_PR_SET_PDEATHSIG = 1  # from sys/prctl.h


class ChildDiedError(Exception):
    """A child that ended, or was killed, before its work was done. The text is equal for equal causes."""

    has_begun = False  # it had begun with the work of somebody
    is_lost = False  # with its machine, so that no work is to blame


class ChildProcess:
    """A process of its own group that runs `python -m MODULE SOCKET ARGUMENTS`; what it prints goes to a log."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the child
        self.socket, theirs = Pipe()
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(number), *arguments],  # -P: no module of the current folder
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
                pass_fds=[number],
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # more threads would be started and not used
            )

    def kill(self) -> None:
        """Kill the process group, and wait until the process has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def printed(self) -> str:
        """Return the end of the log."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode("utf-8", "replace").strip()

    def cause_of_death(self) -> str:
        """Return why the process, whose socket has closed, has ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_WAIT_S)
        self.kill()
        status = self._process.returncode
        return f"signal {-status}" if status < 0 else f"exit status {status}"

    def close(self) -> None:
        """Close the socket, and end the process."""
        self.socket.close()
        self.kill()
        if self._process.returncode != -signal.SIGKILL and not self._log.closed:
            logger.debug("the child process printed: %s", self.printed())
        self._log.close()


def fork_for_each(parent: Connection, work: Callable[[Connection], None]) -> None:
    """Fork a process for each socket that the parent sends, to work for it; return when the parent's own closes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes
    while True:
        try:
            child = Connection(recv_handle(parent))
        except (EOFError, ConnectionError):
            return
        if os.fork() == 0:
            parent.close()
            end_with_parent()  # one that hangs reads nothing from a socket that closes
            with suppress(EOFError, ConnectionError):
                work(child)
            os._exit(0)
        child.close()


def end_with_parent() -> None:
    """Let Linux kill this process when the thread of the parent that started it has ended, however it did."""
    if prctl := getattr(ctypes.CDLL(None), "prctl", None):
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def cap_memory(memory_bytes: int) -> None:
    """Limit the process's address space to its present size plus `memory_bytes`."""
    # Only Linux has this file; on other systems the limit has no effect.
    pages = int(_STATM.read_text(encoding="ascii").split()[0]) if _STATM.exists() else 0
    limit, hard = pages * resource.getpagesize() + memory_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
