"""95 % intervals by resampling whole clusters: captions of one image are not independent of one another.

All statistics of the same queries are computed on the same draws, so that differences between two models are paired.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.metrics import Floats, Integers

QUANTILES = (0.025, 0.975)
_ROUNDS_AT_A_TIME = 64


def bootstrap_interval(values: "Floats", clusters: "Integers", *, rounds: int, seed: int) -> tuple[float, float]:
    """The 95 % interval of a mean.

    Args:
        values: one a query, shape (queries,); of a difference between two models, the differences.
        clusters: the image of each query, shape (queries,).
        rounds: resamplings.
    """
    import numpy as np

    if not len(values):
        return (0.0, 0.0)
    return interval_of(np.concatenate(list(_means(values, clusters, rounds=rounds, seed=seed))))


def share_interval(values: "Floats", clusters: "Integers", *, rounds: int, seed: int) -> tuple[float, float]:
    """The 95 % interval of a mean of values between 0 and 1, which all queries may have missed or all have met.

    Resampling says nothing where all values are 0, or 1; there the end that matters is that of Clopper and Pearson
    (Biometrika 26, 1934), with images for trials.
    """
    low, high = bootstrap_interval(values, clusters, rounds=rounds, seed=seed)
    if len(values) and low == high and low in (0.0, 1.0):
        most = 1 - QUANTILES[0] ** (1 / (int(_members(clusters).max()) + 1))
        return (0.0, most) if low == 0 else (1 - most, 1.0)
    return low, high


def median_interval(ranks: "Integers", clusters: "Integers", *, rounds: int, seed: int) -> tuple[float, float]:
    """The 95 % interval of a median, where the lower of two middle values counts."""
    if not len(ranks):
        return (0.0, 0.0)
    return interval_of(median_draws(ranks, clusters, rounds=rounds, seed=seed))


def median_draws(ranks: "Integers", clusters: "Integers", *, rounds: int, seed: int) -> "Floats":
    """The median of each resampling, shape (rounds,): with equal clusters and seed, those of two models are paired."""
    import numpy as np

    order = np.argsort(ranks, kind="stable")
    ordered, members = ranks[order], _members(clusters)[order]
    found = []
    for draws in _draws(clusters, rounds=rounds, seed=seed):
        reached = np.cumsum(draws[:, members], axis=1)
        found.append(ordered[(2 * reached >= reached[:, -1:]).argmax(axis=1)])
    medians: Floats = np.concatenate(found).astype(np.float64)
    return medians


def median_rank(ranks: "Integers") -> float:
    """The lowest rank that half of the queries reach; 0 where there are none."""
    import numpy as np

    return float(np.sort(ranks)[(len(ranks) - 1) // 2]) if len(ranks) else 0.0


def interval_of(draws: "Floats") -> tuple[float, float]:
    """The middle 95 % of resampled statistics."""
    import numpy as np

    low, high = np.quantile(draws, QUANTILES)
    return float(low), float(high)


def _means(values: "Floats", clusters: "Integers", *, rounds: int, seed: int) -> "Iterator[Floats]":
    import numpy as np

    members = _members(clusters)
    sums, counts = np.bincount(members, weights=values), np.bincount(members).astype(np.float64)
    for draws in _draws(clusters, rounds=rounds, seed=seed):
        yield (draws @ sums) / (draws @ counts)


def _members(clusters: "Integers") -> "Integers":
    import numpy as np

    members: Integers = np.unique(clusters, return_inverse=True)[1]
    return members


def _draws(clusters: "Integers", *, rounds: int, seed: int) -> "Iterator[Floats]":
    """How often each cluster is drawn, some rounds at a time, shape (rounds, clusters)."""
    import numpy as np

    count = int(_members(clusters).max()) + 1
    generator = np.random.default_rng(seed)
    for start in range(0, rounds, _ROUNDS_AT_A_TIME):
        some = min(_ROUNDS_AT_A_TIME, rounds - start)
        drawn = generator.integers(0, count, (some, count)) + count * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * count).reshape(some, count).astype(np.float64)
