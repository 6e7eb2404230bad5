"""Child processes that fetch or decode images: used by one job at a time, reused, and killed if they hang.

`python -m data_catalog.images.children KIND MEMORY_BYTES SOCKET` is the child's command line. Jobs and events are JSON
messages on the socket; anything else that is printed goes to a log. A child writes only into the folder that a job
names, and exits when the socket closes.
"""

import json
import logging
import os
import queue
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from data_catalog.errors import KINDS, DefectError, DiskError, InputError, PipelineError
from data_catalog.storage.disk_errors import raise_if_disk_fails
from data_catalog.storage.failpoints import kill_with_parent

logger = logging.getLogger(__name__)

# Exit status of a child whose address space is used up: its later results could not be trusted.
OUT_OF_MEMORY = 77
# Deaths of children before their first row, after which a job fails: the cause is this machine, not a row.
MAX_EARLY_DEATHS = 3
CLOSED = "images: the child processes have been ended. Open new ImageWorkers"
_KINDS: dict[str, type[PipelineError]] = {kind.__name__: kind for kind in KINDS}
# A library that is missing or incompatible, or a machine that can start no more threads.
_KINDS |= dict.fromkeys(("ImportError", "ModuleNotFoundError", "RuntimeError"), InputError)
_START_S = 180.0  # imports from a cold disk on a busy machine
_EXIT_WAIT_S = 5.0
_TAIL_BYTES = 2000
_STATM = Path("/proc/self/statm")

Report = Callable[[dict[str, Any]], None]


def main(arguments: list[str]) -> None:
    """Serve jobs until the socket closes.

    Args:
        arguments: the kind of work; a memory limit for decoding in bytes (0: no limit, and no decoders are loaded); the
            number of the socket.
    """
    kind, memory_bytes, parent = arguments[0], int(arguments[1]), Connection(int(arguments[2]))
    kill_with_parent()
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(parent, jobs), daemon=True).start()
    if memory_bytes:
        _load_decoding()  # before the cap: the memory that libraries reserve differs between machines
        cap_memory(memory_bytes)
    if kind == "fetch":
        with suppress(Exception):  # the first job raises it again, and reports it
            _load_fetching()
    one_at_a_time = threading.Lock()

    def report(event: dict[str, Any]) -> None:
        with one_at_a_time:
            parent.send_bytes(json.dumps(event).encode())

    work = {"fetch": _fetch, "normalise": _normalise}[kind]
    while True:
        try:
            work(jobs.get(), report)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        except Exception as error:  # noqa: BLE001  the process's outermost boundary: the parent raises it as its own
            kind = type(error).__name__
            report({"error": f"{kind}: {error}", "kind": kind, "errno": getattr(error, "errno", None)})
        else:
            report({"done": True})


def _read_jobs(parent: Connection, jobs: "queue.SimpleQueue[dict[str, Any]]") -> None:
    with suppress(EOFError, ConnectionError):
        while True:
            jobs.put(json.loads(parent.recv_bytes()))
    os._exit(0)  # the parent has ended or closed the socket; the main thread may still be at work


def cap_memory(memory_bytes: int) -> None:
    """Limit the process's address space to its present size plus `memory_bytes`."""
    # Only Linux has this file; on other systems the limit has no effect.
    pages = int(_STATM.read_text(encoding="ascii").split()[0]) if _STATM.exists() else 0
    limit, hard = pages * resource.getpagesize() + memory_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _load_fetching() -> None:
    from data_catalog.fetch.engine import load_engine

    load_engine()


def _fetch(job: dict[str, Any], report: Report) -> None:
    from data_catalog.fetch.config import FetchConfig
    from data_catalog.fetch.engine import fetch_urls

    _load_fetching()
    report({"ready": True})
    fetch_urls(Path(job["folder"]), Path(job["hosts"]), FetchConfig.from_values(job["config"]), report)


def _load_decoding() -> None:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported; each thread would reserve memory
    from data_catalog.images.normalise import load_decoders

    load_decoders()


def _normalise(job: dict[str, Any], report: Report) -> None:
    from data_catalog.images.normalise import normalise_rows

    normalise_rows(job, report)


class ChildDiedError(Exception):
    """A child that ended, or was killed, before its job was done. The text is equal for equal causes."""

    def __init__(self, cause: str, *, was_ready: bool) -> None:
        super().__init__(cause)
        self.was_ready = was_ready  # it had begun the job's rows


class Child:
    """A running child process; used by one thread at a time, for one job after another."""

    def __init__(self, kind: str, memory_bytes: int = 0) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the child
        self._socket, theirs = Pipe()
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                # -P: a file in the current folder must not shadow a module
                [sys.executable, "-P", "-m", "data_catalog.images.children", kind, str(memory_bytes), str(number)],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[number],
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Return whether the process is running."""
        return self._process.poll() is None

    def run(self, job: dict[str, Any], *, stall_s: float) -> Iterator[dict[str, Any]]:
        """Do a job and yield its events.

        Raises:
            ChildDiedError: the child ended, or sent nothing for `stall_s` seconds and was killed.
            DiskError: the disk is full, or fails.
            DamagedError: a file that the child reads is damaged.
            InputError: a library is missing or does not work on this machine.
            DefectError: the child can't do the job for another reason.
        """
        event: dict[str, Any] = {}
        is_ready = False
        try:
            self._socket.send_bytes(json.dumps(job).encode())
            while "done" not in event:
                patience_s = stall_s if is_ready else max(stall_s, _START_S)
                if not self._socket.poll(patience_s):
                    self.kill()
                    raise ChildDiedError(f"silent for {patience_s:g} s", was_ready=is_ready)
                event = json.loads(self._socket.recv_bytes())
                is_ready = True
                if "error" in event:
                    raise_if_disk_fails(OSError(event["errno"], event["error"]), Path(job["folder"]))
                    refused = DefectError if event["errno"] is None else DiskError
                    kind = _KINDS.get(event["kind"], refused)
                    raise kind(f"images: the child process can't do the shard: {event['error']}")
                if "row" in event:
                    yield event
        except (EOFError, ConnectionError) as error:
            raise ChildDiedError(self._cause(), was_ready=is_ready) from error

    def _cause(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_WAIT_S)
        self.kill()
        status = self._process.returncode
        if status == OUT_OF_MEMORY:
            return "out of memory"
        return f"signal {-status}" if status < 0 else f"exit status {status}"

    def kill(self) -> None:
        """Kill the child's process group and wait until the child has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Close the socket, which ends the child. Kill its process group if it does not end in time."""
        self._socket.close()
        try:
            self._process.wait(_EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        if self._process.returncode and not self._log.closed:
            size = os.fstat(self._log.fileno()).st_size
            printed = os.pread(self._log.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))
            logger.debug("the child process printed: %s", printed.decode("utf-8", "replace"))
        self._log.close()


class ChildPool:
    """Children by kind and memory limit: started when none is idle, reused after a job that succeeded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, int], list[Child]] = {}
        self._lent: set[Child] = set()
        self._closed = False

    @contextmanager
    def lend(self, kind: str, memory_bytes: int = 0) -> Iterator[Child]:
        """Lend a child for one job, and kill it if the job fails for any reason.

        Raises:
            DefectError: the pool is closed.
        """
        child = self._take(kind, memory_bytes)
        try:
            yield child
        except BaseException:
            child.kill()
            child.close()
            raise
        else:
            self._keep(child, kind, memory_bytes)
        finally:
            with self._lock:
                self._lent.discard(child)

    def _take(self, kind: str, memory_bytes: int) -> Child:
        with self._lock:
            if self._closed:
                raise DefectError(CLOSED)
            idle = self._idle.get((kind, memory_bytes), [])
            while idle and not idle[-1].alive:
                idle.pop().close()
            child = idle.pop() if idle else Child(kind, memory_bytes)
            self._lent.add(child)
            return child

    def _keep(self, child: Child, kind: str, memory_bytes: int) -> None:
        with self._lock:
            if not self._closed:
                self._idle.setdefault((kind, memory_bytes), []).append(child)
                return
        child.close()

    def start(self, kind: str, memory_bytes: int = 0, *, count: int) -> None:
        """Start idle children ahead of their first jobs, without waiting for them."""
        for _ in range(count):
            self._keep(Child(kind, memory_bytes), kind, memory_bytes)

    def close(self) -> None:
        """End all children. Kill those that are at work, and start no more."""
        with self._lock:
            self._closed = True
            for child in self._lent:
                child.kill()
        self.end_idle()

    def end_idle(self) -> None:
        """End the idle children."""
        with self._lock:
            idle = [child for children in self._idle.values() for child in children]
            self._idle.clear()
        for child in idle:
            child.close()


if __name__ == "__main__":
    main(sys.argv[1:])
