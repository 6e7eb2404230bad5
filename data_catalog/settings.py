"""Settings: config dataclasses as plain values, and fields that decide how a run goes but not what it makes."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from data_catalog.errors import SettingsError

T = TypeVar("T")

# Metadata of a field that decides how a run goes, not what it makes: it is in no key and no manifest.
HOW: Mapping[str, bool] = MappingProxyType({"how": True})


def how(default: T) -> T:
    """Return a dataclass field with a default that decides how a run goes; one without takes `field(metadata=HOW)`."""
    return dataclasses.field(default=default, metadata=HOW)


# Metadata of a field that says where something is: relative paths in a recipe file are relative to its folder. One that
# may also be a name, as of a package, is a path if there is such a file; of a model config, if it ends in .json.
FILE, NAME_OR_FILE, NAME_OR_JSON = "file", "name or file", "name or .json file"
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
    found: dict[str, Any] = {}
    for path in paths:
        value: Any = settings
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        found[path] = value
    return found


def require_between(name: str, value: float, low: float, high: float) -> None:
    """Raise `SettingsError`, naming the setting, unless low <= value <= high."""
    if not low <= value <= high:
        raise SettingsError(f"{name} must be between {low:g} and {high:g}, got {value:g}")


def require_bounds(value: Any, bounds: Mapping[str, Any], path: str) -> None:
    """Raise SettingsError unless a setting is within the bounds of its field; NaN is within none."""
    ge, gt, le = (bounds.get(name) for name in ("ge", "gt", "le"))
    is_within = (ge is None or value >= ge) and (gt is None or value > gt) and (le is None or value <= le)
    if not is_within:
        if gt is not None:
            wanted = f"be above {gt}" if le is None else f"be in ({gt}, {le}]"
        elif le is not None:
            wanted = f"be at most {le}" if ge is None else f"be between {ge} and {le}"
        else:
            wanted = f"be at least {ge}" if ge else "not be negative"
        raise SettingsError(f"{path} must {wanted}, got {value}")
