"""Gwet's AC1 and AC2: published examples, properties, and the interval beside a bootstrap's."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
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
# distrib.6raters of irrCAC (Fleiss, 1971): how many of 6 raters chose each of 5 diagnoses for 15 patients.
SIX_RATERS = (
    "00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031"
)  # fmt: skip


def from_counts(text: str) -> Ratings:
    return [[place for place, count in enumerate(row) for _ in range(int(count))] for row in text.split()]


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
        (from_counts(SIX_RATERS), range(5), np.eye(5), "0.5511111 0.1914815 0.4448007 0.08418757 0.264 0.625"),
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


cells = st.sampled_from((None, 1, 2, 3, 4))
tables = st.integers(2, 5).flatmap(
    lambda num_raters: st.lists(st.lists(cells, min_size=num_raters, max_size=num_raters), min_size=2, max_size=20)
)
shareable = tables.filter(lambda rows: sum(sum(cell is not None for cell in row) >= 2 for row in rows) >= 2)


def ordinal(ratings: Ratings) -> Agreement:
    return gwet_agreement(ratings, categories=SCALE, weights=ordinal_weights(4))


@given(ratings=shareable, data=st.data())
def test_order_of_raters_and_items_does_not_matter(ratings: Ratings, data: st.DataObject) -> None:
    raters = data.draw(st.permutations(range(len(ratings[0]))))
    items = data.draw(st.permutations(ratings))
    assert rounded(ordinal([[row[place] for place in raters] for row in items]), 9) == rounded(ordinal(ratings), 9)


def test_perfect_agreement_is_1() -> None:
    ratings: Ratings = [[grade] * 3 for grade in (1, 2, 4, 4)]
    found = ordinal(ratings)
    assert found.coefficient == pytest.approx(1)
    assert found.interval == pytest.approx((1, 1), abs=1e-6)
    # An item with one rating moves what chance gives; the agreement of the others stays perfect.
    found = ordinal([*ratings, [3, None, None]])
    assert found.coefficient == pytest.approx(1)
    assert (found.num_items, found.num_shared_items) == (5, 4)


def test_one_category_alone_is_perfect_agreement_without_doubt() -> None:
    found = ordinal([[4, 4, 4]] * 10)
    assert (found.coefficient, found.standard_error, found.interval, found.by_chance) == (1, 0, (1, 1), 0)


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
