"""A program of the user as an engine: it reads one caption a line and writes one translation a line.

In the mode "lines" the program runs as long as the engine and answers each line. In the mode "batch" it is started for
each batch, and answers when its input has ended. No shell runs. The program is killed if it hangs and restarted once if
it ends too early, and the number of its lines is checked.
"""

import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.disk.files import digest, sha256_of
from translation.config import FROM, TO, TranslateConfig
from translation.engine import STREAM_WINDOW
from translation.engines.answers import CAPTIONS_PER_CALL, CheckedTranslator
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
) -> CheckedTranslator:
    """Return the engine over the program that the settings name; it is started at the first translation."""
    engine = CommandEngine(config, source.code, target.code)
    size = STREAM_WINDOW if config.mode == "batch" else CAPTIONS_PER_CALL
    return CheckedTranslator(engine, source.code, target.code, name=engine.name, size=size)


class CommandEngine:
    """A `TextEngine` over a program; it returns no scores.

    White space in a caption, line breaks included, and NULs become single spaces. Captions that are then empty are not
    sent, and equal ones are sent once, except that a new program gets its last caption again if it has fewer than
    `MIN_FIRST_LINES`.
    """

    def __init__(self, config: TranslateConfig, from_code: str, to_code: str) -> None:
        words = [word.replace(FROM, from_code).replace(TO, to_code) for word in config.command]
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
            **({} if config.mode == "lines" else {"mode": config.mode}),
        }
        self.fingerprint = f"command:{from_code}-{to_code}:{digest(what)[:12]}"
        self.max_chunk_size = config.max_chunk_size or None
        self.name = f"the command {shlex.join([Path(program).name, *words[1:]])[:_SHOWN]}"
        self._command, self._timeout_s, self._is_batch = [program, *words[1:]], config.timeout_s, config.mode == "batch"
        self._program: Program | None = None
        self._longest_gap_s = 0.0  # of the captions of one call

    def translate(self, captions: list[str]) -> Iterator[str]:
        """Yield one translation per caption, and check at the end that the program writes nothing more."""
        lines = [as_line(caption) for caption in captions]
        known, size = {"": ""}, len(lines) if self._is_batch else LINES_PER_BATCH
        self._longest_gap_s = 0.0
        try:
            for start in range(0, len(lines), size):
                part = lines[start : start + size]
                new = [line for line in dict.fromkeys(part) if line not in known]
                known |= zip(new, self._answers(new) if new else [], strict=True)
                yield from (known[line] for line in part)
            self._settle(max(GRACE_S, GAPS_TO_WAIT * self._longest_gap_s))
        except BaseException as error:  # Ctrl-C included: answers would no longer match lines
            self._end()
            if not isinstance(error, ProgramError):
                raise
            advice = "; a program must flush each line that it writes" * (not self._is_batch)
            hint = f" (translate.timeout_s{advice})" if isinstance(error, HungError) else ""
            raise InputError(f"{self.name} {error}{hint}") from error

    def _answers(self, lines: list[str]) -> list[str]:
        """Return the program's translations of some lines; it is restarted once if it ends before it has answered."""
        self._settle(0.0)
        try:
            answers = self._ask(lines)
        except EndedError:
            self._end()
            answers = self._ask(lines)
        with about(f"{self.name} wrote a line that is not UTF-8"):
            return [answer.decode("utf-8") for answer in answers]

    def _ask(self, lines: list[str]) -> list[bytes]:
        """Return the answers of the program, which is started if it does not run."""
        asked = lines
        if self._program is None:
            with about(f"translate.command: {self._command[0]} cannot be started"):
                self._program = Program(self._command, end=b"\n", timeout_s=self._timeout_s)
            asked = lines + lines[-1:] * (MIN_FIRST_LINES - len(lines)) * (not self._is_batch)
        answers = self._program.answers(asked, last=self._is_batch)[: len(lines)]
        self._longest_gap_s = max(self._longest_gap_s, self._program.longest_gap_s)
        if self._is_batch:
            self._end()
        return answers

    def _settle(self, seconds: float) -> None:
        """Check that a running program writes nothing more; close one that has ended."""
        if self._program is not None and not self._program.is_silent(seconds):
            self._end()

    def _end(self) -> None:
        if self._program is not None:
            self._program.close()
            self._program = None


def as_line(caption: str) -> str:
    """Return a caption as a line for a program: white space, line breaks included, and NULs become single spaces."""
    return " ".join(caption.replace("\0", " ").split())


def _with_content(word: str) -> Any:
    """Return a word of a command; a file's word becomes its name and sha256, so that its folder does not matter."""
    path = Path(os.path.expanduser(word))  # noqa: PTH111 - pathlib refuses "~nobody"
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib raises OSError for a word too long to be a path
        return word
    with about("translate.command"):
        return [path.name, sha256_of(path)]
