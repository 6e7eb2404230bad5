"""How far raters agree beyond chance: Gwet's AC1, or AC2 where near misses count, with its 95 % interval.

Formulas: K. L. Gwet, Handbook of Inter-Rater Reliability, 4th edition, 2014, chapters 2 and 5, as his R package irrCAC
computes them; ratings may be missing. The variance is that of other items for the same raters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from data_catalog.errors import InputError

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Gwet's coefficient; 1 is perfect agreement, 0 what chance gives.

    Args:
        coefficient: (observed - by_chance) / (1 - by_chance).
        standard_error: of the coefficient.
        interval: its lowest and highest value at 95 % confidence, by Student's t, never above 1.
        observed: weighted share of pairs of raters who agree, averaged over the items that two or more rated.
        by_chance: weighted share who would agree by chance.
        num_items: items with a rating; those with one rating tell how common each category is, and no more.
        num_shared_items: items with two ratings or more.
    """

    coefficient: float
    standard_error: float
    interval: tuple[float, float]
    observed: float
    by_chance: float
    num_items: int
    num_shared_items: int


def ordinal_weights(num_categories: int) -> Floats:
    """Weights for categories in order, shape (categories, categories): 1 on the diagonal, 0 for the two ends.

    Between them the weight falls with the number of pairs of categories that two ratings span.
    """
    places = np.arange(num_categories)
    spanned = np.abs(places[:, None] - places[None, :]) + 1
    pairs = spanned * (spanned - 1) / 2
    weights: Floats = 1 - pairs / pairs.max()
    return weights


def gwet_agreement(ratings: Sequence[Sequence[int | None]], *, categories: Sequence[int], weights: Floats) -> Agreement:
    """Gwet's coefficient of ratings by any number of raters.

    Args:
        ratings: one row an item, one cell a rater, None where a rating is missing; shape (items, raters).
        categories: the whole scale, in its order, at least two, used or not.
        weights: how far each pair of categories agrees, 0 to 1, symmetric; shape (categories, categories).

    Raises:
        InputError: fewer than two raters, or fewer than two items that two of them rated.
    """
    if any(len(row) < 2 for row in ratings):
        raise InputError("agreement is between raters: give the ratings of at least two")
    # How many raters gave each item each category, shape (items, categories).
    counts = np.array([[row.count(category) for category in categories] for row in ratings], float)
    counts = counts.reshape(len(ratings), len(categories))
    counts = counts[counts.sum(axis=1) > 0]
    num_ratings, num_items, num_categories = counts.sum(axis=1), len(counts), len(categories)
    shared = num_ratings >= 2
    if shared.sum() < 2:
        raise InputError(
            f"agreement needs two items or more that two raters have both rated, and there are {shared.sum()}: "
            "have more items rated"
        )
    # What each item adds to the share of pairs who agree, and to that of those who would by chance; the means of both
    # are these shares.
    agreeing = (counts * (counts @ weights - 1)).sum(axis=1)
    pairs = np.where(shared, num_ratings * (num_ratings - 1), 1)
    observed_by_item = np.where(shared, agreeing / pairs, 0) * num_items / shared.sum()
    share_of_category = (counts / num_ratings[:, None]).mean(axis=0)
    scale = weights.sum() / (num_categories * (num_categories - 1))
    by_chance_by_item = scale * (counts @ (1 - share_of_category)) / num_ratings
    observed, by_chance = float(observed_by_item.mean()), float(by_chance_by_item.mean())
    coefficient = (observed - by_chance) / (1 - by_chance)
    # What each item adds to the coefficient; their spread is its error.
    by_item = (observed_by_item - by_chance * shared * num_items / shared.sum()) / (1 - by_chance)
    by_item -= 2 * (1 - coefficient) * (by_chance_by_item - by_chance) / (1 - by_chance)
    standard_error = float(np.sqrt(((by_item - coefficient) ** 2).sum() / (num_items * (num_items - 1))))
    margin = float(stdtrit(num_items - 1, (1 + CONFIDENCE) / 2)) * standard_error
    return Agreement(
        coefficient=coefficient,
        standard_error=standard_error,
        interval=(coefficient - margin, min(1.0, coefficient + margin)),
        observed=observed,
        by_chance=by_chance,
        num_items=num_items,
        num_shared_items=int(shared.sum()),
    )
