"""Translation systems side by side: run on the same captions, and their quality and effort as tables and JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from data_catalog.progress import Progress
from data_catalog.settings import plain
from translation.config import TranslateConfig
from translation.engine import Translation, Translator, is_paid, translate_stream
from translation.evaluate import Speed, read_translations, translate_timed
from translation.scores import Comparison, Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system that `--system` names: an engine's settings, or a file of translations."""

    name: str
    engine: TranslateConfig | None = None
    output: Path | None = None


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
    with Progress(f"translate with {system.name}", total=len(sources), unit="captions") as progress:
        if is_paid(engine):
            found, speed = list(translate_stream(engine, sources, progress.advance)), None
        else:
            found, speed = translate_timed(engine, sources, progress.advance)
    return Run(system=system, translations=found, speed=speed, fingerprint=engine.fingerprint)


def quality_rows(runs: Sequence[Run], comparison: Comparison) -> list[dict[str, object]]:
    """Return a row a system: BLEU and chrF, each with half of its 95 % interval, and beside the first system's."""
    first = runs[0].system.name
    rows: list[dict[str, object]] = []
    for name in (run.system.name for run in runs):
        bleu, chrf = comparison.bleu[name], comparison.chrf[name]
        rows.append({"system": name, "BLEU": _score(bleu), "chrF": _score(chrf)})
        if len(runs) > 1:
            rows[-1] |= {f"BLEU beside {first}": _difference(bleu), f"chrF beside {first}": _difference(chrf)}
    return rows


def _score(estimate: Estimate) -> str:
    return f"{estimate.score:6.2f} ± {estimate.interval:.2f}"


def _difference(estimate: Estimate) -> str:
    if estimate.difference is None:
        return ""
    p_value = "" if estimate.p_value is None else f" (p {estimate.p_value:.3f})"
    return f"{estimate.difference:+6.2f}{p_value}"


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
        "settings": None if system.engine is None else plain(system.engine),
        "output": None if system.output is None else str(system.output),
        "fingerprint": run.fingerprint,
        "bleu": asdict(comparison.bleu[system.name]),
        "chrf": asdict(comparison.chrf[system.name]),
        "speed": None if run.speed is None else asdict(run.speed),
        "num_flagged": run.num_flagged,
        "mean_score": run.mean_score,
    }
