"""Compute retrieval metrics from feature matrices: ranks, MRR, nDCG, recall, medians, chance levels and intervals.

A rank is 1 plus the number of wrong items that are at least as similar as the right one. Ties count against the model,
so a model with collapsed features scores 0 and not 1.

Intervals cover 95 % and come from resampling whole clusters, because captions of one image are not independent. All
statistics of the same queries use the same draws, so that differences between two models are paired.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from data_catalog.base.errors import InputError
from training.data.pairs import Floats, Integers

Features = np.ndarray[Any, np.dtype[np.floating[Any]]]

# Cosines closer than this count as equal: features of equal inputs differ by this much between batches.
TIE_TOLERANCE = 1e-6
QUANTILES = (0.025, 0.975)
FEW_CLUSTERS = 10
NDCG_CUTOFF = 10
_QUERIES_AT_A_TIME = 1024
_ROUNDS_AT_A_TIME = 64


# Features are unit rows, shape (images or captions, dim); `owners` names the image of each caption, shape (captions,).


def text_to_image_ranks(text_features: Features, image_features: Features, owners: Integers) -> Integers:
    """Return for each caption the rank of its own image, shape (captions,)."""
    refuse_not_finite(text_features, image_features)
    images = image_features.astype(np.float64)
    ranks = np.empty(len(owners), dtype=np.int64)
    for start in range(0, len(owners), _QUERIES_AT_A_TIME):
        some = slice(start, start + _QUERIES_AT_A_TIME)
        cosines = text_features[some].astype(np.float64) @ images.T
        right = np.take_along_axis(cosines, owners[some, None], axis=1)
        ranks[some] = (cosines >= right - TIE_TOLERANCE).sum(axis=1)  # with the right image, which gives the 1
    return ranks


def right_caption_ranks(image_features: Features, text_features: Features, owners: Integers, *, most: int) -> Integers:
    """Return for each image that has captions the ranks of its own captions, the best ones first.

    The shape is (such images, at most `most`). 0 fills the rows of images with fewer captions.
    """
    refuse_not_finite(text_features, image_features)
    texts = text_features.astype(np.float64)
    queries, counts = np.unique(owners, return_counts=True)
    width = min(most, int(counts.max(initial=1)))
    ranks = np.zeros((len(queries), width), dtype=np.int64)
    for start in range(0, len(queries), _QUERIES_AT_A_TIME):
        some = slice(start, start + _QUERIES_AT_A_TIME)
        cosines = image_features[queries[some]].astype(np.float64) @ texts.T
        own = owners[None, :] == queries[some, None]
        best = np.sort(np.partition(np.where(own, cosines, -np.inf), -width, axis=1)[:, -width:], axis=1)[:, ::-1]
        cosines[own] = -np.inf  # leaves the wrong captions
        for place in range(width):
            right = best[:, place : place + 1]
            num_before = (cosines >= right - TIE_TOLERANCE).sum(axis=1) + place
            ranks[some, place] = np.where(np.isfinite(right[:, 0]), num_before + 1, 0)
    return ranks


def refuse_not_finite(*features: Features) -> None:
    """Refuse a feature that is NaN or infinite: NaN cannot be compared, and would have a rank all the same."""
    if not all(np.isfinite(matrix).all() for matrix in features):
        raise InputError("the model's features contain NaN or infinity, so it cannot be scored")


def reciprocal_ranks(ranks: Integers, k: int) -> Floats:
    """Return 1/rank if the rank is at most k, otherwise 0. Their mean is MRR@k."""
    return np.where(ranks <= k, 1.0 / ranks, 0.0)


def recalls(ranks: Integers, k: int) -> Floats:
    """Return 1 if the rank is at most k, otherwise 0. Their mean is R@k."""
    return (ranks <= k).astype(np.float64)


def ndcgs(ranks: Integers, k: int) -> Floats:
    """Return the normalised discounted cumulative gain of each query at rank k. Their mean is nDCG@k.

    A right item at rank r gains 1 / log2(r + 1), others gain nothing. The sum is divided by that of the best possible
    order. Without ties that is `ndcg_cut` of trec_eval, which MTEB reports. Source: Järvelin and Kekäläinen, ACM
    Transactions on Information Systems 20, 2002. `ranks` are as for `Metric`; those beyond the first k do not count.
    """
    ranks = ranks[:, :k]
    places = np.where(ranks > 0, np.arange(1, ranks.shape[1] + 1), np.inf)  # of the best possible order
    gains = np.where((ranks > 0) & (ranks <= k), 1 / np.log2(np.maximum(ranks, 1) + 1.0), 0.0)
    found: Floats = gains.sum(axis=1) / (1 / np.log2(places + 1)).sum(axis=1)
    return found


# Chance levels take `gallery_size`, and `num_right`: the number of right items for each query, shape (queries,).


def chance_level(metric: str, k: int, *, gallery_size: int, num_right: Integers) -> float:
    """Return the expected MRR@k or share within the first k ("R", "accuracy") for a random order."""
    if not len(num_right):
        return 0.0
    not_yet = np.ones(len(num_right))  # probability that no right item is at this place or before
    reciprocals = np.zeros(len(num_right))
    for place in range(1, min(k, gallery_size) + 1):
        num_left = gallery_size - place + 1
        before, not_yet = not_yet, not_yet * np.maximum(0, num_left - num_right) / num_left
        reciprocals += (before - not_yet) / place
    return float(reciprocals.mean() if metric == "MRR" else 1 - not_yet.mean())


def chance_ndcg(k: int, *, gallery_size: int, num_right: Integers) -> float:
    """Return the expected nDCG@k for a random order, in which every place is equally likely to have a right item."""
    if not len(num_right):
        return 0.0
    sums = np.cumsum(1 / np.log2(np.arange(1, min(k, gallery_size) + 1) + 1.0))
    ideal = sums[np.minimum(num_right, len(sums)) - 1]
    return float((num_right / gallery_size * sums[-1] / ideal).mean())


def chance_median_rank(*, gallery_size: int, num_right: Integers) -> float:
    """Return the median rank for a random order: the lowest rank that half of the queries reach."""
    if not len(num_right):
        return 0.0
    kinds, counts = np.unique(num_right.astype(np.float64), return_counts=True)
    not_yet = np.ones(len(kinds))  # probability that no right item is before this place
    for place in range(1, gallery_size + 1):
        not_yet *= 1 - np.minimum(1.0, kinds / (gallery_size - place + 1))
        if float(not_yet @ counts) <= counts.sum() / 2 + 1e-9:
            return float(place)
    return float(gallery_size)


# Intervals take one value per query, its cluster, which is its image, and the number and seed of the resamplings.


def bootstrap_interval(values: Floats, clusters: Integers, *, rounds: int, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of a mean."""
    if not len(values):
        return (0.0, 0.0)
    members = _members(clusters)
    sums, counts = np.bincount(members, weights=values), np.bincount(members).astype(np.float64)
    draws = _draws(clusters, rounds=rounds, seed=seed)
    return _interval_of(np.concatenate([(drawn @ sums) / (drawn @ counts) for drawn in draws]))


def share_interval(
    values: Floats, clusters: Integers, *, rounds: int, seed: int, least: float = 0.0
) -> tuple[float, float]:
    """Return the 95 % interval of a mean of values from `least` to 1. It is never narrower than the data can support.

    A bootstrap cannot draw values that never occurred, so it fails if all queries or none succeed. Therefore no end is
    closer to `least` or 1 than the bound of Clopper and Pearson (Biometrika 26, 1934) for images that all agree. If all
    values are equal, both ends get that distance. With fewer than `FEW_CLUSTERS` images the interval is the whole
    range. `least` is 0 for shares, -1 for differences between two shares.
    """
    if not len(values):
        return (0.0, 0.0)
    count = num_clusters(clusters)
    if count < FEW_CLUSTERS:
        return (least, 1.0)
    low, high = bootstrap_interval(values, clusters, rounds=rounds, seed=seed)
    slack = (1 - QUANTILES[0] ** (1 / count)) * (1 - least)
    if low == high:
        low, high = low - slack, high + slack
    return max(least, min(low, 1 - slack)), min(1.0, max(high, least + slack))


def median_draws(values: Floats | Integers, clusters: Integers, *, rounds: int, seed: int) -> Floats:
    """Return the median of each resampling, shape (rounds,)."""
    order = np.argsort(values, kind="stable")
    ordered, members = values[order], _members(clusters)[order]
    found = []
    for draws in _draws(clusters, rounds=rounds, seed=seed):
        reached = np.cumsum(draws[:, members], axis=1)
        found.append(ordered[(2 * reached >= reached[:, -1:]).argmax(axis=1)])
    medians: Floats = np.concatenate(found).astype(np.float64)
    return medians


def median(values: Floats | Integers) -> float:
    """Return the lower median, or 0 without values. At least half of the values are at most the median."""
    return float(np.quantile(values, 0.5, method="lower")) if len(values) else 0.0


def num_clusters(clusters: Integers) -> int:
    """Return the number of images that the queries belong to."""
    return len(np.unique(clusters))


def _interval_of(draws: Floats) -> tuple[float, float]:
    """Return the middle 95 % of resampled statistics."""
    low, high = np.quantile(draws, QUANTILES)
    return float(low), float(high)


def _members(clusters: Integers) -> Integers:
    members: Integers = np.unique(clusters, return_inverse=True)[1]
    return members


def _draws(clusters: Integers, *, rounds: int, seed: int) -> Iterator[Floats]:
    """Yield how often each cluster is drawn, for some rounds at a time, shape (rounds, clusters)."""
    count = num_clusters(clusters)
    generator = np.random.default_rng(seed)
    for start in range(0, rounds, _ROUNDS_AT_A_TIME):
        some = min(_ROUNDS_AT_A_TIME, rounds - start)
        drawn = generator.integers(0, count, (some, count)) + count * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * count).reshape(some, count).astype(np.float64)


RETRIEVAL, ZERO_SHOT = ("text_to_image", "image_to_text"), ("zero_shot",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A mean over queries, or the median of their best ranks, with its chance level and the decimals to show.

    It takes the ranks of the right items of each query, ascending, shape (queries, right). 0 fills the rows of queries
    with fewer. `of_query` returns the share of each query, shape (queries,), and is None for the median.
    """

    name: str
    ways: tuple[str, ...] = RETRIEVAL
    of_query: Callable[[Integers], Floats] | None
    chance: Callable[..., float]
    digits: int = 4

    def estimate(
        self,
        ranks: Integers,
        clusters: Integers,
        *,
        gallery_size: int,
        rounds: int,
        seed: int,
        first: Integers | None = None,
    ) -> tuple[float, float, float]:
        """Return the metric with its 95 % interval, or 0 without queries.

        Given other ranks, `first`, in the same order of queries, return the paired difference from their metric.
        """
        drawn = {"rounds": rounds, "seed": seed}
        if self.of_query is not None:
            values = self.of_query(ranks) - (0.0 if first is None else self.of_query(first))
            least = 0.0 if first is None else -1.0
            value = float(values.mean()) if len(values) else 0.0
            return value, *share_interval(values, clusters, least=least, **drawn)
        best, others = ranks[:, 0], None if first is None else first[:, 0]
        value = median(best) - (0.0 if others is None else median(others))
        if not len(best):
            return value, 0.0, 0.0
        if num_clusters(clusters) < FEW_CLUSTERS:
            return value, 1.0 if first is None else 1.0 - gallery_size, gallery_size - (0.0 if first is None else 1.0)
        draws = median_draws(best, clusters, **drawn)
        return value, *_interval_of(draws if others is None else draws - median_draws(others, clusters, **drawn))


def _cutoff_metric(family: str, k: int, **options: Any) -> Metric:
    """Return the metric with a cutoff at rank k: MRR, R, or accuracy, which is R in a gallery of classes."""
    of_best = reciprocal_ranks if family == "MRR" else recalls
    chance = partial(chance_level, family, k)
    return Metric(name=f"{family}@{k}", of_query=lambda ranks: of_best(ranks[:, 0], k), chance=chance, **options)


# In the order of `scoreboard.json`; docs/scores.md explains them.
METRICS = (
    *(_cutoff_metric("MRR", k) for k in (1, 5, 10)),
    Metric(
        name=f"nDCG@{NDCG_CUTOFF}",
        of_query=partial(ndcgs, k=NDCG_CUTOFF),
        chance=partial(chance_ndcg, NDCG_CUTOFF),
    ),
    *(_cutoff_metric("R", k) for k in (1, 5, 10)),
    Metric(name="median_rank", of_query=None, chance=chance_median_rank, digits=0),
    *(_cutoff_metric("accuracy", k, ways=ZERO_SHOT) for k in (1, 5, 10, 100)),
)
METRIC_OF = {f"{way}_{metric.name}": metric for metric in METRICS for way in metric.ways}  # by the name of a score
