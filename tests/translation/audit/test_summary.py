"""Means of ratings with their intervals, and which rows are called the worst."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from translation.audit.ratings import AuditRow, disputed_rows, mean_rating, worst_rows


def rated(name: str, *grades: int, weight: float = 1.0) -> AuditRow:
    by_rater = {f"rater {place}": grade for place, grade in enumerate(grades)}
    return AuditRow(row_id=name, source_text="", text="", source="", weight=weight, quality={}, grades=by_rater)


def names(rows: Sequence[AuditRow]) -> list[str]:
    return [row.row_id for row in rows]


def test_each_row_counts_once_whoever_rated_it_or_by_its_weight() -> None:
    assert mean_rating([rated("a", 1, 2, 3), rated("b", 4)]).value == pytest.approx(3)
    assert mean_rating([rated("a", 1, 2)]).interval is None
    rows = [rated("a", 1, weight=3), rated("b", 4, weight=1)]
    assert mean_rating(rows).value == pytest.approx(2.5)
    assert mean_rating(rows, weighted=True).value == pytest.approx(7 / 4)


def test_intervals_are_those_of_large_samples() -> None:
    # Of 400 rows the mean is as good as normal: 1.96 standard errors either way, of which 2,000 rounds of a bootstrap
    # tell each end to within a tenth. The error of a weighted mean is that of a ratio, by linearisation.
    generator = np.random.default_rng(4)
    grades, weights = generator.choice((1, 2, 3, 4), 400, p=(0.1, 0.2, 0.3, 0.4)), generator.choice((1.0, 9.0), 400)
    rows = [rated("", int(grade), weight=float(weight)) for grade, weight in zip(grades, weights, strict=True)]
    for weighted in (False, True):
        shares = weights / weights.sum() if weighted else np.full(400, 1 / 400)
        mean = float((shares * grades).sum())
        error = math.sqrt(float((shares**2 * (grades - mean) ** 2).sum()))
        found = mean_rating(rows, weighted=weighted)
        assert found.value == pytest.approx(mean)
        assert found.interval == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.2 * error)
        assert found == mean_rating(rows, weighted=weighted)


def test_worst_and_disputed_rows_come_in_order() -> None:
    rows = [rated("fine", 4, 4), rated("torn", 1, 4), rated("near", 2, 3), rated("bad", 1, 1), rated("doubted", 4, 2)]
    assert names(worst_rows(rows, 3)) == ["bad", "torn", "near"]
    assert names(worst_rows(rows, 9)) == ["bad", "torn", "near", "doubted"], "the fine row is not among the worst"
    assert names(disputed_rows(rows, 9)) == ["torn", "doubted"], "one grade apart is no dispute"
    assert names(disputed_rows(rows, 1)) == ["torn"]
