"""Metrics and paired differences against cases worked out by hand, torchmetrics and scipy; few images."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from data_catalog.base.errors import InputError
from training.scores.metrics import (
    METRIC_OF,
    METRICS,
    Metric,
    bootstrap_interval,
    chance_level,
    chance_median_rank,
    chance_ndcg,
    median,
    median_draws,
    ndcgs,
    recalls,
    reciprocal_ranks,
    right_caption_ranks,
    share_interval,
    text_to_image_ranks,
)

E0, E1, E2 = np.eye(3)
CUTOFFS = (1, 5, 10)
MEDIAN_RANK = METRIC_OF["text_to_image_median_rank"]
BEHIND_TIES = 1e-4  # more than the tolerance of ties, less than any other difference on the grid below


def image_to_text_ranks(images: np.ndarray, texts: np.ndarray, owners: np.ndarray) -> np.ndarray:
    return right_caption_ranks(images, texts, owners, most=1)[:, 0]


def test_images_without_captions_are_in_the_gallery_and_ask_nothing() -> None:
    three, owner = np.stack([E0, E1, E2]), np.array([2])
    assert image_to_text_ranks(three, np.stack([E2]), owner).tolist() == [1]
    assert text_to_image_ranks(np.stack([E0]), three, owner).tolist() == [3]


def test_ranks_of_all_right_captions_worked_out_by_hand() -> None:
    # Image 0 owns captions 0, 1 and 4, with cosines 0.9, 0.6 and 0.6; wrong are 2 and 3, with 0.6 and 0.2. The tie
    # counts against the model, so the right ones are at 1, 3 and 4. Image 1 owns caption 2, at 1 of 5; image 2 nothing.
    texts = np.array([[0.9, 0, 0], [0.6, 0, 0], [0.6, 1, 0], [0.2, 0.1, 0], [0.6, 0, 0]])
    found = right_caption_ranks(np.stack([E0, E1, E2]), texts, np.array([0, 0, 1, 1, 0]), most=10)
    assert found.tolist() == [[1, 3, 4], [1, 2, 0]]
    ideal = 1 + 1 / np.log2(3) + 1 / 2
    assert ndcgs(found, 10) == pytest.approx([(1 + 1 / 2 + 1 / np.log2(5)) / ideal, 1])
    # Twelve right captions before the only wrong one: the ideal has ten of them, and no more are looked at.
    many = right_caption_ranks(np.stack([E0]), np.stack([E0] * 12), np.zeros(12, dtype=np.int64), most=10)
    assert many.tolist() == [list(range(1, 11))]
    assert ndcgs(many, 10).tolist() == [1]


@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_a_collapsed_model_scores_nothing(noise: float) -> None:
    drawn = np.random.default_rng(0).standard_normal((50, 16))
    features, owners = (np.ones((50, 16)) / 4 + noise * drawn).astype(np.float32), np.arange(50)
    for ranks in (text_to_image_ranks(features, features, owners), image_to_text_ranks(features, features, owners)):
        assert ranks.tolist() == [50] * 50


def theirs(cosines: np.ndarray, is_right: np.ndarray) -> dict[str, float]:
    """Means of torchmetrics' hit rate, reciprocal rank and nDCG; right items go behind what they tie with."""
    from torchmetrics.functional import retrieval  # only where it is run

    moved, right = torch.from_numpy(cosines - BEHIND_TIES * is_right), torch.from_numpy(is_right)
    of_query = {
        "R": retrieval.retrieval_hit_rate,
        "MRR": retrieval.retrieval_reciprocal_rank,
        "nDCG": retrieval.retrieval_normalized_dcg,
    }
    return {
        f"{name}@{k}": np.mean([float(found(a, b, top_k=k)) for a, b in zip(moved, right, strict=True)])
        for name, found in of_query.items()
        for k in CUTOFFS
    }


def ours(right_ranks: np.ndarray) -> dict[str, float]:
    best = right_ranks[:, 0]
    of_query = {"R": (recalls, best), "MRR": (reciprocal_ranks, best), "nDCG": (ndcgs, right_ranks)}
    return {f"{name}@{k}": found(ranks, k).mean() for name, (found, ranks) in of_query.items() for k in CUTOFFS}


@pytest.mark.parametrize("seed", range(3))
def test_retrieval_is_that_of_torchmetrics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # A coarse grid has many ties, and rows that are the same are duplicates of images and captions.
    images = rng.integers(-2, 3, (30, 4)).astype(np.float64) / 4
    owners = np.repeat(np.arange(30), rng.integers(1, 6, 30))
    texts = rng.integers(-2, 3, (len(owners), 4)).astype(np.float64) / 4
    images[7], texts[3] = images[20], texts[11]
    is_right = owners[:, None] == np.arange(30)[None, :]
    assert len(np.unique(texts @ images.T)) < 200
    to_images = text_to_image_ranks(texts, images, owners)[:, None]
    assert ours(to_images) == pytest.approx(theirs(texts @ images.T, is_right))
    to_texts = right_caption_ranks(images, texts, owners, most=10)
    assert ours(to_texts) == pytest.approx(theirs(images @ texts.T, is_right.T))


def test_many_queries_are_ranked_in_blocks_as_all_at_once() -> None:
    rng = np.random.default_rng(1)
    images, texts = rng.standard_normal((1100, 4)), rng.standard_normal((1100, 4))
    for ranks, cosines in (
        (text_to_image_ranks(texts, images, np.arange(1100)), texts @ images.T),
        (image_to_text_ranks(images, texts, np.arange(1100)), images @ texts.T),
    ):
        assert ranks.tolist() == (cosines >= np.diag(cosines)[:, None] - 1e-6).sum(axis=1).tolist()


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_refused(broken: float) -> None:
    good, bad = np.eye(3), np.eye(3)
    bad[1, 1] = broken
    for images, texts in ((good, bad), (bad, good)):
        with pytest.raises(InputError, match="NaN or infinity"):
            text_to_image_ranks(texts, images, np.arange(3))
        with pytest.raises(InputError, match="NaN or infinity"):
            image_to_text_ranks(images, texts, np.arange(3))


def test_chance_is_what_random_order_gives() -> None:
    one, two = np.ones(3, dtype=np.int64), np.array([2])
    assert chance_level("R", 5, gallery_size=100, num_right=one) == pytest.approx(0.05)
    assert chance_level("MRR", 3, gallery_size=100, num_right=one) == pytest.approx((1 + 1 / 2 + 1 / 3) / 100)
    # Two of four are right: the first right one stands at 1, 2 or 3 with probability 1/2, 1/3, 1/6.
    assert chance_level("R", 2, gallery_size=4, num_right=two) == pytest.approx(5 / 6)
    assert chance_level("MRR", 4, gallery_size=4, num_right=two) == pytest.approx(1 / 2 + 1 / 6 + 1 / 18)
    for gallery_size, num_right, expected in ((1696, [1], 848), (9, [1], 5), (10, [3, 3], 2)):
        assert chance_median_rank(gallery_size=gallery_size, num_right=np.array(num_right)) == expected


def test_chance_of_ndcg_is_what_random_order_gives() -> None:
    generator, sizes = np.random.default_rng(3), np.array([1, 3, 12])
    drawn = [np.stack([generator.permutation(40)[:size] + 1 for _ in range(20_000)]) for size in sizes]
    means = []
    for ranks in drawn:
        ranks.sort(axis=1)
        means.append(ndcgs(ranks[:, :10], 10).mean())
    assert chance_ndcg(10, gallery_size=40, num_right=sizes) == pytest.approx(np.mean(means), rel=0.02)
    one, discounts = np.ones(2, dtype=np.int64), 1 + 1 / np.log2(3) + 1 / 2
    assert chance_ndcg(10, gallery_size=3, num_right=one) == pytest.approx(discounts / 3)


@pytest.mark.parametrize("metric", ["R", "accuracy"])
def test_chance_of_a_whole_gallery_is_one_to_the_bit(metric: str) -> None:
    right = {size: np.arange(1, size + 1) for size in range(1, 120)}
    found = {chance_level(metric, 10, gallery_size=size, num_right=right[size]) for size in range(1, 11)}
    found |= {chance_level(metric, 200, gallery_size=size, num_right=right[size]) for size in right}
    assert found == {1.0}


def test_the_interval_of_clustered_values_is_that_of_their_clusters_means() -> None:
    means = np.random.default_rng(5).normal(0.0, 1.0, 800)
    low, high = bootstrap_interval(np.repeat(means, 5), np.repeat(np.arange(800), 5), rounds=4000, seed=1)
    assert high - low == pytest.approx(2 * norm.ppf(0.975) * means.std() / np.sqrt(800), rel=0.05)
    assert (low + high) / 2 == pytest.approx(means.mean(), abs=0.01)
    one, again, other = (bootstrap_interval(means, np.arange(800), rounds=100, seed=seed) for seed in (7, 7, 8))
    assert one == again != other


def test_the_interval_of_a_median_is_that_of_order_statistics() -> None:
    ranks = np.random.default_rng(6).permutation(np.arange(1, 1001))
    how = {"rounds": 2000, "seed": 1, "gallery_size": 1000}
    _, low, high = MEDIAN_RANK.estimate(ranks[:, None], np.arange(1000), **how)
    half = norm.ppf(0.975) * np.sqrt(1000) / 2  # binomial: as many order statistics to either side
    assert (low, high) == (pytest.approx(500 - half, abs=4), pytest.approx(500 + half, abs=4))


@pytest.mark.parametrize("num_images", [10, 40, 1696])
def test_where_all_queries_agree_the_interval_is_the_exact_one(num_images: int) -> None:
    clusters = np.repeat(np.arange(num_images), 2)
    exact = binomtest(0, num_images).proportion_ci(0.95, "exact").high
    for value, least, expected in (
        (0.0, 0.0, (0, exact)),
        (1.0, 0.0, (1 - exact, 1)),
        (0.5, 0.0, (0.5 - exact, 0.5 + exact)),
        (-1.0, -1.0, (-1, -1 + 2 * exact)),
    ):
        values = np.full(2 * num_images, value)
        assert share_interval(values, clusters, rounds=50, seed=1, least=least) == pytest.approx(expected)


def test_where_hardly_a_query_succeeds_the_upper_end_is_that_of_none() -> None:
    values = np.array([0.5, *[0.0] * 99])
    assert share_interval(values, np.arange(100), rounds=500, seed=1)[1] == pytest.approx(1 - 0.025**0.01)


def test_one_miss_more_never_raises_an_end() -> None:
    hits = [np.r_[np.zeros(missed), np.ones(222 - missed)] for missed in range(12)]
    for ends in zip(*(share_interval(hit, np.arange(222), rounds=2000, seed=1) for hit in hits), strict=True):
        assert list(ends) == sorted(ends, reverse=True)


def test_few_images_say_nothing() -> None:
    values, clusters = np.r_[np.ones(40), np.zeros(50)], np.repeat(np.arange(9), 10)
    assert share_interval(values, clusters, rounds=50, seed=1) == (0.0, 1.0)
    assert share_interval(values, clusters, rounds=50, seed=1, least=-1.0) == (-1.0, 1.0)
    how, ranks = {"rounds": 50, "seed": 1, "gallery_size": 300}, np.arange(1, 91)[:, None]
    assert MEDIAN_RANK.estimate(ranks, clusters, **how)[1:] == (1.0, 300.0)
    assert MEDIAN_RANK.estimate(ranks, clusters, first=ranks, **how) == (0.0, -299.0, 299.0)


def test_medians_of_equal_ranks_are_paired_draw_by_draw() -> None:
    ranks, clusters = np.random.default_rng(7).integers(1, 50, 200), np.repeat(np.arange(50), 4)
    one, other = (median_draws(r, clusters, rounds=200, seed=3) for r in (ranks, ranks + 5))
    assert set(other - one) == {5.0}
    assert len(set(one)) > 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30))
def test_the_median_is_reached_by_half_of_the_queries(ranks: list[int]) -> None:
    found = median(np.array(ranks))
    assert 2 * sum(rank <= found for rank in ranks) >= len(ranks)
    assert 2 * sum(rank < found for rank in ranks) < len(ranks)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_each_metric_of_random_ranks_is_its_chance_and_does_not_differ_from_itself(metric: Metric) -> None:
    ranks, none = np.random.default_rng(5).integers(1, 301, (40_000, 1)), np.empty((0, 1), dtype=np.int64)
    chance = metric.chance(gallery_size=300, num_right=np.ones(3, dtype=np.int64))
    how = {"gallery_size": 300, "rounds": 5, "seed": 1}
    assert metric.estimate(ranks, np.arange(40_000), **how)[0] == pytest.approx(chance, rel=0.2)
    value, low, high = metric.estimate(ranks[:100], np.arange(100), first=ranks[:100], **how)
    assert low <= value == 0 <= high
    assert metric.estimate(none, none[:, 0], **how) == (0, 0, 0)
    assert metric.chance(gallery_size=300, num_right=none[:, 0]) == 0
