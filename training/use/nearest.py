"""Exact nearest neighbours by cosine: the k best rows of a feature matrix for each query, in bounded memory.

Products are taken in float32, block by block, which is twice as fast as in float64. Whatever could be among the k best,
given how far a float32 sum may be off, is then computed in float64: so the answer is that of float64 throughout.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from data_catalog.errors import DamagedError, DefectError, SettingsError
from training.data.images import Features
from training.data.pairs import Floats, Integers

Found = tuple[Integers, Integers, Floats]  # query, row and cosine of each pair

QUERIES_AT_A_TIME = 1024
_MOST_ROWS = 65_536
_PRODUCTS = 1 << 22  # of one block: 16 MiB of float32
_PAIRS = 4096  # that are computed in float64 at a time


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The best rows for each query, best first; of equal ones the first comes first.

    Args:
        indices: int64, shape (queries, min(k, rows)).
        cosines: float64, of the same shape.
    """

    indices: Integers
    cosines: Floats


def nearest(features: Features, queries: Features, k: int) -> Neighbours:
    """Return the `k` rows of `features` with the highest cosine to each query; all rows where there are fewer.

    Memory beside the arguments and the result does not grow with the number of rows, nor with that of queries.

    Args:
        features: unit rows, float32, shape (rows, dim); may be mapped from a file, and is read once for every
            `QUERIES_AT_A_TIME` queries.
        queries: unit rows, float32, shape (queries, dim).

    Raises:
        SettingsError: `k` is below 1.
        DamagedError: a number is not finite.
        DefectError: the shapes do not fit.
    """
    if k < 1:
        raise SettingsError(f"k must be positive, got {k}")
    if features.ndim != 2 or queries.ndim != 2 or (len(features) and features.shape[1] != queries.shape[1]):
        raise DefectError(f"features of shape {features.shape} cannot be searched by queries of shape {queries.shape}")
    if not np.isfinite(queries).all():
        raise DamagedError("the features of a query are not finite: the model is broken")
    k = min(k, len(features))
    indices = np.empty((len(queries), k), dtype=np.int64)
    cosines = np.empty((len(queries), k), dtype=np.float64)
    for start in range(0, len(queries) if k else 0, QUERIES_AT_A_TIME):
        some = queries[start : start + QUERIES_AT_A_TIME]
        _, rows, found = _nearest(features, some, k)
        indices[start : start + len(some)] = rows.reshape(len(some), k)
        cosines[start : start + len(some)] = found.reshape(len(some), k)
    return Neighbours(indices, cosines)


def _nearest(features: Features, queries: Features, k: int) -> Found:
    """Return the k best pairs of each query, best first, query by query."""
    # How far a float32 product of unit rows may be from the true one, in whatever order its terms are summed. Source:
    # N. Higham, Accuracy and Stability of Numerical Algorithms (2002), section 3.1; twice that (eps is twice the unit
    # roundoff), for rows that are of length 1 only nearly.
    error = float(queries.shape[1] * np.finfo(np.float32).eps)
    floors = np.full(len(queries), -np.inf)  # what is below, in float32, is not among the k best
    best: Found = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0)
    pending: list[Found] = []
    size = max(1, min(_MOST_ROWS, _PRODUCTS // len(queries)))
    for start in range(0, len(features), size):
        pending.append(_candidates(features[start : start + size], queries, floors, k=k, error=error, start=start))
        # Seldom, for it sorts; until then the floors are only lower than they could be.
        if sum(len(pairs[0]) for pairs in pending) >= len(queries) * k:
            best, pending = _best_of([best, *pending], k), []
            if len(best[0]) == len(queries) * k:
                floors = best[2].reshape(len(queries), k)[:, -1] - error
    return _best_of([best, *pending], k)


def _candidates(block: Features, queries: Features, floors: Floats, *, k: int, error: float, start: int) -> Found:
    """Return the pairs of a query and a row of the block that may be among its k best."""
    with np.errstate(invalid="ignore", over="ignore"):  # told below
        products = queries @ block.T
    # A number that is not finite spoils the product of its row with any query: one column shows them all.
    if not np.isfinite(products[0]).all():
        row = start + int(np.flatnonzero(~np.isfinite(products[0]))[0])
        raise DamagedError(f"the features of image number {row} are not finite: the model is broken, or the index is")
    passing = products >= _lowered(floors)
    if k < len(block) and np.count_nonzero(passing) > 4 * k * len(queries):
        # What is among the k best of all is among those of its block.
        own = np.partition(products, -k, axis=1)[:, -k].astype(np.float64) - 2 * error
        passing = products >= _lowered(np.maximum(floors, own))
    chosen, rows = np.divmod(np.flatnonzero(passing), len(block))
    cosines = np.empty(len(rows))
    for first in range(0, len(rows), _PAIRS):
        some = slice(first, first + _PAIRS)
        left, right = block[rows[some]].astype(np.float64), queries[chosen[some]].astype(np.float64)
        # Each is summed in the same order wherever its row stands: equal rows have equal cosines.
        np.einsum("ij,ij->i", left, right, out=cosines[some])
    return chosen, rows + start, cosines


def _lowered(floors: Floats) -> Any:
    """Return floors as a column of float32, with which comparing is twice as fast; one number lower, for rounding."""
    return np.nextafter(floors.astype(np.float32), np.float32(-np.inf))[:, None]


def _best_of(parts: list[Found], k: int) -> Found:
    chosen, rows, cosines = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.lexsort((rows, -cosines, chosen))
    chosen, rows, cosines = chosen[order], rows[order], cosines[order]
    kept = np.arange(len(chosen)) - np.searchsorted(chosen, chosen) < k  # the first k of each query
    return chosen[kept], rows[kept], cosines[kept]
