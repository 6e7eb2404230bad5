"""Programs that answer texts over pipes, with time limits; they end together with all processes that they started."""

import os
import selectors
import signal
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import IO

from data_catalog.disk.child_process import Child

MAX_ANSWER_BYTES = 1_000_000
_END_S = 1.0  # between a program's last output and its exit
_CHUNK_BYTES = 65_536
_LAST_LOOK_S = 0.1
_MOST_LOG_BYTES = 10_000_000
_LOG_CHECK_S = 0.5
_SHOWN = 300  # characters of its standard error in an error message
_MOST_EMPTY = 100  # answers after the last one
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # by itself, or in a shell
_TOO_MANY = "wrote more answers than it had texts"


class ProgramError(Exception):
    """A program wrote something that it should not; the message has the end of its standard error."""


class EndedError(ProgramError):
    """A program ended before it gave all its answers."""


class KilledError(EndedError):
    """A program was killed, probably by the system, which lacks memory: no fault of a text."""


class HungError(ProgramError):
    """A program did not give its answers in time."""


class Program(Child):
    """A running program that reads texts and writes one answer for each, both ended by the byte `end`.

    No shell is used. `timeout_s` limits the answers of one call. `longest_gap_s` is the time between two answers of the
    last call, 0 for a call with one text; the time until the first answer counts as well, except at the first call,
    when the program also starts.
    """

    def __init__(
        self, command: Sequence[str], *, end: bytes, timeout_s: float, environment: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment)
        assert self._process.stdin
        assert self._process.stdout
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._input, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)
        self.close = weakref.finalize(self, _close, self._process, self._log, self._selector, os.getpid())
        self._end_byte, self._timeout_s = end, timeout_s
        self._answers: list[bytes] = []
        self._partial = bytearray()
        self._is_new, self._has_written = True, False
        self.longest_gap_s = 0.0

    def answers(self, texts: Sequence[str], *, last: bool = False) -> list[bytes]:
        """Send some texts to the program and return its answers.

        After the `last` texts its input is closed, it may answer only then, and it must end.
        """
        self._answers, self._partial = [], bytearray()
        unsent = memoryview(b"".join(text.encode("utf-8", "replace") + self._end_byte for text in texts))
        self._selector.register(self._input, selectors.EVENT_WRITE)
        deadline = time.monotonic() + self._timeout_s
        moments = [] if self._is_new else [time.monotonic()]
        self._is_new, lives = False, True
        while lives and (last or len(self._answers) < len(texts)):
            num_before = len(self._answers)
            ready = self._ready(deadline)
            if not ready:
                done = f"gave {num_before:,} of {len(texts):,} answers within {self._timeout_s:g} s"
                raise self._error(f"was killed because it {done}", HungError)
            if self._input in ready:
                unsent = self._write(unsent, last=last)
            lives = self._output not in ready or self._read()
            if len(self._answers) > num_before:
                moments.append(time.monotonic())
            if len(self._answers) > len(texts) + last * _MOST_EMPTY:
                break
        self.longest_gap_s = max((b - a for a, b in pairwise(moments)), default=0.0) if len(texts) > 1 else 0.0
        if not lives:
            self._require_success(len(texts), deadline, last=last)
        while last and len(self._answers) > len(texts) and not self._answers[-1]:
            self._answers.pop()
        if len(self._answers) > len(texts) or self._partial:
            raise self._error(_TOO_MANY)
        if unsent:
            raise self._error(f"wrote {len(texts):,} answers before it had read as many texts")
        return self._answers

    def is_silent(self, seconds: float) -> bool:
        """Return whether the program is still running and writes nothing for some seconds."""
        self._answers, self._partial = [], bytearray()
        lives = not self._ready(time.monotonic() + seconds) or self._read()
        if self._answers or self._partial:
            raise self._error(_TOO_MANY)
        return lives

    def has_error_output(self) -> bool:
        """Return whether the program has written anything to its standard error, white space included."""
        return self._has_written or os.fstat(self._log.fileno()).st_size > 0

    def _ready(self, deadline: float) -> set[int]:
        """Wait for pipes that can be read or written; return none after the deadline."""
        while (left := deadline - time.monotonic()) > -_LAST_LOOK_S:
            # Pipes are checked once more at the deadline, and not after it: a program that always writes must end.
            ready = {key.fd for key, _ in self._selector.select(min(max(0.0, left), _LOG_CHECK_S))}
            self._bound_log()
            if ready or left <= 0:
                return ready
        return set()

    def _bound_log(self) -> None:
        """Throw away what a program has written to its standard error, if it is much."""
        if os.fstat(self._log.fileno()).st_size > _MOST_LOG_BYTES:
            self._log.seek(0)  # also the program's position
            self._log.truncate()
            self._has_written = True

    def _write(self, unsent: memoryview, *, last: bool) -> memoryview:
        """Write what the program takes now, and return the rest; close its input after the last text."""
        try:
            unsent = unsent[os.write(self._input, unsent) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # the program has closed its input, but may still answer
            unsent = unsent[len(unsent) :]
        if not unsent:
            self._selector.unregister(self._input)
            if last and self._process.stdin:
                self._process.stdin.close()
        return unsent

    def _read(self) -> bool:
        """Read the program's output; return False at its end."""
        data = os.read(self._output, _CHUNK_BYTES)
        first, *others = data.split(self._end_byte)
        self._partial += first
        for part in others:
            self._answers.append(bytes(self._partial))
            self._partial = bytearray(part)
        if len(self._partial) > MAX_ANSWER_BYTES:
            raise self._error(f"wrote an answer of more than {MAX_ANSWER_BYTES:,} bytes")
        return bool(data)

    def _require_success(self, num_texts: int, deadline: float, *, last: bool) -> None:
        """Refuse the answers of a program that has ended too early or has failed."""
        code: int | None = None  # stays None for a program that closed its output and runs on
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(max(_END_S, deadline - time.monotonic()) if last else _END_S)
        if last and self._partial and self._end_byte == b"\n":  # the last line's end may be missing
            self._answers.append(bytes(self._partial))
            self._partial = bytearray()
        if len(self._answers) < num_texts or (last and code != 0):
            done = f"after {len(self._answers):,} of {num_texts:,} answers"
            raise self._error(f"ended with code {code} {done}", KilledError if code in _KILLED else EndedError)

    def _error(self, what: str, kind: type[ProgramError] = ProgramError) -> ProgramError:
        """Return the error for the program's action; the caller must end the program."""
        told = " ".join(self.printed().split())[-_SHOWN:]
        return kind(f"{what}: {told}" if told else what)


def _close(process: "subprocess.Popen[bytes]", log: IO[bytes], selector: selectors.BaseSelector, owner: int) -> None:
    """Kill a program and all processes that it started, unless this process is a fork of the program's parent."""
    selector.close()
    log.close()
    if os.getpid() != owner:
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()
