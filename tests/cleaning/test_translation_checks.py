from typing import Any

import pyarrow as pa
import pytest

from cleaning.translation_checks import (
    copied_through,
    copied_words,
    flagged,
    length_ratio,
    low_round_trip,
    low_translation_score,
    numbers_invented,
    numbers_lost,
    repeated_ngrams,
)
from data_catalog.schema import CAPTIONS
from data_catalog.stages import ColumnCheck, Drop


def verdict_of(check: ColumnCheck, **cells: Any) -> Drop | None:
    table = pa.table({name: pa.array([value], CAPTIONS.field(name).type) for name, value in cells.items()})
    (verdict,) = check(table)
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
    verdict = verdict_of(copied_through(), clean_caption=source, caption=target)
    assert verdict == (Drop("copied_through") if dropped else None)


@pytest.mark.parametrize(
    ("check", "cells", "verdict"),
    [
        (copied_words(max_share=0.15), {"copied_share": 0.4285}, Drop("copied_words", "share 0.43")),
        (copied_words(max_share=0.15), {"copied_share": 0.15}, None),
        (copied_words(max_share=1), {"copied_share": 1.0}, None),
        (repeated_ngrams(max_times=2), {"repeated_ngrams": 3}, Drop("repeated_ngrams", "3 times")),
        (repeated_ngrams(max_times=2), {"repeated_ngrams": 2}, None),
        (numbers_lost(), {"numbers_lost": ["345", "1999"]}, Drop("numbers_lost", "lost 345, 1999")),
        (numbers_lost(), {"numbers_lost": []}, None),
        (numbers_lost(), {"numbers_lost": ["9" * 90]}, Drop("numbers_lost", "lost " + "9" * 55)),
        (numbers_invented(), {"numbers_invented": ["82"]}, Drop("numbers_invented", "invented 82")),
        (numbers_invented(), {"numbers_invented": []}, None),
        (flagged("translation_truncated"), {"translation_truncated": True}, Drop("translation_truncated")),
        (flagged("translation_truncated"), {"translation_truncated": False}, None),
        (flagged("translation_repetitive"), {"translation_repetitive": True}, Drop("translation_repetitive")),
        (
            low_translation_score(min_score=-1.5),
            {"translation_score": -1.81},
            Drop("low_translation_score", "score -1.81"),
        ),
        (low_translation_score(min_score=-1.3), {"translation_score": -1.3}, None),
        (low_round_trip(min_chrf=10), {"round_trip_chrf": 7.25}, Drop("low_round_trip", "chrF 7.2")),
        (low_round_trip(min_chrf=10.1), {"round_trip_chrf": 10.1}, None),
    ],
)
def test_thresholds(check: ColumnCheck, cells: dict[str, Any], verdict: Drop | None) -> None:
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
    check = length_ratio(min_ratio=0.5, max_ratio=2.5, shorter_slack_letters=20, longer_slack_letters=30)
    verdict = verdict_of(check, clean_caption=source, length_ratio=ratio)
    assert verdict == (Drop("length_ratio", detail) if detail else None)


@pytest.mark.parametrize(
    ("check", "column"),
    [
        (copied_words(max_share=0), "copied_share"),
        (repeated_ngrams(max_times=1), "repeated_ngrams"),
        (numbers_lost(), "numbers_lost"),
        (numbers_invented(), "numbers_invented"),
        (flagged("translation_truncated"), "translation_truncated"),
        (low_translation_score(min_score=0), "translation_score"),
        (low_round_trip(min_chrf=100), "round_trip_chrf"),
    ],
)
def test_what_is_not_known_is_held_against_nobody(check: ColumnCheck, column: str) -> None:
    assert verdict_of(check, **{column: None}) is None
