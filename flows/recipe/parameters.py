"""The settings of a recipe as a pydantic model, made from the same dataclasses: Prefect's nested, validated form."""

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, create_model

from cleaning.checks.definition import Section
from data_catalog.errors import SettingsError
from flows.recipe.recipe import SECTIONS, override_values
from flows.recipe.settings import OLD_KEYS, section_fields, unknown_key


class _RecipeSettings(BaseModel):
    """Settings that differ from the recipe's; what is left empty stays as the recipe has it."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(default=None, description="name of the dataset")
    target_language: str | None = Field(default=None, description="language code of the captions, such as it")
    language_pack: str | None = Field(default=None, description="a language pack's file, where it is not one of ours")
    language_packs: list[str] | str | None = Field(
        default=None, description="files of further language packs: of the source language, the pivot, captions read"
    )
    data: str | None = Field(default=None, description="folder of the upstream files")
    sources: dict[str, dict[str, JsonValue]] | None = Field(
        default=None, description="settings of each source, by its name"
    )
    test_sets: dict[str, dict[str, JsonValue]] | None = Field(
        default=None, description="settings of each test set that nothing may be trained on, by its name"
    )


def section_model(name: str, config_type: type) -> type[BaseModel]:
    """A pydantic model with the fields of a config dataclass, all optional, described by the dataclass's docstring."""
    hints = typing.get_type_hints(config_type)
    texts = argument_texts(config_type)
    fields: dict[str, Any] = {
        field.name: (_lenient(hints[field.name]), Field(default=None, description=_description(field, texts)))
        for field in section_fields(config_type).values()
    }
    return create_model(name, __config__=ConfigDict(extra="forbid"), __doc__=_summary(config_type), **fields)


def _lenient(kind: Any) -> Any:
    """What a form may hold for a field: its own type or nothing; for a tuple a list, as TOML has it, or one item."""
    if typing.get_origin(kind) is tuple:
        item = _plain_type(typing.get_args(kind)[0])
        return list[item] | item | None  # type: ignore[valid-type]
    origin = typing.get_origin(kind)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        item = typing.get_args(kind)[1]
        value: Any = item
        if isinstance(item, type) and dataclasses.is_dataclass(item):
            value = section_model(item.__name__, item)
        return dict[str, value] | None
    if origin in (typing.Union, types.UnionType):
        return _plain_type(next(option for option in typing.get_args(kind) if option is not type(None))) | None
    return _plain_type(kind) | None


def _plain_type(kind: Any) -> Any:
    return str if kind is Path else kind


def _description(field: "dataclasses.Field[Any]", texts: Mapping[str, str]) -> str:
    text = texts.get(field.name, "")
    return text if field.default is dataclasses.MISSING else f"{text.rstrip('.')} (default: {field.default})".strip()


def argument_texts(config_type: type) -> dict[str, str]:
    """Return what each field means: what a section of checks says of it, else the `Args:` of the docstring."""
    if issubclass(config_type, Section):
        return config_type.descriptions()
    texts = re.findall(r"^    (\w+): (.+(?:\n {8,}.+)*)", inspect.getdoc(config_type) or "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in texts}


def _summary(config_type: type) -> str:
    return (inspect.getdoc(config_type) or "").partition("\n")[0]


def _section(name: str, config_type: type) -> tuple[Any, Any]:
    model = section_model(f"{name.capitalize()}Settings", config_type)
    return model | None, Field(default=None, description=_summary(config_type))


if TYPE_CHECKING:
    Settings = _RecipeSettings
else:
    Settings = create_model(
        "Settings",
        __base__=_RecipeSettings,
        **{name: _section(name, kind) for name, kind in SECTIONS.items()},
    )


def settings_of(overrides: Sequence[str]) -> Settings:
    """Settings given as `section.key=value`, as on the command line.

    Raises:
        SettingsError: not of that form, an unknown section or key, or a wrong type.
    """
    try:
        return Settings.model_validate(override_values(overrides))
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        if path in OLD_KEYS:
            raise unknown_key(path, "", ()) from error
        raise SettingsError(f"{path}: {first['msg']}") from error


def overrides_of(settings: Settings) -> list[str]:
    """The inverse of `settings_of`: one `section.key=value` for each setting that was given, values as in TOML."""
    return list(_flatten(settings.model_dump(mode="json", exclude_unset=True), ()))


def _flatten(values: Mapping[str, Any], path: tuple[str, ...]) -> typing.Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, (*path, name))
        elif value is not None:
            # A JSON value is a TOML value, but for the one control character that JSON lets stand.
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            yield f"{'.'.join(map(_key, (*path, name)))}={text}"


def _key(name: str) -> str:
    """A name in a path, in quotes where it holds dots itself, as host names do."""
    return f'"{name}"' if "." in name else name
