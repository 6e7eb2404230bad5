"""Metrics as pure functions on feature matrices: ranks, MRR@k, R@k, accuracy, median rank, chance, and intervals.

A rank is 1 + the number of wrong items that are as similar as the right one, or more: ties count against the model, so
that one whose features have collapsed scores 0 and not 1.

Intervals are of 95 %, by resampling whole clusters: captions of one image are not independent of one another. All
statistics of the same queries are computed on the same draws, so that differences between two models are paired.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from data_catalog.errors import InputError
from training.data.pairs import Floats, Integers

Features = np.ndarray[Any, np.dtype[np.floating[Any]]]

# Cosines closer than this are the same: features of equal inputs differ by so much when their batches differ.
TIE_TOLERANCE = 1e-6
QUANTILES = (0.025, 0.975)
FEW_CLUSTERS = 10
_QUERIES_AT_A_TIME = 1024
_ROUNDS_AT_A_TIME = 64


def text_to_image_ranks(text_features: Features, image_features: Features, owners: Integers) -> Integers:
    """Return the rank of its own image for each caption.

    Args:
        text_features: unit rows, shape (captions, dim).
        image_features: unit rows, shape (images, dim): the gallery.
        owners: the image of each caption, shape (captions,).

    Raises:
        InputError: a feature is no finite number.
    """
    refuse_not_finite(text_features, image_features)
    images = image_features.astype(np.float64)
    ranks = []
    for start in range(0, len(text_features), _QUERIES_AT_A_TIME):
        own = owners[start : start + _QUERIES_AT_A_TIME]
        cosines = text_features[start : start + _QUERIES_AT_A_TIME].astype(np.float64) @ images.T
        right = np.take_along_axis(cosines, own[:, None], axis=1)
        # The right image itself is among those counted: it stands for the 1.
        ranks.append((cosines >= right - TIE_TOLERANCE).sum(axis=1))
    return np.concatenate(ranks) if ranks else np.empty(0, dtype=np.int64)


def image_to_text_ranks(image_features: Features, text_features: Features, owners: Integers) -> Integers:
    """Return the rank of the best of its own captions for each image that has any in the gallery.

    Args:
        image_features: unit rows, shape (images, dim).
        text_features: unit rows, shape (captions, dim): the gallery.
        owners: the image of each caption, shape (captions,).

    Returns:
        One rank for each image that owns a caption, in the order of the images.

    Raises:
        InputError: a feature is no finite number.
    """
    refuse_not_finite(text_features, image_features)
    texts = text_features.astype(np.float64)
    ranks = []
    queries = np.unique(owners)
    for start in range(0, len(queries), _QUERIES_AT_A_TIME):
        block = queries[start : start + _QUERIES_AT_A_TIME]
        cosines = image_features[block].astype(np.float64) @ texts.T
        own = owners[None, :] == block[:, None]
        best = np.where(own, cosines, -np.inf).max(axis=1, keepdims=True)
        ranks.append(1 + ((cosines >= best - TIE_TOLERANCE) & ~own).sum(axis=1))
    return np.concatenate(ranks) if ranks else np.empty(0, dtype=np.int64)


def refuse_not_finite(*features: Features) -> None:
    """Make sure that features can be compared at all: NaN is neither larger nor smaller than anything.

    Raises:
        InputError: one is NaN or infinite.
    """
    for matrix in features:
        if not np.isfinite(matrix).all():
            raise InputError("the model's features hold NaN or infinity: nothing can be scored by them")


def reciprocal_ranks(ranks: Integers, k: int) -> Floats:
    """1/rank where the rank is at most k, else 0; the mean of it is MRR@k."""
    return np.where(ranks <= k, 1.0 / ranks, 0.0)


def recalls(ranks: Integers, k: int) -> Floats:
    """1 where the rank is at most k, else 0; the mean of it is R@k."""
    return (ranks <= k).astype(np.float64)


def per_query(ranks: Integers, measure: str) -> Floats:
    """Return what each query contributes to the mean that a measure is: MRR@k, R@k or accuracy@k."""
    metric, k = measure.split("@")
    return reciprocal_ranks(ranks, int(k)) if metric == "MRR" else recalls(ranks, int(k))


def chance_level(metric: str, k: int, *, gallery_size: int, num_right: Integers) -> float:
    """Return what random order gives on average.

    Args:
        metric: MRR, R or accuracy.
        num_right: right items in the gallery for each query, shape (queries,).
    """
    if not len(num_right):
        return 0.0
    not_yet = np.ones(len(num_right))  # probability that no right item stands at this place or before it
    reciprocals = np.zeros(len(num_right))
    for place in range(1, min(k, gallery_size) + 1):
        num_left = gallery_size - place + 1
        before, not_yet = not_yet, not_yet * np.maximum(0, num_left - num_right) / num_left
        reciprocals += (before - not_yet) / place
    return float(reciprocals.mean() if metric == "MRR" else 1 - not_yet.mean())


def chance_median_rank(*, gallery_size: int, num_right: Integers) -> float:
    """Return the median rank that random order gives: the lowest one that half of the queries reach.

    Args:
        num_right: right items in the gallery for each query, shape (queries,).
    """
    if not len(num_right):
        return 0.0
    kinds, counts = np.unique(num_right.astype(np.float64), return_counts=True)
    not_yet = np.ones(len(kinds))  # probability that no right item stands before this place
    for place in range(1, gallery_size + 1):
        not_yet *= 1 - np.minimum(1.0, kinds / (gallery_size - place + 1))
        if float(not_yet @ counts) <= counts.sum() / 2 + 1e-9:
            return float(place)
    return float(gallery_size)


def bootstrap_interval(values: Floats, clusters: Integers, *, rounds: int, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of a mean.

    Args:
        values: one a query, shape (queries,).
        clusters: the image of each query, shape (queries,).
        rounds: resamplings.
    """
    return interval_of(mean_draws(values, clusters, rounds=rounds, seed=seed)) if len(values) else (0.0, 0.0)


def mean_draws(values: Floats, clusters: Integers, *, rounds: int, seed: int) -> Floats:
    """Return the mean of each resampling, shape (rounds,)."""
    members = _members(clusters)
    sums, counts = np.bincount(members, weights=values), np.bincount(members).astype(np.float64)
    draws = _draws(clusters, rounds=rounds, seed=seed)
    means: Floats = np.concatenate([(drawn @ sums) / (drawn @ counts) for drawn in draws])
    return means


def share_interval(
    values: Floats, clusters: Integers, *, rounds: int, seed: int, least: float = 0.0
) -> tuple[float, float]:
    """Return the 95 % interval of a mean of values from `least` to 1, which never says more than so few images can.

    Resampling cannot draw what was never seen: where all queries meet, or none, it says nothing. So no end is nearer to
    `least` or 1 than that of Clopper and Pearson (Biometrika 26, 1934) where all images agree; where all values are the
    same, both ends are as far away; and of fewer than `FEW_CLUSTERS` images anything may be true.

    Args:
        least: 0 of shares; -1 of differences between two shares, one a query.
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


def median_interval(
    ranks: Integers, clusters: Integers, *, rounds: int, seed: int, gallery_size: int
) -> tuple[float, float]:
    """Return the 95 % interval of a median rank, the lower of two middle values; of too few images it is everything."""
    if not len(ranks):
        return (0.0, 0.0)
    if num_clusters(clusters) < FEW_CLUSTERS:
        return (1.0, float(gallery_size))
    return interval_of(median_draws(ranks, clusters, rounds=rounds, seed=seed))


def median_draws(ranks: Integers, clusters: Integers, *, rounds: int, seed: int) -> Floats:
    """Return the median of each resampling, shape (rounds,); with equal clusters and seed, two models' are paired."""
    order = np.argsort(ranks, kind="stable")
    ordered, members = ranks[order], _members(clusters)[order]
    found = []
    for draws in _draws(clusters, rounds=rounds, seed=seed):
        reached = np.cumsum(draws[:, members], axis=1)
        found.append(ordered[(2 * reached >= reached[:, -1:]).argmax(axis=1)])
    medians: Floats = np.concatenate(found).astype(np.float64)
    return medians


def median_rank(ranks: Integers) -> float:
    """Return the lowest rank that half of the queries reach; 0 where there are none."""
    return float(np.sort(ranks)[(len(ranks) - 1) // 2]) if len(ranks) else 0.0


def num_clusters(clusters: Integers) -> int:
    """Return how many images the queries are of."""
    return int(_members(clusters).max()) + 1 if len(clusters) else 0


def interval_of(draws: Floats) -> tuple[float, float]:
    """Return the middle 95 % of resampled statistics."""
    low, high = np.quantile(draws, QUANTILES)
    return float(low), float(high)


def _members(clusters: Integers) -> Integers:
    members: Integers = np.unique(clusters, return_inverse=True)[1]
    return members


def _draws(clusters: Integers, *, rounds: int, seed: int) -> Iterator[Floats]:
    """Yield how often each cluster is drawn, some rounds at a time, shape (rounds, clusters)."""
    count = num_clusters(clusters)
    generator = np.random.default_rng(seed)
    for start in range(0, rounds, _ROUNDS_AT_A_TIME):
        some = min(_ROUNDS_AT_A_TIME, rounds - start)
        drawn = generator.integers(0, count, (some, count)) + count * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * count).reshape(some, count).astype(np.float64)
