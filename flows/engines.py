"""Which translation engine a recipe needs, opened before work starts."""

import logging
from pathlib import Path

from data_catalog.errors import ConfigError
from flows.recipe import Recipe
from translation.argos import open_translator
from translation.engine import Translator

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
    return _open_if_installed(recipe, root) if recipe.translate.package is None else _open(recipe, root)


def _open(recipe: Recipe, root: Path) -> Translator:
    return open_translator(
        recipe.translate, recipe.source_language, recipe.target_language, cache_dir=root / "packages"
    )


def _open_if_installed(recipe: Recipe, root: Path) -> Translator | None:
    """For sources whose rows say their language themselves: foreign rows may never come."""
    try:
        return _open(recipe, root)
    except ConfigError as error:
        logger.warning("rows in other languages than %s will be rejected: %s", recipe.target_language, error)
        return None
