from typing import Any

import pyarrow as pa
import pytest

from cleaning.checks.captions import (
    CopiedThrough,
    CopiedWords,
    LengthRatio,
    NumbersInvented,
    NumbersLost,
    Repetition,
    Repetitive,
    RoundTrip,
    Score,
    Truncated,
)
from cleaning.checks.definition import CaptionCheck, Captions
from data_catalog.language_pack import LanguagePack
from data_catalog.schema import CAPTIONS
from data_catalog.stages import Drop

CAPTIONS_OF_A_LANGUAGE = Captions(pack=LanguagePack(code="it", shared_words=("hotel",)))


def verdict_of(check: CaptionCheck, **cells: Any) -> Drop | None:
    rule = check.rule(CAPTIONS_OF_A_LANGUAGE)
    assert rule is not None
    assert rule.translations_only
    table = pa.table({name: pa.array([cells[name]], CAPTIONS.field(name).type) for name in rule.columns})
    (verdict,) = rule.check(table)
    return verdict


@pytest.mark.parametrize(
    ("source", "target", "dropped"),
    [
        ("a dog on the grass", "A dog on the grass.", True),
        ("a dog on the grass", "un cane sull'erba", False),
        ("hot dog", "hot dog", False),
        ("Kim Rhodes", "Kim Rhodes", False),
        ("東京の夜景と人々", "東京の夜景と人々", True),
        ("שלום לכל העולם", "שלום לכל העולם", True),
        ("🙂", "🙂", False),
        ("", "", False),
    ],
)
def test_copied_through(source: str, target: str, dropped: bool) -> None:
    verdict = verdict_of(CopiedThrough(), clean_caption=source, caption=target)
    assert verdict == (Drop("copied_through") if dropped else None)


@pytest.mark.parametrize(
    ("check", "cells", "verdict"),
    [
        (CopiedWords(max_copied_share=0.15), {"copied_share": 0.4285}, Drop("copied_words", "share 0.43")),
        (CopiedWords(max_copied_share=0.15), {"copied_share": 0.15}, None),
        (CopiedWords(max_copied_share=1), {"copied_share": 1.0}, None),
        (Repetition(max_repetitions=2), {"repeated_ngrams": 3}, Drop("repeated_ngrams", "3 times")),
        (Repetition(max_repetitions=2), {"repeated_ngrams": 2}, None),
        (NumbersLost(), {"numbers_lost": ["345", "1999"]}, Drop("numbers_lost", "lost 345, 1999")),
        (NumbersLost(), {"numbers_lost": []}, None),
        (NumbersLost(), {"numbers_lost": ["9" * 90]}, Drop("numbers_lost", "lost " + "9" * 55)),
        (NumbersInvented(), {"numbers_invented": ["82"]}, Drop("numbers_invented", "invented 82")),
        (NumbersInvented(), {"numbers_invented": []}, None),
        (Truncated(), {"translation_truncated": True}, Drop("translation_truncated")),
        (Truncated(), {"translation_truncated": False}, None),
        (Repetitive(), {"translation_repetitive": True}, Drop("translation_repetitive")),
        (
            Score(min_translation_score=-1.5),
            {"translation_score": -1.81},
            Drop("low_translation_score", "score -1.81"),
        ),
        (Score(min_translation_score=-1.3), {"translation_score": -1.3}, None),
        (RoundTrip(min_round_trip_chrf=10), {"round_trip_chrf": 7.25}, Drop("low_round_trip", "chrF 7.2")),
        (RoundTrip(min_round_trip_chrf=10.1), {"round_trip_chrf": 10.1}, None),
    ],
)
def test_thresholds(check: CaptionCheck, cells: dict[str, Any], verdict: Drop | None) -> None:
    assert verdict_of(check, **cells) == verdict


@pytest.mark.parametrize(
    ("source", "ratio", "detail"),
    [
        ("a" * 100, 0.21, "ratio 0.21"),
        ("a" * 100, 0.5, None),
        ("a" * 100, 2.51, "ratio 2.51"),
        ("a" * 100, 2.5, None),
        ("a" * 10, 4.0, None),
        ("a" * 10, 4.1, "ratio 4.10"),
        ("狗" * 6, 0.0, None),
        ("狗" * 7, 0.0, "ratio 0.00"),
        ("", None, None),
    ],
)
def test_length_ratio_with_slacks(source: str, ratio: float | None, detail: str | None) -> None:
    verdict = verdict_of(LengthRatio(), clean_caption=source, length_ratio=ratio)
    assert verdict == (Drop("length_ratio", detail) if detail else None)


@pytest.mark.parametrize(
    ("check", "column"),
    [
        (CopiedWords(max_copied_share=0), "copied_share"),
        (Repetition(max_repetitions=1), "repeated_ngrams"),
        (NumbersLost(), "numbers_lost"),
        (NumbersInvented(), "numbers_invented"),
        (Truncated(), "translation_truncated"),
        (Score(min_translation_score=0), "translation_score"),
        (RoundTrip(min_round_trip_chrf=100), "round_trip_chrf"),
    ],
)
def test_what_is_not_known_is_held_against_nobody(check: CaptionCheck, column: str) -> None:
    assert verdict_of(check, **{column: None}) is None
