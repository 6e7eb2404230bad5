"""The programs of an Apertium mode, run over many texts at once in such a way that none changes another's translation.

Texts are separated by NUL, at which each program flushes and starts afresh. One program does not: the hidden Markov
tagger, on a word with a set of tags that it was not trained on, overwrites what it takes unknown words for, to the end
of its life (`find_similar_ambiguity_class` assigns through a reference), which changes the translation of one text in
forty from Catalan. It complains about such words, so it is asked text by text and replaced whenever it has complained.
"""

import os
import re
import selectors
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from data_catalog.errors import InputError
from translation.engines.processes import kill_group

# Of a few hundred texts, each within a second on an idle CPU; or of one text, to the tagger.
TIMEOUT_S = 600.0
# Generators are told with `$1` not to mark the words that they do not know with an asterisk.
NO_MARKS = "-n"
_TAIL_BYTES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """The programs of a mode.

    Args:
        script: the mode's shell pipeline, null-flushing, as `apertium-wblank-mode -z` prints it.
        environment: of the programs; a UTF-8 locale is part of it.
        timeout_s: most seconds that a program may be silent, or take for all the texts.
    """

    script: str
    environment: Mapping[str, str]
    timeout_s: float = TIMEOUT_S

    def run(self, texts: Sequence[str]) -> list[str]:
        """What comes out for each text, in the same order; texts in Apertium's stream format, ended by a blank.

        Raises:
            InputError: a program failed, hung, or did not give one text for each.
        """
        found = list(texts)
        for stages in _segments(self.script):
            found = self._tagged(stages, found) if is_stateful(stages) else self._piped(stages, found)
        return found

    def _piped(self, stages: str, texts: list[str]) -> list[str]:
        """The texts through programs that share one shell."""
        data = "".join(f"{text}\0" for text in texts).encode("utf-8", "replace")
        with subprocess.Popen(
            ["bash", "-c", f"set -o pipefail; {stages}", "apertium", NO_MARKS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=self.environment,
        ) as process:
            try:
                output, errors = process.communicate(data, timeout=self.timeout_s)
            except subprocess.TimeoutExpired as error:
                raise _failure(f"did not finish within {self.timeout_s:g} s", error.stderr or b"") from error
            finally:
                kill_group(process)
        if process.returncode:
            raise _failure(f"ended with code {process.returncode}", errors)
        found = output.decode("utf-8", "replace").split("\0")
        # Programs that do not flush at NUL hand on a NUL too many at the end.
        if len(found) <= len(texts) or any(found[len(texts) :]):
            raise _failure(f"gave {len(found) - 1} texts for {len(texts)}", errors)
        return found[: len(texts)]

    def _tagged(self, stage: str, texts: list[str]) -> list[str]:
        """The texts through a tagger each of which is as it was at its start."""
        program, *arguments = shlex.split(stage)
        command = [program, "-d", *(argument for argument in arguments if not argument.startswith("$"))]
        found: list[str] = []
        while len(found) < len(texts):
            with closing(_Tagger(command, self)) as tagger:
                found += tagger.answers(texts[len(found) :])
        return found


def is_stateful(stages: str) -> bool:
    """Whether a stage is the hidden Markov tagger; the one with `-x` (perceptron) keeps nothing."""
    program, *arguments = shlex.split(stages)
    short = "".join(argument for argument in arguments if re.fullmatch(r"-\w+", argument))
    return program.endswith("apertium-tagger") and "x" not in short and "--perceptron" not in arguments


def programs(script: str) -> list[str]:
    """Names of the programs of a pipeline, in order."""
    return [shlex.split(stage)[0] for stage in _stages(script)]


def _stages(script: str) -> list[str]:
    return re.split(r"\s+\|\s+", script.strip())


def _segments(script: str) -> list[str]:
    """The pipeline in parts: what can share a shell, and what must run by itself."""
    segments: list[str] = []
    for stage in _stages(script):
        if segments and not is_stateful(stage) and not is_stateful(segments[-1]):
            segments[-1] += f" | {stage}"
        else:
            segments.append(stage)
    return segments


class _Tagger:
    """A running tagger that is asked text by text, until it complains."""

    def __init__(self, command: list[str], pipeline: Pipeline) -> None:
        self._timeout_s = pipeline.timeout_s
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the tagger
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            start_new_session=True,
            env=pipeline.environment,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._input.fileno(), False)
        self._answering = selectors.DefaultSelector()
        self._answering.register(self._output, selectors.EVENT_READ)
        self._busy = selectors.DefaultSelector()
        self._busy.register(self._output, selectors.EVENT_READ)
        self._busy.register(self._input, selectors.EVENT_WRITE)

    def answers(self, texts: Sequence[str]) -> Iterator[str]:
        """Answers to the first texts, at least one, all given in the state in which the tagger started.

        Raises:
            InputError: the program ended or hung.
        """
        for text in texts:
            yield self._answer(text.encode("utf-8", "replace") + b"\0")
            if self._complained():
                return

    def close(self) -> None:
        """End the program."""
        kill_group(self._process)
        self._process.wait()
        self._answering.close()
        self._busy.close()
        self._input.close()
        self._output.close()
        self._complaints.close()

    def _answer(self, text: bytes) -> str:
        unsent, answer = memoryview(text), b""
        while not answer.endswith(b"\0"):
            # What does not fit into the pipe is sent as the tagger reads; it may wait for us to read first.
            unsent = unsent[self._send(unsent) :]
            ready = (self._busy if unsent else self._answering).select(self._timeout_s)
            if not ready:
                raise _failure(f"was silent for {self._timeout_s:g} s", self._tail())
            if any(key.fileobj is self._output for key, _ in ready):
                answer += self._received()
        return answer[:-1].decode("utf-8", "replace")

    def _send(self, data: memoryview) -> int:
        """Give it as much as it takes at once."""
        try:
            return self._input.write(data) or 0
        except BrokenPipeError as error:
            raise self._ended() from error

    def _received(self) -> bytes:
        data = os.read(self._output.fileno(), 65_536)
        if not data:
            raise self._ended()
        return data

    def _ended(self) -> InputError:
        return _failure(f"ended with code {self._process.wait(self._timeout_s)}", self._tail())

    def _complained(self) -> bool:
        # It complains, unbuffered, before it ends its answer.
        return os.fstat(self._complaints.fileno()).st_size > 0

    def _tail(self) -> bytes:
        size = os.fstat(self._complaints.fileno()).st_size
        return os.pread(self._complaints.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))


def _failure(what: str, errors: bytes) -> InputError:
    last = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
    return InputError(f"Apertium {what}" + (f": {last}" if last else ""))
