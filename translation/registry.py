"""Which engine translates: picked by name, one a pair of languages, with a pivot where the settings say so."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from data_catalog.language_pack import LanguagePack
from translation import argos, deepl_engine
from translation.config import TranslateConfig
from translation.engine import Translator

Opener = Callable[[TranslateConfig, LanguagePack, LanguagePack, Path], Translator]

OPENERS: dict[str, Opener] = {
    "argos": argos.open_engine,
    "deepl": deepl_engine.open_engine,
}


def open_translator(config: TranslateConfig, route: Sequence[LanguagePack], *, cache_dir: Path) -> Translator:
    """The engine from the route's first language to its last; models are loaded at the first translation.

    Args:
        route: packs of the source language, of the pivot's if `config.pivot` names one, and of the target language.
        cache_dir: where packed models are unpacked; it may be removed at any time between runs.

    Raises:
        ConfigError: no model, a damaged one, or one for another pair; no key, no command.
    """
    legs = [
        OPENERS[config.engine](_of_leg(config, number), source, target, cache_dir)
        for number, (source, target) in enumerate(pairwise(route))
    ]
    (leg,) = legs
    return leg


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
