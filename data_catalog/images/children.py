"""Child processes in which images are fetched or decoded, killed where they hang, and lent to one job at a time.

`python -m data_catalog.images.children fetch|normalise` is the child: jobs come as JSON lines on standard input, events
go as JSON lines to what was standard output; anything else that is printed goes to standard error. It writes only into
the folder that a job names, and exits when its input closes.
"""

import json
import logging
import os
import queue
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from data_catalog.errors import ShardError
from data_catalog.images.normalising import limit_memory, normalise_rows
from data_catalog.storage.disk_errors import raise_if_disk_fails
from data_catalog.storage.failpoints import kill_with_parent

logger = logging.getLogger(__name__)

# Exit status of a child whose address space is used up: what it would do next can't be trusted.
OUT_OF_MEMORY = 77

Report = Callable[[dict[str, Any]], None]
Work = Callable[[dict[str, Any], Report], None]


def main(arguments: list[str]) -> int:
    """Serve jobs until standard input closes.

    `arguments`: kind of work, then a memory limit for decoding, in bytes (0: none, and no decoders).
    """
    kind, memory_bytes = arguments[0], int(arguments[1])
    events = _claim_output()
    kill_with_parent()
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()
    if memory_bytes:
        limit_memory(memory_bytes)

    if kind == "fetch":
        with suppress(Exception):  # the first job meets it again, and has somebody to tell
            _load_fetching()

    one_at_a_time = threading.Lock()

    def report(event: dict[str, Any]) -> None:
        with one_at_a_time:
            events.write(json.dumps(event) + "\n")
            events.flush()

    while True:
        _do(jobs.get(), WORK[kind], report)


def _claim_output() -> TextIO:
    """Keep standard output for the protocol, and send whatever libraries print to standard error."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def _read_jobs(jobs: "queue.SimpleQueue[dict[str, Any]]") -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    os._exit(0)  # the parent is gone or done with us, whatever the main thread is at


def _do(job: dict[str, Any], work: Work, report: Report) -> None:
    try:
        work(job, report)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception as error:  # noqa: BLE001  the process's outermost boundary: the parent decides what it means
        report({"error": f"{type(error).__name__}: {error}", "errno": getattr(error, "errno", None)})
    else:
        report({"done": True})


def _load_fetching() -> None:
    from data_catalog.fetch.img2dataset_engine import load_engine

    load_engine()


def _fetch(job: dict[str, Any], report: Report) -> None:
    from data_catalog.fetch.fetch import FetchConfig
    from data_catalog.fetch.img2dataset_engine import fetch_rows

    _load_fetching()
    report({"ready": True})
    fetch_rows(Path(job["folder"]), Path(job["hosts"]), FetchConfig.from_values(job["config"]), report)


WORK: dict[str, Work] = {"fetch": _fetch, "normalise": normalise_rows}

_START_S = 180.0  # imports from a cold disk on a busy machine
# Of a job that does not come as far as a row: something is wrong with this machine, not with a row.
MAX_IDLE_DEATHS = 3
_EXIT_WAIT_S = 5.0
_TAIL_BYTES = 2000


class ChildDiedError(Exception):
    """A child ended, or had to be killed, before its job was done; the text says how, the same for the same cause."""

    was_ready = False  # it had come as far as the job's rows


class Child:
    """One running `data_catalog.images.children`; used by one thread at a time, for one job after another."""

    def __init__(self, kind: str, memory_bytes: int = 0) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the child
        self._process = subprocess.Popen(
            # -P: a file in the current folder must not stand in for a module
            [sys.executable, "-P", "-m", "data_catalog.images.children", kind, str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._jobs = self._process.stdin
        self._events = self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._events, selectors.EVENT_READ)
        self._unread = b""

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return self._process.poll() is None

    def run(self, job: dict[str, Any], *, stall_s: float) -> Iterator[dict[str, Any]]:
        """Do a job and yield its events.

        Raises:
            ChildDiedError: the child ended, or was silent for `stall_s` seconds and has been killed.
            ShardError: the child says that the whole job can't be done.
            ConfigError, PipelineError: the disk is full, or fails.
        """
        try:
            self._jobs.write(json.dumps(job).encode() + b"\n")
            self._jobs.flush()
        except BrokenPipeError as error:
            raise ChildDiedError(self._cause()) from error
        is_ready = False
        while True:
            try:
                event = json.loads(self._line(stall_s if is_ready else max(stall_s, _START_S)))
            except ChildDiedError as error:
                error.was_ready = is_ready
                raise
            if "error" in event:
                raise_if_disk_fails(OSError(event.get("errno"), event["error"]), Path(job["folder"]))
                raise ShardError(f"images: the child process can't do the shard: {event['error']}")
            if "done" in event:
                return
            is_ready = True
            if "row" in event:
                yield event

    def close(self) -> None:
        """Ask the child to end by closing its input; kill it, and whatever it started, if it does not."""
        with suppress(BrokenPipeError):
            self._jobs.close()
        try:
            self._process.wait(_EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._selector.close()
        self._events.close()
        self._log.close()

    def kill(self) -> None:
        """Kill the child's process group and wait for its end."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def tail(self) -> str:
        """The end of what the child has printed, for the log."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode("utf-8", "replace")

    def _line(self, stall_s: float) -> bytes:
        end = time.monotonic() + stall_s
        while b"\n" not in self._unread:
            if not self._selector.select(max(0.0, end - time.monotonic())):
                self.kill()
                raise ChildDiedError(f"silent for {stall_s:g} s")
            piece = os.read(self._events.fileno(), 65536)
            if not piece:
                raise ChildDiedError(self._cause())
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _cause(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_WAIT_S)
        self.kill()
        status = self._process.returncode
        if status == OUT_OF_MEMORY:
            return "out of memory"
        return f"signal {-status}" if status < 0 else f"exit status {status}"


CLOSED = "images: the child processes have been ended; open new ImageWorkers"


class ChildPool:
    """Children by kind and memory limit: started when none is idle, reused after a job that went well."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, int], list[Child]] = {}
        self._lent: set[Child] = set()
        self._closed = False

    @contextmanager
    def lend(self, kind: str, memory_bytes: int = 0) -> Iterator[Child]:
        """A child for one job; killed if the job fails in any way. Raises `ShardError` after `close`."""
        child = self._take(kind, memory_bytes)
        try:
            yield child
        except BaseException:
            child.kill()
            logger.debug("the child process printed: %s", child.tail())
            child.close()
            raise
        else:
            self._give_back(child, kind, memory_bytes)
        finally:
            with self._lock:
                self._lent.discard(child)

    def start(self, kind: str, memory_bytes: int = 0, *, count: int) -> None:
        """Start idle children ahead of their first jobs, without waiting for them."""
        for _ in range(count):
            self._give_back(Child(kind, memory_bytes), kind, memory_bytes)

    def close(self) -> None:
        """End all children; those still at work are killed, and no other is started."""
        with self._lock:
            self._closed = True
            for child in self._lent:
                child.kill()
        self.end_idle()

    def end_idle(self) -> None:
        """End the children that are at no work."""
        with self._lock:
            idle = [child for children in self._idle.values() for child in children]
            self._idle.clear()
        for child in idle:
            child.close()

    def _take(self, kind: str, memory_bytes: int) -> Child:
        with self._lock:
            if self._closed:
                raise ShardError(CLOSED)
            idle = self._idle.get((kind, memory_bytes), [])
            child = idle.pop() if idle else None
        if child is None or not child.alive:
            if child is not None:
                child.close()
            child = Child(kind, memory_bytes)
        with self._lock:
            if not self._closed:
                self._lent.add(child)
                return child
        child.kill()
        child.close()
        raise ShardError(CLOSED)

    def _give_back(self, child: Child, kind: str, memory_bytes: int) -> None:
        with self._lock:
            if not self._closed:
                self._idle.setdefault((kind, memory_bytes), []).append(child)
                return
        child.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
