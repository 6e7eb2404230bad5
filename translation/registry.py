"""Which engine translates: picked by name, one a pair of languages, with a pivot where the settings say so."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from pathlib import Path

from data_catalog.errors import SettingsError
from data_catalog.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engine import Translator
from translation.engines import apertium, argos, command, converted, deepl_engine, transformers_model
from translation.engines.pivot import PivotTranslator
from translation.engines.plugins import find_announcement, open_plugin

Opener = Callable[[TranslateConfig, LanguagePack, LanguagePack, Path], Translator]

# Ours, in the order of `config.ENGINES`; packages add theirs by entry points.
OPENERS: dict[str, Opener] = {
    "argos": argos.open_engine,
    "ctranslate2": converted.open_engine,
    "transformers": transformers_model.open_engine,
    "deepl": deepl_engine.open_engine,
    "apertium": apertium.open_engine,
    "command": command.open_engine,
}


def open_translator(config: TranslateConfig, route: Sequence[LanguagePack], *, cache_dir: Path) -> Translator:
    """The engine from the route's first language to its last; models are loaded at the first translation.

    Args:
        route: packs of the source language, of the pivot's if `config.pivot` names one, and of the target language.
        cache_dir: where packed models are unpacked; it may be removed at any time between runs.

    Raises:
        SettingsError: no such engine; no key; a route that goes elsewhere than by way of the pivot.
        InputError: no model, a damaged one, or one for another pair; no command; a package whose engine does not work.
        DamagedError: a package that is not as it was installed or unpacked.
    """
    codes = [pack.code for pack in route]
    between = [config.pivot] if config.pivot else []
    if codes[1:-1] != between or len(codes) < 2:
        shown = " - ".join(codes)
        raise SettingsError(f"the route {shown} does not fit translate.pivot, which is {config.pivot!r}")
    opener = _opener(config.engine)
    legs = [
        opener(_of_leg(config, number), source, target, cache_dir)
        for number, (source, target) in enumerate(pairwise(route))
    ]
    return reduce(PivotTranslator, legs)


def _opener(engine: str) -> Opener:
    announcement = find_announcement(engine)
    if announcement is None:
        return OPENERS[engine]
    return lambda config, source, target, _: open_plugin(announcement, config, source, target)


def reverse(config: TranslateConfig) -> TranslateConfig:
    """The settings of the way back."""
    return replace(
        config,
        package=config.reverse_package,
        model=config.reverse_model,
        round_trip=False,
        reverse_package=(),
        reverse_model=(),
    )


def _of_leg(config: TranslateConfig, number: int) -> TranslateConfig:
    """The settings of one leg: its own model, if models are named, and no pivot."""
    return replace(
        config,
        package=config.package[number : number + 1],
        model=config.model[number : number + 1],
        pivot="",
        round_trip=False,
        reverse_package=(),
        reverse_model=(),
    )
