"""A program of the user as an engine: it reads one caption a line and writes one translation a line.

The program runs as long as the engine, without a shell. It is killed if it hangs and restarted once if it ends, and the
number of its lines is checked.
"""

import os
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_catalog.base.errors import InputError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.disk.files import digest, sha256_of
from translation.config import FROM, TO, TranslateConfig
from translation.engine import Translation, translate_distinct
from translation.engines.plugins import text_problem
from translation.engines.processes import EndedError, HungError, Program, ProgramError

# Increase it when lines to a program, or their reading, change.
ENGINE_VERSION = 2
LINES_PER_BATCH = 100
# Least time to wait for lines beyond the expected ones before answers are accepted. After a surplus line each answer is
# taken for that of the next caption, and the program still works on the last one: it needs about as long as between two
# answers.
GRACE_S = 0.05
GAPS_TO_WAIT = 2
# Least lines for a program that has just started, where the time between two answers is not known yet.
MIN_FIRST_LINES = 3
_SHOWN = 60


def open_engine(
    config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path
) -> "CommandTranslator":
    """Return the engine over the program that the settings name; it is started at the first translation.

    Raises:
        InputError: there is no such program, or a file of the command cannot be read.
    """
    words = [word.replace(FROM, source.code).replace(TO, target.code) for word in config.command]
    program = shutil.which(str(Path(words[0]).expanduser()))
    if program is None:
        parts = words[0].split()
        hint = f'. Give arguments as separate strings: ["{parts[0]}", ...]' if len(parts) > 1 else ""
        raise InputError(f"translate.command: there is no executable program {words[0]!r}{hint}")
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
    """A `translation.engine.Translator` over a program; it returns no scores.

    White space in a caption, line breaks included, and NULs become single spaces. Captions that are then empty are not
    sent, and equal ones are sent once, except that a new program gets its last caption again if it has fewer than
    `MIN_FIRST_LINES`.
    """

    def __init__(
        self, command: Sequence[str], *, fingerprint: str, config: TranslateConfig, from_code: str, to_code: str
    ) -> None:
        self.from_code, self.to_code, self.fingerprint = from_code, to_code, fingerprint
        self.max_chunk_size = config.max_chunk_size or None
        self._command, self._timeout_s = list(command), config.timeout_s
        self._program: Program | None = None
        self._longest_gap_s = 0.0  # of the captions of one call

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """Return one translation per caption; see `Translator.translate`.

        Raises:
            InputError: the program cannot be started, hangs, ends twice, or does not write one line of UTF-8 for each
                caption.
        """
        lines = [as_line(caption) for caption in captions]
        self._longest_gap_s = 0.0
        try:
            found = translate_distinct(lines, self._answers, on_done, size=LINES_PER_BATCH)
            self._settle(max(GRACE_S, GAPS_TO_WAIT * self._longest_gap_s))
        except BaseException as error:  # Ctrl-C included: answers would no longer match lines
            self._end()
            if isinstance(error, ProgramError):
                raise InputError(self._message(error)) from error
            raise
        return found

    def _answers(self, batch: list[str]) -> list[Translation]:
        """Return the program's translations of some lines; it is restarted once if it ends before it has answered."""
        self._settle(0.0)
        try:
            answers = self._ask(batch)
        except EndedError:
            self._end()
            try:
                answers = self._ask(batch)
            except EndedError as error:
                raise InputError(f"{self._message(error)}, for the second time") from error
        return [Translation(text=_text(answer, line)) for answer, line in zip(answers, batch, strict=True)]

    def _ask(self, batch: list[str]) -> list[bytes]:
        """Return the answers of the program, which is started if it does not run."""
        lines = batch
        if self._program is None:
            self._program = self._started()
            lines = batch + batch[-1:] * (MIN_FIRST_LINES - len(batch))
        answers = self._program.answers(lines)[: len(batch)]
        self._longest_gap_s = max(self._longest_gap_s, self._program.longest_gap_s)
        return answers

    def _started(self) -> Program:
        try:
            return Program(self._command, end=b"\n", timeout_s=self._timeout_s)
        except OSError as error:
            raise InputError(f"translate.command: {self._command[0]} cannot be started: {error.strerror}") from error

    def _settle(self, seconds: float) -> None:
        """Check that a running program writes nothing more; close one that has ended."""
        if self._program is not None and not self._program.is_silent(seconds):
            self._end()

    def _end(self) -> None:
        if self._program is not None:
            self._program.close()
            self._program = None

    def _message(self, error: ProgramError) -> str:
        """Return a message about the program's failure, with the end of its standard error."""
        name = shlex.join([Path(self._command[0]).name, *self._command[1:]])[:_SHOWN]
        what = f"{error} after {error.progress} lines" if isinstance(error, EndedError) else str(error)
        if isinstance(error, HungError):
            what = (
                f"was killed because it gave {error.progress} lines within {self._timeout_s:g} s "
                "(translate.timeout_s); a program must flush each line that it writes"
            )
        return f"the command {name} {what}" + (f": {error.error_output}" if error.error_output else "")


def as_line(caption: str) -> str:
    """Return a caption as a line for a program: white space, line breaks included, and NULs become single spaces."""
    return " ".join(caption.replace("\0", " ").split())


def _text(answer: bytes, line: str) -> str:
    """Return a line of a program as text, with white space as single spaces.

    Raises:
        InputError: it is not UTF-8, or cannot be stored.
    """
    try:
        text = answer.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"the command's translation of {line[:_SHOWN]!r} is not UTF-8: {answer[:_SHOWN]!r}") from error
    if problem := text_problem(text):
        raise InputError(f"the command's translation of {line[:_SHOWN]!r} contains {problem}: {text[:_SHOWN]!r}")
    return " ".join(text.split())


def _with_content(word: str) -> Any:
    """Return a word of a command; a file's word becomes its name and sha256, so that its folder does not matter."""
    path = Path(os.path.expanduser(word))  # noqa: PTH111 - pathlib refuses "~nobody"
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib raises OSError for a word too long to be a path
        return word
    try:
        return [path.name, sha256_of(path)]
    except OSError as error:
        raise InputError(f"translate.command: {path} cannot be read: {error.strerror}") from error
