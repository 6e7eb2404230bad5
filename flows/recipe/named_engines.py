"""Engines as the options of a command name them, without a recipe: settings, languages, and where results are kept."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.language_pack import LanguagePack
from flows.recipe.language_packs import language_pack, language_packs_of
from flows.recipe.recipe import override_values
from flows.recipe.settings import build
from translation.config import TranslateConfig
from translation.engine import Translator
from translation.memory import TranslationMemory
from translation.remembered import RememberingTranslator


def setting_values(overrides: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE texts, whose keys may be a recipe's, such as "translate.beam_size", as a table that is not yet checked.

    Raises:
        ConfigError: a text is not of that form.
    """
    return override_values([override.removeprefix("translate.") for override in overrides])


def one_way_config(values: Mapping[str, Any]) -> TranslateConfig:
    """Settings of an engine that translates one way.

    Raises:
        ConfigError: a setting is unknown or wrong, or is about the way back.
    """
    for name in values:
        if name == "round_trip" or name.startswith("reverse_"):
            raise ConfigError(f"translate.{name} is a setting of recipes: this command translates one way only")
    return build(TranslateConfig, values, "translate")


def route_codes(from_code: str, config: TranslateConfig, to_code: str) -> list[str]:
    """The languages that an engine passes, first and last as `--from` and `--to` name them.

    Raises:
        ConfigError: one is no code.
    """
    stops = {"--from": from_code, "translate.pivot": config.pivot, "--to": to_code}
    return [_checked_code(code, setting) for setting, code in stops.items() if code]


def _checked_code(code: str, setting: str) -> str:
    try:
        return LanguagePack.minimal(code).code
    except ConfigError as error:
        raise ConfigError(f"{setting} {code} names no language: {error}") from error


def packs_of(codes: Iterable[str], files: Sequence[str]) -> dict[str, LanguagePack]:
    """The language pack of each code: the one in `files`, else the one that ships, else one of nothing but its code.

    Raises:
        ConfigError: a file is no language pack, or is of none of these languages.
    """
    named = language_packs_of(files)
    passed = list(dict.fromkeys(codes))
    unused = sorted(named.keys() - set(passed))
    if unused:
        raise ConfigError(
            f"--language-pack is given for {', '.join(unused)}, but {' - '.join(passed)} is translated: correct the "
            "pack's code, or leave it out"
        )
    return {code: language_pack(code, named) for code in passed}


def is_paid(engine: Translator) -> bool:
    """Whether what it translates is lost money if the run stops before it is kept."""
    return engine.max_chunk_size is not None


def remembering(engine: Translator, memory: Path | None) -> Translator:
    """The engine, asked only for what the folder `memory` does not hold; without one, the engine itself.

    Raises:
        ConfigError: a paid engine without a memory, or a folder that cannot be written to.
    """
    if memory is None and is_paid(engine):
        name = engine.fingerprint.partition(":")[0]
        raise ConfigError(
            f"what {name} translates is paid for, and lost if the run stops: give --memory DIR, which keeps it"
        )
    if memory is None:
        return engine
    make_folder(memory, "--memory")
    return RememberingTranslator(engine, TranslationMemory(memory, engine.fingerprint))


def make_folder(folder: Path, option: str) -> None:
    """Make a folder for results before the work that gives them.

    Raises:
        ConfigError: it cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option} {folder} is no folder and cannot be made one: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {folder} is a folder that may not be written to: name another")
