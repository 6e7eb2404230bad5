"""A check that is defined in one class and named as a section's base is in the recipe, the reasons and the rules."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from cleaning.checks.captions import CleanConfig, Length
from cleaning.checks.definition import TARGET, TEXT, CaptionCheck, Captions, Judge, Section, TextColumns, setting
from data_catalog.errors import SettingsError
from data_catalog.language_pack import LanguagePack
from data_catalog.settings import json_values
from data_catalog.stages import Drop
from flows.recipe.settings import read


@dataclass(frozen=True, kw_only=True)
class Shouting(CaptionCheck, name="shouting", reasons={"shouted": "too many signs of exclamation"}):
    """Drop captions with too many signs of exclamation."""

    shouting_check: bool = setting(True)
    max_signs: int = setting(2, "most signs", ge=0)

    def bind(self, captions: Captions) -> Judge:
        return lambda text: Drop("shouted", str(text.count("!"))) if text.count("!") > self.max_signs else None


@dataclass(frozen=True, kw_only=True)
class Native(CaptionCheck, name="native", reasons={"foreign": "of no use"}, reads=("source_lang", TEXT)):
    """Drop captions that begin with the code of their language."""

    native_check: bool = setting(True)
    mark: str = setting("it", "the code", among=("it", "de"))

    def bind(self, captions: Captions) -> Judge:
        return lambda lang, text: Drop("foreign") if lang == self.mark and text.startswith(lang) else None


@dataclass(frozen=True, kw_only=True)
class ExampleConfig(Shouting, Native, Length, Section):
    """An example."""

    section: ClassVar[str] = "example"
    columns: ClassVar[TextColumns] = TARGET


ITALIAN = LanguagePack.minimal("it")


def test_a_section_has_the_settings_of_its_checks() -> None:
    config = read(ExampleConfig, {"max_signs": 0, "order": ["native"], "min_words": 1}, "example")
    assert config.max_signs == 0
    assert [rule.name for rule in config.rules(ITALIAN)] == ["native", "shouting", "length"]
    assert read(ExampleConfig, json_values(config), "example") == config
    assert [field.name for field in ExampleConfig.settings()][:3] == ["shouting_check", "max_signs", "native_check"]
    assert ExampleConfig.descriptions()["shouting_check"] == "Drop captions with too many signs of exclamation."


def test_a_section_has_the_reasons_of_its_checks_in_their_order() -> None:
    assert list(ExampleConfig.all_reasons())[:3] == ["shouted", "foreign", "caption_empty"]


def test_a_reason_names_the_settings_that_decide_it() -> None:
    found = {name: reason.settings for name, reason in CleanConfig.all_reasons().items()}
    assert found["caption_too_short"] == ("clean.min_words", "clean.min_chars")
    assert found["caption_too_long"] == ("clean.max_words", "clean.max_chars")
    assert found["caption_empty"] == ("clean.length_check",), "nothing else can be set"
    assert found["caption_boilerplate"] == ("clean.boilerplate_rules",)


def test_checks_judge_the_columns_that_they_read(reasons: Callable[..., list[str | None]]) -> None:
    captions = ["it gatto", "un gatto!!!", "un gatto", "gatto!!!"]
    assert reasons(ExampleConfig().rules(ITALIAN), captions) == ["foreign", "shouted", None, "shouted"]
    quiet = ExampleConfig(shouting_check=False)
    assert reasons(quiet.rules(ITALIAN), captions) == ["foreign", None, None, "caption_too_short"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_signs": -1}, r"example\.max_signs must not be negative, got -1"),
        ({"mark": "en"}, r"example\.mark names 'en', which is unknown: use it, de"),
        ({"order": ("length", "length")}, r"example\.order names one of length, length twice"),
        ({"order": ("volume",)}, r"example\.order names 'volume', which is unknown: use shouting, native, length"),
        ({"max_words": 1}, r"example\.max_words must be at least 2, got 1"),
    ],
)
def test_settings_out_of_bounds_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ExampleConfig(**values)
