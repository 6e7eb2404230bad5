"""Systems on parallel captions: reading both, translating with the clock running, and where two systems differ most."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_catalog.errors import InputError
from data_catalog.sources.files import Line, check_text_file, read_lines
from translation.engine import Translation, Translator, translate_stream
from translation.scores import sentence_chrf

EXPECTED = "UTF-8 lines of source<TAB>reference"
MAX_NAMED_LINES = 5
NUM_WARM_UP = 8

Pair = tuple[str, str]


def read_test_pairs(path: Path) -> list[Pair]:
    """Pairs of (source, reference), one a line, as `mt train` reads them; plain or gzipped.

    None is left out: scores of different pairs cannot be compared.

    Raises:
        InputError: the file is missing, is no text, or has lines that are no pair, which are named.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file: give {EXPECTED}")
    check_text_file(path, expected=EXPECTED)
    pairs, faults = [], []
    for line in read_lines(path):
        fields = [field.strip() for field in line.text.split("\t")]
        fault = _fault(line, fields)
        if fault:
            faults.append(f"line {line.number}: {fault}")
        else:
            pairs.append((fields[0], fields[-1]))
    if faults:
        more = f"; and {len(faults) - MAX_NAMED_LINES:,} more" if len(faults) > MAX_NAMED_LINES else ""
        named = "; ".join(faults[:MAX_NAMED_LINES])
        raise InputError(f"{path} has lines that are no pair; correct or remove them: {named}{more}")
    return pairs


def _fault(line: Line, fields: Sequence[str]) -> str:
    """Why a line is no pair, or "" if it is one."""
    if line.trouble is not None:
        return line.trouble.detail
    if fields == [""]:
        return "it is blank"
    if len(fields) != 2:
        return f"{len(fields)} fields instead of a source, one tab and a reference"
    return "" if all(fields) else f"the {'reference' if fields[0] else 'source'} is empty"


def read_translations(path: Path, *, num_lines: int) -> list[Translation]:
    """Translations from a file, plain or gzipped, one a line; a blank line is an empty one.

    Args:
        path: of UTF-8 text.
        num_lines: how many there must be.

    Raises:
        InputError: the file is missing or is no text, or a line holds more than a text, or there are more or fewer.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file: give a file of translations, one a line")
    check_text_file(path, expected="translations, one a line")
    texts = []
    for line in read_lines(path):
        if line.trouble is not None:
            raise InputError(f"{path}, line {line.number}: {line.trouble.detail}; correct that line")
        if "\t" in line.text:
            raise InputError(f"{path}, line {line.number}: it has a tab: leave nothing but the translation in a line")
        texts.append(line.text.strip())
    if len(texts) != num_lines:
        raise InputError(f"{path} has {len(texts):,} lines for {num_lines:,} pairs: give one translation a line")
    return [Translation(text=text) for text in texts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How long translating took, without loading.

    Args:
        seconds: by the clock.
        cpu_seconds: of all threads and child processes.
        captions_per_second: by the clock.
        words_per_second: by the clock, of the source, as white space separates them.
    """

    seconds: float
    cpu_seconds: float
    captions_per_second: float
    words_per_second: float


def translate_timed(
    translator: Translator, sources: Sequence[str], on_done: Callable[[int], object]
) -> tuple[list[Translation], Speed]:
    """One translation per source, in the same order, and how long that took once a few were translated already.

    Raises:
        PipelineError: see `Translator.translate`.
    """
    translator.translate(sources[:NUM_WARM_UP])
    started, cpu_started = time.perf_counter(), _cpu_seconds()
    found = list(translate_stream(translator, sources, on_done))
    seconds, cpu_seconds = time.perf_counter() - started, _cpu_seconds() - cpu_started
    speed = Speed(
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        captions_per_second=len(sources) / seconds,
        words_per_second=sum(len(source.split()) for source in sources) / seconds,
    )
    return found, speed


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A caption that two systems translate with unlike success: where it stands, from 0, and the chrF of both."""

    place: int
    first_chrf: float
    second_chrf: float


def largest_differences(
    first: Sequence[str], second: Sequence[str], references: Sequence[str], *, most: int
) -> list[Disagreement]:
    """Where the chrF of two systems' captions differs most, largest difference first; none where it is equal."""
    scored = [
        Disagreement(place=place, first_chrf=sentence_chrf(one, reference), second_chrf=sentence_chrf(other, reference))
        for place, (one, other, reference) in enumerate(zip(first, second, references, strict=True))
        if one != other
    ]
    differing = [found for found in scored if found.first_chrf != found.second_chrf]
    return sorted(differing, key=lambda found: -abs(found.first_chrf - found.second_chrf))[:most]
