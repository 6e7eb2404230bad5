"""Score translation systems side by side on parallel captions: files, runs with the clock, both as tables and JSON.

BLEU and chrF are as sacrebleu computes them (Papineni et al., 2002; Popović, 2015; Post, 2018).
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from data_catalog.errors import InputError
from data_catalog.progress import Progress
from data_catalog.settings import json_values
from data_catalog.sources.files import Line, check_text_file, read_lines
from translation.config import TranslateConfig
from translation.engine import Translation, Translator, is_paid, translate_stream

DEFAULT_TOKENIZER = "13a"
# How BLEU finds words where spaces do not tell. sacrebleu's own choice for Japanese and Korean needs MeCab and its
# dictionaries: it is there for the asking, so that no score depends on what happens to be installed.
TOKENIZER_OF = {"zh": "zh", **dict.fromkeys(("ja", "ko", "th", "lo", "km", "my"), "char")}
NUM_RESAMPLES = 1_000
# sacrebleu holds all resamples of a system at once: of chrF 72 bytes a pair in each, which makes 1.4 GB.
MAX_COMPARED = 20_000


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str], to_code: str) -> float:
    """BLEU of a corpus, 0 to 100, one reference each; its words are found as `bleu_tokenizer` says.

    Args:
        hypotheses: the translations, one or more.
        references: what they should be, in the same order.
        to_code: ISO 639-1 code of their language.
    """
    _require_pairs(hypotheses, references)
    score: float = _bleu(bleu_tokenizer(to_code)).corpus_score(hypotheses, [references]).score
    return score


def corpus_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """The same in chrF: how many character n-grams the texts share, 0 to 100, spaces left out."""
    _require_pairs(hypotheses, references)
    score: float = _chrf().corpus_score(hypotheses, [references]).score
    return score


def sentence_chrf(hypothesis: str, reference: str) -> float:
    """The chrF of one text, 0 to 100."""
    score: float = _chrf().sentence_score(hypothesis, [reference]).score
    return score


def bleu_tokenizer(to_code: str) -> str:
    """Name of sacrebleu's tokenizer that BLEU of a language is taken with."""
    return TOKENIZER_OF.get(to_code, DEFAULT_TOKENIZER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A score, how sure it is, and how far it is from the first system's.

    Args:
        score: 0 to 100.
        interval: half the width of its 95 % interval, by bootstrap.
        difference: the score less the first system's; None for that one.
        p_value: how often chance alone would make a difference of this size, by paired bootstrap; None for the first
            system, and where there is no difference.
    """

    score: float
    interval: float
    difference: float | None
    p_value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """BLEU and chrF of every system, by its name, and sacrebleu's signatures, which say how they were computed."""

    bleu: dict[str, Estimate]
    chrf: dict[str, Estimate]
    signatures: tuple[str, ...]


def compare(systems: Mapping[str, Sequence[str]], references: Sequence[str], *, tokenizer: str) -> Comparison:
    """Score systems on the same texts, and compare each with the first, by the same 1,000 seeded resamples.

    Args:
        systems: translations by the name of a system, one or more systems.
        references: what each translation should be, in the same order.
        tokenizer: of BLEU, by its name in sacrebleu.

    Raises:
        InputError: see `check_comparable`.
    """
    for hypotheses in systems.values():
        _require_pairs(hypotheses, references)
    check_comparable(len(references), tokenizer)
    from sacrebleu.significance import PairedTest

    metrics = {"bleu": _bleu(tokenizer), "chrf": _chrf()}
    test = PairedTest(list(systems.items()), metrics, [references], test_type="bs", n_samples=NUM_RESAMPLES)
    signatures, results = test()
    names = results.pop("System")
    bleu, chrf = (dict(zip(names, _estimates(found), strict=True)) for found in results.values())
    shown = tuple(f"{name}|{signature}" for name, signature in signatures.items())
    return Comparison(bleu=bleu, chrf=chrf, signatures=shown)


def check_comparable(num_texts: int, tokenizer: str) -> None:
    """Find out whether `compare` will work before there is anything to compare.

    Raises:
        InputError: more texts than `MAX_COMPARED`, or the tokenizer is not installed.
    """
    if num_texts > MAX_COMPARED:
        raise InputError(
            f"{num_texts:,} pairs are more than the bootstrap can hold in memory: give {MAX_COMPARED:,} at most"
        )
    _bleu(tokenizer)


def _estimates(results: Sequence[Any]) -> list[Estimate]:
    """Return sacrebleu's results of one metric, the first system's in front."""
    baseline, *others = results
    estimates = [Estimate(score=float(baseline.score), interval=float(baseline.ci), difference=None, p_value=None)]
    for found in others:
        difference = float(found.score - baseline.score)
        # Of equal systems sacrebleu says that their difference, nothing, is significant.
        p_value = float(found.p_value) if difference else None
        estimates.append(
            Estimate(score=float(found.score), interval=float(found.ci), difference=difference, p_value=p_value)
        )
    return estimates


def _require_pairs(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    """Sacrebleu would leave out what is too many of one of them."""
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} translations cannot be scored against {len(references)} references")


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


def _bleu(tokenizer: str) -> Any:
    from sacrebleu.metrics import BLEU

    try:
        # Its warning of texts that look tokenized, which captions may, tells how to call Python.
        return BLEU(tokenize=tokenizer, force=True)
    except RuntimeError as error:
        raise InputError(
            f"BLEU's tokenizer {tokenizer} is missing: pip install 'sacrebleu[{tokenizer[:2]}]', or choose another"
        ) from error


EXPECTED = "UTF-8 lines of source<TAB>reference"
MAX_NAMED_LINES = 5
NUM_WARM_UP = 8

Pair = tuple[str, str]


def read_test_pairs(path: Path) -> list[Pair]:
    """Return pairs of (source, reference), one a line, as `mt train` reads them; plain or gzipped.

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
    """Return why a line is no pair, or "" if it is one."""
    if line.trouble is not None:
        return line.trouble.detail
    if fields == [""]:
        return "it is blank"
    if len(fields) != 2:
        return f"{len(fields)} fields instead of a source, one tab and a reference"
    return "" if all(fields) else f"the {'reference' if fields[0] else 'source'} is empty"


def read_translations(path: Path, *, num_lines: int) -> list[Translation]:
    """Return translations from a file, plain or gzipped, one a line; a blank line is an empty one.

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
class System:
    """A system that `--system` names: an engine's settings, or a file of translations."""

    name: str
    engine: TranslateConfig | None = None
    output: Path | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Translations that a system made of the sources; no speed where it was not measured, no fingerprint of a file."""

    system: System
    translations: list[Translation]
    speed: Speed | None = None
    fingerprint: str | None = None

    @property
    def texts(self) -> list[str]:
        """Return the translations, each in one line."""
        return [" ".join(found.text.splitlines()) for found in self.translations]

    @property
    def num_flagged(self) -> int | None:
        """Translations that the engine itself calls cut off or looping; None of a file, which tells nothing."""
        if self.system.engine is None:
            return None
        return sum(found.truncated or found.repetitive for found in self.translations)

    @property
    def mean_score(self) -> float | None:
        """Mean log-probability a token, over captions; None where the engine tells none."""
        scores = [found.score for found in self.translations if found.score is not None]
        return mean(scores) if scores else None


def run_systems(systems: Sequence[System], engines: Mapping[str, Translator], sources: Sequence[str]) -> list[Run]:
    """Return every system's translations of the sources, in order; files are read before any engine translates.

    Args:
        systems: to be compared.
        engines: those that are engines, open, by their name.
        sources: captions.

    Raises:
        InputError: a file cannot be used.
        TransientError: an engine cannot work just now.
    """
    ready = {
        system.name: Run(system=system, translations=read_translations(system.output, num_lines=len(sources)))
        for system in systems
        if system.output is not None
    }
    return [ready.get(system.name) or _translated(system, engines[system.name], sources) for system in systems]


def _translated(system: System, engine: Translator, sources: Sequence[str]) -> Run:
    """Translate with an engine, and measure that once a few were translated already; a paid one is not measured."""
    speed = None
    with Progress(f"translate with {system.name}", total=len(sources), unit="captions") as progress:
        if not is_paid(engine):
            engine.translate(sources[:NUM_WARM_UP])
        started, times = time.perf_counter(), os.times()
        found = list(translate_stream(engine, sources, progress.advance))
        seconds, ended = time.perf_counter() - started, os.times()
    if not is_paid(engine):
        speed = Speed(
            seconds=seconds,
            # The first four: of this process, and of its children that have ended.
            cpu_seconds=sum(ended[:4]) - sum(times[:4]),
            captions_per_second=len(sources) / seconds,
            words_per_second=sum(len(source.split()) for source in sources) / seconds,
        )
    return Run(system=system, translations=found, speed=speed, fingerprint=engine.fingerprint)


def quality_rows(runs: Sequence[Run], comparison: Comparison) -> list[dict[str, object]]:
    """Return a row a system: BLEU and chrF, each with half of its 95 % interval, and beside the first system's."""

    def score(estimate: Estimate) -> str:
        return f"{estimate.score:6.2f} ± {estimate.interval:.2f}"

    def difference(estimate: Estimate) -> str:
        if estimate.difference is None:
            return ""
        p_value = "" if estimate.p_value is None else f" (p {estimate.p_value:.3f})"
        return f"{estimate.difference:+6.2f}{p_value}"

    first = runs[0].system.name
    rows: list[dict[str, object]] = []
    for name in (run.system.name for run in runs):
        bleu, chrf = comparison.bleu[name], comparison.chrf[name]
        rows.append({"system": name, "BLEU": score(bleu), "chrF": score(chrf)})
        if len(runs) > 1:
            rows[-1] |= {f"BLEU beside {first}": difference(bleu), f"chrF beside {first}": difference(chrf)}
    return rows


def effort_rows(runs: Sequence[Run]) -> list[dict[str, object]]:
    """Return a row a system: its speed, what it flags and how sure it is; None where that is not known."""
    return [
        {
            "system": run.system.name,
            "captions/s": round(run.speed.captions_per_second, 1) if run.speed else None,
            "words/s": round(run.speed.words_per_second) if run.speed else None,
            "CPU ms a caption": round(1000 * run.speed.cpu_seconds / len(run.translations), 2) if run.speed else None,
            "flagged": run.num_flagged,
            "mean score": None if run.mean_score is None else round(run.mean_score, 3),
        }
        for run in runs
    ]


def run_json(run: Run, comparison: Comparison) -> dict[str, Any]:
    """Return all that is known of a run, as JSON values."""
    system = run.system
    return {
        "name": system.name,
        "settings": None if system.engine is None else json_values(system.engine),
        "output": None if system.output is None else str(system.output),
        "fingerprint": run.fingerprint,
        "bleu": asdict(comparison.bleu[system.name]),
        "chrf": asdict(comparison.chrf[system.name]),
        "speed": None if run.speed is None else asdict(run.speed),
        "num_flagged": run.num_flagged,
        "mean_score": run.mean_score,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A caption that two systems translate with unlike success: its place, from 0, and the chrF of both."""

    place: int
    first_chrf: float
    second_chrf: float


def largest_differences(
    first: Sequence[str], second: Sequence[str], references: Sequence[str], *, most: int
) -> list[Disagreement]:
    """Return where the chrF of two systems' captions differs most, largest difference first; none where it is equal."""
    scored = [
        Disagreement(place=place, first_chrf=sentence_chrf(one, reference), second_chrf=sentence_chrf(other, reference))
        for place, (one, other, reference) in enumerate(zip(first, second, references, strict=True))
        if one != other
    ]
    differing = [found for found in scored if found.first_chrf != found.second_chrf]
    return sorted(differing, key=lambda found: -abs(found.first_chrf - found.second_chrf))[:most]
