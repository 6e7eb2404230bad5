"""Translation engines: the one that a recipe needs, and those that the options of a command name."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_catalog.errors import DamagedError, InputError, SettingsError
from data_catalog.language_pack import LanguagePack, require_language
from flows.recipe.language_packs import language_pack, language_packs_of, named_language_packs, target_language_pack
from flows.recipe.recipe import Overrides, Recipe, override_values
from flows.recipe.settings import read
from translation.config import TranslateConfig
from translation.engine import Translator
from translation.engines.plugins import find_plugin
from translation.registry import open_translator, reverse

logger = logging.getLogger(__name__)


def open_engine(recipe: Recipe, root: Path) -> Translator | None:
    """Return the engine that translates the recipe's foreign captions; None where it could translate none.

    Rows in a third language are rejected with a reason, later, one by one.

    Raises:
        SettingsError: there is no such engine.
        InputError: a source is in another language, and no package for it is named or installed.
    """
    find_plugin(recipe.translate.engine)  # also where it will have nothing to do
    languages = [source.kind.languages(source.config) for source in recipe.sources]
    known = {language for found in languages if found is not None for language in found}
    if recipe.source_language == recipe.target_language or not (recipe.source_language in known or None in languages):
        return None
    try:
        return open_translator(recipe.translate, _route(recipe), cache_dir=root / "packages")
    except (DamagedError, InputError, SettingsError) as error:
        if recipe.source_language in known or recipe.translate.package or recipe.translate.engine != "argos":
            raise
        # The rows of some source say their language themselves: foreign ones may never come.
        logger.warning("rows in other languages than %s will be rejected: %s", recipe.target_language, error)
        return None


def open_reverse_engine(recipe: Recipe, root: Path) -> Translator | None:
    """The engine for the way back, if the recipe asks for round trips.

    Raises:
        InputError: it cannot be opened.
    """
    if not recipe.translate.round_trip:
        return None
    route = list(reversed(_route(recipe)))
    return open_translator(reverse(recipe.translate), route, cache_dir=root / "packages")


def open_recipes_engine(recipe: Recipe, root: Path) -> Translator:
    """Return the recipe's engine, whatever its sources are in.

    Raises:
        SettingsError: there is no such engine.
        InputError: it cannot be opened.
    """
    return open_translator(recipe.translate, _route(recipe), cache_dir=root / "packages")


def _route(recipe: Recipe) -> list[LanguagePack]:
    """Language packs from the source language to the target, by way of the pivot if there is one."""
    named = named_language_packs(recipe)
    languages = [recipe.source_language, recipe.translate.pivot]
    passed = [language_pack(language, named) for language in languages if language]
    return [*passed, target_language_pack(recipe, named)]


def setting_values(overrides: Overrides) -> dict[str, Any]:
    """Return overrides of an engine's settings as a table, not yet checked; "translate." before a key may be left out.

    Raises:
        SettingsError: a text is not `key=value`.
    """
    values = override_values(overrides)
    named = values.pop("translate", {})
    if not isinstance(named, Mapping):
        raise SettingsError(f"translate must be a table of settings, got {named!r}")
    return {**values, **named}


def one_way_config(values: Mapping[str, Any]) -> TranslateConfig:
    """Settings of an engine that translates one way.

    Raises:
        SettingsError: a setting is unknown or wrong, or is about the way back.
    """
    for name in values:
        if name == "round_trip" or name.startswith("reverse_"):
            raise SettingsError(f"translate.{name} is a setting of recipes: this command translates one way only")
    return read(TranslateConfig, values, "translate")


def route_codes(from_code: str, config: TranslateConfig, to_code: str) -> list[str]:
    """The languages that an engine passes, first and last as `--from` and `--to` name them.

    Raises:
        SettingsError: one is no code.
    """
    stops = {"--from": from_code, "translate.pivot": config.pivot, "--to": to_code}
    return [require_language(code, setting) for setting, code in stops.items() if code]


def packs_of(codes: Iterable[str], files: Sequence[str]) -> dict[str, LanguagePack]:
    """The language pack of each code: the one in `files`, else the one that ships, else one of nothing but its code.

    Raises:
        SettingsError: a file is no language pack, or is of none of these languages.
    """
    named = language_packs_of(files)
    passed = list(dict.fromkeys(codes))
    unused = sorted(named.keys() - set(passed))
    if unused:
        raise SettingsError(
            f"--language-pack is given for {', '.join(unused)}, but {' - '.join(passed)} is translated: correct the "
            "pack's code, or leave it out"
        )
    return {code: language_pack(code, named) for code in passed}
