"""Translation systems as `--system` names them, engines or files of translations: opened, and run on captions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from data_catalog.errors import PipelineError, SettingsError
from data_catalog.progress import Progress
from flows.recipe.engines import is_paid, one_way_config, packs_of, remembering, route_codes, setting_values
from translation.config import TranslateConfig
from translation.engine import Translation, Translator, translate_stream
from translation.evaluate import Speed, read_translations, translate_timed
from translation.registry import open_translator

MAX_NAME_LETTERS = 60  # of four bytes at most, in the name of a file
_NAME = re.compile(rf"\w[\w.+-]{{0,{MAX_NAME_LETTERS - 1}}}")
_OUTPUT = "output="


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system that `--system` names: an engine's settings, or a file of translations."""

    name: str
    engine: TranslateConfig | None = None
    output: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """From which language into which systems translate.

    Args:
        from_code: of the captions.
        to_code: of the translations.
        language_packs: files of packs of the user's.
        memory: folder that keeps what a paid engine translates.
    """

    from_code: str
    to_code: str
    language_packs: Sequence[str] = ()
    memory: Path | None = None


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


def named_systems(named: Sequence[Sequence[str]]) -> list[System]:
    """Systems as `--system NAME KEY=VALUE ...` names them.

    Raises:
        SettingsError: a name is missing, unfit for a file or given twice; settings are missing, wrong or none of ours.
    """
    systems = [_system(name, words) for name, *words in named]
    names: dict[str, str] = {}
    for system in systems:
        key = system.name.casefold()  # some disks tell no capitals from small letters
        if key in names:
            raise SettingsError(f"--system {system.name}: {names[key]} is there already: name one of them otherwise")
        names[key] = system.name
    return systems


def _system(name: str, words: Sequence[str]) -> System:
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"--system {name}: a system's name comes first, of up to {MAX_NAME_LETTERS} letters, digits, '.', '+', '-' "
            "and '_', as in --system mine package=FILE"
        )
    _check_words(name, words)
    outputs = [word.removeprefix(_OUTPUT) for word in words if word.startswith(_OUTPUT)]
    if outputs and len(words) > 1:
        raise SettingsError(f"--system {name}: {_OUTPUT}FILE stands alone; its translations are there already")
    if outputs:
        return System(name=name, output=Path(outputs[0]))
    try:
        return System(name=name, engine=one_way_config(setting_values(words)))
    except PipelineError as error:
        raise type(error)(f"--system {name}: {error}") from error


def _check_words(name: str, words: Sequence[str]) -> None:
    if not words:
        raise SettingsError(f"--system {name} says nothing of it: give engine=argos for the package that is installed")
    for word in words:
        _, equals, value = word.partition("=")
        if not equals:
            raise SettingsError(
                f"--system {name}: {word} is no KEY=VALUE, such as package=FILE; PAIRS.tsv stands before the options"
            )
        if not value:
            raise SettingsError(f"--system {name}: {word} names nothing: write its value behind the =")


def run_systems(systems: Sequence[System], sources: Sequence[str], route: Route, *, cache_dir: Path) -> list[Run]:
    """Every system's translations of the sources, in order.

    Args:
        systems: as `named_systems` gives them.
        sources: captions in the language `route.from_code`.
        route: from which language into which.
        cache_dir: where packed models are unpacked.

    Raises:
        PipelineError: an engine or a file cannot be used; all are opened before any translates.
        TransientError: an engine cannot work just now.
    """
    engines = _opened(systems, route, cache_dir)
    ready = {
        system.name: Run(system=system, translations=read_translations(system.output, num_lines=len(sources)))
        for system in systems
        if system.output is not None
    }
    return [ready.get(system.name) or _translated(system, engines[system.name], sources) for system in systems]


def _opened(systems: Sequence[System], asked: Route, cache_dir: Path) -> dict[str, Translator]:
    """Return engines by the name of their system."""
    routes = {
        system.name: route_codes(asked.from_code, system.engine, asked.to_code)
        for system in systems
        if system.engine is not None
    }
    ends = route_codes(asked.from_code, TranslateConfig(), asked.to_code)
    packs = packs_of([*ends, *(code for codes in routes.values() for code in codes)], asked.language_packs)
    engines = {}
    for system in systems:
        if system.engine is None:
            continue
        route = [packs[code] for code in routes[system.name]]
        try:
            engine = open_translator(system.engine, route, cache_dir=cache_dir)
        except PipelineError as error:
            raise type(error)(f"--system {system.name}: {error}") from error
        # What is not paid for is never taken from a memory: its speed is asked for.
        engines[system.name] = remembering(engine, asked.memory) if is_paid(engine) else engine
    return engines


def _translated(system: System, engine: Translator, sources: Sequence[str]) -> Run:
    with Progress(f"translate with {system.name}", total=len(sources), unit="captions") as progress:
        if is_paid(engine):
            found, speed = list(translate_stream(engine, sources, progress.advance)), None
        else:
            found, speed = translate_timed(engine, sources, progress.advance)
    return Run(system=system, translations=found, speed=speed, fingerprint=engine.fingerprint)
