"""Checks of length, emoji and words of captions in any script; sections of checks can be set, switched and ordered."""

import logging
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleaning.checks import CheckConfig, CleanConfig, translation_measure
from cleaning.checks.captions import Length, OnlyEmoji
from cleaning.checks.definition import TARGET, TEXT, CaptionCheck, Captions, Judge, Section, TextColumns, setting
from cleaning.text.scripts import count_letters, count_words, exact_key, fold_case, split_tokens
from data_catalog.errors import SettingsError
from data_catalog.language_pack import LanguagePack
from data_catalog.settings import json_values
from data_catalog.stages import Drop
from flows.recipe.language_packs import load_language_pack
from flows.recipe.settings import read

CAPTIONS = Captions(pack=LanguagePack.minimal("it"))
LENGTH = Length(max_words=8, max_chars=60).bind(CAPTIONS)
ONLY_EMOJI = OnlyEmoji().bind(CAPTIONS)


@pytest.mark.parametrize(
    ("caption", "verdict"),
    [
        ("un gatto nero", None),
        ("", Drop("caption_empty")),
        ("a", Drop("caption_too_short", "1 character")),
        ("gatto", Drop("caption_too_short", "1 word")),
        ("小貓", Drop("caption_too_short", "2 characters")),
        ("🙂🙂🙂 🙂", Drop("caption_too_short", "0 words")),
        ("uno due tre quattro cinque sei sette otto nove", Drop("caption_too_long", "9 words")),
        ("很" * 17, Drop("caption_too_long", "9 words")),
        ("x" * 10_000, Drop("caption_too_long", "10000 characters")),
    ],
)
def test_caption_length(caption: str, verdict: Drop | None) -> None:
    assert LENGTH(caption) == verdict


@pytest.mark.parametrize(
    ("text", "num_words"),
    [
        ("Un'orca.", 2),
        ("l’eau", 2),
        ("Jusqu'à l'hôtel", 4),
        ("🙂l'🙂 שלום'א", 2),
    ],
)
def test_elided_words_are_words(text: str, num_words: int) -> None:
    assert count_words(text) == num_words


def test_letters_and_words_of_scripts_without_spaces_are_counted() -> None:
    texts = ("un gatto, nero!", "l'albero", "猫", "東京タワー Tokyo Tower", "แมว")
    assert list(map(count_words, texts)) == [3, 2, 1, 5, 1]
    assert [count_letters(text) for text in ("abc 12", "猫a", "")] == [3, 4, 0]
    assert split_tokens("Un gatto, 2猫座!") == ["Un", "gatto", "2", "猫", "座"]
    assert split_tokens("चाचा चाची, cafe\u0301s יֶלֶד") == ["चाचा", "चाची", "cafe\u0301s", "יֶלֶד"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A Dog.", "a  dog"),
        ("Ένας δρόμος", "ΕΝΑΣ ΔΡΟΜΟΣ"),
        ("ρολόι σε προϊόν, ᾠδή", "ΡΟΛΟΪ ΣΕ ΠΡΟΪΟΝ, ΩΙΔΗ"),
    ],
)
def test_exact_key_sees_through(one: str, other: str) -> None:
    assert exact_key(one) == exact_key(other)


def test_exact_key_keeps_apart() -> None:
    texts = ("a dog", "a dog!?s", "", "!", "?", "perché", "perche", "βιβλίο", "βιβλία")
    assert len(set(map(exact_key, texts))) == len(texts)


@given(st.text() | st.text(alphabet="αάΑΆςσΣΐϊΪήΉᾳᾠ\u0301\u0308 ßé"))
def test_folded_case_is_folded(text: str) -> None:
    folded = fold_case(text)
    assert fold_case(folded) == folded
    assert fold_case(unicodedata.normalize("NFD", text)) == fold_case(unicodedata.normalize("NFC", text))


@pytest.mark.parametrize(
    "caption", ["🐶🐶 !!", "👩🏽‍🚀", "🇮🇹", "❤️", "1️⃣2️⃣", "#️⃣", "(🙂)", "🙂" * 10_000, "🏴\U000e0067\U000e007f"]
)
def test_emoji_and_punctuation_are_no_caption(caption: str) -> None:
    assert ONLY_EMOJI(caption) == Drop("caption_only_emoji")


@pytest.mark.parametrize("caption", ["", "?!", "猫🐱", "🐶 ٣", "كلب🙂", "e\u0301🙂", "2 🐶", "x" * 10_000, "© 2010 🙂"])
def test_a_letter_or_a_digit_stays_and_so_does_what_has_no_emoji(caption: str) -> None:
    assert ONLY_EMOJI(caption) is None


ITALIAN = load_language_pack("it")
GERMAN_CAPTION = "eine schwarze Katze schläft auf dem Sofa"

Reasons = Callable[..., list[str | None]]


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


def test_a_section_has_the_settings_and_reasons_of_its_checks_in_their_order() -> None:
    config = read(ExampleConfig, {"max_signs": 0, "order": ["native"], "min_words": 1}, "example")
    assert config.max_signs == 0
    assert [rule.name for rule in config.rules(ITALIAN)] == ["native", "shouting", "length"]
    assert read(ExampleConfig, json_values(config), "example") == config
    assert [field.name for field in ExampleConfig.settings()][:3] == ["shouting_check", "max_signs", "native_check"]
    assert ExampleConfig.descriptions()["shouting_check"] == "Drop captions with too many signs of exclamation."
    assert list(ExampleConfig.all_reasons())[:3] == ["shouted", "foreign", "caption_empty"]
    assert CleanConfig.all_reasons()["caption_too_short"].settings == ("clean.min_words", "clean.min_chars")
    assert CleanConfig.all_reasons()["caption_empty"].settings == ("clean.length_check",), "nothing else can be set"


def test_checks_judge_the_columns_that_they_read_and_can_be_switched_off(reasons: Reasons) -> None:
    captions = ["it gatto", "un gatto!!!", "un gatto", "gatto!!!"]
    assert reasons(ExampleConfig().rules(ITALIAN), captions) == ["foreign", "shouted", None, "shouted"]
    quiet = ExampleConfig(shouting_check=False)
    assert reasons(quiet.rules(ITALIAN), captions) == ["foreign", None, None, "caption_too_short"]
    for section in (CleanConfig, CheckConfig):
        checks = section.check_types()
        assert section(**dict.fromkeys((check.switch() for check in checks), False)).rules(ITALIAN) == []
        assert [rule.name for rule in section().rules(ITALIAN)] == [check.name for check in checks]


def test_rules_of_both_sections_and_their_order_and_choice(reasons: Reasons) -> None:
    captions = ["un gatto nero dorme sul divano rosso", "DSC_0001.JPG", GERMAN_CAPTION]
    assert reasons(CleanConfig().rules(ITALIAN), captions) == [None, "caption_boilerplate", "wrong_language"]
    of_check = ["Anna Maria Mozzoni", GERMAN_CAPTION, "ok"]
    expected = ["mostly_proper_nouns", "wrong_language", "caption_too_short"]
    assert reasons(CheckConfig().rules(ITALIAN), of_check) == expected
    length_first = CleanConfig(order=("length",)).rules(ITALIAN)
    usual = [check.name for check in CleanConfig.check_types()]
    assert [rule.name for rule in length_first] == ["length", *(name for name in usual if name != "length")]
    assert reasons(length_first, ["DSC_0001.JPG"]) == ["caption_too_short"]
    only_urls = CleanConfig(boilerplate_rules=("url",), min_words=1).rules(ITALIAN)
    assert reasons(only_urls, ["www.example.org", "DSC_0001.JPG"]) == ["caption_boilerplate", None]


def test_translations_are_judged_beside_their_sources_and_native_captions_are_not(reasons: Reasons) -> None:
    rules = CheckConfig(language_check=False).rules(ITALIAN)
    assert reasons(rules, ["A dog on the grass"], sources=["a dog on the grass"]) == ["copied_through"]
    assert reasons(rules, ["A dog on the grass"]) == [None]


@pytest.mark.parametrize(
    ("source", "target", "with_list", "without"),
    [
        ("the hotel bartender pours coffee slowly", "il bartender hotel versa lentamente caffè", "copied_words", None),
        ("the hotel has a piano", "il hotel ha un piano", None, "copied_words"),
    ],
)
def test_a_pack_that_lists_shared_words_allows_fewer_others(
    reasons: Reasons, source: str, target: str, with_list: str | None, without: str | None
) -> None:
    for pack, reason in ((ITALIAN, with_list), (LanguagePack.minimal("it"), without)):
        rules = CheckConfig(language_check=False).rules(pack)
        measured = translation_measure(pack)([source], [target])
        assert reasons(rules, [target], sources=[source], **measured) == [reason]


def test_checks_that_a_language_cannot_have_are_left_out_and_said_once(
    reasons: Reasons, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = LanguagePack.minimal("qqq")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            names = [rule.name for rule in CheckConfig().rules(unknown)]
            assert {"proper_nouns", "language"}.isdisjoint(names)
    assert len(caplog.records) == 2
    assert all("'qqq'" in record.message for record in caplog.records)
    assert reasons(CleanConfig().rules(LanguagePack.minimal("es")), [GERMAN_CAPTION]) == ["wrong_language"]


@pytest.mark.parametrize(
    ("config_type", "values", "name"),
    [
        (ExampleConfig, {"max_signs": -1}, "example.max_signs"),
        (ExampleConfig, {"order": ("length", "length")}, "example.order"),
        (CleanConfig, {"min_chars": 5, "max_chars": 4}, "clean.max_chars"),
        (CheckConfig, {"min_language_probability": 1.5}, "check.min_language_probability"),
        (CheckConfig, {"max_proper_noun_share": 0.0}, "check.max_proper_noun_share"),
        (CheckConfig, {"min_length_ratio": 2.0}, "check.min_length_ratio"),
        (CheckConfig, {"max_length_ratio": 0.5}, "check.max_length_ratio"),
        (CheckConfig, {"max_copied_share": 1.5}, "check.max_copied_share"),
        (CheckConfig, {"max_repetitions": 0}, "check.max_repetitions"),
        (CheckConfig, {"min_translation_score": 0.5}, "check.min_translation_score"),
        (CheckConfig, {"proper_noun_tagger": "nltk"}, "check.proper_noun_tagger"),
        (CleanConfig, {"order": ("score",)}, "clean.order"),
        (CleanConfig, {"boilerplate_rules": ("urls",)}, "clean.boilerplate_rules"),
    ],
)
def test_bad_values_are_named(config_type: Any, values: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingsError, match=name.replace(".", r"\.")):
        config_type(**values)
