"""Nearest neighbours against a plain float64 reference: ties, duplicates, rounding, memory, numbers that are none."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from data_catalog.errors import DamagedError, PipelineError
from training.use.search import QUERIES_AT_A_TIME, nearest

Matrix = Any


def unit(rows: Matrix) -> Matrix:
    """Rows of length 1, in float32."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def drawn(count: int, dim: int, seed: int) -> Matrix:
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def reference(features: Matrix, queries: Matrix, k: int) -> Matrix:
    """What everything in float64 and a stable sort give; sums are exact to about 1e-16, so ties are rounded."""
    cosines = np.round(queries.astype(np.float64) @ features.T.astype(np.float64), 13)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :k]


def close(count: int, dim: int) -> Matrix:
    """Rows that float32 does not tell apart."""
    generator = np.random.default_rng(5)
    return unit(generator.standard_normal(dim) + 1e-6 * generator.standard_normal((count, dim)))


@pytest.mark.parametrize(
    ("features", "num_queries", "k"),
    [
        *((drawn(1000, 32, seed=1), 7, k) for k in (1, 999, 1000, 5000)),
        (drawn(70_000, 6, seed=3), QUERIES_AT_A_TIME + 5, 3),
        (drawn(70_000, 6, seed=3), 1, 20),
        (close(3000, 512), 4, 10),
        (np.tile(drawn(5, 16, seed=9), (400, 1)), 3, 1000),
        (np.tile(drawn(1, 16, seed=9), (90_000, 1)), 3, 4),
    ],
    ids=["best", "most", "all", "more", "blocks", "alone", "close", "equal", "collapsed"],
)
def test_the_answer_is_that_of_float64_and_of_equal_rows_the_first_come_first(
    features: Matrix, num_queries: int, k: int
) -> None:
    queries = drawn(num_queries, features.shape[1], seed=2)
    found = nearest(features, queries, k)
    some = sorted({0, QUERIES_AT_A_TIME - 1, QUERIES_AT_A_TIME, num_queries - 1} & set(range(num_queries)))
    assert found.indices[some].tolist() == reference(features, queries[some], k).tolist()
    taken = np.einsum("qd,qkd->qk", queries.astype(np.float64), features[found.indices].astype(np.float64))
    assert np.allclose(found.cosines, taken, atol=1e-12)


def test_float32_would_have_been_wrong() -> None:
    features, queries = close(3000, 512), drawn(4, 512, seed=2)
    rounded = np.argsort(-(queries @ features.T), axis=1, kind="stable")[:, :10]
    assert rounded.tolist() != reference(features, queries, 10).tolist()


def test_memory_does_not_grow_with_the_gallery() -> None:
    features, queries = drawn(150_000, 8, seed=13), drawn(800, 8, seed=14)
    tracemalloc.start()
    try:
        nearest(features, queries, 10)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6, "all cosines together take 480 MB"


@pytest.mark.parametrize("number", [np.nan, -np.inf])
def test_numbers_that_are_none_are_refused(number: float) -> None:
    features, queries = drawn(70_000, 8, seed=15), drawn(3, 8, seed=16)
    features[69_000, 3] = number
    with pytest.raises(DamagedError, match="image number 69000 are not finite"):
        nearest(features, queries, 5)
    queries[1, 0] = number
    with pytest.raises(DamagedError, match="features of a query are not finite"):
        nearest(features[:10], queries, 5)


def test_what_is_empty_finds_nothing_and_what_does_not_fit_is_refused() -> None:
    empty = np.empty((0, 0), dtype=np.float32)
    assert nearest(empty, drawn(2, 8, seed=1), 5).indices.shape == (2, 0)
    assert nearest(drawn(9, 8, seed=1), np.empty((0, 8), dtype=np.float32), 5).indices.shape == (0, 5)
    for features, queries, k in (((5, 8), (2, 7), 1), ((5, 8), (8,), 1), ((5, 8), (2, 8), 0)):
        with pytest.raises(PipelineError, match=r"cannot be searched|k must be positive"):
            nearest(np.zeros(features, dtype=np.float32), np.zeros(queries, dtype=np.float32), k)
