"""Child processes of engines, with time limits; they are killed together with all processes that they started."""

import os
import selectors
import signal
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise

MAX_ANSWER_BYTES = 1_000_000
_END_S = 1.0  # between a program's last output and its exit
_CHUNK_BYTES = 65_536
_LAST_LOOK_S = 0.1
_TAIL_BYTES, _SHOWN = 2_000, 300  # of its standard error: bytes that are kept, and characters in an error message
_MOST_CHUNKS = 16
_TOO_MANY = "wrote more lines than it had captions"


class ProgramError(Exception):
    """A program wrote something that it should not.

    Args:
        what: the program's action.
        progress: number of answers that it gave, of those expected.
        error_output: the end of its standard error, as one line.
    """

    def __init__(self, what: str, *, progress: str, error_output: str) -> None:
        super().__init__(what)
        self.progress, self.error_output = progress, error_output


class EndedError(ProgramError):
    """A program ended before it gave all its answers."""


class HungError(ProgramError):
    """A program did not give its answers in time."""


class Program:
    """A running program that reads texts and writes one answer for each, both ended by the same byte.

    Args:
        command: the program and its arguments; no shell is used.
        end: the byte that ends a text and an answer.
        timeout_s: most seconds for the answers of one call.
        environment: environment of the program; None for our own.

    Attributes:
        longest_gap_s: most seconds between two answers of the last call; 0 for a call with one text. The time until the
            first answer counts as well, but not at the first call, when the program also starts.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self, command: Sequence[str], *, end: bytes, timeout_s: float, environment: Mapping[str, str] | None = None
    ) -> None:
        self._separator, self._timeout_s = end, timeout_s
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
            env=environment,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._input, self._output, self._errors = (
            pipe.fileno() for pipe in (process.stdin, process.stdout, process.stderr)
        )
        os.set_blocking(self._input, False)
        self._selector = selectors.DefaultSelector()
        for pipe in (self._output, self._errors):
            self._selector.register(pipe, selectors.EVENT_READ)
        self.close = weakref.finalize(self, _close, process, self._selector, os.getpid())
        self._tail = b""
        self._answers: list[bytes] = []
        self._partial = bytearray()
        self._num_asked = 0
        self._is_new = True
        self.longest_gap_s = 0.0

    def answers(self, texts: Sequence[str]) -> list[bytes]:
        """Send some texts to the program and return its answers.

        Raises:
            EndedError: it ended before it gave all answers.
            HungError: it did not give them in time.
            ProgramError: it wrote too many lines, or too long a line.
        """
        self._answers, self._partial, self._num_asked = [], bytearray(), len(texts)
        unsent = memoryview(b"".join(text.encode("utf-8", "replace") + self._separator for text in texts))
        self._selector.register(self._input, selectors.EVENT_WRITE)
        deadline = time.monotonic() + self._timeout_s
        moments = [] if self._is_new else [time.monotonic()]
        self._is_new = False
        while len(self._answers) < len(texts):
            num_before = len(self._answers)
            ready = self._ready(deadline)
            if not ready:
                raise self._error(f"did not finish within {self._timeout_s:g} s", HungError)
            if self._input in ready:
                try:
                    unsent = unsent[os.write(self._input, unsent) :]
                except BlockingIOError:
                    pass
                except BrokenPipeError:  # the program has closed its input, but may still answer
                    unsent = unsent[len(unsent) :]
                if not unsent:
                    self._selector.unregister(self._input)
            if not self._read(ready):
                code: int | None = None  # stays None for a program that closed its output and runs on
                with suppress(subprocess.TimeoutExpired):
                    code = self._process.wait(_END_S)
                raise self._error(f"ended with code {code}", EndedError)
            if len(self._answers) > num_before:
                moments.append(time.monotonic())
        gaps = (later - earlier for earlier, later in pairwise(moments))
        self.longest_gap_s = max(gaps, default=0.0) if len(texts) > 1 else 0.0
        if unsent:
            raise self._error(f"wrote {len(texts):,} lines before it had read as many")
        if len(self._answers) > len(texts) or self._partial:
            raise self._error(_TOO_MANY)
        return self._answers

    def is_silent(self, seconds: float) -> bool:
        """Return whether the program is still running and writes nothing for some seconds.

        Raises:
            ProgramError: it writes something.
        """
        self._answers, self._partial = [], bytearray()
        deadline = time.monotonic() + seconds
        lives = True
        while lives and (ready := self._ready(deadline)):
            lives = self._read(ready)
            if self._answers or self._partial:
                raise self._error(_TOO_MANY)
        return lives

    def has_error_output(self) -> bool:
        """Return whether the program has written anything to its standard error, white space included."""
        for _ in range(_MOST_CHUNKS):
            if not any(key.fd == self._errors for key, _ in self._selector.select(0.0)):
                break
            self._read_errors()
        return bool(self._tail)

    def _ready(self, deadline: float) -> set[int]:
        """Wait for pipes that can be read or written; return none after the deadline."""
        left = deadline - time.monotonic()
        # Pipes are checked once more at the deadline, and not after it: a program that always writes must end.
        return {key.fd for key, _ in self._selector.select(max(0.0, left))} if left > -_LAST_LOOK_S else set()

    def _read(self, ready: set[int]) -> bool:
        """Read the program's output; return False at its end."""
        if self._errors in ready:
            self._read_errors()
        if self._output not in ready:
            return True
        data = os.read(self._output, _CHUNK_BYTES)
        first, *others = data.split(self._separator)
        self._partial += first
        for part in others:
            self._answers.append(bytes(self._partial))
            self._partial = bytearray(part)
        if len(self._partial) > MAX_ANSWER_BYTES:
            raise self._error(f"wrote a line of more than {MAX_ANSWER_BYTES:,} bytes")
        return bool(data)

    def _read_errors(self) -> None:
        """Read standard error and keep its end; the program may close that pipe and run on."""
        data = os.read(self._errors, _CHUNK_BYTES)
        if not data:
            self._selector.unregister(self._errors)
        self._tail = (self._tail + data)[-_TAIL_BYTES:]

    def _error(self, what: str, kind: type[ProgramError] = ProgramError) -> ProgramError:
        """Return the error for the program's action; the caller must end the program."""
        self.has_error_output()  # reads the rest of standard error
        error_output = " ".join(self._tail.decode("utf-8", "replace").split())[-_SHOWN:]
        return kind(what, progress=f"{len(self._answers):,} of {self._num_asked:,}", error_output=error_output)


def _close(process: "subprocess.Popen[bytes]", selector: selectors.BaseSelector, owner: int) -> None:
    """End a program and all processes that it started, unless this process is a fork of the program's parent."""
    selector.close()
    if os.getpid() != owner:
        return
    kill_group(process)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    process.wait()


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill a program and all processes that it started.

    Call it at the latest directly after the program was waited for.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
