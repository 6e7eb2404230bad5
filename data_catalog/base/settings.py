"""Settings: what-settings and how-settings of config dataclasses, and their conversion to JSON values."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from data_catalog.base.errors import SettingsError

T = TypeVar("T")


class OneOf:
    """Bound of a setting that has one of the names of a table: `Annotated[str, OneOf(FORMATS)]`."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> Mapping[str, Any]:
        from pydantic_core.core_schema import literal_schema

        return literal_schema(list(self.names))


# Metadata of a how-setting: it decides how a run goes, not its output, and is in no key and no manifest.
HOW: Mapping[str, bool] = MappingProxyType({"how": True})


def how(default: T) -> T:
    """Return a dataclass field for a how-setting with a default. Without a default, use `field(metadata=HOW)`."""
    return dataclasses.field(default=default, metadata=HOW)


# Metadata of a field that holds a path. Relative paths in a recipe are relative to the recipe's folder. A value that
# may also be a name, such as a package's, is a path if that file exists; a model config is a path if it ends in .json.
FILE, NAME_OR_FILE, NAME_OR_JSON = "file", "name or file", "name or .json file"
PATH: Mapping[str, object] = MappingProxyType({**HOW, "path": FILE})


def path_setting(default: T) -> T:
    """Return a dataclass field for a how-setting that holds one or more paths, with a default."""
    return dataclasses.field(default=default, metadata=PATH)


def name_or_path(default: T) -> T:
    """Return a dataclass field for a how-setting that holds a path or a name, with a default."""
    return dataclasses.field(default=default, metadata={**HOW, "path": NAME_OR_FILE})


# Metadata of a field that was added later: while it is None, values and keys are as they were without it.
ADDED: Mapping[str, bool] = MappingProxyType({"added": True})


def what_values(config: Any) -> dict[str, Any]:
    """Return the what-settings of a config dataclass as JSON values: all fields except how-settings."""
    return {
        field.name: json_values(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if not field.metadata.get("how")
    }


def json_values(value: Any) -> Any:
    """Return a config dataclass, or a value in it, as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {field: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {
            field.name: json_values(item)
            for field, item in found.items()
            if item is not None or not field.metadata.get("added")
        }
    if isinstance(value, Mapping):
        return {name: json_values(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def values_at(paths: Iterable[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of settings by path, such as `clean.min_words`; None for a path that does not exist."""
    found: dict[str, Any] = {}
    for path in paths:
        value: Any = settings
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        found[path] = value
    return found


def require_list(given: object, item: str) -> None:
    """Refuse one item, such as a "text", where a list belongs. A text would be taken for a list of its letters."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise SettingsError(f"give a list of {item}s, not one {item}")
