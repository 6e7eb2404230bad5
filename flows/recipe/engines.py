"""Which translation engine a recipe needs, opened before work starts."""

import logging
from pathlib import Path

from data_catalog.errors import ConfigError
from data_catalog.language_pack import LanguagePack
from flows.recipe.language_packs import language_pack, named_language_packs, target_language_pack
from flows.recipe.recipe import Recipe
from translation.engine import Translator
from translation.registry import open_translator, reverse

logger = logging.getLogger(__name__)


def open_engine(recipe: Recipe, root: Path) -> Translator | None:
    """The engine that translates the recipe's foreign captions, or None where there are none that it could translate.

    Rows in a third language are rejected with a reason, later, one by one.

    Raises:
        ConfigError: a source is in another language, and no package for it is named or installed.
    """
    languages = [source.kind.languages(source.config) for source in recipe.sources]
    known = {language for found in languages if found is not None for language in found}
    if recipe.source_language == recipe.target_language:
        return None
    if recipe.source_language in known:
        return _open(recipe, root)
    if None not in languages:
        return None
    named = recipe.translate.package or recipe.translate.engine != "argos"
    return _open(recipe, root) if named else _open_if_installed(recipe, root)


def open_reverse_engine(recipe: Recipe, root: Path) -> Translator | None:
    """The engine for the way back, if the recipe asks for round trips.

    Raises:
        ConfigError: it cannot be opened.
    """
    if not recipe.translate.round_trip:
        return None
    route = list(reversed(_route(recipe)))
    return open_translator(reverse(recipe.translate), route, cache_dir=root / "packages")


def _open(recipe: Recipe, root: Path) -> Translator:
    return open_translator(recipe.translate, _route(recipe), cache_dir=root / "packages")


def _route(recipe: Recipe) -> list[LanguagePack]:
    """Language packs from the source language to the target, by way of the pivot if there is one."""
    named = named_language_packs(recipe)
    languages = [recipe.source_language, recipe.translate.pivot]
    passed = [language_pack(language, named) for language in languages if language]
    return [*passed, target_language_pack(recipe, named)]


def _open_if_installed(recipe: Recipe, root: Path) -> Translator | None:
    """For sources whose rows say their language themselves: foreign rows may never come."""
    try:
        return _open(recipe, root)
    except ConfigError as error:
        logger.warning("rows in other languages than %s will be rejected: %s", recipe.target_language, error)
        return None
