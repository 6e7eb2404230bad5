"""Language packs in TOML: the built-in ones in `flows/languages`, and files that a recipe names."""

import logging
import tomllib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from cleaning.languages.identification import caption_language, detectable_code
from data_catalog.base.boundary import about
from data_catalog.base.errors import SettingsError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.rows.stages import Check
from flows.recipe.recipe import Recipe
from flows.recipe.settings import read

logger = logging.getLogger(__name__)

_SHIPPED = Path(__file__).parents[1] / "languages"


def available_language_packs() -> list[str]:
    """Return the sorted codes of the built-in language packs."""
    return sorted(path.stem for path in _SHIPPED.glob("*.toml"))


def load_language_packs() -> dict[str, LanguagePack]:
    """Return all built-in language packs, by code."""
    return {code: load_language_pack(code) for code in available_language_packs()}


def language_packs_of(files: Sequence[str]) -> dict[str, LanguagePack]:
    """Return the language packs in the user's files, by code, of which no two may be for the same language."""
    packs: dict[str, LanguagePack] = {}
    places: dict[str, str] = {}
    for file in dict.fromkeys(files):
        pack = load_language_pack(file)
        if pack.code in packs:
            raise SettingsError(f"{places[pack.code]} and {file} are both language packs for {pack.code}: keep one")
        packs[pack.code], places[pack.code] = pack, file
    return packs


def named_language_packs(recipe: Recipe) -> dict[str, LanguagePack]:
    """Return the language packs in the files that a recipe names, by code."""
    target = recipe.language_pack
    if target and (code := load_language_pack(target).code) != recipe.target_language:
        raise SettingsError(
            f"the language pack {str(target)!r} is for the language {code!r}, but target_language is "
            f"{recipe.target_language!r}: correct one of them, or name packs of other languages in language_packs"
        )
    return language_packs_of([*([target] if target else []), *recipe.language_packs])


def target_language_pack(recipe: Recipe, named: Mapping[str, LanguagePack]) -> LanguagePack:
    """Return the pack of a recipe's target language: the one that the recipe names, else the built-in one."""
    return named.get(recipe.target_language) or load_language_pack(recipe.target_language)


def language_pack(code: str, named: Mapping[str, LanguagePack] = MappingProxyType({})) -> LanguagePack:
    """Return the pack of a language: one of `named`, else the built-in one, else a minimal one with only its code."""
    if code in named:
        return named[code]
    return load_language_pack(code) if code in available_language_packs() else LanguagePack.minimal(code)


def load_language_pack(name: str) -> LanguagePack:
    """Return the built-in language pack of a code ("it"), or the pack in a file if the name ends in ".toml"."""
    if not name.endswith(".toml") and name not in available_language_packs():
        raise SettingsError(
            f"there is no language pack {name!r}: use one of {', '.join(available_language_packs())}, "
            'or write one and name its file in the recipe with language_pack = "xx.toml"'
        )
    path = Path(name) if name.endswith(".toml") else _SHIPPED / f"{name}.toml"
    with about(f"cannot read the language pack {path}"):
        return _parsed(path.read_text(encoding="utf-8-sig"), path)


@lru_cache(maxsize=16)
def _parsed(text: str, path: Path) -> LanguagePack:
    with about(f"the language pack {path} is not TOML"):
        values = tomllib.loads(text)
    values.pop("changes", None)  # words of earlier versions
    return read(LanguagePack, values, path.name)


def column_language(pack: LanguagePack) -> Check | None:
    """Return the check that texts are in the pack's language; None, with a warning, if it cannot be identified."""
    code = detectable_code(pack)
    if code is None:
        logger.warning("the language of pairs is not checked: no engine can identify %r", pack.code)
        return None
    return caption_language(code, confusions=pack.confusions)
