"""Metrics against cases worked out by hand and against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.scores.metrics import (
    METRICS,
    Metric,
    bootstrap_interval,
    chance_level,
    image_to_text_ranks,
    ranks_themselves,
    recalls,
    reciprocal_ranks,
    text_to_image_ranks,
)

E0, E1, E2 = np.eye(3)


def test_worked_out_by_hand() -> None:
    images = np.stack([E0, E1, E2])
    # Captions 0 and 1 belong to image 0, 2 to image 1, 3 to image 2; caption 1 points at image 1, caption 3 at image 0.
    texts = np.stack([E0, 0.6 * E0 + 0.8 * E1, E1, 0.8 * E0 + 0.6 * E2])
    owners = np.array([0, 0, 1, 2])
    assert text_to_image_ranks(texts, images, owners).tolist() == [1, 2, 1, 2]
    assert image_to_text_ranks(images, texts, owners).tolist() == [1, 1, 1]
    assert reciprocal_ranks(np.array([1, 2, 1, 2]), 1).tolist() == [1, 0, 1, 0]
    assert reciprocal_ranks(np.array([1, 2, 5, 6]), 5).tolist() == [1, 0.5, 0.2, 0]
    assert recalls(np.array([1, 2, 5, 6]), 5).tolist() == [1, 1, 1, 0]


def test_an_image_is_ranked_by_its_best_caption() -> None:
    images = np.stack([E0, E1])
    texts = np.stack([E1, 0.8 * E0 + 0.6 * E2, 0.9 * E0 + np.sqrt(0.19) * E1])
    # Image 0 owns captions 0 (cosine 0) and 1 (0.8), and 2 (0.9) is nearer; image 1 owns 2 (0.44), and 0 (1) is nearer.
    assert image_to_text_ranks(images, texts, np.array([0, 0, 1])).tolist() == [2, 2]


def test_images_without_captions_are_in_the_gallery_but_ask_nothing() -> None:
    images = np.stack([E0, E1, E2])
    owners = np.array([2])
    assert image_to_text_ranks(images, np.stack([E2]), owners).tolist() == [1]
    assert text_to_image_ranks(np.stack([E0]), images, owners).tolist() == [3]


@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_a_collapsed_model_scores_nothing(noise: float) -> None:
    rng = np.random.default_rng(0)
    features = np.ones((50, 16)) / 4 + noise * rng.standard_normal((50, 16))
    owners = np.arange(50)
    features = features.astype(np.float32)
    for ranks in (text_to_image_ranks(features, features, owners), image_to_text_ranks(features, features, owners)):
        assert ranks.tolist() == [50] * 50


def brute_force_ranks(queries: np.ndarray, gallery: np.ndarray, right: list[set[int]]) -> list[int]:
    ranks = []
    for query, own in zip(queries, right, strict=True):
        cosines = [sum(a * b for a, b in zip(query.tolist(), item.tolist(), strict=True)) for item in gallery]
        best = max(cosines[index] for index in own)
        wrong = [cosine for index, cosine in enumerate(cosines) if index not in own]
        ranks.append(1 + sum(cosine >= best - 1e-6 for cosine in wrong))
    return ranks


@given(st.data())
def test_ranks_are_those_of_brute_force(data: st.DataObject) -> None:
    num_images = data.draw(st.integers(1, 6))
    counts = data.draw(st.lists(st.integers(1, 3), min_size=num_images, max_size=num_images))
    # A coarse grid, so that ties are frequent.
    cell = st.integers(-2, 2).map(float)
    rows = st.lists(st.lists(cell, min_size=3, max_size=3), min_size=sum(counts), max_size=sum(counts))
    images = np.array(data.draw(rows))[:num_images] / 4
    texts = np.array(data.draw(rows)) / 4
    owners = np.repeat(np.arange(num_images), counts)
    captions_of = [set(np.flatnonzero(owners == image).tolist()) for image in range(num_images)]
    expected = brute_force_ranks(texts, images, [{int(owner)} for owner in owners])
    assert text_to_image_ranks(texts, images, owners).tolist() == expected
    assert image_to_text_ranks(images, texts, owners).tolist() == brute_force_ranks(images, texts, captions_of)


def test_many_queries_are_ranked_in_blocks_as_all_at_once() -> None:
    rng = np.random.default_rng(1)
    images, texts = rng.standard_normal((1100, 4)), rng.standard_normal((1100, 4))
    ranks = text_to_image_ranks(texts, images, np.arange(1100))
    cosines = texts @ images.T
    assert ranks.tolist() == (cosines >= np.diag(cosines)[:, None] - 1e-6).sum(axis=1).tolist()


def test_chance_is_what_random_order_gives() -> None:
    one = np.ones(3, dtype=np.int64)
    assert chance_level("R", 5, gallery_size=100, num_right=one) == pytest.approx(0.05)
    assert chance_level("MRR", 3, gallery_size=100, num_right=one) == pytest.approx((1 + 1 / 2 + 1 / 3) / 100)
    assert chance_level("R", 10, gallery_size=4, num_right=one) == pytest.approx(1)
    # Two of four are right: the first right one stands at 1, 2 or 3 with probability 1/2, 1/3, 1/6.
    two = np.array([2])
    assert chance_level("R", 2, gallery_size=4, num_right=two) == pytest.approx(5 / 6)
    assert chance_level("MRR", 4, gallery_size=4, num_right=two) == pytest.approx(1 / 2 + 1 / 6 + 1 / 18)


@pytest.mark.parametrize("metric", ["R", "accuracy"])
def test_chance_of_a_whole_gallery_is_one_to_the_bit(metric: str) -> None:
    right = {size: np.arange(1, size + 1) for size in range(1, 120)}
    found = {chance_level(metric, 10, gallery_size=size, num_right=right[size]) for size in range(1, 11)}
    found |= {chance_level(metric, 200, gallery_size=size, num_right=right[size]) for size in right}
    assert found == {1.0}


def test_chance_agrees_with_drawn_features() -> None:
    rng = np.random.default_rng(2)
    owners = np.repeat(np.arange(40), [1, 2, 3, 2] * 10)
    found = [
        reciprocal_ranks(image_to_text_ranks(rng.standard_normal((40, 8)), rng.standard_normal((80, 8)), owners), 5)
        for _ in range(60)
    ]
    chance = chance_level("MRR", 5, gallery_size=80, num_right=np.bincount(owners))
    assert np.mean(found) == pytest.approx(chance, rel=0.15)


def test_intervals_hold_the_mean_and_repeat() -> None:
    rng = np.random.default_rng(3)
    values, clusters = rng.random(300), np.repeat(np.arange(60), 5)
    low, high = bootstrap_interval(values, clusters, rounds=400, seed=7)
    assert low < values.mean() < high
    assert (low, high) == bootstrap_interval(values, clusters, rounds=400, seed=7)
    assert (low, high) != bootstrap_interval(values, clusters, rounds=400, seed=8)


def test_captions_of_one_image_are_drawn_together() -> None:
    values = np.repeat([0.0, 1.0] * 20, 5)
    together = bootstrap_interval(values, np.repeat(np.arange(40), 5), rounds=500, seed=0)
    alone = bootstrap_interval(values, np.arange(200), rounds=500, seed=0)
    assert together[1] - together[0] > 1.8 * (alone[1] - alone[0])


def mean_chance(*, gallery_size: int, num_right: np.ndarray) -> float:
    return float(np.mean((gallery_size + 1) / (num_right + 1)))


MEAN_RANK = Metric(name="mean_rank", of_query=ranks_themselves, chance=mean_chance, is_rank=True, digits=1)


def test_a_metric_that_the_table_does_not_have_needs_nothing_but_its_entry() -> None:
    rng = np.random.default_rng(4)
    ranks, clusters = rng.integers(1, 100, 200), np.repeat(np.arange(50), 4)
    how = {"gallery_size": 100, "rounds": 300, "seed": 1}
    assert MEAN_RANK.value(ranks) == pytest.approx(ranks.mean())
    low, high = MEAN_RANK.interval(ranks, clusters, **how)
    assert 1 < low < ranks.mean() < high < 100
    value, least, most = MEAN_RANK.difference(ranks, ranks + 5, clusters, **how)
    assert (value, least, most) == pytest.approx((5, 5, 5))
    few = clusters % 9
    assert MEAN_RANK.interval(ranks, few, **how) == (1, 100)
    assert MEAN_RANK.difference(ranks, ranks, few, **how) == (0, -99, 99)
    assert MEAN_RANK.chance(gallery_size=9, num_right=np.array([1])) == 5


def test_columns_of_a_way_stand_one_after_the_other() -> None:
    for way in {way for metric in METRICS for way in metric.ways}:
        places = [metric.column for metric in METRICS if way in metric.ways and metric.column is not None]
        assert sorted(places) == list(range(1, len(places) + 1))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_chance_of_each_metric_is_what_random_ranks_give(metric: Metric) -> None:
    ranks = np.random.default_rng(5).integers(1, 301, 40_000)
    chance = metric.chance(gallery_size=300, num_right=np.ones(3, dtype=np.int64))
    assert metric.value(ranks) == pytest.approx(chance, rel=0.2)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_model_does_not_differ_from_itself(metric: Metric) -> None:
    ranks, clusters = np.random.default_rng(6).integers(1, 9, 100), np.arange(100)
    value, low, high = metric.difference(ranks, ranks, clusters, gallery_size=9, rounds=50, seed=1)
    assert value == 0
    assert low <= 0 <= high
