"""Agreement of raters beyond chance: Gwet's AC1, or AC2 if near misses count, with its 95 % confidence interval.

Formulas: K. L. Gwet, Handbook of Inter-Rater Reliability, 4th edition, 2014, chapters 2 and 5, as in his R package
irrCAC. Ratings may be missing. The variance is for other items rated by the same raters.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from data_catalog.base.errors import InputError

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95


class Agreement(NamedTuple):
    """Gwet's coefficient: 1 is perfect agreement, 0 is the agreement by chance."""

    coefficient: float  # (observed - by_chance) / (1 - by_chance)
    standard_error: float
    interval: tuple[float, float]  # at 95 % confidence, by Student's t, never above 1
    observed: float  # weighted share of pairs of raters who agree, averaged over the items with two or more ratings
    by_chance: float  # weighted share of pairs who would agree by chance
    num_items: int  # with a rating; those with one rating only count for the frequency of each category
    num_shared_items: int  # with two or more ratings


def ordinal_weights(num_categories: int) -> Floats:
    """Return weights for categories in order, shape (categories, categories): 1 on the diagonal, 0 for the two ends.

    Between them, the weight falls with the number of pairs of categories that two ratings span.
    """
    places = np.arange(num_categories)
    spanned = np.abs(places[:, None] - places[None, :]) + 1
    pairs = spanned * (spanned - 1) / 2
    weights: Floats = 1 - pairs / pairs.max()
    return weights


def gwet_agreement(ratings: Sequence[Sequence[int | None]], *, categories: Sequence[int], weights: Floats) -> Agreement:
    """Return Gwet's coefficient of ratings, shape (items, raters), None for a missing rating.

    `categories` is the whole scale in its order, at least two, used or not. `weights` are the agreement of each pair of
    categories, 0 to 1, symmetric.
    """
    # Number of raters for each item and category, shape (items, categories).
    counts = np.array([[row.count(category) for category in categories] for row in ratings], float)
    counts = counts.reshape(len(ratings), len(categories))
    counts = counts[counts.sum(axis=1) > 0]
    num_ratings, num_items, num_categories = counts.sum(axis=1), len(counts), len(categories)
    shared = num_ratings >= 2
    if shared.sum() < 2:
        raise InputError(f"agreement needs two items with the ratings of two raters, but there are {shared.sum()}")
    # Each item's term of the share of pairs who agree, and of the share who would by chance. The means of the terms are
    # these shares.
    agreeing = (counts * (counts @ weights - 1)).sum(axis=1)
    pairs = np.where(shared, num_ratings * (num_ratings - 1), 1)
    observed_by_item = np.where(shared, agreeing / pairs, 0) * num_items / shared.sum()
    share_of_category = (counts / num_ratings[:, None]).mean(axis=0)
    scale = weights.sum() / (num_categories * (num_categories - 1))
    by_chance_by_item = scale * (counts @ (1 - share_of_category)) / num_ratings
    observed, by_chance = float(observed_by_item.mean()), float(by_chance_by_item.mean())
    coefficient = (observed - by_chance) / (1 - by_chance)
    # Each item's term of the coefficient. The spread of the terms gives the standard error.
    by_item = (observed_by_item - by_chance * shared * num_items / shared.sum()) / (1 - by_chance)
    by_item -= 2 * (1 - coefficient) * (by_chance_by_item - by_chance) / (1 - by_chance)
    standard_error = float(np.sqrt(((by_item - coefficient) ** 2).sum() / (num_items * (num_items - 1))))
    margin = float(stdtrit(num_items - 1, (1 + CONFIDENCE) / 2)) * standard_error
    interval = coefficient - margin, min(1.0, coefficient + margin)
    return Agreement(coefficient, standard_error, interval, observed, by_chance, num_items, int(shared.sum()))
