"""The parent's end of a child process: start it, give it a job, read its events, kill it when it hangs."""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from data_catalog.errors import ShardError
from data_catalog.images.child import OUT_OF_MEMORY
from data_catalog.storage.disk_errors import raise_if_disk_fails

_START_S = 180.0  # imports from a cold disk on a busy machine
# Of a job that does not come as far as a row: something is wrong with this machine, not with a row.
MAX_IDLE_DEATHS = 3
_EXIT_WAIT_S = 5.0
_TAIL_BYTES = 2000


class ChildDiedError(Exception):
    """A child ended, or had to be killed, before its job was done; the text says how, the same for the same cause."""

    was_ready = False  # it had come as far as the job's rows


class Child:
    """One running `data_catalog.images.child`; used by one thread at a time, for one job after another."""

    def __init__(self, kind: str, memory_bytes: int = 0) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the child
        self._process = subprocess.Popen(
            # -P: a file in the current folder must not stand in for a module
            [sys.executable, "-P", "-m", "data_catalog.images.child", kind, str(memory_bytes)],
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
