"""Settings: what-settings and how-settings of config dataclasses, conversion to JSON values, and range checks."""

import dataclasses
import functools
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_args, get_type_hints

from data_catalog.base.errors import SettingsError

T = TypeVar("T")

_BOUNDS = ("ge", "gt", "le")  # pydantic's and annotated_types' names

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


def require_values(
    section: str, config: Any, positive: str, not_negative: str = "", **choices: Collection[str]
) -> None:
    """Refuse settings of a section that are no number of that sign, or not among their choices.

    Names of numbers are separated by blanks; a choice counts for each item of a tuple, and an empty one is not listed.
    """
    path = f"{section}." if section else ""
    for name in positive.split():
        if not 0 < getattr(config, name) < math.inf:
            raise SettingsError(f"{path}{name} must be positive, got {getattr(config, name)}")
    for name in not_negative.split():
        if not 0 <= getattr(config, name) < math.inf:
            raise SettingsError(f"{path}{name} must not be negative, got {getattr(config, name)}")
    for name, known in choices.items():
        value, among = getattr(config, name), ", ".join(filter(None, known))
        if isinstance(value, tuple):
            for item in value:
                if item not in known:
                    raise SettingsError(f"{path}{name} has an unknown name {item!r}: use {among}")
        elif value not in known:
            raise SettingsError(f"{path}{name} must be one of {among}, got {value!r}")


def require_list(given: object, item: str) -> None:
    """Refuse one item, such as a "text", where a list belongs. A text would be taken for a list of its letters."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise SettingsError(f"give a list of {item}s, not one {item}")


@functools.cache
def bounds_of(config_type: type) -> Mapping[str, Mapping[str, float]]:
    """Return the bounds of a config's numbers by name, from annotations such as `Annotated[int, Interval(ge=1, le=9)]`.

    The annotation may be that of an option of a union, or of the items of a tuple.
    """
    found: dict[str, dict[str, float]] = {}
    for name, hint in get_type_hints(config_type, include_extras=True).items():
        marks = [mark for part in (hint, *get_args(hint)) for mark in getattr(part, "__metadata__", ())]
        bounds = {
            bound: value for mark in marks for bound in _BOUNDS if (value := getattr(mark, bound, None)) is not None
        }
        found |= {name: bounds} if bounds else {}
    return found


def check_bounds(config: object, section: str = "") -> None:
    """Raise `SettingsError`, naming the setting, for a number outside the bounds of its annotation."""
    config_type: Any = type(config)
    for name, bounds in bounds_of(config_type).items():
        value = getattr(config, name)
        for item in value if isinstance(value, tuple) else (value,):
            if item is not None:
                require_bounds(item, bounds, f"{section}.{name}".removeprefix("."))


def require_bounds(value: Any, bounds: Mapping[str, Any], path: str) -> None:
    """Raise `SettingsError` unless a setting is within the bounds of its field. NaN is never within bounds."""
    ge, gt, le = map(bounds.get, _BOUNDS)
    is_within = (ge is None or value >= ge) and (gt is None or value > gt) and (le is None or value <= le)
    if not is_within:
        if gt is not None:
            wanted = f"be above {gt}" if le is None else f"be in ({gt}, {le}]"
        elif le is not None:
            wanted = f"be at most {le}" if ge is None else f"be between {ge} and {le}"
        else:
            wanted = f"be at least {ge}" if ge else "not be negative"
        raise SettingsError(f"{path} must {wanted}, got {value}")
