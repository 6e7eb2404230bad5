"""Plain values from TOML to typed, validated dataclasses: unknown keys and wrong types are errors with their path."""

import dataclasses
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from data_catalog.errors import SettingsError

T = TypeVar("T")

# Keys that recipes had once: what holds now, and what to do. A key that has another name now says that name here.
_IMAGES_ARE_KNOWN = "what a root knows of images is never asked again: remove it"
_CONSENT = "all that servers say about use is heeded: remove it, or, where it was false, set consent.ignore = {}"
OLD_KEYS: Mapping[str, str] = {
    "build.chunk_size": "captions are translated shard by shard, of build.shard_size samples each: remove it",
    "build.keep_work": _IMAGES_ARE_KNOWN,
    "build.reuse_images": _IMAGES_ARE_KNOWN,
    "fetch.respect_robots_tag": _CONSENT.format('["tdm-reservation", "x-robots-tag"]'),
    "fetch.respect_robots_txt": _CONSENT.format('["robots.txt"]'),
}


def build(config_type: type[T], values: Any, path: str, *, elsewhere: Collection[str] = ()) -> T:
    """An instance of a config dataclass from a TOML table.

    Args:
        config_type: a dataclass whose fields are str, int, float, bool, Path, tuples of those, None, or mappings of
            names to those, to anything, or to further dataclasses.
        values: the table.
        path: where the table stands in the recipe, such as "images".
        elsewhere: what else the table may have, which was read from it already: for the error.

    Raises:
        SettingsError: an unknown or missing key, a wrong type, or a value that the dataclass refuses.
    """
    if not isinstance(values, Mapping):
        raise SettingsError(f"{path} must be a table of settings, got {values!r}")
    fields = section_fields(config_type)
    for name in values:
        if name not in fields:
            raise unknown_key(f"{path}.{name}", path, {*fields, *elsewhere})
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SettingsError(f"{path}.{name} is missing: the recipe, or --set {path}.{name}=..., must give it")
    hints = typing.get_type_hints(config_type)
    return config_type(**{name: coerce(hints[name], value, f"{path}.{name}") for name, value in values.items()})


def section_fields(config_type: type) -> dict[str, "dataclasses.Field[Any]"]:
    """Return the fields of a config dataclass that its section may set, by name.

    A field that is a config dataclass itself is a section of its own.
    """
    hints = typing.get_type_hints(config_type)
    return {
        field.name: field
        for field in dataclasses.fields(config_type)
        if not dataclasses.is_dataclass(typing.cast(object, hints[field.name]))
    }


def unknown_key(key: str, table: str, known: Collection[str]) -> SettingsError:
    """Return the error for a key that a recipe may not have, or not any more.

    Args:
        key: with its path.
        table: what it stands in.
        known: keys that may stand there.
    """
    if key in OLD_KEYS:
        return SettingsError(f"{key} is no setting any more: {OLD_KEYS[key]}")
    return SettingsError(f"unknown key {key}: {table} has {', '.join(sorted(known))}")


def coerce(kind: Any, value: Any, path: str) -> Any:
    """`value` as the annotated type `kind`.

    Raises:
        SettingsError: it is of another type.
    """
    if kind is Any:
        return value
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None or value == "":
            return None
        return coerce(next(option for option in typing.get_args(kind) if option is not type(None)), value, path)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise SettingsError(f"{path} must be a table, got {value!r}")
        item_type = typing.get_args(kind)[1]
        read = build if dataclasses.is_dataclass(item_type) else coerce
        return {name: read(item_type, item, f"{path}.{name}") for name, item in value.items()}
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(coerce(typing.get_args(kind)[0], item, path) for item in items)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise SettingsError(f"{path} must be {_NAMES.get(kind, kind.__name__)}, got {value!r}")
    return value


_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
