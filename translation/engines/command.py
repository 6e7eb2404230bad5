"""A program of the user as an engine: it reads one caption a line and writes one translation a line.

It is started for each batch and answers when its input has ended. No shell runs. It is killed, with all processes that
it started, if it hangs, and started once more if it fails. The number of its lines is checked.
"""

import os
import selectors
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.disk.files import digest, sha256_of
from translation.config import FROM, TO, TranslateConfig
from translation.engines.answers import CheckedTranslator

# Increase it when lines to a program, or their reading, change.
ENGINE_VERSION = 2
MAX_OUTPUT_BYTES = 100_000_000  # of a batch
_SHOWN = 60
_TOLD_BYTES = 300  # of its standard error in an error message
_CHUNK_BYTES = 65_536
_END_S = 1.0  # between a program's last output and its exit


def open_engine(
    config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path
) -> CheckedTranslator:
    """Return the engine over the program that the settings name; it is started at the first translation."""
    engine = CommandEngine(config, source.code, target.code)
    return CheckedTranslator(engine, source.code, target.code, name=engine.name)


class CommandEngine:
    """A `TextEngine` over a program.

    White space in a caption, line breaks included, and NULs become single spaces. Captions that are then empty are not
    sent, and equal ones are sent once.
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
            "mode": "batch",  # as opposed to a program that runs on, of earlier versions
        }
        self.fingerprint = f"command:{from_code}-{to_code}:{digest(what)[:12]}"
        self.max_chunk_size = config.max_chunk_size or None
        self.name = f"the command {shlex.join([Path(program).name, *words[1:]])[:_SHOWN]}"
        self._command, self._timeout_s = [program, *words[1:]], config.timeout_s

    def translate(self, captions: list[str]) -> list[str]:
        """Return one translation per caption."""
        lines = [" ".join(caption.replace("\0", " ").split()) for caption in captions]
        asked = list(dict.fromkeys(filter(None, lines)))
        answers = {"": ""} | dict(zip(asked, self._answers(asked) if asked else [], strict=True))
        return [answers[line] for line in lines]

    def _answers(self, lines: Sequence[str]) -> list[str]:
        """Return the program's translations of lines; it is started once more if it fails or leaves lines out."""
        code, answers, told = self._run(lines)
        if code or len(answers) < len(lines):
            code, answers, told = self._run(lines)
        if code or len(answers) != len(lines):
            raise InputError(
                f"{self.name} wrote {len(answers):,} lines for {len(lines):,} captions and ended with code {code}{told}"
            )
        with about(f"{self.name} wrote a line that is not UTF-8"):
            return [" ".join(answer.decode("utf-8").split()) for answer in answers]

    def _run(self, lines: Sequence[str]) -> tuple[int, list[bytes], str]:
        """Return the program's exit code, its lines, and the end of its standard error after a colon."""
        with TemporaryFile() as given, TemporaryFile() as log:
            with about(f"translate.command: {self._command[0]} cannot be started"):
                given.write("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
                given.seek(0)
                process = subprocess.Popen(
                    self._command, stdin=given, stdout=subprocess.PIPE, stderr=log, start_new_session=True
                )
            with process:  # closes the pipe and waits
                try:
                    output = self._output(process)
                except subprocess.TimeoutExpired as error:
                    late = f"did not end within {self._timeout_s:g} s and was killed (translate.timeout_s)"
                    raise InputError(f"{self.name} {late}{_end_of(log)}") from error
                finally:
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, signal.SIGKILL)  # with all that it started
            answers = output.removesuffix(b"\n").split(b"\n") if output else []
            while len(answers) > len(lines) and not answers[-1]:  # empty lines at the end
                answers.pop()
            return process.returncode, answers, _end_of(log)

    def _output(self, process: "subprocess.Popen[bytes]") -> bytes:
        """Return what a program writes until it ends; raise TimeoutExpired if it does not in time."""
        assert process.stdout
        output, deadline = bytearray(), time.monotonic() + self._timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise subprocess.TimeoutExpired(self._command, self._timeout_s)
                data = os.read(process.stdout.fileno(), _CHUNK_BYTES)
                output += data
                if len(output) > MAX_OUTPUT_BYTES:
                    raise InputError(f"{self.name} wrote more than {MAX_OUTPUT_BYTES:,} bytes")
                if not data:
                    process.wait(max(_END_S, left))
                    return bytes(output)


def _end_of(log: IO[bytes]) -> str:
    log.seek(max(0, log.seek(0, os.SEEK_END) - _TOLD_BYTES))
    told = " ".join(log.read().decode("utf-8", "replace").split())
    return f": {told}" if told else ""


def _with_content(word: str) -> Any:
    """Return a word of a command; a file's word becomes its name and sha256, so that its folder does not matter."""
    path = Path(os.path.expanduser(word))  # noqa: PTH111 - pathlib refuses "~nobody"
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib raises OSError for a word too long to be a path
        return word
    with about("translate.command"):
        return [path.name, sha256_of(path)]
