import dataclasses
import logging
from typing import Any

import pyarrow as pa
import pytest

from cleaning.config import (
    REASONS,
    CheckConfig,
    CleanConfig,
    source_checks,
    target_checks,
    translation_checks,
    translation_measure,
)
from data_catalog.errors import ConfigError
from data_catalog.language_pack import LanguagePack
from data_catalog.schema import CAPTIONS
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
    switches = [field.name for field in dataclasses.fields(CheckConfig) if field.name.endswith("_check")]
    off = CheckConfig(**dict.fromkeys(switches, False))
    assert len(target_checks(off, ITALIAN)) == 1
    assert translation_checks(off, ITALIAN) == []
    assert len(translation_checks(CheckConfig(), ITALIAN)) == 10
    columns = translation_measure(off, ITALIAN)(["a dog on the grass"], ["un cane sull'erba"])
    assert columns["language_margin"] == [None]


def test_copied_words_are_judged_by_what_the_language_shares_with_english() -> None:
    """A pack that lists shared words allows fewer others; one without allows more."""
    source, target = "the hotel bartender pours coffee slowly", "il bartender hotel versa lentamente caffè"
    assert translation_reasons(ITALIAN, source, target) == ["copied_words"]
    assert translation_reasons(LanguagePack.minimal("it"), source, target) == []
    assert translation_reasons(ITALIAN, "the hotel has a piano", "il hotel ha un piano") == []
    assert translation_reasons(LanguagePack.minimal("it"), "the hotel has a piano", "il hotel ha un piano") == [
        "copied_words"
    ]


def translation_reasons(pack: LanguagePack, source: str, target: str) -> list[str]:
    config = CheckConfig(language_check=False)
    columns = translation_measure(config, pack)([source], [target])
    known = {"clean_caption": [source], "caption": [target], **columns}
    table = pa.table({field.name: pa.array(known.get(field.name, [None]), field.type) for field in CAPTIONS})
    verdicts = [check(table)[0] for check in translation_checks(config, pack)]
    return [verdict.reason for verdict in verdicts if verdict]


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
        (CheckConfig, {"max_length_ratio": float("nan")}, "check.max_length_ratio"),
        (CheckConfig, {"shorter_slack_letters": -1}, "check.shorter_slack_letters"),
        (CheckConfig, {"longer_slack_letters": -1}, "check.longer_slack_letters"),
        (CheckConfig, {"max_copied_share": 1.5}, "check.max_copied_share"),
        (CheckConfig, {"max_copied_share_unlisted": -0.5}, "check.max_copied_share_unlisted"),
        (CheckConfig, {"max_repetitions": 0}, "check.max_repetitions"),
        (CheckConfig, {"min_translation_score": 0.5}, "check.min_translation_score"),
        (CheckConfig, {"min_round_trip_chrf": 101.0}, "check.min_round_trip_chrf"),
    ],
)
def test_bad_values_are_named(config_type: Any, values: dict[str, float], name: str) -> None:
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        config_type(**values)


def test_reasons_are_documented() -> None:
    assert set(REASONS) == {"clean", "check", "deduplicate"}
    assert all(text.strip() for step in REASONS.values() for text in step.values())
