"""Evaluate translation systems on parallel captions: read files, run engines with timing, compute scores and tables.

BLEU and chrF are computed by sacrebleu (Papineni et al., 2002; Popović, 2015; Post, 2018).
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError
from data_catalog.base.progress import Progress
from data_catalog.base.settings import json_values
from data_catalog.sources.files import Line, check_text_file, read_lines
from translation.config import TranslateConfig
from translation.engine import Translation, Translator, is_paid, translate_stream

DEFAULT_TOKENIZER = "13a"
# BLEU's tokenizers for languages without spaces between words. sacrebleu's own choice for Japanese and Korean needs
# MeCab and its dictionaries. It is used on request only, so that no score depends on installed software.
TOKENIZER_OF = {"zh": "zh", **dict.fromkeys(("ja", "ko", "th", "lo", "km", "my"), "char")}
NUM_RESAMPLES = 1_000
# sacrebleu keeps all resamples of a system in memory: chrF takes 72 bytes a pair in each, 1.4 GB in all.
MAX_COMPARED = 20_000
EXPECTED = "UTF-8 lines of source<TAB>reference"
MAX_NAMED_LINES = 5
NUM_WARM_UP = 8

Pair = tuple[str, str]


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str], to_code: str) -> float:
    """Return the BLEU of a corpus in the language `to_code`, 0 to 100, with one reference each."""
    _require_pairs(hypotheses, references)
    score: float = _bleu(bleu_tokenizer(to_code)).corpus_score(hypotheses, [references]).score
    return score


def corpus_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Return the chrF of a corpus, 0 to 100: the overlap of character n-grams, without spaces."""
    _require_pairs(hypotheses, references)
    score: float = _chrf().corpus_score(hypotheses, [references]).score
    return score


def sentence_chrf(hypothesis: str, reference: str) -> float:
    """Return the chrF of one text, 0 to 100."""
    score: float = _chrf().sentence_score(hypothesis, [reference]).score
    return score


def bleu_tokenizer(to_code: str) -> str:
    """Return the name of sacrebleu's tokenizer for the BLEU of a language."""
    return TOKENIZER_OF.get(to_code, DEFAULT_TOKENIZER)


class Estimate(NamedTuple):
    """A system's score with its confidence interval and its difference from the first system's score."""

    score: float  # 0 to 100
    interval: float  # half the width of the 95 % confidence interval, by bootstrap
    difference: float | None = None  # the score minus the first system's; None for the first system
    p_value: float | None = None  # of such a difference by chance, by paired bootstrap; None without a difference


class Comparison(NamedTuple):
    """BLEU and chrF of every system by its name, and sacrebleu's signatures, which state how they were computed."""

    bleu: dict[str, Estimate]
    chrf: dict[str, Estimate]
    signatures: tuple[str, ...]


def compare(systems: Mapping[str, Sequence[str]], references: Sequence[str], *, tokenizer: str) -> Comparison:
    """Score systems on the same texts, and compare each with the first, on the same 1,000 seeded resamples.

    `tokenizer` is the name of BLEU's tokenizer in sacrebleu.
    """
    for hypotheses in systems.values():
        _require_pairs(hypotheses, references)
    from sacrebleu.significance import PairedTest

    metrics = {"bleu": _bleu(tokenizer), "chrf": _chrf()}
    test = PairedTest(list(systems.items()), metrics, [references], test_type="bs", n_samples=NUM_RESAMPLES)
    signatures, results = test()
    names = results.pop("System")
    bleu, chrf = (dict(zip(names, _estimates(found), strict=True)) for found in results.values())
    return Comparison(bleu, chrf, tuple(f"{name}|{signature}" for name, signature in signatures.items()))


def check_comparable(num_texts: int, tokenizer: str) -> None:
    """Check before anything is translated that `compare` can work: enough memory, and the tokenizer is installed."""
    if num_texts > MAX_COMPARED:
        raise InputError(
            f"{num_texts:,} pairs are too many for the memory of the bootstrap: give at most {MAX_COMPARED:,}"
        )
    _bleu(tokenizer)


def _estimates(results: Sequence[Any]) -> Iterator[Estimate]:
    """Yield sacrebleu's results of one metric, the first system's first."""
    first, *others = results
    yield Estimate(float(first.score), float(first.ci))
    for found in others:
        difference = float(found.score - first.score)
        # For equal systems sacrebleu reports a significant difference of 0.
        yield Estimate(float(found.score), float(found.ci), difference, float(found.p_value) if difference else None)


def _require_pairs(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    """Check that there is one reference for each hypothesis; sacrebleu would silently ignore the surplus."""
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} translations cannot be scored against {len(references)} references")


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


def _bleu(tokenizer: str) -> Any:
    from sacrebleu.metrics import BLEU

    with about(f"BLEU's tokenizer {tokenizer} is not installed", remedy="install it, or choose another --tokenize"):
        # `force` disables a warning about texts that look tokenized, as captions may.
        return BLEU(tokenize=tokenizer, force=True)


def read_test_pairs(path: Path) -> list[Pair]:
    """Return pairs of (source, reference) from a plain or gzipped file, one in each line, in the format of `mt train`.

    No pair is left out, because scores of different pairs cannot be compared.
    """
    pairs, faults = [], []
    for line in _lines(path, EXPECTED):
        fields = [field.strip() for field in line.text.split("\t")]
        fault = line.trouble.detail if line.trouble else ""
        if not fault and (len(fields) != 2 or not all(fields)):
            fault = f"it has {sum(map(bool, fields))} texts instead of a source, one tab and a reference"
        if fault:
            faults.append(f"line {line.number}: {fault}")
        pairs.append((fields[0], fields[-1]))
    if faults:
        more = f"; and {len(faults) - MAX_NAMED_LINES:,} more" if len(faults) > MAX_NAMED_LINES else ""
        named = "; ".join(faults[:MAX_NAMED_LINES])
        raise InputError(f"{path} has lines that are not pairs. Correct or remove them: {named}{more}")
    return pairs


def _lines(path: Path, expected: str) -> Iterator[Line]:
    """Yield the lines of a plain or gzipped file; a pipe would lose its first ones to the check of its format."""
    if not path.is_file():
        raise InputError(f"{path} is not a file: give {expected}")
    check_text_file(path, expected=expected)
    yield from read_lines(path)


def read_translations(path: Path, *, num_lines: int) -> list[Translation]:
    """Return translations from a plain or gzipped file of `num_lines` lines; a blank line is an empty translation."""
    texts = []
    for line in _lines(path, "translations, one a line"):
        fault = line.trouble.detail if line.trouble else "it contains a tab" if "\t" in line.text else ""
        if fault:
            raise InputError(f"{path}, line {line.number}: {fault}: a line must contain only the translation")
        texts.append(line.text.strip())
    if len(texts) != num_lines:
        raise InputError(f"{path} has {len(texts):,} lines, but there are {num_lines:,} pairs: give one line for each")
    return [Translation(text=text) for text in texts]


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system that `--system` names: the settings of an engine, or a file of translations."""

    name: str
    engine: TranslateConfig | None = None
    output: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A system's translations of the sources, with the fingerprint and the speed of an engine.

    The speed has wall-clock seconds, CPU seconds of all threads and child processes, and captions and source words per
    second, without the loading of the model. A paid engine's is not measured.
    """

    system: System
    translations: list[Translation]
    speed: Mapping[str, float] | None = None
    fingerprint: str | None = None

    @property
    def texts(self) -> list[str]:
        """Return the translations, each in one line."""
        return [" ".join(found.text.splitlines()) for found in self.translations]

    @property
    def num_flagged(self) -> int | None:
        """Return how many translations the engine marks as truncated or repetitive; None for a file."""
        if self.system.engine is None:
            return None
        return sum(found.truncated or found.repetitive for found in self.translations)

    @property
    def mean_score(self) -> float | None:
        """Return the mean over captions of the log-probability per token; None if the engine returns no scores."""
        scores = [found.score for found in self.translations if found.score is not None]
        return mean(scores) if scores else None


def run_systems(systems: Sequence[System], engines: Mapping[str, Translator], sources: Sequence[str]) -> list[Run]:
    """Return every system's translations of the sources, in order; files are read before any engine translates.

    `engines` are the open engines, by system name.
    """
    ready = {
        system.name: Run(system=system, translations=read_translations(system.output, num_lines=len(sources)))
        for system in systems
        if system.output is not None
    }
    return [ready.get(system.name) or _translated(system, engines[system.name], sources) for system in systems]


def _translated(system: System, engine: Translator, sources: Sequence[str]) -> Run:
    """Translate with an engine, and measure the speed after a warm-up; a paid engine is not measured."""
    with Progress(f"translate with {system.name}", total=len(sources), unit="captions") as progress:
        if not is_paid(engine):
            engine.translate(sources[:NUM_WARM_UP])
        started, times = time.perf_counter(), os.times()
        found = list(translate_stream(engine, sources, progress.advance))
        seconds, ended = time.perf_counter() - started, os.times()
    speed = {
        "seconds": seconds,
        "cpu_seconds": sum(ended[:4]) - sum(times[:4]),  # of this process and of its ended children
        "captions_per_second": len(sources) / seconds,
        "words_per_second": sum(len(source.split()) for source in sources) / seconds,
    }
    measured = None if is_paid(engine) else speed
    return Run(system=system, translations=found, speed=measured, fingerprint=engine.fingerprint)


def quality_rows(runs: Sequence[Run], comparison: Comparison) -> list[dict[str, object]]:
    """Return one row for each system: BLEU and chrF with half their 95 % intervals, and differences from the first."""

    def difference(estimate: Estimate) -> str:
        if estimate.difference is None:
            return ""
        p_value = "" if estimate.p_value is None else f" (p {estimate.p_value:.3f})"
        return f"{estimate.difference:+6.2f}{p_value}"

    first = runs[0].system.name
    rows: list[dict[str, object]] = []
    for name in (run.system.name for run in runs):
        found = {"BLEU": comparison.bleu[name], "chrF": comparison.chrf[name]}
        rows.append({"system": name, **{metric: f"{e.score:6.2f} ± {e.interval:.2f}" for metric, e in found.items()}})
        if len(runs) > 1:
            rows[-1] |= {f"{metric} vs {first}": difference(estimate) for metric, estimate in found.items()}
    return rows


def effort_rows(runs: Sequence[Run]) -> list[dict[str, object]]:
    """Return one row for each system: speed, flagged translations and mean score; None for an unknown value."""
    return [
        {
            "system": run.system.name,
            "captions/s": round(run.speed["captions_per_second"], 1) if run.speed else None,
            "words/s": round(run.speed["words_per_second"]) if run.speed else None,
            "CPU ms a caption": round(1000 * run.speed["cpu_seconds"] / len(run.texts), 2) if run.speed else None,
            "flagged": run.num_flagged,
            "mean score": None if run.mean_score is None else round(run.mean_score, 3),
        }
        for run in runs
    ]


def run_json(run: Run, comparison: Comparison) -> dict[str, Any]:
    """Return all facts of a run as JSON values."""
    system = run.system
    return {
        "name": system.name,
        "settings": None if system.engine is None else json_values(system.engine),
        "output": None if system.output is None else str(system.output),
        "fingerprint": run.fingerprint,
        "bleu": comparison.bleu[system.name]._asdict(),
        "chrf": comparison.chrf[system.name]._asdict(),
        "speed": run.speed,
        "num_flagged": run.num_flagged,
        "mean_score": run.mean_score,
    }


class Disagreement(NamedTuple):
    """A caption with different chrF in two systems: its index from 0, and the chrF of both."""

    place: int
    first_chrf: float
    second_chrf: float


def largest_differences(
    first: Sequence[str], second: Sequence[str], references: Sequence[str], *, most: int
) -> list[Disagreement]:
    """Return the captions whose chrF differs most between two systems, largest first; equal ones are left out."""
    scored = [
        Disagreement(place, sentence_chrf(one, reference), sentence_chrf(other, reference))
        for place, (one, other, reference) in enumerate(zip(first, second, references, strict=True))
        if one != other
    ]
    differing = [found for found in scored if found.first_chrf != found.second_chrf]
    return sorted(differing, key=lambda found: -abs(found.first_chrf - found.second_chrf))[:most]
