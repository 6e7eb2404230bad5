"""Filters of a recipe that an ablation can switch, found by their names."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cleaning.checks.definition import Section
from data_catalog.base.errors import SettingsError
from data_catalog.base.settings import json_values
from data_catalog.disk.files import digest
from flows.recipe.recipe import SECTIONS as RECIPE_SECTIONS
from flows.recipe.recipe import Recipe, override_values
from flows.recipe.settings import read, section_fields

SECTIONS = ("clean", "check", "repeats", "image_text", "duplicates", "leaks")
ANY_SECTION = "cleaning"  # in a filter's path, means whichever section has the setting
# Without the split guard, models would be trained on the images that they are scored on.
NOT_SWITCHABLE = {
    "duplicates.split_guard": "it keeps images of the test split out of training, which all scores rely on"
}
_MAX_SLUG = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Toggle:
    """Settings, one or several, that are switched together."""

    settings: Mapping[str, tuple[Any, Any]]  # by path, the value in the recipe and the other one

    @property
    def label(self) -> str:
        """Return the label of the toggle: the path of an on/off setting, or the path and both values of another one."""
        return " + ".join(
            path if isinstance(now, bool) else f"{path} {_shown(now)}, not {_shown(instead)}"
            for path, (now, instead) in self.settings.items()
        )

    @property
    def adds(self) -> bool:
        """Return True if the filter is off in the recipe, so that only the variant has it."""
        return all(now is False or now is None for now, _ in self.settings.values())

    @property
    def overrides(self) -> list[str]:
        """Return the overrides that turn the recipe into the variant, as `--set` takes them (JSON values are TOML)."""
        values = {path: "" if instead is None else instead for path, (_, instead) in self.settings.items()}
        return [f"{path}={json.dumps(value)}" for path, value in values.items()]

    @property
    def slug(self) -> str:
        """Return the variant's part of a dataset's name."""
        parts = [
            path if isinstance(now, bool) else f"{path}-{_shown(instead)}"
            for path, (now, instead) in self.settings.items()
        ]
        word = "without" if all(now is True for now, _ in self.settings.values()) else "with"
        text = re.sub(r"[^A-Za-z0-9_]+", "-", f"{word}-{'-'.join(parts)}").strip("-")
        plain = all(isinstance(now, bool) for now, _ in self.settings.values())
        return text if plain and len(text) <= _MAX_SLUG else f"{text[:_MAX_SLUG]}-{digest(parts)[:6]}"


def switches(recipe: Recipe) -> dict[str, bool]:
    """Return the values of all filters that are on or off, by path."""
    found = {path: value for path, value in _settings(recipe).items() if isinstance(value, bool)}
    return {path: value for path, value in found.items() if path not in NOT_SWITCHABLE}


def toggle_of(text: str, recipe: Recipe) -> Toggle:
    """Return the toggle of a text: paths joined by `+`, each with `=VALUE` if the setting is not an on/off setting."""
    settings: dict[str, tuple[Any, Any]] = {}
    for part in re.split(r"\+\s*(?=[a-z_])", text.strip()):
        path, now, instead = _switched(part.strip(), recipe)
        if path in settings:
            raise SettingsError(f"--toggle {text}: {path} is named twice")
        settings[path] = now, instead
    switched = {now for now, _ in settings.values() if isinstance(now, bool)}
    if len(switched) > 1:
        raise SettingsError(
            f"--toggle {text}: one filter is on and another is off in the recipe: use one --toggle for each"
        )
    return Toggle(settings=settings)


def toggles_of(texts: Sequence[str], recipe: Recipe) -> list[Toggle]:
    """Return all toggles of a command line."""
    if not texts:
        raise SettingsError("no filter is given: add --toggle FILTER, once or more often (--list shows all filters)")
    toggles = [toggle_of(text, recipe) for text in texts]
    for number, toggle in enumerate(toggles):
        if toggle in toggles[:number]:
            raise SettingsError(f"--toggle {toggle.label} is given twice")
    return toggles


def _switched(part: str, recipe: Recipe) -> tuple[str, Any, Any]:
    """Return a setting's path, its value in the recipe, and the other value."""
    name, equals, value = part.partition("=")
    path = _path(name.strip(), recipe)
    now = _settings(recipe)[path]
    if equals:
        section, setting = path.split(".")
        values = json_values(getattr(recipe, section)) | override_values([f"{path}={value}"])[section]
        instead = getattr(read(RECIPE_SECTIONS[section], values, section), setting)
    elif isinstance(now, bool):
        instead = not now
    else:
        raise SettingsError(f"{path} is not an on/off setting: give the other value, as in --toggle {path}=VALUE")
    if instead == now:
        raise SettingsError(f"--toggle {part} changes nothing: in the recipe, {path} is {_shown(now)} already")
    return path, now, instead


def _path(name: str, recipe: Recipe) -> str:
    """Return the path of the setting that a name means."""
    known = _settings(recipe)
    section, dot, setting = name.rpartition(".")
    sections = SECTIONS if not dot or section == ANY_SECTION else (section,) * (section in SECTIONS)
    found = [path for each in sections for path in _spelt(each, setting) if path in known]
    if not found:
        raise SettingsError(f"there is no filter {name!r}: use one of {', '.join(switches(recipe))}")
    if len(found) > 1:
        raise SettingsError(f"{name!r} may be {' or '.join(found)}: use one, or switch all with {'+'.join(found)}")
    if found[0] in NOT_SWITCHABLE:
        raise SettingsError(f"{found[0]} cannot be switched: {NOT_SWITCHABLE[found[0]]}")
    return found[0]


def _spelt(section: str, name: str) -> list[str]:
    """Return the paths in a section that a name may mean: the setting of this name, or the switch of a check."""
    kind = RECIPE_SECTIONS[section]
    switches = {check.name: check.switch() for check in kind.check_types()} if issubclass(kind, Section) else {}
    meant = [switch for check, switch in switches.items() if name in (check, switch.removesuffix("_check"))]
    return list(dict.fromkeys(f"{section}.{each}" for each in (name, *meant)))


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Return the values of all settings in sections with filters, by path."""
    configs = {section: getattr(recipe, section) for section in SECTIONS}
    return {
        f"{section}.{field.name}": getattr(config, field.name)
        for section, config in configs.items()
        for field in section_fields(type(config)).values()
    }


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
