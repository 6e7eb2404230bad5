"""95 % intervals by resampling whole clusters: captions of one image are not independent of one another.

All statistics of the same queries are computed on the same draws, so that differences between two models are paired.
"""

from collections.abc import Iterator

import numpy as np

from training.scores.metrics import Floats, Integers

QUANTILES = (0.025, 0.975)
FEW_CLUSTERS = 10
_ROUNDS_AT_A_TIME = 64


def bootstrap_interval(values: Floats, clusters: Integers, *, rounds: int, seed: int) -> tuple[float, float]:
    """The 95 % interval of a mean.

    Args:
        values: one a query, shape (queries,).
        clusters: the image of each query, shape (queries,).
        rounds: resamplings.
    """
    return interval_of(mean_draws(values, clusters, rounds=rounds, seed=seed)) if len(values) else (0.0, 0.0)


def mean_draws(values: Floats, clusters: Integers, *, rounds: int, seed: int) -> Floats:
    """The mean of each resampling, shape (rounds,)."""
    members = _members(clusters)
    sums, counts = np.bincount(members, weights=values), np.bincount(members).astype(np.float64)
    draws = _draws(clusters, rounds=rounds, seed=seed)
    means: Floats = np.concatenate([(drawn @ sums) / (drawn @ counts) for drawn in draws])
    return means


def share_interval(
    values: Floats, clusters: Integers, *, rounds: int, seed: int, least: float = 0.0
) -> tuple[float, float]:
    """The 95 % interval of a mean of values from `least` to 1, which never says more than so few images can.

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
    """The 95 % interval of a median rank, where the lower of two middle values counts; anything of too few images."""
    if not len(ranks):
        return (0.0, 0.0)
    if num_clusters(clusters) < FEW_CLUSTERS:
        return (1.0, float(gallery_size))
    return interval_of(median_draws(ranks, clusters, rounds=rounds, seed=seed))


def median_draws(ranks: Integers, clusters: Integers, *, rounds: int, seed: int) -> Floats:
    """The median of each resampling, shape (rounds,): with equal clusters and seed, those of two models are paired."""
    order = np.argsort(ranks, kind="stable")
    ordered, members = ranks[order], _members(clusters)[order]
    found = []
    for draws in _draws(clusters, rounds=rounds, seed=seed):
        reached = np.cumsum(draws[:, members], axis=1)
        found.append(ordered[(2 * reached >= reached[:, -1:]).argmax(axis=1)])
    medians: Floats = np.concatenate(found).astype(np.float64)
    return medians


def median_rank(ranks: Integers) -> float:
    """The lowest rank that half of the queries reach; 0 where there are none."""
    return float(np.sort(ranks)[(len(ranks) - 1) // 2]) if len(ranks) else 0.0


def num_clusters(clusters: Integers) -> int:
    """How many images the queries are of."""
    return int(_members(clusters).max()) + 1 if len(clusters) else 0


def interval_of(draws: Floats) -> tuple[float, float]:
    """The middle 95 % of resampled statistics."""
    low, high = np.quantile(draws, QUANTILES)
    return float(low), float(high)


def _members(clusters: Integers) -> Integers:

    members: Integers = np.unique(clusters, return_inverse=True)[1]
    return members


def _draws(clusters: Integers, *, rounds: int, seed: int) -> Iterator[Floats]:
    """How often each cluster is drawn, some rounds at a time, shape (rounds, clusters)."""
    count = num_clusters(clusters)
    generator = np.random.default_rng(seed)
    for start in range(0, rounds, _ROUNDS_AT_A_TIME):
        some = min(_ROUNDS_AT_A_TIME, rounds - start)
        drawn = generator.integers(0, count, (some, count)) + count * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * count).reshape(some, count).astype(np.float64)
