"""Settings: config dataclasses as plain values, and fields that decide how a run goes but not what it makes."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from data_catalog.errors import ConfigError

T = TypeVar("T")

# Metadata of a field that decides how a run goes, not what it makes: it is in no key and no manifest.
HOW: Mapping[str, bool] = MappingProxyType({"how": True})


def how(default: T) -> T:
    """Return a dataclass field with a default that decides how a run goes; one without takes `field(metadata=HOW)`."""
    return dataclasses.field(default=default, metadata=HOW)


# Metadata of a field that says where something is: relative paths in a recipe file are relative to its folder. One that
# may also be a name, as of a model, is a path if there is such a file.
FILE, NAME_OR_FILE = "file", "name or file"
PATH: Mapping[str, object] = MappingProxyType({**HOW, "path": FILE})


def path_setting(default: T) -> T:
    """Return a `how` field with a default that says where a file or a folder is, or several."""
    return dataclasses.field(default=default, metadata=PATH)


def name_or_path(default: T) -> T:
    """Return a `how` field with a default that is a path, or the name of something that is had elsewhere."""
    return dataclasses.field(default=default, metadata={**HOW, "path": NAME_OR_FILE})


def what(config: Any) -> dict[str, Any]:
    """Return the settings of a config dataclass that decide what comes out, as JSON values: all but `how` fields."""
    return {
        field.name: plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if not field.metadata.get("how")
    }


def plain(value: Any) -> Any:
    """Return a config dataclass, or a value in one, as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def values_at(paths: Iterable[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of settings by path, such as `clean.min_words`; None for what is not among the settings."""
    return {path: _value_at(path.split("."), settings) for path in paths}


def _value_at(names: Sequence[str], settings: Any) -> Any:
    for name in names:
        settings = settings.get(name) if isinstance(settings, Mapping) else None
    return settings


def require_between(name: str, value: float, low: float, high: float) -> None:
    """Raise `ConfigError`, naming the setting, unless low <= value <= high."""
    if not low <= value <= high:
        raise ConfigError(f"{name} must be between {low:g} and {high:g}, got {value:g}")
