import logging
from typing import Any

import pytest

from cleaning.config import REASONS, CheckConfig, CleanConfig, source_checks, target_checks, translation_checks
from data_catalog.errors import ConfigError
from data_catalog.language_pack import LanguagePack
from data_catalog.stages import Check
from flows.language_packs import load_language_pack

ITALIAN = load_language_pack("it")


def reasons(checks: list[Check], caption: str) -> list[str]:
    verdicts = [check([caption])[0] for check in checks]
    return [verdict.reason for verdict in verdicts if verdict]


def test_source_checks() -> None:
    checks = source_checks(CleanConfig(), ITALIAN)
    assert reasons(checks, "un gatto nero dorme sul divano rosso") == []
    assert reasons(checks, "DSC_0001.JPG") == ["caption_boilerplate", "caption_too_short"]
    assert reasons(checks, "eine schwarze Katze schläft auf dem Sofa") == ["wrong_language"]


def test_target_checks() -> None:
    checks = target_checks(CheckConfig(), ITALIAN)
    assert reasons(checks, "un gatto nero dorme sul divano rosso") == []
    assert reasons(checks, "Anna Maria Mozzoni") == ["mostly_proper_nouns"]


def test_everything_can_be_switched_off() -> None:
    assert len(source_checks(CleanConfig(boilerplate=False, language_check=False), ITALIAN)) == 1
    assert len(target_checks(CheckConfig(proper_noun_check=False, language_check=False), ITALIAN)) == 1
    off = CheckConfig(copied_through_check=False, repetition_check=False, length_ratio_check=False, numbers_check=False)
    assert translation_checks(off) == []
    assert len(translation_checks(CheckConfig())) == 4


def test_checks_that_a_language_cannot_have_are_left_out_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    basque = LanguagePack.minimal("eu")
    with caplog.at_level(logging.WARNING):
        assert len(target_checks(CheckConfig(), basque)) == 1
        assert len(target_checks(CheckConfig(), basque)) == 1
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "captions in 'eu' are not checked for proper nouns",
        "captions in 'eu' are not checked for their language",
    ]


def test_a_minimal_pack_of_a_known_language_is_checked() -> None:
    checks = source_checks(CleanConfig(), LanguagePack.minimal("es"))
    assert reasons(checks, "eine schwarze Katze schläft auf dem Sofa") == ["wrong_language"]


@pytest.mark.parametrize(
    ("config_type", "values", "name"),
    [
        (CleanConfig, {"min_words": -1}, "clean.min_words"),
        (CleanConfig, {"min_chars": 5, "max_chars": 4}, "clean.max_chars"),
        (CheckConfig, {"max_words": 0}, "check.max_words"),
        (CheckConfig, {"min_language_probability": 1.5}, "check.min_language_probability"),
        (CheckConfig, {"min_language_letters": -1}, "check.min_language_letters"),
        (CheckConfig, {"max_proper_noun_share": 0.0}, "check.max_proper_noun_share"),
        (CheckConfig, {"min_length_ratio": 2.0}, "check.min_length_ratio"),
        (CheckConfig, {"max_length_ratio": 0.5}, "check.max_length_ratio"),
    ],
)
def test_bad_values_are_named(config_type: Any, values: dict[str, float], name: str) -> None:
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        config_type(**values)


def test_reasons_are_documented() -> None:
    assert set(REASONS) == {"clean", "check", "deduplicate"}
    assert all(text.strip() for step in REASONS.values() for text in step.values())
