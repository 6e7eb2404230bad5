"""How far raters agree beyond chance: Gwet's AC1, or AC2 where near misses count, with its 95 % interval.

Formulas: K. L. Gwet, Handbook of Inter-Rater Reliability, 4th edition, 2014, chapters 2 and 5, as his R package irrCAC
computes them; ratings may be missing. The variance is that of other items for the same raters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_catalog.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float64]]

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


def ordinal_weights(num_categories: int) -> "Floats":
    """Weights for categories in order, shape (categories, categories): 1 on the diagonal, 0 for the two ends.

    Between them the weight falls with the number of pairs of categories that two ratings span.
    """
    import numpy as np

    places = np.arange(num_categories)
    spanned = np.abs(places[:, None] - places[None, :]) + 1
    pairs = spanned * (spanned - 1) / 2
    weights: Floats = 1 - pairs / pairs.max()
    return weights


def gwet_agreement(
    ratings: Sequence[Sequence[int | None]], *, categories: Sequence[int], weights: "Floats"
) -> Agreement:
    """Gwet's coefficient of ratings by any number of raters.

    Args:
        ratings: one row an item, one cell a rater, None where a rating is missing; shape (items, raters).
        categories: the whole scale, in its order, at least two, used or not.
        weights: how far each pair of categories agrees, 0 to 1, symmetric; shape (categories, categories).

    Raises:
        InputError: fewer than two raters, or fewer than two items that two of them rated.
    """
    import numpy as np

    if any(len(row) < 2 for row in ratings):
        raise InputError("agreement is between raters: give the ratings of at least two")
    counts = _counts(ratings, categories)
    counts = counts[counts.sum(axis=1) > 0]
    shared = counts.sum(axis=1) >= 2
    if shared.sum() < 2:
        raise InputError(
            f"agreement needs two items or more that two raters have both rated, and there are {shared.sum()}: "
            "have more items rated"
        )
    observed, observed_by_item = _observed(counts, weights)
    by_chance, by_chance_by_item = _by_chance(counts, weights)
    coefficient = (observed - by_chance) / (1 - by_chance)
    # What each item adds to the coefficient; their spread is its error.
    by_item = (observed_by_item - by_chance * shared * len(counts) / shared.sum()) / (1 - by_chance)
    by_item -= 2 * (1 - coefficient) * (by_chance_by_item - by_chance) / (1 - by_chance)
    standard_error = float(np.sqrt(((by_item - coefficient) ** 2).sum() / (len(counts) * (len(counts) - 1))))
    return Agreement(
        coefficient=coefficient,
        standard_error=standard_error,
        interval=_interval(coefficient, standard_error, len(counts)),
        observed=observed,
        by_chance=by_chance,
        num_items=len(counts),
        num_shared_items=int(shared.sum()),
    )


def _observed(counts: "Floats", weights: "Floats") -> tuple[float, "Floats"]:
    """Weighted share of pairs of raters who agree, and what each item adds: the mean over all items is that share."""
    import numpy as np

    num_ratings = counts.sum(axis=1)
    shared = num_ratings >= 2
    agreeing = np.zeros(len(counts))
    pairs = num_ratings * (num_ratings - 1)
    agreeing[shared] = (counts * (counts @ weights - 1)).sum(axis=1)[shared] / pairs[shared]
    by_item = agreeing * len(counts) / shared.sum()
    return float(by_item.mean()), by_item


def _by_chance(counts: "Floats", weights: "Floats") -> tuple[float, "Floats"]:
    """Weighted share of pairs who would agree by chance, and what each item adds; the mean is that share."""
    num_ratings, num_categories = counts.sum(axis=1), counts.shape[1]
    share_of_category = (counts / num_ratings[:, None]).mean(axis=0)
    scale = weights.sum() / (num_categories * (num_categories - 1))
    by_item = scale * (counts @ (1 - share_of_category)) / num_ratings
    return float(by_item.mean()), by_item


def _counts(ratings: Sequence[Sequence[int | None]], categories: Sequence[int]) -> "Floats":
    """How many raters gave each item each category, shape (items, categories)."""
    import numpy as np

    counts = np.zeros((len(ratings), len(categories)))
    places = {category: place for place, category in enumerate(categories)}
    for item, row in enumerate(ratings):
        for rating in row:
            if rating is not None:
                counts[item, places[rating]] += 1
    return counts


def _interval(coefficient: float, standard_error: float, num_items: int) -> tuple[float, float]:
    from scipy.special import stdtrit

    quantile = float(stdtrit(num_items - 1, (1 + CONFIDENCE) / 2))
    return coefficient - quantile * standard_error, min(1.0, coefficient + quantile * standard_error)
