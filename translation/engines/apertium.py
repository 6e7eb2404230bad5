"""Apertium's rule-based engine, run through the programs of an installed mode such as "eng-cat".

Many languages without a trained model have one, often through a related language: English to Italian goes through
Catalan, with `translate.pivot`. A mode is a pipeline of programs, which run as `command` runs a program in the mode
"batch": texts go in, the input closes, texts come out.

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
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError
from data_catalog.base.language_pack import LanguagePack, language_pack_hint
from data_catalog.disk.files import digest, sha256_of
from translation.config import TranslateConfig
from translation.engine import STREAM_WINDOW, Translation
from translation.engines.answers import CheckedTranslator
from translation.engines.processes import EndedError, KilledError, Program, ProgramError
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
) -> CheckedTranslator:
    """Return the engine for the installed mode of these languages; nothing is cached.

    The fingerprint covers versions, contents of programs and data files, and options. It does not cover libraries that
    the programs load.
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
    with about("Apertium does not work", remedy="reinstall it"):
        script = _output_of(["apertium-wblank-mode", "-z", str(mode_file)], environment)
        programs = {
            name: shutil.which(name, path=path) for name in (shlex.split(stage)[0] for stage in _stages(script))
        }
        if missing := sorted(name for name, file in programs.items() if file is None):
            raise InputError(  # a pair's package need not depend on all programs of its modes
                f"Apertium needs the program {', '.join(missing)}: install the package that contains it, such as "
                "Debian's cg3, apertium-lex-tools, apertium-separable or apertium-anaphora"
            )
        what = {
            "engine": ENGINE_VERSION,
            "apertium": _output_of([command, "-V"], environment),
            # Files are identified by name and content; their folder does not matter.
            "programs": [
                (Path(word).name, sha256_of(Path(word))) if Path(word).is_absolute() else word
                for word in shlex.split(script)
            ],
            "program_files": {Path(name).name: sha256_of(Path(str(file))) for name, file in programs.items()},
            "options": [NO_MARKS],
        }
    fingerprint = f"apertium:{source.code}-{target.code}:{digest(what)[:12]}"
    workers = config.inter_threads or len(os.sched_getaffinity(0))
    engine = ApertiumEngine(
        script, environment, fingerprint, from_code=source.code, to_code=target.code, num_workers=workers
    )
    return CheckedTranslator(engine, source.code, target.code, name="Apertium", size=STREAM_WINDOW)


class ApertiumEngine:
    """A `TextEngine` over the programs of a mode; it returns no scores.

    `script` is the mode's shell pipeline with null flushing, as `apertium-wblank-mode -z` prints it. `timeout_s` bounds
    the time of a part, or of one text in a tagger.
    """

    max_chunk_size = None

    def __init__(
        self,
        script: str,
        environment: Mapping[str, str],
        fingerprint: str,
        *,
        from_code: str,
        to_code: str,
        num_workers: int,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.fingerprint, self._from_code, self._to_code = fingerprint, from_code, to_code
        self._environment, self._num_workers, self._timeout_s = environment, num_workers, timeout_s
        self._parts: list[str] = []  # stages that share a shell, and taggers, which run alone
        for stage in _stages(script):
            if self._parts and not is_stateful(stage) and not is_stateful(self._parts[-1]):
                self._parts[-1] += f" | {stage}"
            else:
                self._parts.append(stage)

    def translate(self, captions: list[str]) -> Iterator[Translation]:
        """Yield one translation per caption; a caption on which a program crashes has none."""
        parts = [captions[start : start + PART_SIZE] for start in range(0, len(captions), PART_SIZE)]
        executor = ThreadPoolExecutor(self._num_workers)
        try:
            for found in executor.map(self._translations, parts):
                yield from found
        finally:
            executor.shutdown(cancel_futures=True)

    def _translations(self, captions: Sequence[str]) -> list[Translation]:
        prepared = [prepare(caption.translate(_ENDS), language=self._from_code) for caption in captions]
        sentences = list(dict.fromkeys(sentence for item in prepared for sentence in item.sentences))
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
            return Translation(text=restore(parts, item, language=self._to_code), truncated=truncated)

        return list(map(translation, prepared))

    def _outputs(self, records: Sequence[str]) -> list[str | None]:
        """Return the output for each text, or None for one on which a program crashes: halves until it is alone."""
        try:
            return list(self._run(records))
        except ProgramError as error:
            is_crash = isinstance(error, EndedError) and not isinstance(error, KilledError)
            if not is_crash or records == [_PROBE]:
                raise InputError(f"Apertium {error}") from error
        if len(records) == 1:
            self._outputs([_PROBE])  # raises if they crash on any text
            logger.warning("caption not translated, an Apertium program crashes on it: %.60r...", records[0])
            return [None]
        middle = len(records) // 2
        return [*self._outputs(records[:middle]), *self._outputs(records[middle:])]

    def _run(self, texts: Sequence[str]) -> Sequence[str]:
        """Return the output for each text; texts are in Apertium's stream format and end with a superblank."""
        for part in self._parts:
            if is_stateful(part):
                texts = self._tagged(part, texts)
            else:
                command = ["bash", "-c", f"set -o pipefail; {part}", "apertium", NO_MARKS]
                with closing(self._program(command)) as programs:
                    texts = [answer.decode("utf-8", "replace") for answer in programs.answers(texts, last=True)]
        return texts

    def _tagged(self, stage: str, texts: Sequence[str]) -> list[str]:
        """Run each text through a tagger in its initial state."""
        program, *arguments = shlex.split(stage)
        command = [program, "-d", *(argument for argument in arguments if not argument.startswith("$"))]
        found: list[str] = []
        while len(found) < len(texts):
            with closing(self._program(command)) as tagger:
                for text in texts[len(found) :]:
                    found += [answer.decode("utf-8", "replace") for answer in tagger.answers([text])]
                    if tagger.has_error_output():  # standard error is unbuffered and written before the answer ends
                        break
        return found

    def _program(self, command: Sequence[str]) -> Program:
        return Program(command, end=b"\0", timeout_s=self._timeout_s, environment=self._environment)


def is_stateful(stages: str) -> bool:
    """Return whether a stage is the hidden Markov tagger; the perceptron tagger (`-x`) keeps no state."""
    program, *arguments = shlex.split(stages)
    short = "".join(argument for argument in arguments if re.fullmatch(r"-\w+", argument))
    return program.endswith("apertium-tagger") and "x" not in short and "--perceptron" not in arguments


def _stages(script: str) -> list[str]:
    return re.split(r"\s+\|\s+", script.strip())


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
    return f"{escaped}{_FULL_STOP}[{number}]"


def from_stream(record: str, number: int) -> str:
    """Return the translation of `to_stream(sentence, number)`, as text; refuse that of another number."""
    signature = f"[{number}]"
    if record.count(signature) != 1:
        raise InputError(f"Apertium mixed up its texts: text {number + 1} came back as {record!r}")
    text = record.replace(signature, "").removesuffix(_FULL_STOP)
    return _ESCAPED.sub(lambda found: found[1] or found[2], text)


_PROBE = to_stream("a", 0)


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


def _output_of(command: Sequence[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, check=True, timeout=_PROBE_TIMEOUT_S, text=True
    )
    return done.stdout.strip()
