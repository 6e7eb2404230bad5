"""A recipe: everything that one run needs, read from TOML, with --set overrides, into validated dataclasses."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from cleaning.checks import CheckConfig, CleanConfig
from cleaning.duplicates.captions import RepeatsConfig
from cleaning.duplicates.images import DuplicatesConfig
from cleaning.leaks import LeaksConfig
from data_catalog.errors import InputError, SettingsError
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.consent import ConsentConfig
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.publish import UPSTREAM, SplitConfig
from data_catalog.sample.config import ScenesConfig, ServeConfig
from data_catalog.settings import how, what
from flows.recipe.settings import build, coerce, unknown_key
from flows.recipe.sources import (
    SourceSettings,
    TestSetSettings,
    read_sources,
    read_test_sets,
    source_settings,
    test_set_settings,
)
from training.config import EvaluateConfig, TrainConfig
from translation.config import TranslateConfig

DEFAULT_ROOT = Path("catalog")

# The parts of a setting's path; one that holds dots, such as a host's name, stands in quotes.
_KEYS = re.compile(r'"[^"]+"|[^."]+')


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """How a dataset is cut into shards and worked on.

    Args:
        shard_size: samples a shard, about.
        workers: steps that run at the same time on the processor.
        fetch_workers: shards whose images are fetched at the same time, from many hosts; each slow host that a source
            has all its images on is asked beside them.
        dask_address: scheduler of the Dask cluster that does the steps with `--executor dask`, such as
            tcp://10.0.0.5:8786; none: as many processes of this machine as there are workers.
    """

    shard_size: int = 5_000
    workers: int = how(4)
    fetch_workers: int = how(2)
    dask_address: str | None = how(None)

    def __post_init__(self) -> None:
        for name in ("shard_size", "workers", "fetch_workers"):
            if getattr(self, name) < 1:
                raise SettingsError(f"build.{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A complete, validated run.

    Args:
        name: the dataset's name, and its folder's.
        target_language: ISO 639-1 code of the language that captions end in.
        source_language: language that the engine translates from.
        language_pack: TOML file of a pack of the target language that does not come with vernaclip.
        language_packs: files of further packs: of the source language, the pivot, or captions that are read.
        test_sets: what the model will be measured on, so that nothing of it may be trained on.
    """

    name: str
    target_language: str
    source_language: str = "en"
    language_pack: str | None = None
    language_packs: tuple[str, ...] = ()
    sources: tuple[SourceSettings, ...]
    test_sets: tuple[TestSetSettings, ...] = ()
    scenes: ScenesConfig | None = None
    serve: ServeConfig | None = None
    build: BuildConfig = field(default_factory=BuildConfig)
    clean: CleanConfig = field(default_factory=CleanConfig)
    leaks: LeaksConfig = field(default_factory=LeaksConfig)
    repeats: RepeatsConfig = field(default_factory=RepeatsConfig)
    translate: TranslateConfig = field(default_factory=TranslateConfig)
    check: CheckConfig = field(default_factory=CheckConfig)
    fetch: FetchConfig = field(default_factory=FetchConfig)
    normalise: NormaliseConfig = field(default_factory=NormaliseConfig)
    duplicates: DuplicatesConfig = field(default_factory=DuplicatesConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        _ = self.source_order

    @property
    def keeps_splits(self) -> bool:
        """Tell whether the splits that sources state are kept."""
        return self.split.by == UPSTREAM

    @property
    def consent(self) -> ConsentConfig:
        """Return section `[consent]`."""
        return self.fetch.consent

    @property
    def source_order(self) -> list[str]:
        """Names of the sources, best first: whose image stays where two are the same."""
        return self.duplicates.source_order([source.name for source in self.sources])


SECTIONS: dict[str, Any] = {
    "scenes": ScenesConfig,
    "serve": ServeConfig,
    "build": BuildConfig,
    "clean": CleanConfig,
    "leaks": LeaksConfig,
    "repeats": RepeatsConfig,
    "translate": TranslateConfig,
    "check": CheckConfig,
    "fetch": FetchConfig,
    "consent": ConsentConfig,  # a part of `Recipe.fetch`
    "normalise": NormaliseConfig,
    "duplicates": DuplicatesConfig,
    "split": SplitConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
}
# Sections that decide what a dataset is; the order is the manifest's.
_WHAT_SECTIONS = (
    "build",
    "clean",
    "leaks",
    "repeats",
    "translate",
    "check",
    "fetch",
    "normalise",
    "duplicates",
    "split",
)
TEXTS = ("name", "target_language", "source_language", "language_pack", "data")


def what_settings(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that decide what a dataset is, as JSON values: hashed into keys and kept in the manifest.

    Where files are is left out (their content is hashed instead), and so is every field marked `how`.
    """
    settings: dict[str, Any] = {
        "target_language": recipe.target_language,
        "source_language": recipe.source_language,
    }
    for section in _WHAT_SECTIONS:
        settings[section] = what(getattr(recipe, section))
    # Whether the order is that of the recipe or said explicitly changes nothing.
    del settings["duplicates"]["sources"]
    settings["source_order"] = recipe.source_order
    settings["sources"] = {source.name: source_settings(source) for source in recipe.sources}
    rights = {source.name: source.rights.stated() for source in recipe.sources if source.rights.stated()}
    if rights:  # a recipe that says nothing of rights has the key that it always had
        settings["rights"] = rights
    settings["test_sets"] = {test_set.name: test_set_settings(test_set) for test_set in recipe.test_sets}
    return settings


def load_recipe(recipe: str, *, root: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by name or file and apply `section.key=value` overrides.

    Relative paths are relative to the current folder. `{root}`, `{recipe}` and `{data}` in texts stand for the
    catalog's root, the folder of the recipe file and the recipe's `data` setting.

    Raises:
        PipelineError: no such recipe, broken TOML, an unknown key, or a value that is not allowed.
    """
    path = find_recipe(recipe)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    for override in overrides:
        _apply_override(values, override)
    places = {"root": str(root), "recipe": str(path.parent)}
    places["data"] = str(_substitute(values.get("data", "data"), places))
    return _recipe(_substitute(values, places), default_name=path.stem)


def recipe_names() -> list[str]:
    """Names of the recipes that come with vernaclip."""
    return sorted(entry.name.removesuffix(".toml") for entry in _recipes_folder().glob("*.toml"))


def recipe_summary(name: str) -> str:
    """The first comment line of a recipe that comes with vernaclip."""
    first = find_recipe(name).read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip()


def find_recipe(recipe: str) -> Path:
    """Path of a recipe, given its name or its file.

    Raises:
        SettingsError: there is no recipe of this name.
        InputError: there is no such file.
    """
    if recipe.endswith(".toml") or "/" in recipe:
        if not Path(recipe).is_file():
            raise InputError(f"there is no recipe file {recipe}")
        return Path(recipe)
    path = _recipes_folder() / f"{recipe}.toml"
    if not path.is_file():
        raise SettingsError(f"there is no recipe {recipe!r}: name one of {', '.join(recipe_names())}, or give a file")
    return path


def _recipes_folder() -> Path:
    return Path(str(files("flows") / "recipes"))


def override_values(overrides: Sequence[str]) -> dict[str, Any]:
    """`section.key=value` texts as nested tables, not yet checked.

    Raises:
        SettingsError: a text is not of that form.
    """
    values: dict[str, Any] = {}
    for override in overrides:
        _apply_override(values, override)
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    *tables, name = _KEYS.findall(path.strip()) or [""]
    tables, name = [table.strip('"') for table in tables], name.strip('"')
    if not equals or not name or _KEYS.sub("", path.strip()).strip("."):
        raise SettingsError(f"--set takes section.key=value, got {override!r}")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise SettingsError(f"--set {path}: {table} is not a section")
    values[name] = _toml_value(text)


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _substitute(value: Any, places: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for name, place in places.items():
            value = value.replace(f"{{{name}}}", place)
        return value
    if isinstance(value, dict):
        return {name: _substitute(item, places) for name, item in value.items()}
    return [_substitute(item, places) for item in value] if isinstance(value, list) else value


def _recipe(values: dict[str, Any], *, default_name: str) -> Recipe:
    known = {*SECTIONS, *TEXTS, "language_packs", "sources", "test_sets"}
    for name, value in values.items():
        if name not in known:
            raise unknown_key(name, "a recipe", known)
        if name in TEXTS and not isinstance(value, str):
            raise SettingsError(f"{name} must be a text, got {value!r}")
    if "target_language" not in values:
        raise SettingsError('target_language is missing: the recipe must name it, as in target_language = "it"')
    target = values["target_language"]
    sections = {name: build(kind, values[name], name) for name, kind in SECTIONS.items() if name in values}
    if "consent" in sections:
        sections["fetch"] = replace(sections.get("fetch", FetchConfig()), consent=sections.pop("consent"))
    return Recipe(
        name=_dataset_name(values.get("name", default_name)),
        target_language=target,
        source_language=values.get("source_language", "en"),
        language_pack=values.get("language_pack"),
        language_packs=coerce(tuple[str, ...], values.get("language_packs", ()), "language_packs"),
        sources=read_sources(values.get("sources", {}), target),
        test_sets=read_test_sets(values.get("test_sets", {}), target),
        **sections,
    )


def _dataset_name(name: str) -> str:
    if not name.replace("-", "").replace("_", "").isalnum():
        raise SettingsError(f"name must be letters, digits, - and _ (it names a folder), got {name!r}")
    return name
