"""Apertium's rule-based engine, driven through the programs of an installed mode such as "eng-cat".

Many languages that no trained model serves have one, often by way of a related language: English to Italian goes
through Catalan, with `translate.pivot`.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from data_catalog.errors import InputError
from data_catalog.language_pack import LanguagePack, in_pack_of
from data_catalog.storage.shards import digest, sha256_of
from translation.config import TranslateConfig
from translation.engine import Translation
from translation.engines.apertium_pipeline import NO_MARKS, Pipeline, programs
from translation.engines.processes import num_cpus
from translation.guards import prepare, restore

# Raised whenever the same programs and data give another text.
ENGINE_VERSION = 2
# Captions that go through the programs together, which take half a second to start; progress is told after each part.
PART_SIZE = 500
# Longest sentence; the programs' time grows with the square of it.
MAX_CHARACTERS = 5000
_PROBE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """What is translated with.

    Args:
        pipeline: its programs.
        digest: of what decides its translations: versions, contents of programs and data files, options. Libraries
            that programs load are not among it.
        from_code: ISO 639-1 code of the language it reads.
        to_code: ISO 639-1 code of the language it writes.
    """

    pipeline: Pipeline
    digest: str
    from_code: str
    to_code: str


class ApertiumTranslator:
    """A `translation.engine.Translator` over a mode; it tells no scores."""

    max_chunk_size = None

    def __init__(self, mode: Mode, num_workers: int = 0) -> None:
        self.from_code, self.to_code = mode.from_code, mode.to_code
        self.fingerprint = f"apertium:{mode.from_code}-{mode.to_code}:{mode.digest[:12]}"
        self._pipeline = mode.pipeline
        self._num_workers = num_workers or num_cpus()

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """See `Translator.translate`; equal captions are translated once.

        Raises:
            InputError: a program failed or hung, or texts are missing.
        """
        counts = Counter(captions)
        parts = list(_parts(list(counts)))
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
        prepared = [prepare(_readable(caption), language=self.from_code) for caption in captions]
        sentences = dict.fromkeys(sentence for item in prepared for sentence in item.sentences)
        records = [to_stream(sentence[:MAX_CHARACTERS], number) for number, sentence in enumerate(sentences)]
        found = self._pipeline.run(records) if records else []
        texts = {
            sentence: from_stream(text, n) for n, (sentence, text) in enumerate(zip(sentences, found, strict=True))
        }
        return [
            Translation(
                text=restore([texts[sentence] for sentence in item.sentences], item, language=self.to_code),
                truncated=any(len(sentence) > MAX_CHARACTERS for sentence in item.sentences),
            )
            for item in prepared
        ]


def open_engine(
    config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path
) -> ApertiumTranslator:
    """The engine over the installed mode for these languages; nothing is cached.

    Raises:
        InputError: Apertium is not installed, or has no such mode.
    """
    command = shutil.which("apertium")
    if command is None:
        raise InputError(
            "the command `apertium` was not found: install Debian's packages apertium and, for each pair of languages, "
            "one such as apertium-eng-cat"
        )
    mode_file = _mode_file(_modes_folder(Path(command)), source, target)
    environment = _environment(Path(command))
    script = _printed(["apertium-wblank-mode", "-z", str(mode_file)], environment)
    files = _program_files(script, environment)
    what = {
        "engine": ENGINE_VERSION,
        "apertium": _printed([command, "-V"], environment),
        "programs": _with_contents(script),
        "program_files": {name: _sha256(file) for name, file in files.items()},
        "options": [NO_MARKS],
    }
    mode = Mode(
        pipeline=Pipeline(script=script, environment=environment),
        digest=digest(what),
        from_code=source.code,
        to_code=target.code,
    )
    return ApertiumTranslator(mode, config.inter_threads)


# In Apertium's stream format these have a meaning, unless escaped.
_SPECIAL = re.compile(r"[\\\[\]{}^$/@<>]|~")
_ESCAPED = re.compile(r"\\(.)|\[(~)\]", re.DOTALL)
# Each sentence is ended by a full stop of ours, since without one the last words may be lost: "enjoying the day" comes
# out as "che godono il". It stands apart, so that it cannot become part of "U.S".
_FULL_STOP = " ."


def to_stream(sentence: str, number: int) -> str:
    """A sentence in Apertium's stream format, signed with its number: in brackets, which programs leave alone.

    A tilde is put in brackets as well: programs would drop it.
    """
    escaped = _SPECIAL.sub(lambda char: "[~]" if char[0] == "~" else f"\\{char[0]}", sentence)
    return f"{escaped}{_FULL_STOP}{_signature(number)}"


def from_stream(record: str, number: int) -> str:
    """The translation of `to_stream(sentence, number)`, as text.

    Raises:
        InputError: it is not that sentence's.
    """
    signature = _signature(number)
    if record.count(signature) != 1:
        raise InputError(f"Apertium mixed up its texts: the {number + 1}th came back as {record!r}")
    text = record.replace(signature, "").removesuffix(_FULL_STOP)
    return _ESCAPED.sub(lambda found: found[1] or found[2], text)


def _signature(number: int) -> str:
    return f"[{number}]"


def _readable(caption: str) -> str:
    """A caption without what ends a text, or the input, for the programs: NUL and the non-character U+FFFF."""
    return caption.replace("\0", " ").replace("\uffff", " ")


def _parts(captions: Sequence[str]) -> Iterator[list[str]]:
    remaining = iter(captions)
    while part := list(islice(remaining, PART_SIZE)):
        yield part


def _mode_file(folder: Path, source: LanguagePack, target: LanguagePack) -> Path:
    """The file of the mode for these languages: by their ISO 639-3 codes, or, in old packages, ISO 639-1."""
    starts = list(dict.fromkeys([source.iso639_3 or source.code, source.code]))
    names = [f"{starts[0]}-{target.iso639_3 or target.code}", f"{source.code}-{target.code}"]
    for name in names:
        path = folder / f"{name}.mode"
        if path.is_file():
            return path
    installed = sorted(path.stem for path in folder.glob("*.mode"))
    fitting = [name for name in installed if name.split("-")[0] in starts]
    have = f"from {source.code} there are {', '.join(fitting)}" if fitting else f"from {source.code} there is none"
    nameless = [pack for pack in (source, target) if pack.iso639_3 is None]
    first = "".join(f"set iso639_3 {in_pack_of(pack)}, " for pack in nameless)
    raise InputError(
        f"Apertium has no mode {names[0]}; {have}: {first}install its package, such as Debian's apertium-{names[0]}, "
        "or name a language between the two as translate.pivot"
    )


def _modes_folder(command: Path) -> Path:
    """Where Apertium's modes are installed, as the command itself looks for them."""
    data = os.environ.get("APERTIUM_DATADIR") or command.resolve().parents[1] / "share" / "apertium"
    return Path(data) / "modes"


def _environment(command: Path) -> dict[str, str]:
    """What the programs are to see: their own kind first, text in UTF-8, and no variable that changes translations."""
    kept = {name: value for name, value in os.environ.items() if name != "AP_SETVAR"}
    path = f"{command.parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return kept | {"LC_ALL": "C.UTF-8", "PATH": path}


def _printed(command: Sequence[str], environment: dict[str, str]) -> str:
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, check=True, timeout=_PROBE_TIMEOUT_S, text=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(f"Apertium does not work: `{' '.join(command)}` failed ({error}); install it anew") from error
    return done.stdout.strip()


def _program_files(script: str, environment: dict[str, str]) -> dict[str, Path]:
    """Where the programs of a script are, by their names without folders.

    Raises:
        InputError: one is missing: not every package of a pair depends on all the programs that its modes call.
    """
    found = {name: shutil.which(name, path=environment["PATH"]) for name in programs(script)}
    missing = sorted(name for name, file in found.items() if file is None)
    if missing:
        raise InputError(
            f"Apertium lacks the program {', '.join(missing)}: install what has it, such as Debian's packages cg3, "
            "apertium-lex-tools, apertium-separable or apertium-anaphora"
        )
    return {Path(name).name: Path(file) for name, file in found.items() if file is not None}


def _with_contents(script: str) -> list[str | tuple[str, str]]:
    """The words of a script, the files among them by name and content, so that it does not matter where they are."""
    words = shlex.split(script)
    return [(Path(word).name, _sha256(Path(word))) if Path(word).is_absolute() else word for word in words]


def _sha256(file: Path) -> str:
    try:
        return sha256_of(file)
    except OSError as error:
        raise InputError(f"Apertium does not work: {error.filename} cannot be read; install it anew") from error
