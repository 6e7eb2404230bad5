"""A recipe: everything that one run needs, read from TOML, with --set overrides, into validated dataclasses."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from glob import escape, has_magic
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
from data_catalog.language_pack import require_language
from data_catalog.sample.config import ScenesConfig, ServeConfig
from data_catalog.settings import NAME_OR_FILE, NAME_OR_JSON, how, path_setting, what_values
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.storage.publish import UPSTREAM, SplitConfig
from data_catalog.test_sets import TEST_SET_KINDS
from flows.recipe.settings import read, section_fields, unknown_key
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
DATA = "data"

# The parts of a setting's path; one that holds dots, such as a host's name, stands in quotes.
_KEYS = re.compile(r'"[^"]+"|[^."]+')


# Settings that differ from a recipe's: `section.key=value` texts, or a table by section, or by dotted path.
Overrides = Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """Shards of a dataset, and how many of them are worked on at once."""

    shard_size: int = 5_000
    """Samples a shard, about. A step works on one shard at a time."""
    workers: int = how(4)
    """Steps that run at the same time on the processor."""
    fetch_workers: int = how(2)
    """Shards whose images are fetched at the same time, from many hosts; each slow host that a source has all its
    images on is asked beside them."""
    dask_address: str | None = how(None)
    """Scheduler of the Dask cluster that does the steps with `--executor dask`, such as tcp://10.0.0.5:8786. Without
    one, as many processes of this machine as there are workers do them."""

    def __post_init__(self) -> None:
        """Refuse what does no work."""
        for name in ("shard_size", "workers", "fetch_workers"):
            if getattr(self, name) < 1:
                raise SettingsError(f"build.{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Name, languages and files of the dataset: what a recipe says before its sections."""

    name: str = ""
    """Name of the dataset, and of its folder: letters, digits, - and _. Left out, it is the recipe file's."""
    target_language: str
    """ISO 639-1 code of the language that captions end in."""
    source_language: str = "en"
    """ISO 639-1 code of the language that the engine translates from."""
    language_pack: str | None = path_setting(None)
    """TOML file with the pack of a target language that does not come with vernaclip."""
    language_packs: tuple[str, ...] = path_setting(())
    """TOML files of further packs: of the source language, the pivot, or captions that are read."""
    data: str = path_setting(DATA)
    """Folder of the upstream files: `{data}` in other settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(Dataset):
    """A complete, validated run: one field a section, and what `Dataset` says."""

    called: str = ""
    """What was typed to name the recipe, for hints: a name or a file."""
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
        """Refuse a name that names no folder, an order of sources that are none, and test sets in a third language."""
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise SettingsError(f"name must be letters, digits, - and _ (it names a folder), got {self.name!r}")
        _ = self.source_order
        for test_set in self.test_sets:
            test_set.require_translatable(self.source_language, self.target_language)

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
        """Return the names of the sources, best first: whose image stays where two are the same."""
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
_WHAT_SECTIONS = [name for name in SECTIONS if name not in ("scenes", "serve", "consent", "train", "evaluate")]


def what_settings(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that decide what a dataset is, as JSON values: hashed into keys and kept in the manifest.

    Where files are is left out (their content is hashed instead), and so is every field marked `how`.
    """
    settings: dict[str, Any] = {
        "target_language": recipe.target_language,
        "source_language": recipe.source_language,
    }
    for section in _WHAT_SECTIONS:
        settings[section] = what_values(getattr(recipe, section))
    # Whether the order is that of the recipe or said explicitly changes nothing.
    del settings["duplicates"]["sources"]
    settings["source_order"] = recipe.source_order
    settings["sources"] = {source.name: source_settings(source) for source in recipe.sources}
    rights = {source.name: source.rights.stated() for source in recipe.sources if source.rights.stated()}
    if rights:  # a recipe that says nothing of rights has the key that it always had
        settings["rights"] = rights
    settings["test_sets"] = {test_set.name: test_set_settings(test_set) for test_set in recipe.test_sets}
    return settings


def load_recipe(recipe: str, *, root: Path, overrides: Overrides = ()) -> Recipe:
    """Read a recipe by name or file, with overrides.

    Relative paths in a recipe file are relative to its folder; those of a recipe that comes with vernaclip, and of
    overrides, to the current one. `{root}`, `{recipe}` and `{data}` in texts mean the catalog's root, the folder of the
    recipe file and the recipe's `data` setting.

    Raises:
        SettingsError: no such recipe, broken TOML, an unknown key, or a value that is not allowed.
    """
    file = find_recipe(recipe)
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # TOML's and Unicode's, and numbers of thousands of digits
        raise SettingsError(f"{file} is not TOML: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read the recipe {file}: {error.strerror}") from error
    if is_file(recipe):
        values = _beside(values, file.parent.absolute())
    _merge(values, override_values(overrides), ())
    places = {"root": str(root), "recipe": str(file.parent)}
    places["data"] = str(_substitute(values.get("data", DATA), places))
    return _recipe(_substitute(values, places), called=recipe, default_name=file.stem)


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with vernaclip."""
    return sorted(entry.name.removesuffix(".toml") for entry in _recipes_folder().glob("*.toml"))


def recipe_summary(name: str) -> str:
    """Return the first comment line of a recipe that comes with vernaclip."""
    first = find_recipe(name).read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip()


def find_recipe(recipe: str) -> Path:
    """Return the path of a recipe, given its name or its file.

    Raises:
        SettingsError: there is none.
    """
    if is_file(recipe):
        if not Path(recipe).is_file():
            raise SettingsError(f"there is no recipe file {recipe}")
        return Path(recipe)
    path = _recipes_folder() / f"{recipe}.toml"
    if not path.is_file():
        raise SettingsError(f"there is no recipe {recipe!r}: name one of {', '.join(recipe_names())}, or give a file")
    return path


def is_file(recipe: str) -> bool:
    """Tell if a recipe is given by its file, not by the name of one that comes with vernaclip."""
    return recipe.endswith(".toml") or "/" in recipe


def _recipes_folder() -> Path:
    return Path(str(files("flows") / "recipes"))


def override_values(overrides: Overrides) -> dict[str, Any]:
    """Return overrides as nested tables, not yet checked.

    >>> override_values(["train.steps=10", 'fetch.hosts."example.org".concurrency=4'])
    {'train': {'steps': 10}, 'fetch': {'hosts': {'example.org': {'concurrency': 4}}}}
    >>> override_values({"train.steps": 10, "split": {"by": "hash"}})
    {'train': {'steps': 10}, 'split': {'by': 'hash'}}

    Raises:
        SettingsError: a text is not of that form.
    """
    values: dict[str, Any] = {}
    if isinstance(overrides, Mapping):
        for place, value in overrides.items():
            _merge(values, _nested(place.split("."), value), ())
        return values
    for override in overrides:
        place, equals, text = override.partition("=")
        *tables, name = _KEYS.findall(place.strip()) or [""]
        if not equals or not name.strip('"') or _KEYS.sub("", place.strip()).strip("."):
            raise SettingsError(f"--set takes section.key=value, got {override!r}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            value = text  # as it is, without quotes
        _merge(values, _nested([key.strip('"') for key in (*tables, name)], value), ())
    return values


def _nested(place: Sequence[str], value: Any) -> dict[str, Any]:
    for name in reversed(place):
        value = {name: value}
    nested: dict[str, Any] = value
    return nested


def _merge(values: dict[str, Any], others: Mapping[str, Any], path: tuple[str, ...]) -> None:
    """Write values over others, table by table."""
    for name, value in others.items():
        place = (*path, name)
        if isinstance(value, Mapping):
            table = values.setdefault(name, {})
            if not isinstance(table, dict):
                raise SettingsError(f"{'.'.join(place)} is not a section: it is {table!r} in the recipe")
            _merge(table, value, place)
        else:
            values[name] = value


def _substitute(value: Any, places: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for name, place in places.items():
            value = value.replace(f"{{{name}}}", place)
        return value
    if isinstance(value, dict):
        return {name: _substitute(item, places) for name, item in value.items()}
    return [_substitute(item, places) for item in value] if isinstance(value, list | tuple) else value


def _beside(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a recipe file's values with the relative paths among them below the folder of the file."""
    found: dict[str, Any] = _absolute({"data": DATA, **values}, Dataset, folder)
    for name, kind in SECTIONS.items():
        if name in found:
            found[name] = _absolute(found[name], kind, folder)
    for section, kinds in (("sources", SOURCE_KINDS), ("test_sets", TEST_SET_KINDS)):
        for name, table in dict(found.get(section) or {}).items() if isinstance(found.get(section), Mapping) else ():
            kind = table.get("kind", name) if isinstance(table, Mapping) else None
            if isinstance(kind, str) and kind in kinds:
                found[section] = {**found[section], name: _absolute(table, kinds[kind].config_type, folder)}
    return found


def _absolute(table: Any, config_type: type, folder: Path) -> Any:
    if not isinstance(table, Mapping):
        return table
    fields = section_fields(config_type)
    return {
        name: _placed(value, fields[name].metadata.get("path"), folder) if name in fields else value
        for name, value in table.items()
    }


def _placed(value: Any, mark: str | None, folder: Path) -> Any:
    """Return a path, or each of a list, below a folder; a name that is no file there is left as it is."""
    if isinstance(value, list):
        return [_placed(item, mark, folder) for item in value]
    if not isinstance(value, str) or not value or mark is None or value.startswith(("{", "~")) or "://" in value:
        return value
    is_there = (folder / value).exists()
    if (mark == NAME_OR_FILE and not is_there) or (mark == NAME_OR_JSON and not value.endswith(".json")):
        return value
    # The folder's own name is no pattern.
    return str((folder if is_there else Path(escape(str(folder)))) / value) if has_magic(value) else str(folder / value)


def _recipe(values: dict[str, Any], *, called: str, default_name: str) -> Recipe:
    general = section_fields(Dataset)
    for name in values:
        if name not in {*general, *SECTIONS, "sources", "test_sets"}:
            raise unknown_key(name, "a recipe", {*general, *SECTIONS, "sources", "test_sets"})
    if "target_language" not in values:
        raise SettingsError('target_language is missing: the recipe must name it, as in target_language = "it"')
    dataset = read(Dataset, {name: value for name, value in values.items() if name in general}, "")
    for name in ("target_language", "source_language"):
        require_language(getattr(dataset, name), name)
    sections = {name: read(kind, values[name], name) for name, kind in SECTIONS.items() if name in values}
    if "consent" in sections:
        sections["fetch"] = replace(sections.get("fetch", FetchConfig()), consent=sections.pop("consent"))
    return Recipe(
        **{**asdict(dataset), "name": dataset.name or default_name},
        called=called,
        sources=read_sources(values.get("sources", {}), dataset.target_language),
        test_sets=read_test_sets(values.get("test_sets", {}), dataset.target_language),
        **sections,
    )
