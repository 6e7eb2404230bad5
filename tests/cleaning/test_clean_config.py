import logging
from collections.abc import Callable
from typing import Any

import pytest

from cleaning.checks import CheckConfig, CleanConfig, translation_measure
from cleaning.checks.definition import Section
from data_catalog.errors import SettingsError
from data_catalog.language_pack import LanguagePack
from flows.recipe.language_packs import load_language_pack

ITALIAN = load_language_pack("it")
GERMAN_CAPTION = "eine schwarze Katze schläft auf dem Sofa"

Reasons = Callable[..., list[str | None]]


def test_rules_for_source_captions(reasons: Reasons) -> None:
    captions = ["un gatto nero dorme sul divano rosso", "DSC_0001.JPG", GERMAN_CAPTION]
    assert reasons(CleanConfig().rules(ITALIAN), captions) == [None, "caption_boilerplate", "wrong_language"]


def test_rules_for_captions_in_the_target_language(reasons: Reasons) -> None:
    captions = ["un gatto nero dorme sul divano rosso", "Anna Maria Mozzoni", GERMAN_CAPTION, "ok"]
    expected = [None, "mostly_proper_nouns", "wrong_language", "caption_too_short"]
    assert reasons(CheckConfig().rules(ITALIAN), captions) == expected


@pytest.mark.parametrize("section", [CleanConfig, CheckConfig])
def test_every_check_can_be_switched_off(section: type[Section]) -> None:
    checks = section.check_types()
    switches = [check.switch() for check in checks]
    assert [type(getattr(section(), switch)) for switch in switches] == [bool] * len(set(switches))
    assert section(**dict.fromkeys(switches, False)).rules(ITALIAN) == []
    assert [rule.name for rule in section().rules(ITALIAN)] == [check.name for check in checks]


def test_rules_go_in_the_order_that_is_asked_for(reasons: Reasons) -> None:
    length_first = CleanConfig(order=("length",))
    usual = [check.name for check in CleanConfig.check_types()]
    found = [rule.name for rule in length_first.rules(ITALIAN)]
    assert found == ["length", *(name for name in usual if name != "length")]
    assert reasons(length_first.rules(ITALIAN), ["DSC_0001.JPG"]) == ["caption_too_short"]
    language_first = CheckConfig(order=("language", "score")).rules(ITALIAN)
    assert [rule.name for rule in language_first][:3] == ["language", "score", "copied_through"]


def test_rules_of_boilerplate_can_be_chosen(reasons: Reasons) -> None:
    only_urls = CleanConfig(boilerplate_rules=("url",), min_words=1).rules(ITALIAN)
    assert reasons(only_urls, ["www.example.org", "DSC_0001.JPG"]) == ["caption_boilerplate", None]


def test_translations_are_judged_beside_their_sources_and_native_captions_are_not(reasons: Reasons) -> None:
    rules = CheckConfig(language_check=False).rules(ITALIAN)
    assert reasons(rules, ["A dog on the grass"], sources=["a dog on the grass"]) == ["copied_through"]
    assert reasons(rules, ["A dog on the grass"]) == [None]


def test_copied_words_are_judged_by_what_the_language_shares_with_english(reasons: Reasons) -> None:
    """A pack that lists shared words allows fewer others; one without allows more."""

    def reason(pack: LanguagePack, source: str, target: str) -> str | None:
        measured = translation_measure(pack)([source], [target])
        rules = CheckConfig(language_check=False).rules(pack)
        return reasons(rules, [target], sources=[source], **measured)[0]

    source, target = "the hotel bartender pours coffee slowly", "il bartender hotel versa lentamente caffè"
    assert reason(ITALIAN, source, target) == "copied_words"
    assert reason(LanguagePack.minimal("it"), source, target) is None
    assert reason(ITALIAN, "the hotel has a piano", "il hotel ha un piano") is None
    assert reason(LanguagePack.minimal("it"), "the hotel has a piano", "il hotel ha un piano") == "copied_words"


def test_checks_that_a_language_cannot_have_are_left_out_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    unknown = LanguagePack.minimal("qqq")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            names = [rule.name for rule in CheckConfig().rules(unknown)]
            assert {"proper_nouns", "language"}.isdisjoint(names)
    assert sorted(record.message.split(":")[0] for record in caplog.records) == [
        "captions in 'qqq' are not checked for proper nouns",
        "the language of captions in 'qqq' is not checked",
    ]


def test_a_minimal_pack_of_a_known_language_is_checked(reasons: Reasons) -> None:
    rules = CleanConfig().rules(LanguagePack.minimal("es"))
    assert reasons(rules, [GERMAN_CAPTION]) == ["wrong_language"]


@pytest.mark.parametrize(
    ("config_type", "values", "name"),
    [
        (CleanConfig, {"min_words": -1}, "clean.min_words"),
        (CleanConfig, {"min_chars": 5, "max_chars": 4}, "clean.max_chars"),
        (CheckConfig, {"max_words": 0}, "check.max_words"),
        (CheckConfig, {"min_language_probability": 1.5}, "check.min_language_probability"),
        (CheckConfig, {"min_language_letters": -1}, "check.min_language_letters"),
        (CheckConfig, {"max_proper_noun_share": 0.0}, "check.max_proper_noun_share"),
        (CheckConfig, {"max_proper_noun_share": 1.1}, "check.max_proper_noun_share"),
        (CheckConfig, {"max_proper_noun_share": float("nan")}, "check.max_proper_noun_share"),
        (CheckConfig, {"min_length_ratio": 2.0}, "check.min_length_ratio"),
        (CheckConfig, {"max_length_ratio": 0.5}, "check.max_length_ratio"),
        (CheckConfig, {"max_length_ratio": float("nan")}, "check.max_length_ratio"),
        (CheckConfig, {"shorter_slack_letters": -1}, "check.shorter_slack_letters"),
        (CheckConfig, {"longer_slack_letters": -1}, "check.longer_slack_letters"),
        (CheckConfig, {"max_copied_share": 1.5}, "check.max_copied_share"),
        (CheckConfig, {"max_copied_share_unlisted": -0.5}, "check.max_copied_share_unlisted"),
        (CheckConfig, {"max_repetitions": 0}, "check.max_repetitions"),
        (CheckConfig, {"min_translation_score": 0.5}, "check.min_translation_score"),
        (CheckConfig, {"min_round_trip_chrf": 101.0}, "check.min_round_trip_chrf"),
        (CheckConfig, {"order": ("colour",)}, "check.order"),
        (CheckConfig, {"order": ("score", "score")}, "check.order"),
        (CheckConfig, {"proper_noun_tagger": "nltk"}, "check.proper_noun_tagger"),
        (CleanConfig, {"order": ("score",)}, "clean.order"),
        (CleanConfig, {"language_engine": "cld3"}, "clean.language_engine"),
        (CleanConfig, {"boilerplate_rules": ("urls",)}, "clean.boilerplate_rules"),
    ],
)
def test_bad_values_are_named(config_type: Any, values: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingsError, match=name.replace(".", r"\.")):
        config_type(**values)
