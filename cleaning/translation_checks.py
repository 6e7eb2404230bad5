"""Checks of translated rows: each binds a threshold to a column of `cleaning.translation_quality` or of an engine.

An empty cell is never held against a row. The detail says what was found, and the column stays, so that a query can
explain a drop or try another threshold.
"""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from cleaning.duplicates import exact_key
from cleaning.scripts import count_words
from cleaning.translation_quality import comparable_letters
from data_catalog.stages import ColumnCheck, Drop

_MAX_DETAIL = 60  # characters


def copied_through(*, min_words: int = 3) -> ColumnCheck:
    """Drop translations that equal their source, case and final punctuation aside.

    Fewer than `min_words` words are kept: "hot dog" and "Kim Rhodes" are right in both languages.
    Reason: copied_through.
    """

    def judge(source: str, target: str) -> Drop | None:
        copied = exact_key(source) == exact_key(target) and count_words(target) >= min_words
        return Drop("copied_through") if copied else None

    return _for_each_row(judge, "clean_caption", "caption")


def copied_words(*, max_share: float) -> ColumnCheck:
    """Drop translations with a larger `copied_share`. Reason: copied_words, with detail "share 0.43"."""
    highest = _as_stored(max_share)

    def judge(share: float) -> Drop | None:
        return Drop("copied_words", f"share {share:.2f}") if share > highest else None

    return _for_each_row(judge, "copied_share")


def repeated_ngrams(*, max_times: int) -> ColumnCheck:
    """Drop translations with more `repeated_ngrams`. Reason: repeated_ngrams, with detail "4 times"."""

    def judge(times: int) -> Drop | None:
        return Drop("repeated_ngrams", f"{times} times") if times > max_times else None

    return _for_each_row(judge, "repeated_ngrams")


def length_ratio(
    *, min_ratio: float, max_ratio: float, shorter_slack_letters: int, longer_slack_letters: int
) -> ColumnCheck:
    """Drop translations whose `length_ratio` is outside the bounds.

    Short captions vary widely: being shorter or longer than the source by up to the slack, in letters, is never held
    against a translation. Reason: length_ratio, with detail "ratio 0.21".
    """
    lowest, highest = _as_stored(min_ratio), _as_stored(max_ratio)

    def judge(ratio: float, source: str) -> Drop | None:
        if lowest <= ratio <= highest:
            return None
        longer_by = round((ratio - 1) * comparable_letters(source))
        within_slack = -shorter_slack_letters <= longer_by <= longer_slack_letters
        return None if within_slack else Drop("length_ratio", f"ratio {ratio:.2f}")

    return _for_each_row(judge, "length_ratio", "clean_caption")


def numbers_lost() -> ColumnCheck:
    """Drop translations with any `numbers_lost`. Reason: numbers_lost, with detail "lost 345, 1999"."""
    return _numbers("numbers_lost", "lost")


def numbers_invented() -> ColumnCheck:
    """Drop translations with any `numbers_invented`. Reason: numbers_invented, with detail "invented 82"."""
    return _numbers("numbers_invented", "invented")


def flagged(column: str) -> ColumnCheck:
    """Drop translations that the engine flagged in a column of booleans, whose name is the reason, too."""

    def judge(flag: bool) -> Drop | None:
        return Drop(column) if flag else None

    return _for_each_row(judge, column)


def low_translation_score(*, min_score: float) -> ColumnCheck:
    """Drop translations with a lower `translation_score`. Reason: low_translation_score, with detail "score -3.10"."""
    lowest = _as_stored(min_score)

    def judge(score: float) -> Drop | None:
        return Drop("low_translation_score", f"score {score:.2f}") if score < lowest else None

    return _for_each_row(judge, "translation_score")


def low_round_trip(*, min_chrf: float) -> ColumnCheck:
    """Drop translations with a lower `round_trip_chrf`. Reason: low_round_trip, with detail "chrF 12.3"."""
    lowest = _as_stored(min_chrf)

    def judge(chrf: float) -> Drop | None:
        return Drop("low_round_trip", f"chrF {chrf:.1f}") if chrf < lowest else None

    return _for_each_row(judge, "round_trip_chrf")


def _numbers(column: str, verb: str) -> ColumnCheck:
    def judge(numbers: list[str]) -> Drop | None:
        return Drop(column, f"{verb} {', '.join(numbers)}"[:_MAX_DETAIL]) if numbers else None

    return _for_each_row(judge, column)


def _as_stored(threshold: float) -> float:
    """A threshold as a column of single precision would hold it, so that what equals it does."""
    stored: float = pa.scalar(threshold, pa.float32()).as_py()
    return stored


def _for_each_row(judge: Callable[..., Drop | None], *columns: str) -> ColumnCheck:
    def check(table: pa.Table) -> list[Drop | None]:
        rows: zip[tuple[Any, ...]] = zip(*(table.column(name).to_pylist() for name in columns), strict=True)
        return [None if None in cells else judge(*cells) for cells in rows]

    return check
