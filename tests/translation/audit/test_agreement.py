"""Gwet's AC1 and AC2: published examples, properties, and the interval beside a bootstrap's."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.errors import InputError
from translation.audit.agreement import Agreement, gwet_agreement, ordinal_weights

Ratings = list[list[int | None]]
SCALE = (1, 2, 3, 4)

# cac.raw4raters of the R package irrCAC: 12 units, 4 raters, 5 categories; Gwet, Handbook (2014).
FOUR_RATERS: Ratings = [
    [1, 1, None, 1],
    [2, 2, 3, 2],
    [3, 3, 3, 3],
    [3, 3, 3, 3],
    [2, 2, 2, 2],
    [1, 2, 3, 4],
    [4, 4, 4, 4],
    [1, 1, 2, 1],
    [2, 2, 2, 2],
    [None, 5, 5, 5],
    [None, None, 1, 1],
    [None, None, 3, None],
]
# raw_5observers of the Python package irrCAC (cac.raw5obser in R): 15 units, 5 observers, ratings 0 to 3.
FIVE_OBSERVERS: Ratings = [
    [1, 1, 2, None, 2],
    [1, 1, 0, 1, None],
    [2, 3, 3, 3, None],
    [None, 0, 0, None, 0],
    [0, 0, 0, None, 0],
    [0, 0, 0, None, 0],
    [1, 0, 2, None, 1],
    [1, None, 2, 0, None],
    [2, 2, 2, None, 2],
    [2, 1, 1, 1, None],
    [None, 1, 0, 0, None],
    [0, 0, 0, 0, None],
    [1, 2, 2, 2, None],
    [3, 3, 2, 2, 3],
    [1, 1, 1, None, 1],
]
# distrib.6raters of irrCAC (Fleiss, 1971): how many of 6 raters chose each of 5 diagnoses for 15 patients.
SIX_RATERS = (
    "00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031"
)  # fmt: skip
# cac.raw.g1g2 of irrCAC: 14 units in two groups, 4 raters, categories a to e.
GROUPS = "aa-a bbcb cccc cccc bbbb abcd dddd aaba bbbb -eee --aa --c- bbcb bacb"


def from_counts(text: str) -> Ratings:
    return [[place for place, count in enumerate(row) for _ in range(int(count))] for row in text.split()]


def from_letters(text: str) -> Ratings:
    return [[None if letter == "-" else ord(letter) - ord("a") for letter in row] for row in text.split()]


def quadratic_weights(num_categories: int) -> Any:
    places = np.arange(num_categories)
    return 1 - ((places[:, None] - places) / (num_categories - 1)) ** 2


def rounded(found: Agreement, digits: int) -> tuple[float, ...]:
    values = (found.observed, found.by_chance, found.coefficient, found.standard_error, *found.interval)
    return tuple(round(value, digits) for value in values)


@pytest.mark.parametrize(
    ("ratings", "categories", "weights", "published"),
    [
        # https://cran.r-project.org/web/packages/irrCAC/vignettes/overview.html
        (FOUR_RATERS, range(1, 6), np.eye(5), "0.8181818 0.1903212 0.77544 0.14295 0.461 1"),
        (
            from_counts(SIX_RATERS),
            range(5),
            np.eye(5),
            "0.5511111 0.1914815 0.4448007 0.08418757 0.264 0.625",
        ),
        # https://cran.r-project.org/web/packages/irrCAC/vignettes/weighting.html
        (FOUR_RATERS, range(1, 6), quadratic_weights(5), "0.9753788 0.7137044 0.914 0.10396 0.685 1"),
        (
            from_counts(SIX_RATERS),
            range(5),
            quadratic_weights(5),
            "0.8544444 0.7180556 0.4837438 0.1058227 0.257 0.711",
        ),
        # https://github.com/afergadis/irrCAC, test/unit/irrCAC/raw/test_gwet.py
        (FOUR_RATERS, range(1, 6), ordinal_weights(5), "0.968 0.685 0.899 0.107 0.664 1"),
        (FIVE_OBSERVERS, range(4), np.eye(4), "0.616 0.236 0.497 0.122 0.235 0.758"),
        (from_letters(GROUPS), range(5), np.eye(5), "0.744 0.187 0.685 0.134 0.396 0.973"),
    ],
)
def test_published_examples_to_the_printed_digits(
    ratings: Ratings, categories: range, weights: Any, published: str
) -> None:
    found = gwet_agreement(ratings, categories=categories, weights=weights)
    values = (found.observed, found.by_chance, found.coefficient, found.standard_error, *found.interval)
    for value, printed in zip(values, published.split(), strict=True):
        digits = len(printed.partition(".")[2])
        assert round(value, digits) == float(printed)


def test_published_ordinal_weights() -> None:
    # https://cran.r-project.org/web/packages/irrCAC/vignettes/weighting.html
    assert ordinal_weights(3) == pytest.approx(
        np.array([[1, 0.6666667, 0], [0.6666667, 1, 0.6666667], [0, 0.6666667, 1]])
    )


def test_two_raters_of_a_contingency_table() -> None:
    # cont3x3abstractors of irrCAC (both vignettes): 13, 20 and 56 of 100 records on the diagonal. Where it is given a
    # table, irrCAC divides the variance by n, and not by n - 1 as it does for raw ratings.
    ratings: Ratings = [[0, 0]] * 13 + [[1, 1]] * 20 + [[1, 2]] * 7 + [[2, 1]] * 4 + [[2, 2]] * 56
    found = gwet_agreement(ratings, categories=range(3), weights=np.eye(3))
    assert round(found.coefficient, 7) == 0.8493305
    assert round(found.standard_error * 0.99**0.5, 8) == 0.04321747
    found = gwet_agreement(ratings, categories=range(3), weights=quadratic_weights(3))
    assert round(found.coefficient, 7) == 0.9402369
    assert round(found.standard_error * 0.99**0.5, 8) == 0.01792019


cells = st.sampled_from((None, 1, 2, 3, 4))
tables = st.integers(2, 5).flatmap(
    lambda num_raters: st.lists(st.lists(cells, min_size=num_raters, max_size=num_raters), min_size=2, max_size=20)
)
shareable = tables.filter(lambda rows: sum(sum(cell is not None for cell in row) >= 2 for row in rows) >= 2)


def ordinal(ratings: Ratings) -> Agreement:
    return gwet_agreement(ratings, categories=SCALE, weights=ordinal_weights(4))


@settings(deadline=None)
@given(ratings=shareable, data=st.data())
def test_order_of_raters_and_items_does_not_matter(ratings: Ratings, data: st.DataObject) -> None:
    raters = data.draw(st.permutations(range(len(ratings[0]))))
    items = data.draw(st.permutations(ratings))
    assert rounded(ordinal([[row[place] for place in raters] for row in items]), 9) == rounded(ordinal(ratings), 9)


@settings(deadline=None)
@given(ratings=shareable)
def test_reversing_the_scale_and_unrated_items_change_nothing(ratings: Ratings) -> None:
    found = ordinal(ratings)
    assert found.coefficient <= found.interval[1] + 1e-12 <= 1 + 2e-12
    reverse = [[None if cell is None else 5 - cell for cell in row] for row in ratings]
    unrated: Ratings = [[None] * len(ratings[0])]
    assert rounded(ordinal(reverse + unrated), 9) == rounded(found, 9)


@settings(deadline=None)
@given(
    grades=st.lists(st.sampled_from(SCALE), min_size=2, max_size=20),
    num_raters=st.integers(2, 4),
    alone=st.lists(st.sampled_from(SCALE), max_size=5),
)
def test_perfect_agreement_is_1(grades: list[int], num_raters: int, alone: list[int]) -> None:
    ratings: Ratings = [[grade] * num_raters for grade in grades]
    found = ordinal(ratings)
    assert found.coefficient == pytest.approx(1)
    assert found.interval == pytest.approx((1, 1), abs=1e-6)
    # An item with one rating moves what chance gives; the agreement of the others stays perfect.
    found = ordinal(ratings + [[grade] + [None] * (num_raters - 1) for grade in alone])
    assert found.coefficient == pytest.approx(1)
    assert (found.num_items, found.num_shared_items) == (len(grades) + len(alone), len(grades))


def test_one_category_alone_is_perfect_agreement_without_doubt() -> None:
    found = ordinal([[4, 4, 4]] * 10)
    assert (found.coefficient, found.standard_error, found.interval, found.by_chance) == (1, 0, (1, 1), 0)


def test_utter_disagreement_is_negative() -> None:
    assert ordinal([[1, 4], [4, 1]] * 10).coefficient < 0


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ([[1], [2]], "give the ratings of another one"),
        ([], "but there are 0"),
        ([[1, 1]], "but there are 1"),
        ([[1, None], [None, 2], [3, 3]], "but there are 1"),
    ],
)
def test_what_cannot_be_compared_is_an_error(ratings: Ratings, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ordinal(ratings)


def test_the_interval_is_a_bootstraps() -> None:
    # 100 items with errors of three raters, a tenth missing. Both intervals estimate the same standard error, each with
    # a relative error of about 1 / sqrt(2 * 100) = 7 % from the sample alone, so three times that is asked for.
    generator = np.random.default_rng(7)
    truth = generator.choice(SCALE, 100, p=(0.1, 0.15, 0.25, 0.5))
    noisy = np.clip(truth[:, None] + generator.choice((-1, 0, 1), (100, 3), p=(0.15, 0.7, 0.15)), 1, 4)
    missing = generator.random((100, 3)) < 0.1
    ratings: Ratings = [
        [None if gone else int(grade) for grade, gone in zip(grades, gaps, strict=True)]
        for grades, gaps in zip(noisy, missing, strict=True)
    ]
    found = ordinal(ratings)
    resampled = [
        ordinal([ratings[place] for place in generator.integers(0, 100, 100)]).coefficient for _ in range(1000)
    ]
    assert float(np.std(resampled)) == pytest.approx(found.standard_error, rel=0.2)
    width = found.interval[1] - found.interval[0]
    assert np.quantile(resampled, (0.025, 0.975)) == pytest.approx(found.interval, abs=0.15 * width)
