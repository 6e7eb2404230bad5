"""Validation of settings: values from TOML, `--set`, Prefect or Python become config dataclasses or one clear error."""

import dataclasses
import difflib
import functools
import json
import os
import threading
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from cleaning.checks.definition import Section
from data_catalog.base.errors import Refusals, SettingsError
from data_catalog.base.settings import bounds_of, require_bounds

T = TypeVar("T")

# Keys of earlier versions ("*" is any name), each with the present behaviour and what to do.
_IMAGES_ARE_KNOWN = "images with a known outcome are never fetched again: remove this key"
_CONSENT = "all opt-outs of servers are respected: remove this key or, if it was false, set consent.ignore = {}"
OLD_KEYS: Mapping[str, str] = {
    "build.chunk_size": "captions are translated shard by shard, with build.shard_size samples each: remove this key",
    "build.keep_work": _IMAGES_ARE_KNOWN,
    "build.reuse_images": _IMAGES_ARE_KNOWN,
    "fetch.respect_robots_tag": _CONSENT.format('["tdm-reservation", "x-robots-tag"]'),
    "fetch.respect_robots_txt": _CONSENT.format('["robots.txt"]'),
    "sources.*.licence": "its name is license",
}
_CONFIGURING = threading.Lock()  # pydantic reads the configuration from the class
_MOST_BITS = 63  # of a whole number
_MOST_KEYS = 12  # that an error lists for a table
_BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
_WANTED = {
    "string_type": "a string",
    "path_type": "a path",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "dict_type": "a table",
    "mapping_type": "a table",
    "dataclass_type": "a table of settings",
}


def read(config_type: type[T], values: Any, path: str, *, other_keys: Collection[str] = ()) -> T:
    """Return a table of values as an instance of a config dataclass.

    Types are strict: a string is never converted to a number. A single item may stand for a list of one, and an empty
    string for None.

    Args:
        config_type: config dataclass whose attribute docstrings describe its fields.
        values: the table, of JSON values.
        path: path of the table in the recipe, such as "normalise".
        other_keys: other keys that the table may have, to be listed in an error.

    Raises:
        SettingsError: a key is unknown or missing, a type is wrong, or the dataclass refuses a value.
    """
    if not isinstance(values, Mapping):
        raise SettingsError(f"{path} must be a table of settings, got {values!r}")
    known, refusals = section_fields(config_type), Refusals()
    for name in [name for name in values if name not in known]:
        with refusals:
            raise unknown_key(f"{path}.{name}", path, {*known, *other_keys})
    with refusals:
        result: T = read_value(config_type, {name: values[name] for name in values if name in known}, path)
    refusals.raise_all()
    return result


def read_value(kind: Any, value: Any, path: str) -> Any:
    """Return a value validated as the annotated type `kind`.

    Raises:
        SettingsError: the value has another type, or is refused.
    """
    text = json.dumps(_shaped(kind, value, path))
    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        refusals = Refusals()
        first_by_field = {each["loc"][:1]: each for each in reversed(error.errors())}
        for first in reversed(first_by_field.values()):
            with refusals:
                raise _settings_error(first, kind, path) from error
        refusals.raise_all()
        raise


def section_fields(config_type: type) -> "dict[str, dataclasses.Field[Any]]":
    """Return the fields of a config dataclass that its table may set, by name, in the order of the documentation.

    Fields that are config dataclasses themselves are left out, as they are tables of their own.
    """
    hints = typing.get_type_hints(config_type)
    found = config_type.settings() if issubclass(config_type, Section) else dataclasses.fields(config_type)  # type: ignore[arg-type]
    return {each.name: each for each in found if not dataclasses.is_dataclass(hints[each.name])}


def schema(config_type: type) -> dict[str, Any]:
    """Return the JSON schema of a config dataclass without references, with a description of each field."""
    found = _adapter(config_type, has_descriptions=True).json_schema()
    parts = found.pop("$defs", {})

    def complete(value: Any) -> Any:
        if isinstance(value, list):
            return [complete(item) for item in value]
        if not isinstance(value, dict):
            return value
        name = value.get("$ref", "").removeprefix("#/$defs/")
        return complete(parts[name]) if name else {key: complete(item) for key, item in value.items()}

    found = complete(found)
    named = found["properties"]
    meanings = config_type.descriptions() if issubclass(config_type, Section) else _inherited_meanings(config_type)
    fields = {name: named[name] for name in section_fields(config_type)}
    for name, field in fields.items():
        field["description"] = " ".join((field.get("description") or meanings.get(name, "")).split())
    return {**found, "properties": fields}


def _inherited_meanings(config_type: type) -> dict[str, str]:
    """Return the descriptions of inherited fields, by name; pydantic finds only those of the class itself."""
    bases = [base for base in reversed(config_type.__mro__[1:]) if dataclasses.is_dataclass(base)]
    return {name: field["description"] for base in bases for name, field in schema(base)["properties"].items()}


def unknown_key(key: str, table: str, known: Collection[str]) -> SettingsError:
    """Return the error for an unknown key, or for a key of an earlier version.

    Args:
        key: the key with its path.
        table: the table that contains it.
        known: keys that the table may have.
    """
    old = next((meaning for pattern, meaning in OLD_KEYS.items() if fnmatchcase(key, pattern)), None)
    if old is not None:
        return SettingsError(f"{key} is no longer a setting: {old}")
    near = difflib.get_close_matches(key.rpartition(".")[2], known, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    listed = f"{table} has {', '.join(sorted(known))}"
    return SettingsError(f"unknown key {key}: {hint}{'' if near and len(known) > _MOST_KEYS else listed}".rstrip())


@functools.cache
def _adapter(kind: Any, *, has_descriptions: bool = False) -> TypeAdapter[Any]:
    """Return the pydantic adapter of a type; it is configured here, since other packages import no pydantic.

    Descriptions are parsed from source code, which fails in Python 3.11 if another thread parses any meanwhile (cpython
    #106905). Therefore only schemas have them, and nothing that runs beside other threads asks for a schema.
    """
    config = {"extra": "forbid", "allow_inf_nan": False, "use_attribute_docstrings": has_descriptions}
    with _CONFIGURING:
        for each in _dataclasses_of(kind):
            each.__pydantic_config__ = config  # type: ignore[attr-defined]
        return TypeAdapter(kind)


def _dataclasses_of(kind: Any) -> Iterator[type]:
    """Yield the dataclasses in a type, including those of their fields."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        yield kind
        for hint in typing.get_type_hints(kind).values():
            yield from _dataclasses_of(hint)
    for argument in typing.get_args(kind):
        yield from _dataclasses_of(argument)


def _shaped(kind: Any, value: Any, path: str) -> Any:
    """Return a JSON value in the shape of its type: a single item as a list of one, an empty string as None if allowed.

    Raises:
        SettingsError: JSON has no such value, such as a date.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        some = next(option for option in arguments if option is not type(None))
        return None if value is None or value == "" else _shaped(some, value, path)
    if isinstance(value, list | tuple):
        return [_shaped(Any, item, path) for item in value]
    if origin is tuple:
        return [_shaped(Any, value, path)]
    if isinstance(value, Mapping):
        hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        of_items = arguments[1] if origin is not None and len(arguments) > 1 else Any
        return {
            name: _shaped(hints.get(name, of_items), item, f"{path}.{name}".removeprefix("."))
            for name, item in value.items()
        }
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise SettingsError(f"{path} is {value!r}, which is not valid UTF-8: rename the file or folder, or correct it")
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise SettingsError(f"{path} is a number of {value.bit_length()} bits: at most {_MOST_BITS} bits are allowed")
    if value is None or isinstance(value, str | int | float):
        return value
    raise SettingsError(f"{path} is {value!r}, a type that no setting has: write it as a string, in quotes")


def _type_at(kind: Any, place: Iterable[int | str]) -> Any:
    """Return the type of the value at a path within a type."""
    for name in place:
        kind = typing.get_type_hints(kind)[str(name)] if dataclasses.is_dataclass(kind) else typing.get_args(kind)[-1]
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            kind = next(option for option in typing.get_args(kind) if option is not type(None))
    return kind


def _settings_error(first: ErrorDetails, kind: Any, path: str) -> SettingsError:
    """Return a validation error as a `SettingsError` with its path and the expected value."""
    place = ".".join(filter(None, [path, *(part for part in first["loc"] if isinstance(part, str))]))
    refused = first.get("ctx", {}).get("error")
    if isinstance(refused, ValueError):  # raised by the dataclass itself
        return SettingsError(str(refused) if path in str(refused) else f"{path}: {refused}")
    if first["type"] == "missing":
        return SettingsError(f"{place} is missing: set it in the recipe, or with --set {place}=...")
    if first["type"] == "unexpected_keyword_argument":
        table, known = place.rpartition(".")[0], section_fields(_type_at(kind, first["loc"][:-1]))
        return unknown_key(place, table, known)
    if first["type"] in _BOUNDS:
        *parents, name = (part for part in first["loc"] if isinstance(part, str))
        owner = _type_at(kind, parents)
        try:
            require_bounds(first["input"], bounds_of(owner).get(name, section_fields(owner)[name].metadata), place)
        except SettingsError as out_of_bounds:
            return out_of_bounds
    wanted = _WANTED.get(first["type"])
    problem = f"must be {wanted}" if wanted else f"is wrong ({first['msg']})"
    return SettingsError(f"{place} {problem}, got {first['input']!r}")
