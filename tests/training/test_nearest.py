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


@pytest.mark.parametrize("k", [1, 999, 1000, 5000])
def test_the_answer_is_that_of_float64(k: int) -> None:
    features, queries = drawn(1000, 32, seed=1), drawn(7, 32, seed=2)
    found = nearest(features, queries, k)
    assert found.indices.tolist() == reference(features, queries, k).tolist()
    taken = np.einsum("qd,qkd->qk", queries.astype(np.float64), features[found.indices].astype(np.float64))
    assert np.allclose(found.cosines, taken, atol=1e-12)


def test_across_blocks_of_rows_and_of_queries() -> None:
    features, queries = drawn(70_000, 6, seed=3), drawn(QUERIES_AT_A_TIME + 5, 6, seed=4)
    some = [0, 1, QUERIES_AT_A_TIME - 1, QUERIES_AT_A_TIME, QUERIES_AT_A_TIME + 4]
    found = nearest(features, queries, 3).indices[some]
    assert found.tolist() == reference(features, queries[some], 3).tolist()
    alone = nearest(features, queries[:1], 20).indices
    assert alone.tolist() == reference(features, queries[:1], 20).tolist()


def test_float32_would_have_been_wrong() -> None:
    generator = np.random.default_rng(5)
    features = unit(generator.standard_normal(512) + 1e-6 * generator.standard_normal((3000, 512)))
    queries = drawn(4, 512, seed=6)
    expected = reference(features, queries, 10)
    assert nearest(features, queries, 10).indices.tolist() == expected.tolist()
    rounded = np.argsort(-(queries @ features.T), axis=1, kind="stable")[:, :10]
    assert rounded.tolist() != expected.tolist()


def test_of_equal_rows_the_first_come_first() -> None:
    few = drawn(5, 16, seed=9)
    features, queries = np.tile(few, (400, 1)), drawn(3, 16, seed=10)
    found = nearest(features, queries, 1000)
    assert found.indices.tolist() == reference(features, queries, 1000).tolist()
    best = found.indices[:, 0]
    assert (found.indices[:, :400] == best[:, None] + 5 * np.arange(400)).all()
    collapsed = np.tile(few[:1], (90_000, 1))
    assert nearest(collapsed, queries, 4).indices.tolist() == [[0, 1, 2, 3]] * 3


def test_memory_does_not_grow_with_the_gallery() -> None:
    features, queries = drawn(150_000, 8, seed=13), drawn(800, 8, seed=14)
    tracemalloc.start()
    try:
        nearest(features, queries, 10)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6, "all cosines together take 480 MB"


def test_nothing_to_find_and_nothing_to_look_for() -> None:
    assert nearest(np.empty((0, 0), dtype=np.float32), drawn(2, 8, seed=1), 5).indices.shape == (2, 0)
    assert nearest(drawn(9, 8, seed=1), np.empty((0, 8), dtype=np.float32), 5).indices.shape == (0, 5)


@pytest.mark.parametrize("number", [np.nan, -np.inf])
def test_numbers_that_are_none_are_refused(number: float) -> None:
    features, queries = drawn(70_000, 8, seed=15), drawn(3, 8, seed=16)
    features[69_000, 3] = number
    with pytest.raises(DamagedError, match="image number 69000 are not finite"):
        nearest(features, queries, 5)
    queries[1, 0] = number
    with pytest.raises(DamagedError, match="features of a query are not finite"):
        nearest(features[:10], queries, 5)


@pytest.mark.parametrize(("features", "queries", "k"), [((5, 8), (2, 7), 1), ((5, 8), (8,), 1), ((5, 8), (2, 8), 0)])
def test_what_does_not_fit_is_refused(features: tuple[int, ...], queries: tuple[int, ...], k: int) -> None:
    with pytest.raises(PipelineError, match=r"cannot be searched|k must be positive"):
        nearest(np.zeros(features, dtype=np.float32), np.zeros(queries, dtype=np.float32), k)
