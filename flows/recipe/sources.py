"""The tables of a recipe that name upstream files: `[sources.NAME]` and `[test_sets.NAME]`, each of its kind."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from data_catalog.errors import PipelineError, SettingsError
from data_catalog.exports.rights import SourceRights
from data_catalog.language_pack import require_language
from data_catalog.settings import what_values
from data_catalog.sources.origins import HUMAN, MACHINE
from data_catalog.sources.registry import SOURCE_KINDS, SourceKind
from data_catalog.sources.rows import RowLimit
from data_catalog.test_sets import TEST_SET_KINDS, TestSetKind
from flows.recipe.settings import read, read_value, section_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedCaptions:
    """Makers and language of a test set's captions: they are told beside scores, and are no part of any dataset."""

    captions_by: str | None = None
    """Makers of the captions, where the files do not say: "human" or "machine"."""
    captions_in: str | None = None
    """ISO 639-1 code of the language of the captions, where that is not the one that models are scored in."""
    translate: bool = False
    """Translate the captions with the recipe's engine, to score models in the target language."""

    def __post_init__(self) -> None:
        """Refuse other makers, and what is no code of a language."""
        if self.captions_by not in (None, HUMAN, MACHINE):
            raise SettingsError(f"captions_by must be {HUMAN} or {MACHINE}, got {self.captions_by!r}")
        if self.captions_in is not None:
            require_language(self.captions_in, "captions_in")


Kind = TypeVar("Kind", SourceKind, TestSetKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TableSettings(Generic[Kind]):
    """One table of a recipe that names upstream files: their kind and that kind's own settings."""

    SECTION: ClassVar[str]

    name: str
    kind: Kind
    config: Any

    def check(self) -> None:
        """Raise the error, which names the table, where what it names cannot be read."""
        with _naming(f"{self.SECTION}.{self.name}"):
            self.kind.check(self.config)

    def upstream_files(self) -> list[Path]:
        """The files that it names.

        Raises:
            PipelineError: as `check` does.
        """
        with _naming(f"{self.SECTION}.{self.name}"):
            return self.kind.upstream_files(self.config)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings(_TableSettings[SourceKind]):
    """One `[sources.NAME]` table."""

    SECTION = "sources"

    rights: SourceRights
    limit: RowLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSetSettings(_TableSettings[TestSetKind]):
    """One `[test_sets.NAME]` table."""

    SECTION = "test_sets"

    captions: StatedCaptions = StatedCaptions()

    def require_translatable(self, source: str, target: str) -> None:
        """Refuse to translate captions from another language than the one that the recipe's engine translates.

        Raises:
            SettingsError: they are, or the recipe translates nothing; says what to do.
        """
        path = f"test_sets.{self.name}.translate"
        if self.captions.translate and source == target:
            raise SettingsError(f"{path}: the recipe translates nothing, since its source_language is {target}, too")
        files = getattr(self.config, "languages", None)
        if self.captions.translate and source not in (files or (self.captions.captions_in,)):
            said = "captions_in" if files is None else "languages"
            raise SettingsError(
                f"{path}: the recipe's engine translates from {source}, and the set does not say that it has captions "
                f"in it: say so with {said}, where it has"
            )


def source_settings(source: SourceSettings) -> dict[str, Any]:
    """Return the settings that decide what comes of a source; that images are local is one, their place is not."""
    images = source.kind.images(source.config)
    stated = source.limit.stated()
    return {"kind": source.kind.kind, "local_images": images is not None, **what_values(source.config), **stated}


def test_set_settings(test_set: TestSetSettings) -> dict[str, Any]:
    """Return the settings that decide what a test set guards; that it has images is one, their place is not."""
    has_images = test_set.config.images is not None
    return {"kind": test_set.kind.kind, "has_images": has_images, **what_values(test_set.config)}


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Say which table of the recipe an error is about, and how to do without it."""
    try:
        yield
    except PipelineError as error:
        raise type(error)(f"{path}: {error}. To do without it: --set {path}.enabled=false") from error


def read_sources(tables: Any, target: str) -> tuple[SourceSettings, ...]:
    """Return the sources that are not switched off, in the recipe's order.

    Raises:
        SettingsError: there is none, or one is wrong; the text names the setting.
    """
    if not isinstance(tables, Mapping) or not tables:
        raise SettingsError("a recipe needs at least one [sources.NAME] table")
    chosen = [
        SourceSettings(name=name, kind=kind, config=config, rights=rights, limit=limit)
        for name, kind, config, (rights, limit) in _read_tables(
            "sources", tables, SOURCE_KINDS, target, (SourceRights, RowLimit)
        )
    ]
    if not chosen:
        raise SettingsError("every source of the recipe is switched off by `enabled = false`")
    return tuple(chosen)


def read_test_sets(tables: Any, target: str) -> tuple[TestSetSettings, ...]:
    """Return the test sets that are not switched off, by name; there may be none.

    Raises:
        SettingsError: one is wrong; the text names the setting.
    """
    if not isinstance(tables, Mapping):
        raise SettingsError(f"test_sets must be tables [test_sets.NAME], got {tables!r}")
    found = []
    for name, kind, config, (stated,) in _read_tables("test_sets", tables, TEST_SET_KINDS, target, (StatedCaptions,)):
        if stated.captions_in is not None and hasattr(config, "languages"):
            raise SettingsError(
                f"test_sets.{name}.captions_in: the files tell the languages of captions, and languages which are read"
            )
        found.append(TestSetSettings(name=name, kind=kind, config=config, captions=stated))
    return tuple(sorted(found, key=lambda test_set: test_set.name))


def _read_tables(
    section: str, tables: Mapping[str, Any], kinds: Mapping[str, Kind], target: str, stated_types: tuple[type, ...]
) -> Iterator[tuple[str, Kind, Any, tuple[Any, ...]]]:
    """Yield name, kind, config, and what tables of any kind may state, of each table that is not switched off."""
    for name, table in tables.items():
        path = f"{section}.{name}"
        if not isinstance(table, Mapping):
            raise SettingsError(f"{path} must be a table of settings, got {table!r}")
        if not name.replace("_", "").isalnum():
            raise SettingsError(f"{path}: a name must be letters, digits and _ (it is part of ids)")
        settings = dict(table)
        may_state = [key for stated_type in stated_types for key in section_fields(stated_type)]
        stated: tuple[Any, ...] = tuple(
            read(each, {key: settings.pop(key) for key in section_fields(each) if key in settings}, path)
            for each in stated_types
        )
        kind = settings.pop("kind", name)
        if not read_value(bool, settings.pop("enabled", True), f"{path}.enabled"):
            continue
        if not isinstance(kind, str) or kind not in kinds:
            raise SettingsError(f"{path}.kind is {kind!r}: kinds are {', '.join(sorted(kinds))}")
        config_type = kinds[kind].config_type
        if "languages" in section_fields(config_type):
            settings.setdefault("languages", [target])
        yield name, kinds[kind], read(config_type, settings, path, elsewhere=may_state), stated
