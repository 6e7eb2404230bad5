"""Translation engines of recipes and of the options of commands."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from data_catalog.base.errors import DamagedError, InputError, SettingsError
from data_catalog.base.language_pack import LanguagePack, require_language
from flows.recipe.language_packs import language_pack, language_packs_of, named_language_packs, target_language_pack
from flows.recipe.recipe import Overrides, Recipe, override_values
from flows.recipe.settings import read
from translation.config import TranslateConfig
from translation.engine import Translator
from translation.engines.registry import open_translator, reverse
from translation.memory import with_memory
from translation.packages.package import default_packages_dir, find, require_there

logger = logging.getLogger(__name__)


def open_engine(recipe: Recipe, root: Path) -> Translator | None:
    """Return the engine that translates the recipe's captions, or None if there is nothing that it could translate.

    Rows in a third language are rejected later, with a reason for each.
    """
    needs = _needs_engine(recipe)
    if needs is False:
        return None
    try:
        return open_translator(recipe.translate, engine_route(recipe), cache_dir=root / "packages")
    except (DamagedError, InputError, SettingsError) as error:
        if needs or recipe.translate.package or recipe.translate.engine != "argos":
            raise
        # Each row of some source states its language, so there may be no row that needs the engine.
        logger.warning("rows in languages other than %s will be rejected: %s", recipe.target_language, error)
        return None


def require_packages(recipe: Recipe) -> None:
    """Refuse a recipe whose Argos packages are missing, without opening them; other engines are not looked at."""
    config, needs = recipe.translate, _needs_engine(recipe)
    if config.engine != "argos" or needs is False:
        return
    for name in config.package:
        require_there(Path(name).expanduser())
    if needs and not config.package:
        for source, target in pairwise(engine_route(recipe)):
            find(source.argos or source.code, target.argos or target.code, default_packages_dir())


def _needs_engine(recipe: Recipe) -> bool | None:
    """Return whether captions need the engine; None if only the rows of a source say in which language they are."""
    if recipe.source_language == recipe.target_language:
        return False
    languages = [source.kind.languages(source.config) for source in recipe.sources]
    if any(found is not None and recipe.source_language in found for found in languages):
        return True
    return None if None in languages else False


def open_reverse_engine(recipe: Recipe, root: Path) -> Translator | None:
    """Return the engine that translates back, or None if the recipe has no round trips."""
    if not recipe.translate.round_trip:
        return None
    route = list(reversed(engine_route(recipe)))
    return open_translator(reverse(recipe.translate), route, cache_dir=root / "packages")


def open_recipes_engine(recipe: Recipe, root: Path) -> Translator:
    """Return the recipe's engine, whatever the languages of its sources."""
    return open_translator(recipe.translate, engine_route(recipe), cache_dir=root / "packages")


def engine_route(recipe: Recipe) -> list[LanguagePack]:
    """Return the language packs of the source language, the pivot if there is one, and the target language."""
    named = named_language_packs(recipe)
    languages = [recipe.source_language, recipe.translate.pivot]
    passed = [language_pack(language, named) for language in languages if language]
    return [*passed, target_language_pack(recipe, named)]


def setting_values(overrides: Overrides) -> dict[str, Any]:
    """Return overrides of an engine's settings as a table, not yet validated. Keys may begin with "translate."."""
    values = override_values(overrides)
    named = values.pop("translate", {})
    if not isinstance(named, Mapping):
        raise SettingsError(f"translate must be a table of settings, got {named!r}")
    return {**values, **named}


def one_way_config(values: Mapping[str, Any]) -> TranslateConfig:
    """Return validated settings of an engine that translates in one direction."""
    for name in values:
        if name == "round_trip" or name.startswith("reverse_"):
            raise SettingsError(f"translate.{name} can be set in recipes only: this command does not translate back")
    return read(TranslateConfig, values, "translate")


def open_one_way(
    values: Mapping[str, Any],
    from_code: str,
    to_code: str,
    *,
    language_packs: Sequence[str],
    memory: Path | None,
    cache_dir: Path,
) -> Translator:
    """Return the engine that a command's settings of `[translate]` name, with its memory; packs are TOML files."""
    config = one_way_config(values)
    codes = route_codes(from_code, config, to_code)
    packs = packs_of(codes, language_packs)
    return with_memory(open_translator(config, [packs[code] for code in codes], cache_dir=cache_dir), memory)


def route_codes(from_code: str, config: TranslateConfig, to_code: str) -> list[str]:
    """Return the languages of a translation: `--from`, the pivot if there is one, and `--to`."""
    stops = {"--from": from_code, "translate.pivot": config.pivot, "--to": to_code}
    return [require_language(code, setting) for setting, code in stops.items() if code]


def packs_of(codes: Iterable[str], files: Sequence[str]) -> dict[str, LanguagePack]:
    """Return the language pack of each code: from `files`, else the built-in one, else a minimal one."""
    named = language_packs_of(files)
    needed = list(dict.fromkeys(codes))
    unused = sorted(named.keys() - set(needed))
    if unused:
        raise SettingsError(
            f"--language-pack is for {', '.join(unused)}, but the translation is {' - '.join(needed)}: correct the "
            "pack's code, or leave the pack out"
        )
    return {code: language_pack(code, named) for code in needed}
