"""The tables of a recipe that name upstream files, `[sources.NAME]` and `[test_sets.NAME]`."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from data_catalog.base.errors import Refusals, SettingsError
from data_catalog.base.language_pack import require_language
from data_catalog.base.settings import what_values
from data_catalog.exports.rights import SourceRights
from data_catalog.sources.registry import SOURCE_KINDS, SourceKind
from data_catalog.sources.rows import RowLimit
from data_catalog.sources.test_sets import TEST_SET_KINDS, TestSetKind
from flows.recipe.settings import errors_of, read, section_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedCaptions:
    """Origin and language of a test set's captions. They are reported beside scores and change no dataset."""

    captions_by: Literal["human", "machine"] | None = None
    """Origin of the captions, "human" or "machine", if the files do not state it."""
    captions_in: str | None = None
    """ISO 639-1 code of the captions, if models are scored in another language."""
    translate: bool = False
    """Translate the captions with the recipe's engine, to score models in the target language."""

    def __post_init__(self) -> None:
        if self.captions_in is not None:
            require_language(self.captions_in, "captions_in")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Switch:
    """The setting that every table has."""

    enabled: bool = True


Kind = TypeVar("Kind", SourceKind, TestSetKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TableSettings(Generic[Kind]):
    """A table of a recipe that names upstream files: their kind, and the settings of that kind."""

    SECTION: ClassVar[str]

    name: str
    kind: Kind
    config: Any

    def check(self) -> None:
        """Check that the files can be read; an error names the table."""
        with self._errors():
            self.kind.check(self.config)

    def upstream_files(self) -> list[Path]:
        """Return the files that the table names; an error names the table."""
        with self._errors():
            return self.kind.upstream_files(self.config)

    def _errors(self) -> AbstractContextManager[None]:
        path = f"{self.SECTION}.{self.name}"
        return errors_of(path, f". To leave it out: --set {path}.enabled=false")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings(_TableSettings[SourceKind]):
    """A `[sources.NAME]` table."""

    SECTION = "sources"

    rights: SourceRights
    limit: RowLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSetSettings(_TableSettings[TestSetKind]):
    """A `[test_sets.NAME]` table."""

    SECTION = "test_sets"

    captions: StatedCaptions = StatedCaptions()

    def require_translatable(self, source: str, target: str) -> None:
        """Refuse to translate captions if the recipe's engine does not translate their language."""
        path = f"test_sets.{self.name}.translate"
        if self.captions.translate and source == target:
            raise SettingsError(f"{path}: the recipe translates nothing, as source_language is also {target}")
        files = getattr(self.config, "languages", None)
        if self.captions.translate and source not in (files or (self.captions.captions_in,)):
            setting = "captions_in" if files is None else "languages"
            raise SettingsError(
                f"{path}: the recipe's engine translates from {source}, but the set does not state captions in that "
                f"language: if it has some, set {setting}"
            )


def source_settings(source: SourceSettings) -> dict[str, Any]:
    """Return the what-settings of a source, including whether its images are local, but not their path."""
    images = source.kind.images(source.config)
    stated = source.limit.stated()
    return {"kind": source.kind.kind, "local_images": images is not None, **what_values(source.config), **stated}


def test_set_settings(test_set: TestSetSettings) -> dict[str, Any]:
    """Return the what-settings of a test set, including whether it has images, but not their path."""
    has_images = test_set.config.images is not None
    return {"kind": test_set.kind.kind, "has_images": has_images, **what_values(test_set.config)}


def read_sources(tables: Any, target: str) -> tuple[SourceSettings, ...]:
    """Return the sources that are not switched off, in the recipe's order; there must be one."""
    if not tables:
        raise SettingsError("a recipe needs at least one [sources.NAME] table")
    read_tables = _read_tables("sources", tables, SOURCE_KINDS, target, (SourceRights, RowLimit))
    chosen = tuple(
        SourceSettings(name=name, kind=kind, config=config, rights=rights, limit=limit)
        for name, kind, config, (rights, limit) in read_tables
    )
    if not chosen:
        raise SettingsError("every source of the recipe is switched off by `enabled = false`: switch one on")
    return chosen


def read_test_sets(tables: Any, target: str) -> tuple[TestSetSettings, ...]:
    """Return the test sets that are not switched off, by name; there may be none."""
    found = []
    for name, kind, config, (stated,) in _read_tables("test_sets", tables, TEST_SET_KINDS, target, (StatedCaptions,)):
        if stated.captions_in is not None and hasattr(config, "languages"):
            raise SettingsError(
                f"test_sets.{name}.captions_in: the files state the languages of captions: use languages to select some"
            )
        found.append(TestSetSettings(name=name, kind=kind, config=config, captions=stated))
    return tuple(sorted(found, key=lambda test_set: test_set.name))


def _read_tables(
    section: str, tables: Any, kinds: Mapping[str, Kind], target: str, common: tuple[type, ...]
) -> Iterator[tuple[str, Kind, Any, tuple[Any, ...]]]:
    """Yield name, kind, config and the settings that all kinds have of each table that is not switched off."""
    if not isinstance(tables, Mapping):
        raise SettingsError(f"{section} must be tables [{section}.NAME], got {tables!r}")
    refusals = Refusals()
    for name, table in tables.items():
        path = f"{section}.{name}"
        with refusals:
            if not isinstance(table, Mapping):
                raise SettingsError(f"{path} must be a table of settings, got {table!r}")
            if not name.replace("_", "").isalnum():
                raise SettingsError(f"{path}: a name must consist of letters, digits and _ (it is part of ids)")
            settings = {"kind": name, **table}
            switch, *stated = [_taken(each, settings, path) for each in (_Switch, *common)]
            if not switch.enabled:
                continue
            kind = settings.pop("kind")
            if not isinstance(kind, str) or kind not in kinds:
                raise SettingsError(f"{path}.kind is {kind!r}: use one of {', '.join(sorted(kinds))}")
            config_type = kinds[kind].config_type
            if "languages" in section_fields(config_type):
                settings.setdefault("languages", [target])
            others = ["kind", *(key for each in (_Switch, *common) for key in section_fields(each))]
            yield name, kinds[kind], read(config_type, settings, path, other_keys=others), tuple(stated)
    refusals.raise_all()


def _taken(config_type: type, settings: dict[str, Any], path: str) -> Any:
    """Return settings of a config dataclass, which are taken out of a table."""
    return read(config_type, {key: settings.pop(key) for key in section_fields(config_type) if key in settings}, path)
