"""Read settings: plain values of TOML, `--set`, Prefect or Python become config dataclasses, or one sentence."""

import dataclasses
import difflib
import functools
import json
import os
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from cleaning.checks.definition import Section
from data_catalog.errors import SettingsError
from data_catalog.settings import require_bounds

T = TypeVar("T")

# Keys that recipes had once ("*" is any name): what holds now, and what to do. A key that has another name now says
# that name here.
_IMAGES_ARE_KNOWN = "what a root knows of images is never asked again: remove it"
_CONSENT = "all that servers say about use is heeded: remove it, or, where it was false, set consent.ignore = {}"
OLD_KEYS: Mapping[str, str] = {
    "build.chunk_size": "captions are translated shard by shard, of build.shard_size samples each: remove it",
    "build.keep_work": _IMAGES_ARE_KNOWN,
    "build.reuse_images": _IMAGES_ARE_KNOWN,
    "fetch.respect_robots_tag": _CONSENT.format('["tdm-reservation", "x-robots-tag"]'),
    "fetch.respect_robots_txt": _CONSENT.format('["robots.txt"]'),
    "sources.*.licence": "it is called license",
}
_MOST_BITS = 63  # of a whole number
_MOST_KEYS = 12  # of a table that an error lists
_BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
_WANTED = {
    "string_type": "a text",
    "path_type": "a path",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "dict_type": "a table",
    "mapping_type": "a table",
    "dataclass_type": "a table of settings",
}


def read(config_type: type[T], values: Any, path: str, *, elsewhere: Collection[str] = ()) -> T:
    """Return a table of values as an instance of a config dataclass.

    Types are strict: no text is taken for a number. One item does for a list of one, and an empty text for nothing.

    Args:
        config_type: its attribute docstrings say what its fields mean.
        values: the table, of JSON values.
        path: where the table is in the recipe, such as "normalise".
        elsewhere: other keys that the table may have: for the error.

    Raises:
        SettingsError: an unknown or missing key, a wrong type, or a value that the dataclass refuses.
    """
    if not isinstance(values, Mapping):
        raise SettingsError(f"{path} must be a table of settings, got {values!r}")
    known = section_fields(config_type)
    for name in values:
        if name not in known:
            raise unknown_key(f"{path}.{name}", path, {*known, *elsewhere})
    result: T = read_value(config_type, values, path)
    return result


def read_value(kind: Any, value: Any, path: str) -> Any:
    """Return a value as the annotated type `kind`.

    Raises:
        SettingsError: it is of another type, or refused.
    """
    text = json.dumps(_in_shape(kind, value, path))
    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise _sentence(error, kind, path) from error


def section_fields(config_type: type) -> "dict[str, dataclasses.Field[Any]]":
    """Return the fields of a config dataclass that its table may set, by name, as a reader wants them.

    A field that is a config dataclass itself is a table of its own.
    """
    hints = typing.get_type_hints(config_type)
    found = config_type.settings() if issubclass(config_type, Section) else dataclasses.fields(config_type)  # type: ignore[arg-type]
    return {each.name: each for each in found if not dataclasses.is_dataclass(hints[each.name])}


def schema(config_type: type) -> dict[str, Any]:
    """Return the JSON schema of a config dataclass, complete in itself, with what each field means."""
    found = _adapter(config_type).json_schema()
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
    """Return what the fields of the base classes mean, by name; an adapter knows those of the class itself."""
    bases = [base for base in reversed(config_type.__mro__[1:]) if dataclasses.is_dataclass(base)]
    return {name: field["description"] for base in bases for name, field in schema(base)["properties"].items()}


def unknown_key(key: str, table: str, known: Collection[str]) -> SettingsError:
    """Return the error for a key that a recipe may not have, or not any more.

    Args:
        key: with its path.
        table: what it is in.
        known: keys that may be there.
    """
    old = next((meaning for pattern, meaning in OLD_KEYS.items() if fnmatchcase(key, pattern)), None)
    if old is not None:
        return SettingsError(f"{key} is no setting any more: {old}")
    near = difflib.get_close_matches(key.rpartition(".")[2], known, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    listed = f"{table} has {', '.join(sorted(known))}"
    return SettingsError(f"unknown key {key}: {hint}{'' if near and len(known) > _MOST_KEYS else listed}".rstrip())


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Return what validates a type; the packages that define config dataclasses know nothing of pydantic."""
    for each in _dataclasses_of(kind):
        config = {"extra": "forbid", "allow_inf_nan": False, "use_attribute_docstrings": True}
        each.__pydantic_config__ = config  # type: ignore[attr-defined]
    return TypeAdapter(kind)


def _dataclasses_of(kind: Any) -> Iterator[type]:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        yield kind
        for hint in typing.get_type_hints(kind).values():
            yield from _dataclasses_of(hint)
    for argument in typing.get_args(kind):
        yield from _dataclasses_of(argument)


def _in_shape(kind: Any, value: Any, path: str) -> Any:
    """Return a value in JSON and as its type has it: one item as a list of one, an empty text as nothing if it may be.

    Raises:
        SettingsError: JSON has no such value, as of a date.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        some = next(option for option in arguments if option is not type(None))
        return None if value is None or value == "" else _in_shape(some, value, path)
    if isinstance(value, list | tuple):
        return [_in_shape(Any, item, path) for item in value]
    if origin is tuple:
        return [_in_shape(Any, value, path)]
    if isinstance(value, Mapping):
        hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        of_items = arguments[1] if origin is not None and len(arguments) > 1 else Any
        return {
            name: _in_shape(hints.get(name, of_items), item, f"{path}.{name}".removeprefix("."))
            for name, item in value.items()
        }
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise SettingsError(f"{path} is {value!r}, which is no text in UTF-8: rename the file or folder, or correct it")
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise SettingsError(f"{path} is a number of {value.bit_length()} bits, which no setting can be")
    if value is None or isinstance(value, str | int | float):
        return value
    raise SettingsError(f"{path} is {value!r}, which no setting can be: write it as a text, in quotes")


def _type_at(kind: Any, place: Iterable[int | str]) -> Any:
    """Return the type of what is at a place within a type."""
    for name in place:
        kind = typing.get_type_hints(kind)[str(name)] if dataclasses.is_dataclass(kind) else typing.get_args(kind)[-1]
    return kind


def _sentence(error: ValidationError, kind: Any, path: str) -> SettingsError:
    """Return the first of the things that are wrong, with its path and what would be right."""
    first = error.errors()[0]
    place = ".".join(filter(None, [path, *(part for part in first["loc"] if isinstance(part, str))]))
    refused = first.get("ctx", {}).get("error")
    if isinstance(refused, ValueError):  # what the dataclass itself raised
        return SettingsError(str(refused) if path in str(refused) else f"{path}: {refused}")
    if first["type"] == "missing":
        return SettingsError(f"{place} is missing: the recipe, or --set {place}=..., must give it")
    if first["type"] == "unexpected_keyword_argument":
        table, known = place.rpartition(".")[0], section_fields(_type_at(kind, first["loc"][:-1]))
        return unknown_key(place, table, known)
    if first["type"] in _BOUNDS:
        field = section_fields(kind)[str(first["loc"][-1])]
        try:
            require_bounds(first["input"], field.metadata, place)
        except SettingsError as out_of_bounds:
            return out_of_bounds
    wanted = _WANTED.get(first["type"])
    said = f"must be {wanted}" if wanted else f"is wrong ({first['msg']})"
    return SettingsError(f"{place} {said}, got {first['input']!r}")
