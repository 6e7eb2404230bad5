"""Recipes: all settings of a run, read from TOML and `--set` overrides into validated dataclasses."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from glob import escape, has_magic
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from annotated_types import Ge

from cleaning.checks import CheckConfig, CleanConfig
from cleaning.duplicates.captions import RepeatsConfig
from cleaning.duplicates.images import DuplicatesConfig
from cleaning.leaks import LeaksConfig
from data_catalog.base.boundary import about
from data_catalog.base.errors import Refusals, SettingsError
from data_catalog.base.language_pack import require_language
from data_catalog.base.settings import NAME_OR_FILE, NAME_OR_JSON, how, path_setting, what_values
from data_catalog.catalog.manifest import UPSTREAM
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.consent import ConsentConfig
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.publish.publish import SplitConfig
from data_catalog.sample.config import ScenesConfig, ServeConfig
from data_catalog.sources.registry import SOURCE_KINDS
from data_catalog.sources.test_sets import TEST_SET_KINDS
from flows.recipe.settings import read, section_fields, unknown_key
from flows.recipe.sources import (
    SourceSettings,
    TestSetSettings,
    read_sources,
    read_test_sets,
    source_settings,
    test_set_settings,
)
from training.config import AlignConfig, DistilConfig, EvaluateConfig, ImageTextConfig, ModelConfig, TrainConfig
from translation.config import TranslateConfig

DEFAULT_ROOT = Path("catalog")
DATA = "data"

# Settings that replace those of a recipe: `section.key=value` texts, or a table by section or dotted path.
Overrides = Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """Size of the shards of a dataset, and number of shards that are processed at the same time."""

    shard_size: Annotated[int, Ge(1)] = 5_000
    """Approximate number of samples in a shard."""
    workers: Annotated[int, Ge(1)] = how(4)
    """Number of steps that run at the same time."""
    fetch_workers: Annotated[int, Ge(1)] = how(8)
    """Number of shards whose images are fetched at the same time, and as many for each host that has at least half of a
    shard's images."""
    dask_address: str | None = how(None)
    """Address of the Dask scheduler for `--executor dask`. Without it, `workers` processes on this machine run the
    steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Name, languages and files of the dataset: the settings of a recipe before its first section."""

    name: str = ""
    """Name of the dataset and of its folder: letters, digits, - and _. By default the recipe file's name."""
    target_language: str
    """ISO 639-1 code of the language of the published captions."""
    source_language: str = "en"
    """ISO 639-1 code of the language that the engine translates from."""
    language_pack: str | None = path_setting(None)
    """TOML file with the target language's pack, if vernaclip has none."""
    language_packs: tuple[str, ...] = path_setting(())
    """TOML files with packs of other languages: source, pivot, or captions."""
    data: str = path_setting(DATA)
    """Folder of the upstream files, `{data}` in other settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(Dataset):
    """A complete and validated recipe: the settings of `Dataset`, and one field for each section."""

    reference: str = ""
    """Name or file by which the user named the recipe; used in hints."""
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
    image_text: ImageTextConfig = field(default_factory=ImageTextConfig)
    duplicates: DuplicatesConfig = field(default_factory=DuplicatesConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        """Check the name, the order of the sources, and the languages of test sets that are translated."""
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise SettingsError(f"name must consist of letters, digits, - and _ (it names a folder), got {self.name!r}")
        _ = self.source_order
        for test_set in self.test_sets:
            test_set.require_translatable(self.source_language, self.target_language)

    @property
    def keeps_splits(self) -> bool:
        """Return True if the splits that sources state are kept."""
        return self.split.by == UPSTREAM

    @property
    def consent(self) -> ConsentConfig:
        """Return section `[consent]`."""
        return self.fetch.consent

    @property
    def source_order(self) -> list[str]:
        """Return the names of the sources, most preferred first: of duplicate images, the preferred one is kept."""
        return self.duplicates.source_order([source.name for source in self.sources])


def _sections() -> dict[str, Any]:
    """Return the config dataclasses of all sections by name; `[consent]` is a part of `Recipe.fetch`."""
    hints = get_type_hints(Recipe)
    found: dict[str, Any] = {}
    for each in fields(Recipe):
        kind = next((kind for kind in (hints[each.name], *get_args(hints[each.name])) if is_dataclass(kind)), None)
        if kind not in (None, SourceSettings, TestSetSettings):
            found[each.name] = kind
        if kind is FetchConfig:
            found["consent"] = ConsentConfig
    return found


SECTIONS = _sections()
# Sections with what-settings of a dataset, in the order of the manifest.
_NOT_OF_DATASETS = ("scenes", "serve", "consent", "image_text", "model", "train", "align", "distil", "evaluate")
_WHAT_SECTIONS = [name for name in SECTIONS if name not in _NOT_OF_DATASETS]


def what_settings(recipe: Recipe) -> dict[str, Any]:
    """Return the what-settings of a dataset as JSON values, for keys and for the manifest.

    Paths of files are left out, as their content is hashed instead. Fields marked `how` are left out, too.
    """
    settings: dict[str, Any] = {
        "target_language": recipe.target_language,
        "source_language": recipe.source_language,
        **{section: what_values(getattr(recipe, section)) for section in _WHAT_SECTIONS},
    }
    # An explicit order of sources and the order of the recipe have the same effect.
    del settings["duplicates"]["sources"]
    settings["source_order"] = recipe.source_order
    settings["sources"] = {source.name: source_settings(source) for source in recipe.sources}
    rights = {source.name: source.rights.stated() for source in recipe.sources if source.rights.stated()}
    if rights:  # a recipe without rights keeps its key
        settings["rights"] = rights
    if recipe.image_text.model:  # likewise
        settings["image_text"] = what_values(recipe.image_text)
    settings["test_sets"] = {test_set.name: test_set_settings(test_set) for test_set in recipe.test_sets}
    return settings


def load_recipe(recipe: str, *, root: Path, overrides: Overrides = ()) -> Recipe:
    """Read a recipe by name or file, and apply overrides.

    Relative paths in a recipe file are relative to its folder. Those in built-in recipes and in overrides are relative
    to the current folder. In texts, `{root}`, `{recipe}` and `{data}` stand for the root of the catalog, the folder of
    the recipe file and the setting `data`.
    """
    file = find_recipe(recipe)
    with about(f"cannot read the recipe {file}"):
        data = file.read_bytes()
    with about(f"{file} is not TOML", kind=SettingsError):
        values = tomllib.loads(data.decode("utf-8-sig"))
    if is_file(recipe):
        values = _resolve_paths(values, file.parent.absolute())
    _merge(values, override_values(overrides), "")
    places = {"root": str(root), "recipe": str(file.parent)}
    places["data"] = str(_substitute(values.get("data", DATA), places))
    return _recipe(_substitute(values, places), reference=recipe, default_name=file.stem)


def require_sources(recipe: Recipe) -> None:
    """Raise if a recipe has no sources, which only `distil` can do without."""
    if not recipe.sources:
        raise SettingsError(f"{recipe.reference} has no [sources.NAME] table, so there is no dataset to build")


def recipe_names() -> list[str]:
    """Return the names of the built-in recipes."""
    return sorted(entry.name.removesuffix(".toml") for entry in _recipes_folder().glob("*.toml"))


def recipe_summary(name: str) -> str:
    """Return the summary of a built-in recipe, its first comment line."""
    return find_recipe(name).read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()


def find_recipe(recipe: str) -> Path:
    """Return the path of a recipe from its name or file."""
    path = Path(recipe) if is_file(recipe) else _recipes_folder() / f"{recipe}.toml"
    if not path.is_file():
        use = (
            ": correct the path, or write one with `vernaclip init`"
            if is_file(recipe)
            else f": use one of {', '.join(recipe_names())}, or a TOML file"
        )
        raise SettingsError(f"there is no recipe {f'file {recipe}' if is_file(recipe) else repr(recipe)}{use}")
    return path


def is_file(recipe: str) -> bool:
    """Return True if a recipe is given by its file, not by the name of a built-in one."""
    return recipe.endswith(".toml") or "/" in recipe


def _recipes_folder() -> Path:
    return Path(str(files("flows") / "recipes"))


# A part of a key, bare or in quotes as in TOML; letters that TOML wants in quotes may be bare, too.
_KEY_PART = re.compile(r'("[^"]*")|[^".]+')


def override_values(overrides: Overrides) -> dict[str, Any]:
    """Return overrides as nested tables, not yet validated.

    >>> override_values(["train.steps=10", 'fetch.hosts."example.org".concurrency=4'])
    {'train': {'steps': 10}, 'fetch': {'hosts': {'example.org': {'concurrency': 4}}}}
    >>> override_values({"train.steps": 10, "split": {"by": "hash"}})
    {'train': {'steps': 10}, 'split': {'by': 'hash'}}
    """
    values: dict[str, Any] = {}
    given = overrides.items() if isinstance(overrides, Mapping) else map(_parsed, overrides)
    for place, value in given:
        try:  # keys as TOML has them: a name with dots, such as that of a host, is in quotes
            quoted = _KEY_PART.sub(lambda part: part[1] or json.dumps(part[0].strip()), place)
            nested = tomllib.loads(f"{quoted} = 0")
        except tomllib.TOMLDecodeError:
            raise SettingsError(f"--set takes section.key=value, got {place!r} as the key") from None
        _merge(values, _with_value(nested, value), "")
    return values


def _parsed(override: str) -> tuple[str, Any]:
    """Return key and value of a `section.key=value` text; a value that is not TOML is a string without quotes."""
    place, equals, text = override.partition("=")
    if not equals:
        raise SettingsError(f"--set takes section.key=value, got {override!r}")
    try:
        return place, tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return place, text


def _with_value(nested: Any, value: Any) -> Any:
    """Return nested tables with a value in the place of their only leaf."""
    return {name: _with_value(item, value) for name, item in nested.items()} if isinstance(nested, dict) else value


def _merge(values: dict[str, Any], others: Mapping[str, Any], path: str) -> None:
    """Merge other values into `values`, table by table; no value takes the place of a section."""
    for name, value in others.items():
        if not isinstance(value, Mapping):
            values[name] = value
            continue
        table = values.setdefault(name, {})
        if not isinstance(table, dict):
            raise SettingsError(f"{path}{name} is not a section: it is {table!r} in the recipe")
        _merge(table, value, f"{path}{name}.")


def _substitute(value: Any, places: Mapping[str, str]) -> Any:
    """Return a value with the placeholders in all its texts replaced."""
    if isinstance(value, str):
        for name, place in places.items():
            value = value.replace(f"{{{name}}}", place)
        return value
    if isinstance(value, dict):
        return {name: _substitute(item, places) for name, item in value.items()}
    return [_substitute(item, places) for item in value] if isinstance(value, list | tuple) else value


def _resolve_paths(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the values of a recipe file with relative paths resolved against its folder."""
    found: dict[str, Any] = _resolve_table({"data": DATA, **values}, Dataset, folder)
    for name in found.keys() & SECTIONS.keys():
        found[name] = _resolve_table(found[name], SECTIONS[name], folder)
    for section, kinds in (("sources", SOURCE_KINDS), ("test_sets", TEST_SET_KINDS)):
        tables = found.get(section)
        for name, table in tables.items() if isinstance(tables, Mapping) else ():
            kind = table.get("kind", name) if isinstance(table, Mapping) else None
            if isinstance(kind, str) and kind in kinds:
                found[section] = {**found[section], name: _resolve_table(table, kinds[kind].config_type, folder)}
    return found


def _resolve_table(table: Any, config_type: type, folder: Path) -> Any:
    """Return the table of a section with relative paths resolved against a folder."""
    if not isinstance(table, Mapping):
        return table
    marks = {name: each.metadata.get("path") for name, each in section_fields(config_type).items()}
    return {name: _resolve_path(value, marks.get(name), folder) for name, value in table.items()}


def _resolve_path(value: Any, mark: str | None, folder: Path) -> Any:
    """Return a path, or a list of paths, resolved against a folder; leave names alone that are not files there."""
    if isinstance(value, list):
        return [_resolve_path(item, mark, folder) for item in value]
    if isinstance(value, Mapping) and mark is not None:
        return {name: _resolve_path(item, mark, folder) for name, item in value.items()}
    if not isinstance(value, str) or not value or mark is None or value.startswith("~") or "://" in value:
        return value
    if value.startswith("{") and not value.startswith("{lang}"):
        return value
    is_there = (folder / value).exists()
    if (mark == NAME_OR_FILE and not is_there) or (mark == NAME_OR_JSON and not value.endswith(".json")):
        return value
    # Characters in the folder's own name are not part of the pattern.
    return str((folder if is_there else Path(escape(str(folder)))) / value) if has_magic(value) else str(folder / value)


def _recipe(values: dict[str, Any], *, reference: str, default_name: str) -> Recipe:
    """Return the validated recipe of nested tables."""
    general, refusals = section_fields(Dataset), Refusals()
    known = {*general, *SECTIONS, "sources", "test_sets"}
    refusals.errors += [unknown_key(name, "a recipe", known) for name in values if name not in known]
    with refusals:
        dataset = read(Dataset, {name: value for name, value in values.items() if name in general}, "")
        for name in ("target_language", "source_language"):
            require_language(getattr(dataset, name), name)
    sections = {}
    for name in [name for name in SECTIONS if name in values]:
        with refusals:
            sections[name] = read(SECTIONS[name], values[name], name)
    target = str(values.get("target_language"))
    with refusals:
        # A student needs no images, so a recipe that only distils needs no source.
        only_distils = "distil" in values and "sources" not in values
        sources = () if only_distils else read_sources(values.get("sources", {}), target)
    with refusals:
        test_sets = read_test_sets(values.get("test_sets", {}), target)
    refusals.raise_all()
    if "consent" in sections:
        sections["fetch"] = replace(sections.get("fetch", FetchConfig()), consent=sections.pop("consent"))
    named = {**asdict(dataset), "name": dataset.name or default_name, "reference": reference}
    return Recipe(**named, sources=sources, test_sets=test_sets, **sections)
