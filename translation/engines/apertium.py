"""Apertium's rule-based engine, run through the programs of an installed mode such as "eng-cat".

Many languages without a trained model have one, often through a related language: English to Italian goes through
Catalan, with `translate.pivot`.

The programs process many texts at once, but no text changes the translation of another. Texts are separated by NUL, at
which each program flushes its output and resets its state. One program keeps state: the hidden Markov tagger. For a
word with a set of tags that it was not trained on, it overwrites its class of unknown words until it ends
(`find_similar_ambiguity_class` assigns through a reference). This changes one translation in forty from Catalan. The
tagger writes a warning about such words. So it gets one text at a time, and is restarted after each warning.
"""

import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from data_catalog.base.errors import InputError
from data_catalog.base.language_pack import LanguagePack, language_pack_hint
from data_catalog.disk.files import digest, sha256_of
from translation.config import TranslateConfig
from translation.engine import Translation
from translation.engines.processes import EndedError, Program, ProgramError, kill_group
from translation.guards import Prepared, prepare, restore

logger = logging.getLogger(__name__)

# Increase it when a change of this module gives another text for the same programs and data.
ENGINE_VERSION = 3
# Captions that go through the programs together. The programs take half a second to start; progress is reported after
# each part.
PART_SIZE = 500
# Longest sentence. The programs' time grows with the square of its length.
MAX_CHARACTERS = 5000
# Limit for a part of several hundred texts, or for one text of the tagger; usual is a second on an idle CPU.
TIMEOUT_S = 600.0
# Value of `$1` in the mode's script: generators do not mark unknown words with an asterisk.
NO_MARKS = "-n"
_PROBE_TIMEOUT_S = 60.0


def open_engine(
    config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path
) -> "ApertiumTranslator":
    """Return the engine for the installed mode of these languages; nothing is cached.

    The fingerprint covers versions, contents of programs and data files, and options. It does not cover libraries that
    the programs load.

    Raises:
        InputError: Apertium is not installed, or has no such mode.
    """
    command = shutil.which("apertium")
    if command is None:
        raise InputError(
            "the command `apertium` was not found: install Debian's package apertium, and for each pair of languages a "
            "package such as apertium-eng-cat"
        )
    # The command looks for modes in the same folder.
    data = os.environ.get("APERTIUM_DATADIR") or Path(command).resolve().parents[1] / "share" / "apertium"
    mode_file = _mode_file(Path(data) / "modes", source, target)
    # Programs of the same installation come first; text is UTF-8; no variable changes translations.
    path = f"{Path(command).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    kept = {name: value for name, value in os.environ.items() if name != "AP_SETVAR"}
    environment = kept | {"LC_ALL": "C.UTF-8", "PATH": path}
    script = _output_of(["apertium-wblank-mode", "-z", str(mode_file)], environment)
    files = _program_files(script, environment)
    what = {
        "engine": ENGINE_VERSION,
        "apertium": _output_of([command, "-V"], environment),
        # Files are identified by name and content; their folder does not matter.
        "programs": [
            (Path(word).name, _sha256(Path(word))) if Path(word).is_absolute() else word for word in shlex.split(script)
        ],
        "program_files": {name: _sha256(file) for name, file in files.items()},
        "options": [NO_MARKS],
    }
    return ApertiumTranslator(
        Pipeline(script=script, environment=environment),
        digest(what),
        from_code=source.code,
        to_code=target.code,
        num_workers=config.inter_threads,
    )


class ApertiumTranslator:
    """A `translation.engine.Translator` over the programs of a mode; it returns no scores."""

    max_chunk_size = None

    def __init__(
        self, pipeline: "Pipeline", sha256: str, *, from_code: str, to_code: str, num_workers: int = 0
    ) -> None:
        self.from_code, self.to_code = from_code, to_code
        self.fingerprint = f"apertium:{from_code}-{to_code}:{sha256[:12]}"
        self._pipeline = pipeline
        self._num_workers = num_workers or len(os.sched_getaffinity(0))

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """Return one translation per caption; see `Translator.translate`. Equal captions are translated once.

        Raises:
            InputError: a program failed or did not end, or texts are missing.
        """
        counts = Counter(captions)
        distinct = list(counts)
        parts = [distinct[start : start + PART_SIZE] for start in range(0, len(distinct), PART_SIZE)]
        found: dict[str, Translation] = {}
        executor = ThreadPoolExecutor(self._num_workers)
        try:
            for part, translations in zip(parts, executor.map(self._translate_part, parts), strict=True):
                found.update(zip(part, translations, strict=True))
                if on_done:
                    on_done(sum(counts[caption] for caption in part))
        finally:
            executor.shutdown(cancel_futures=True)
        return [found[caption] for caption in captions]

    def _translate_part(self, captions: Sequence[str]) -> list[Translation]:
        prepared = [prepare(caption.translate(_ENDS), language=self.from_code) for caption in captions]
        sentences = dict.fromkeys(sentence for item in prepared for sentence in item.sentences)
        records = [to_stream(sentence[:MAX_CHARACTERS], number) for number, sentence in enumerate(sentences)]
        found = self._outputs(records) if records else []
        texts = {
            sentence: text if text is None else from_stream(text, number)
            for number, (sentence, text) in enumerate(zip(sentences, found, strict=True))
        }

        def translation(item: Prepared) -> Translation:
            parts = [text for sentence in item.sentences if (text := texts[sentence]) is not None]
            if len(parts) < len(item.sentences):
                return Translation(text="")
            truncated = any(len(sentence) > MAX_CHARACTERS for sentence in item.sentences)
            return Translation(text=restore(parts, item, language=self.to_code), truncated=truncated)

        return list(map(translation, prepared))

    def _outputs(self, records: Sequence[str]) -> Sequence[str | None]:
        """Return the output for each text, or None if a program crashes on it."""
        try:
            return self._pipeline.run(records)
        except _EndedError:
            self._pipeline.run([to_stream("a", 0)])  # raises if they crash on any text
        return self._halves(records)

    def _halves(self, records: Sequence[str]) -> list[str | None]:
        """Split texts in halves until those that crash a program are alone; return the outputs."""
        middle, found = len(records) // 2, list[str | None]()
        if not middle:
            logger.warning("caption not translated, an Apertium program crashes on it: %.60r...", records[0])
            return [None]
        for half in (records[:middle], records[middle:]):
            try:
                found += self._pipeline.run(half)
            except _EndedError:
                found += self._halves(half)
        return found


class _EndedError(InputError):
    """A program ended before it answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """The programs of a mode.

    Args:
        script: the mode's shell pipeline with null flushing, as `apertium-wblank-mode -z` prints it.
        environment: environment of the programs, with a UTF-8 locale.
        timeout_s: most seconds that the programs may take for all texts, or a tagger for one text.
    """

    script: str
    environment: Mapping[str, str]
    timeout_s: float = TIMEOUT_S

    def run(self, texts: Sequence[str]) -> list[str]:
        """Return the output for each text, in order; texts are in Apertium's stream format and end with a superblank.

        Raises:
            InputError: a program failed, did not end, or did not give one text for each.
        """
        parts: list[str] = []  # stages that share a shell, and taggers, which run alone
        for stage in _stages(self.script):
            if parts and not is_stateful(stage) and not is_stateful(parts[-1]):
                parts[-1] += f" | {stage}"
            else:
                parts.append(stage)
        found = list(texts)
        for part in parts:
            found = self._run_tagger(part, found) if is_stateful(part) else self._run_piped(part, found)
        return found

    def _run_piped(self, stages: str, texts: list[str]) -> list[str]:
        """Run the texts through programs that share one shell."""
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
        if process.returncode == 128 + signal.SIGKILL:  # by the system, which lacks memory: no fault of a text
            raise _failure("was killed", errors)
        if process.returncode:
            raise _EndedError(str(_failure(f"ended with code {process.returncode}", errors)))
        found = output.decode("utf-8", "replace").split("\0")
        # Programs that do not flush at NUL write one NUL too many at the end.
        if len(found) <= len(texts) or any(found[len(texts) :]):
            raise _failure(f"gave {len(found) - 1} texts for {len(texts)}", errors)
        return found[: len(texts)]

    def _run_tagger(self, stage: str, texts: list[str]) -> list[str]:
        """Run each text through a tagger in its initial state."""
        program, *arguments = shlex.split(stage)
        command = [program, "-d", *(argument for argument in arguments if not argument.startswith("$"))]
        found: list[str] = []
        while len(found) < len(texts):
            with closing(Program(command, end=b"\0", timeout_s=self.timeout_s, environment=self.environment)) as tagger:
                for text in texts[len(found) :]:
                    try:
                        (answer,) = tagger.answers([text])
                    except ProgramError as error:
                        what = f"Apertium {error}" + (f": {error.error_output}" if error.error_output else "")
                        raise (_EndedError if isinstance(error, EndedError) else InputError)(what) from error
                    found.append(answer.decode("utf-8", "replace"))
                    if tagger.has_error_output():  # standard error is unbuffered and written before the answer ends
                        break
        return found


def is_stateful(stages: str) -> bool:
    """Return whether a stage is the hidden Markov tagger; the perceptron tagger (`-x`) keeps no state."""
    program, *arguments = shlex.split(stages)
    short = "".join(argument for argument in arguments if re.fullmatch(r"-\w+", argument))
    return program.endswith("apertium-tagger") and "x" not in short and "--perceptron" not in arguments


def _stages(script: str) -> list[str]:
    return re.split(r"\s+\|\s+", script.strip())


def _failure(what: str, errors: bytes) -> InputError:
    last = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
    return InputError(f"Apertium {what}" + (f": {last}" if last else ""))


# Characters with a meaning in Apertium's stream format, unless escaped.
_SPECIAL = re.compile(r"[\\\[\]{}^$/@<>]|~")
_ESCAPED = re.compile(r"\\(.)|\[(~)\]", re.DOTALL)
# A full stop is added to each sentence. Without one the last words may be lost: "enjoying the day" becomes "che godono
# il". A space before it keeps it from joining "U.S".
_FULL_STOP = " ."
# Characters that end a text, or the input, for the programs: NUL and the non-character U+FFFF.
_ENDS = str.maketrans("\0\uffff", "  ")


def to_stream(sentence: str, number: int) -> str:
    """Return a sentence in Apertium's stream format, with its number in brackets at the end.

    Programs do not change text in brackets. A tilde is put in brackets as well, because programs would drop it.
    """
    escaped = _SPECIAL.sub(lambda char: "[~]" if char[0] == "~" else f"\\{char[0]}", sentence)
    return f"{escaped}{_FULL_STOP}{_signature(number)}"


def from_stream(record: str, number: int) -> str:
    """Return the translation of `to_stream(sentence, number)`, as text.

    Raises:
        InputError: it has another number.
    """
    signature = _signature(number)
    if record.count(signature) != 1:
        raise InputError(f"Apertium mixed up its texts: text {number + 1} came back as {record!r}")
    text = record.replace(signature, "").removesuffix(_FULL_STOP)
    return _ESCAPED.sub(lambda found: found[1] or found[2], text)


def _signature(number: int) -> str:
    return f"[{number}]"


def _mode_file(folder: Path, source: LanguagePack, target: LanguagePack) -> Path:
    """Return the file of the mode for these languages.

    It is named by their ISO 639-3 codes or, in old packages, by their ISO 639-1 codes.
    """
    starts = list(dict.fromkeys([source.iso639_3 or source.code, source.code]))
    names = [f"{starts[0]}-{target.iso639_3 or target.code}", f"{source.code}-{target.code}"]
    for name in names:
        path = folder / f"{name}.mode"
        if path.is_file():
            return path
    installed = sorted(path.stem for path in folder.glob("*.mode"))
    fitting = [name for name in installed if name.split("-")[0] in starts]
    have = f"installed from {source.code}: {', '.join(fitting) or 'none'}"
    nameless = [pack for pack in (source, target) if pack.iso639_3 is None]
    first = "".join(f"set iso639_3 {language_pack_hint(pack)}, " for pack in nameless)
    raise InputError(
        f"Apertium has no mode {names[0]} ({have}): {first}install its package, such as Debian's apertium-{names[0]}, "
        "or set a language between the two as translate.pivot"
    )


def _output_of(command: Sequence[str], environment: dict[str, str]) -> str:
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, check=True, timeout=_PROBE_TIMEOUT_S, text=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(f"Apertium does not work: `{' '.join(command)}` failed ({error}). Reinstall it") from error
    return done.stdout.strip()


def _program_files(script: str, environment: dict[str, str]) -> dict[str, Path]:
    """Return the paths of a script's programs by name; a pair's package need not depend on all programs of its modes.

    Raises:
        InputError: a program is missing.
    """
    names = [shlex.split(stage)[0] for stage in _stages(script)]
    found = {name: shutil.which(name, path=environment["PATH"]) for name in names}
    missing = sorted(name for name, file in found.items() if file is None)
    if missing:
        raise InputError(
            f"Apertium needs the program {', '.join(missing)}: install the package that contains it, such as Debian's "
            "cg3, apertium-lex-tools, apertium-separable or apertium-anaphora"
        )
    return {Path(name).name: Path(file) for name, file in found.items() if file is not None}


def _sha256(file: Path) -> str:
    try:
        return sha256_of(file)
    except OSError as error:
        raise InputError(f"Apertium does not work: {error.filename} cannot be read. Reinstall it") from error
