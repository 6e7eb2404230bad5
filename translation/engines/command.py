"""A program of the user's as an engine: one caption a line on its standard input, one translation a line comes back.

The program runs as long as the engine does, without a shell. What it cannot be trusted with is checked: it is killed
when it hangs, started once more when it dies, and its lines are counted.
"""

import os
import selectors
import shlex
import shutil
import subprocess
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_catalog.errors import InputError
from data_catalog.language_pack import LanguagePack
from data_catalog.storage.shards import digest, sha256_of
from translation.config import FROM, TO, TranslateConfig
from translation.engine import Translation
from translation.engines.plugins import text_problem
from translation.engines.processes import kill_group

# Raised whenever we hand a program other lines than before, or take its lines otherwise.
ENGINE_VERSION = 1
LINES_PER_BATCH = 100
MAX_LINE_BYTES = 1_000_000
# What a program writes beyond its lines is waited for, before any of them is believed.
GRACE_S = 0.05
_END_S = 1.0  # between the last that a program writes and its end
_CHUNK_BYTES = 65_536
_LAST_LOOK_S = 0.1
_TAIL_BYTES, _TOLD = 2_000, 300  # of its complaints: kept, and told
_MOST_CHUNKS = 16
_SHOWN = 60
_TOO_MANY = "wrote more lines than it had captions"


def open_engine(
    config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path
) -> "CommandTranslator":
    """Return the engine over the program that the settings name; it is started at the first translation.

    Raises:
        InputError: there is no such program, or a file of the command cannot be read.
    """
    codes = {FROM: source.code, TO: target.code}
    words = [_with_codes(word, codes) for word in config.command]
    program = shutil.which(str(Path(words[0]).expanduser()))
    if program is None:
        hint = (
            f'; arguments are words of their own: ["{words[0].split()[0]}", ...]' if len(words[0].split()) > 1 else ""
        )
        raise InputError(f"translate.command: there is no program {words[0]!r} that can be run{hint}")
    what = {
        "engine": ENGINE_VERSION,
        "program": _with_content(program),
        "arguments": [_with_content(word) for word in words[1:]],
        "version": config.version,
    }
    return CommandTranslator(
        [program, *words[1:]],
        fingerprint=f"command:{source.code}-{target.code}:{digest(what)[:12]}",
        config=config,
        from_code=source.code,
        to_code=target.code,
    )


class CommandTranslator:
    """A `translation.engine.Translator` that asks a program; it tells no scores.

    White space of a caption, line breaks among it, and NULs become single spaces; captions of which nothing is left are
    not sent, and equal ones once.
    """

    def __init__(
        self, command: Sequence[str], *, fingerprint: str, config: TranslateConfig, from_code: str, to_code: str
    ) -> None:
        self.from_code, self.to_code, self.fingerprint = from_code, to_code, fingerprint
        self.max_chunk_size = config.max_chunk_size or None
        self._command, self._timeout_s = list(command), config.timeout_s
        self._program: _Program | None = None

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """See `Translator.translate`.

        Raises:
            InputError: the program cannot be started, hangs, dies twice, or does not write one line of UTF-8 for each
                caption.
        """
        try:
            return self._translated(captions, on_done or (lambda _: None))
        except BaseException:  # Ctrl-C too: nobody knows which line it would answer next
            self._end()
            raise

    def _translated(self, captions: Sequence[str], report: Callable[[int], object]) -> list[Translation]:
        lines = {caption: as_line(caption) for caption in captions}
        counts = Counter(lines[caption] for caption in captions)
        asked = [line for line in counts if line]
        report(len(captions) - sum(counts[line] for line in asked))
        found = {"": ""}
        for start in range(0, len(asked), LINES_PER_BATCH):
            batch = asked[start : start + LINES_PER_BATCH]
            found.update(zip(batch, self._answers(batch), strict=True))
            report(sum(counts[line] for line in batch))
        self._settle(GRACE_S)
        return [Translation(text=found[lines[caption]]) for caption in captions]

    def _answers(self, batch: list[str]) -> list[str]:
        """Return what the program says of some lines; one that dies over them is started once more."""
        self._settle(0.0)
        try:
            answers = self._running().answers(batch)
        except _EndedError:
            self._end()
            try:
                answers = self._running().answers(batch)
            except _EndedError as error:
                raise InputError(f"{error}, for the second time") from error
        return [_text(answer, line) for answer, line in zip(answers, batch, strict=True)]

    def _running(self) -> "_Program":
        if self._program is None:
            self._program = _Program(self._command, self._timeout_s)
        return self._program

    def _settle(self, seconds: float) -> None:
        """Make sure that a running program has nothing more to say; forget one that has ended."""
        if self._program is not None and not self._program.is_silent(seconds):
            self._end()

    def _end(self) -> None:
        if self._program is not None:
            self._program.close()
            self._program = None


class _EndedError(Exception):
    """A program ended before it had written all its lines."""


class _Program:
    """A running program that is asked batch by batch."""

    def __init__(self, command: list[str], timeout_s: float) -> None:
        self._name, self._timeout_s = shlex.join([Path(command[0]).name, *command[1:]])[:_SHOWN], timeout_s
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise InputError(f"translate.command: {command[0]} cannot be started: {error.strerror}") from error
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._input, self._output, self._complaints = (
            pipe.fileno() for pipe in (process.stdin, process.stdout, process.stderr)
        )
        os.set_blocking(self._input, False)
        self._selector = selectors.DefaultSelector()
        for pipe in (self._output, self._complaints):
            self._selector.register(pipe, selectors.EVENT_READ)
        self.close = weakref.finalize(self, _close, process, self._selector, os.getpid())
        self._tail = b""
        self._lines: list[bytes] = []
        self._partial = bytearray()

    def answers(self, batch: Sequence[str]) -> list[bytes]:
        """Return the lines that it writes for some lines.

        Raises:
            _EndedError: it ended before it had written them.
            InputError: it hung, and was killed; or it wrote more.
        """
        self._lines, self._partial = [], bytearray()
        unsent = memoryview("".join(f"{line}\n" for line in batch).encode("utf-8", "replace"))
        self._selector.register(self._input, selectors.EVENT_WRITE)
        deadline = time.monotonic() + self._timeout_s
        while len(self._lines) < len(batch):
            ready = self._ready(deadline)
            if not ready:
                raise self._refusal(
                    f"was killed, since it gave {self._progress(batch)} within {self._timeout_s:g} s "
                    "(translate.timeout_s); a program must flush each line that it writes"
                )
            if self._input in ready:
                unsent = unsent[self._send(unsent) :]
                if not unsent:
                    self._selector.unregister(self._input)
            if not self._read(ready):
                raise _EndedError(self._said(f"ended with code {self._code()} after {self._progress(batch)}"))
        if unsent:
            raise self._refusal(f"wrote {len(batch):,} lines before it had read as many")
        if len(self._lines) > len(batch) or self._partial:
            raise self._refusal(_TOO_MANY)
        return self._lines

    def is_silent(self, seconds: float) -> bool:
        """Tell whether the program lives and writes nothing for some time.

        Raises:
            InputError: it writes.
        """
        self._lines, self._partial = [], bytearray()
        deadline = time.monotonic() + seconds
        lives = True
        while lives and (ready := self._ready(deadline)):
            lives = self._read(ready)
            if self._lines or self._partial:
                raise self._refusal(_TOO_MANY)
        return lives

    def _ready(self, deadline: float) -> set[int]:
        """Wait for pipes that can be written to or read; none where the time is over."""
        left = deadline - time.monotonic()
        # At the deadline one more look; behind it none, or a program that never stops writing would never end.
        return {key.fd for key, _ in self._selector.select(max(0.0, left))} if left > -_LAST_LOOK_S else set()

    def _send(self, data: memoryview) -> int:
        """Give it as much as it takes at once; all, where it takes nothing any more and may yet answer."""
        try:
            return os.write(self._input, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return len(data)

    def _read(self, ready: set[int]) -> bool:
        """Take what it has written; False at the end of its output."""
        if self._complaints in ready:
            self._read_complaints()
        if self._output not in ready:
            return True
        data = os.read(self._output, _CHUNK_BYTES)
        first, *others = data.split(b"\n")
        self._partial += first
        for part in others:
            self._lines.append(bytes(self._partial))
            self._partial = bytearray(part)
        if len(self._partial) > MAX_LINE_BYTES:
            raise self._refusal(f"wrote a line of more than {MAX_LINE_BYTES:,} bytes")
        return bool(data)

    def _read_complaints(self) -> None:
        """Keep the end of what it complains of; it may close that pipe and go on."""
        data = os.read(self._complaints, _CHUNK_BYTES)
        if not data:
            self._selector.unregister(self._complaints)
        self._tail = (self._tail + data)[-_TAIL_BYTES:]

    def _progress(self, batch: Sequence[str]) -> str:
        return f"{len(self._lines):,} of {len(batch):,} lines"

    def _code(self) -> int | None:
        """Return the code that it ended with; None where it closed its output, and lives."""
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return None

    def _refusal(self, what: str) -> InputError:
        """Return the error that says what it did; whoever raises it ends the program."""
        return InputError(self._said(what))

    def _said(self, what: str) -> str:
        """Say what it did, with the end of what it complained of."""
        for _ in range(_MOST_CHUNKS):
            if not any(key.fd == self._complaints for key, _ in self._selector.select(0.0)):
                break
            self._read_complaints()
        last = " ".join(self._tail.decode("utf-8", "replace").split())[-_TOLD:]
        return f"the command {self._name} {what}" + (f": {last}" if last else "")


def _close(process: "subprocess.Popen[bytes]", selector: selectors.BaseSelector, owner: int) -> None:
    """End a program and all that it started, unless this is a fork of the process that it answers."""
    selector.close()
    if os.getpid() != owner:
        return
    kill_group(process)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    process.wait()


def as_line(caption: str) -> str:
    """Return a caption as a program gets it: white space, line breaks among it, and NULs become single spaces."""
    return " ".join(caption.replace("\0", " ").split())


def _text(answer: bytes, line: str) -> str:
    """Return a line of a program as text, its white space as single spaces. Raises InputError where it is none."""
    try:
        text = answer.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"the command's translation of {line[:_SHOWN]!r} is no UTF-8: {answer[:_SHOWN]!r}") from error
    if problem := text_problem(text):
        raise InputError(f"the command's translation of {line[:_SHOWN]!r} holds {problem}: {text[:_SHOWN]!r}")
    return " ".join(text.split())


def _with_codes(word: str, codes: Mapping[str, str]) -> str:
    for mark, code in codes.items():
        word = word.replace(mark, code)
    return word


def _with_content(word: str) -> Any:
    """Return a word of a command; that of a file by name and content, so that it does not matter where it is."""
    path = Path(word).expanduser()
    try:
        return [path.name, sha256_of(path)] if path.is_file() else word
    except OSError as error:
        raise InputError(f"translate.command: {path} cannot be read: {error.strerror}") from error
