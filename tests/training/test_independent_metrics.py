"""Our metrics beside torchmetrics', on matrices with ties, several captions an image, and duplicates; the bootstrap."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.functional.retrieval import retrieval_hit_rate, retrieval_reciprocal_rank

from data_catalog.errors import InputError
from training.scores.metrics import (
    METRIC_OF,
    bootstrap_interval,
    chance_median_rank,
    image_to_text_ranks,
    median,
    median_draws,
    recalls,
    reciprocal_ranks,
    share_interval,
    text_to_image_ranks,
)

CUTOFFS = (1, 5, 10)
MEDIAN_RANK = METRIC_OF["text_to_image_median_rank"]
BEHIND_TIES = 1e-4  # more than the tolerance of ties, less than any other difference on the grid below


def theirs(cosines: np.ndarray, is_right: np.ndarray) -> dict[str, float]:
    """Means of torchmetrics' hit rate and reciprocal rank; right items go behind what they tie with."""
    moved = torch.from_numpy(cosines - BEHIND_TIES * is_right)
    right = torch.from_numpy(is_right)
    rows = range(len(cosines))
    hits = {k: [float(retrieval_hit_rate(moved[row], right[row], top_k=k)) for row in rows] for k in CUTOFFS}
    ranks = {k: [float(retrieval_reciprocal_rank(moved[row], right[row], top_k=k)) for row in rows] for k in CUTOFFS}
    return {f"R@{k}": np.mean(hits[k]) for k in CUTOFFS} | {f"MRR@{k}": np.mean(ranks[k]) for k in CUTOFFS}


def ours(ranks: np.ndarray) -> dict[str, float]:
    return {f"R@{k}": recalls(ranks, k).mean() for k in CUTOFFS} | {
        f"MRR@{k}": reciprocal_ranks(ranks, k).mean() for k in CUTOFFS
    }


@pytest.mark.parametrize("seed", range(2))
def test_retrieval_is_that_of_torchmetrics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # A coarse grid has many ties, and rows that are the same are duplicates of images and captions.
    images = rng.integers(-2, 3, (30, 4)).astype(np.float64) / 4
    owners = np.repeat(np.arange(30), rng.integers(1, 6, 30))
    texts = rng.integers(-2, 3, (len(owners), 4)).astype(np.float64) / 4
    images[7], texts[3] = images[20], texts[11]
    is_right = owners[:, None] == np.arange(30)[None, :]
    assert len(np.unique(texts @ images.T)) < 200
    assert ours(text_to_image_ranks(texts, images, owners)) == pytest.approx(theirs(texts @ images.T, is_right))
    assert ours(image_to_text_ranks(images, texts, owners)) == pytest.approx(theirs(images @ texts.T, is_right.T))


def test_accuracy_is_that_of_torchmetrics() -> None:
    rng = np.random.default_rng(9)
    images, classes, labels = rng.standard_normal((300, 8)), rng.standard_normal((40, 8)), rng.integers(0, 40, 300)
    ranks = text_to_image_ranks(images, classes, labels)
    for k in (1, 5, 10):
        metric = MulticlassAccuracy(num_classes=40, top_k=k, average="micro")
        expected = float(metric(torch.from_numpy(images @ classes.T), torch.from_numpy(labels)))
        assert recalls(ranks, k).mean() == pytest.approx(expected)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_refused(broken: float) -> None:
    good = np.eye(3)
    bad = np.eye(3)
    bad[1, 1] = broken
    for images, texts in ((good, bad), (bad, good)):
        with pytest.raises(InputError, match="NaN or infinity"):
            text_to_image_ranks(texts, images, np.arange(3))
        with pytest.raises(InputError, match="NaN or infinity"):
            image_to_text_ranks(images, texts, np.arange(3))


def test_the_interval_of_a_mean_is_the_analytic_one() -> None:
    values = np.random.default_rng(4).normal(10.0, 2.0, 2000)
    low, high = bootstrap_interval(values, np.arange(2000), rounds=4000, seed=1)
    half = norm.ppf(0.975) * values.std() / np.sqrt(2000)
    assert low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_the_interval_of_clustered_values_is_that_of_their_clusters_means() -> None:
    means = np.random.default_rng(5).normal(0.0, 1.0, 800)
    low, high = bootstrap_interval(np.repeat(means, 5), np.repeat(np.arange(800), 5), rounds=4000, seed=1)
    assert high - low == pytest.approx(2 * norm.ppf(0.975) * means.std() / np.sqrt(800), rel=0.05)


def test_the_interval_of_a_median_is_that_of_order_statistics() -> None:
    ranks = np.random.default_rng(6).permutation(np.arange(1, 1001))
    low, high = MEDIAN_RANK.interval(ranks, np.arange(1000), rounds=2000, seed=1, gallery_size=1000)
    half = norm.ppf(0.975) * np.sqrt(1000) / 2  # binomial: as many order statistics to either side
    assert low == pytest.approx(500 - half, abs=4)
    assert high == pytest.approx(500 + half, abs=4)


@pytest.mark.parametrize("num_images", [10, 40, 1696])
def test_where_all_queries_agree_the_interval_is_the_exact_one(num_images: int) -> None:
    clusters = np.repeat(np.arange(num_images), 2)
    how = {"rounds": 50, "seed": 1}
    exact = binomtest(0, num_images).proportion_ci(0.95, "exact").high
    assert share_interval(np.zeros(2 * num_images), clusters, **how) == pytest.approx((0, exact))
    assert share_interval(np.ones(2 * num_images), clusters, **how) == pytest.approx((1 - exact, 1))
    half = share_interval(np.full(2 * num_images, 0.5), clusters, **how)
    assert half == pytest.approx((0.5 - exact, 0.5 + exact))
    lost = share_interval(-np.ones(2 * num_images), clusters, least=-1.0, **how)
    assert lost == pytest.approx((-1, -1 + 2 * exact))


def test_one_miss_more_never_raises_an_end() -> None:
    clusters = np.arange(222)
    ends = []
    for num_missed in range(12):
        values = np.r_[np.zeros(num_missed), np.ones(222 - num_missed)]
        ends.append(share_interval(values, clusters, rounds=2000, seed=1))
    assert [low for low, _ in ends] == sorted((low for low, _ in ends), reverse=True)
    assert [high for _, high in ends] == sorted((high for _, high in ends), reverse=True)


def test_few_images_say_nothing() -> None:
    values, clusters = np.r_[np.ones(40), np.zeros(50)], np.repeat(np.arange(9), 10)
    assert share_interval(values, clusters, rounds=50, seed=1) == (0.0, 1.0)
    assert share_interval(values, clusters, rounds=50, seed=1, least=-1.0) == (-1.0, 1.0)
    assert MEDIAN_RANK.interval(np.arange(1, 91), clusters, rounds=50, seed=1, gallery_size=300) == (1.0, 300.0)


def test_medians_of_equal_ranks_are_paired_draw_by_draw() -> None:
    ranks = np.random.default_rng(7).integers(1, 50, 200)
    clusters = np.repeat(np.arange(50), 4)
    one, other = (median_draws(r, clusters, rounds=200, seed=3) for r in (ranks, ranks + 5))
    assert set(other - one) == {5.0}
    assert len(set(one)) > 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30))
def test_the_median_is_reached_by_half_of_the_queries(ranks: list[int]) -> None:
    found = median(np.array(ranks))
    assert 2 * sum(rank <= found for rank in ranks) >= len(ranks)
    assert 2 * sum(rank < found for rank in ranks) < len(ranks)


@pytest.mark.parametrize(("gallery_size", "num_right", "expected"), [(1696, [1], 848), (9, [1], 5), (10, [3, 3], 2)])
def test_chance_of_the_median(gallery_size: int, num_right: list[int], expected: int) -> None:
    assert chance_median_rank(gallery_size=gallery_size, num_right=np.array(num_right)) == expected
    rng = np.random.default_rng(8)
    drawn = [rng.choice(gallery_size, num_right[0], replace=False).min() + 1 for _ in range(4000)]
    assert np.median(drawn) == pytest.approx(expected, rel=0.05, abs=0.5)
