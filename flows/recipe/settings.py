"""Reading of settings: values from TOML, `--set`, Prefect, Python or options become config dataclasses, or one error.

Bounds stand on the fields (`Annotated[int, Ge(1)]`, `Literal`, `OneOf`), where pydantic enforces them and JSON schemas
show them. `__post_init__` checks only what concerns several fields, or the form of a text.
"""

import dataclasses
import difflib
import functools
import json
import os
import threading
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from cleaning.checks.definition import Section
from data_catalog.base.errors import PipelineError, Refusals, SettingsError

T = TypeVar("T")

OPTIONS = "--"  # the path of settings that are options of a command
_CONFIGURING = threading.Lock()  # pydantic reads the configuration from the class
_MOST_BITS = 63  # of a whole number
_IN_UNION = ("tuple[", "dict[")  # how pydantic's marks of a type in a union begin
_MOST_KEYS = 12  # that an error lists for a table
# What a setting must be, by pydantic's type of error and with its context.
_WANTED = {
    "string_type": "a string",
    "path_type": "a path",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "dict_type": "a table",
    "dataclass_type": "a table of settings",
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
    "literal_error": "{expected}",
    "too_short": "at least {min_length} in number",
    "too_long": "at most {max_length} in number",
}


def read(config_type: type[T], values: Any, path: str, *, other_keys: Collection[str] = ()) -> T:
    """Return a table of values as an instance of a config dataclass, or raise one `SettingsError` about all of them.

    Types are strict: a string is never converted to a number. A single item may stand for a list of one, and an empty
    string for None.

    Args:
        config_type: config dataclass whose attribute docstrings describe its fields.
        values: the table, of JSON values, or an instance of the dataclass.
        path: path of the table in the recipe, such as "normalise"; or `OPTIONS`.
        other_keys: other keys that the table may have, to be listed in an error.
    """
    known, refusals = section_fields(config_type), Refusals()
    if isinstance(values, Mapping):
        unknown = [name for name in values if name not in known]
        refusals.errors += [unknown_key(_place(path, name), path, {*known, *other_keys}) for name in unknown]
        values = {name: value for name, value in values.items() if name in known}
    elif not isinstance(values, config_type):
        raise SettingsError(f"{path} must be a table of settings, got {values!r}")
    with refusals:
        text = json.dumps(_shaped(config_type, values, path))
        try:
            result: T = _adapter(typing.cast(Any, config_type)).validate_json(text, strict=True)
        except ValidationError as error:
            # The first error of each field, without those of the type in a union that the value is not.
            found = [each for each in error.errors() if not str(*each["loc"][-1:]).startswith(_IN_UNION)]
            firsts = {_parts(each): each for each in reversed(found)}
            refusals.errors += [_settings_error(each, config_type, path) for each in reversed(firsts.values())]
    refusals.raise_all()
    return result


def checked(config: T, path: str) -> T:
    """Return a config dataclass that Python code or the options of a command filled, checked and shaped by `read`."""
    return read(type(config), config, path)


@contextmanager
def errors_of(path: str, remedy: str = "") -> Iterator[None]:
    """Add to errors of ours the option or table that they are about, and what helps."""
    try:
        yield
    except PipelineError as error:
        raise type(error)(f"{path}: {error}{remedy}") from error


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
    meanings = _inherited_meanings(config_type)
    fields = {name: found["properties"][name] for name in section_fields(config_type)}
    for name, field in fields.items():
        field["description"] = " ".join((field.get("description") or meanings.get(name, "")).split())
    return {**found, "properties": fields}


def _inherited_meanings(config_type: type) -> dict[str, str]:
    """Return the descriptions of inherited fields, by name; pydantic finds only those of the class itself."""
    bases = [base for base in reversed(config_type.__mro__[1:]) if dataclasses.is_dataclass(base)]
    found = {name: field["description"] for base in bases for name, field in schema(base)["properties"].items()}
    return found | (config_type.switches() if issubclass(config_type, Section) else {})


def unknown_key(key: str, table: str, known: Collection[str]) -> SettingsError:
    """Return the error for an unknown key, given with its path, in a table that may have the `known` ones."""
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
    """Return a value as JSON in the shape of its type: one item as a list of it, an empty string as None if allowed."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        some = _option_for(value, arguments)
        return None if value is None or value == "" else _shaped(some, value, path)
    if isinstance(value, list | tuple):
        return [_shaped(Any, item, path) for item in value]
    if origin is tuple:
        return [_shaped(Any, value, path)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        of_items = arguments[1] if origin is not None and len(arguments) > 1 else Any
        return {name: _shaped(hints.get(name, of_items), item, _place(path, name)) for name, item in value.items()}
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise SettingsError(f"{path} is {value!r}, which is not valid UTF-8: rename the file or folder, or correct it")
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise SettingsError(f"{path} is too long a number: at most {2**_MOST_BITS - 1} is allowed")
    if value is None or isinstance(value, str | int | float):
        return value
    raise SettingsError(f"{path} is {value}, a {type(value).__name__}, which no setting takes: {_in_quotes(value)}")


def _option_for(value: Any, options: Iterable[Any]) -> Any:
    """Return the type in a union that fits a value: a mapping for a table, else the first one."""
    some = [option for option in options if option is not type(None)]
    of_tables = (option for option in some if typing.get_origin(option) is Mapping and isinstance(value, Mapping))
    return next(of_tables, some[0])


def _in_quotes(value: object) -> str:
    """Return how to write a value as a string: a shell removes the outer quotes of `--set name="7"`."""
    return f"""write "{value}" (in a shell '"{value}"')"""


def _place(path: str, *names: str) -> str:
    """Return the path of a setting within a table, or the option of a command."""
    if path == OPTIONS:
        return OPTIONS + ".".join(names).replace("_", "-")
    return ".".join(filter(None, [path, *names]))


def _parts(error: ErrorDetails) -> tuple[str, ...]:
    """Return the names that lead to the refused value, without numbers of items and pydantic's marks."""
    names = (part for part in error["loc"] if isinstance(part, str))
    return tuple(name for name in names if name != "[key]" and not name.startswith(_IN_UNION))


def _type_at(kind: Any, place: Iterable[str]) -> Any:
    """Return the type of the value at a path within a type."""
    for name in place:
        kind = typing.get_type_hints(kind)[name] if dataclasses.is_dataclass(kind) else typing.get_args(kind)[-1]
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            kind = next(option for option in typing.get_args(kind) if option is not type(None))
    return kind


def _settings_error(first: ErrorDetails, kind: type, path: str) -> SettingsError:
    """Return an error of pydantic as one that names the setting, what it must be, and what was given."""
    names, context = _parts(first), first.get("ctx", {})
    place, refused = _place(path, *names), context.get("error")
    if isinstance(refused, ValueError):  # raised by the dataclass itself
        return SettingsError(str(refused) if path == OPTIONS or path in str(refused) else f"{path}: {refused}")
    if first["type"] == "missing":
        return SettingsError(f"{place} is missing: set it in the recipe, or with --set {place}=...")
    if first["type"] == "unexpected_keyword_argument":
        return unknown_key(place, _place(path, *names[:-1]), section_fields(_type_at(kind, names[:-1])))
    limits = {name: int(limit) for name, limit in context.items() if isinstance(limit, float) and limit.is_integer()}
    wanted = _WANTED.get(first["type"])
    problem = f"must be {wanted.format_map({**context, **limits})}" if wanted else f"is wrong ({first['msg']})"
    given = first["input"]
    is_bare = first["type"] in ("string_type", "path_type") and isinstance(given, int | float)
    return SettingsError(f"{place} {problem}, got {given!r}{f': {_in_quotes(json.dumps(given))}' if is_bare else ''}")
