"""Paired differences against cases worked out by hand, their intervals against known distributions, and verdicts."""

import numpy as np
import pytest

from training.scores.ablation import (
    HELPS,
    HURTS,
    METRICS,
    UNKNOWN,
    PairedDifference,
    SeedNoise,
    difference,
    holm,
    seed_noise,
    values_of,
    verdict,
)
from training.scores.score import retrieval_outcomes

QUIET = SeedNoise(variance=0.0, degrees=0)


def compared(
    with_it: np.ndarray, without: np.ndarray, noise: SeedNoise = QUIET, rounds: int = 1000
) -> PairedDifference:
    """Of queries of an image each."""
    return difference(with_it, without, np.arange(with_it.shape[1]), noise, rounds=rounds, seed=0)


def test_a_difference_worked_out_by_hand() -> None:
    """Two images, of three queries and of one; drawn twice, they are both the first one, both the second, or mixed."""
    with_it = np.array([[1.0, 1.0, 0.5, 0.0], [1.0, 0.0, 0.5, 0.0]])
    without = np.array([[0.0, 0.5, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]])
    clusters = np.array([7, 7, 7, 9])
    # By query, over the seeds: 1, 0.25, 0.25, 0. Of the first image 0.5, of the second 0, of both 1.5 / 4.
    found = difference(with_it, without, clusters, QUIET, rounds=4000, seed=0)
    assert found.value == pytest.approx(0.375)
    assert (found.low, found.high) == (pytest.approx(0.0), pytest.approx(0.5))
    # A quarter of the draws is the second image alone, which has no difference.
    assert found.p_value == pytest.approx(0.5, abs=0.05)


def test_equal_differences_everywhere_are_certain_and_none_has_a_p_value_of_one() -> None:
    found = compared(np.full((1, 30), 0.75), np.full((1, 30), 0.5), rounds=999)
    assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)
    assert found.p_value == pytest.approx(2 / 1000)
    same = np.random.default_rng(0).random((2, 40))
    found = compared(same, same)
    assert (found.value, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_the_noise_of_seeds_is_what_neither_seed_nor_variant_explains() -> None:
    """Means 0.1 and 0.3, and 0.5 and 0.9: of 0.45 in all, one seed -0.15 and +0.15, one variant -0.25 and +0.25."""
    noise = seed_noise([np.array([[0.0, 0.2], [0.3, 0.3]]), np.array([[0.5, 0.5], [0.8, 1.0]])])
    assert (noise.variance, noise.degrees) == (pytest.approx(4 * 0.05**2), 1)
    assert seed_noise([np.ones((1, 5)), np.zeros((1, 5))]) == QUIET
    luck = np.array([[0.0], [0.3], [0.5]]) + np.zeros((3, 10))
    assert seed_noise([luck, luck + 0.1]).variance == pytest.approx(0), "what a seed does to all variants alike"


def test_the_noise_of_seeds_widens_intervals_as_student_says() -> None:
    """Queries without any noise: what is left is a t of 4 degrees, whose 97.5th percentile is 2.776."""
    noise = SeedNoise(variance=0.09, degrees=4)
    flat = compared(np.full((3, 20), 0.6), np.full((3, 20), 0.5), noise, rounds=50_000)
    half = 2.776 * (0.09 * 2 / 3) ** 0.5
    assert (flat.low, flat.high) == (pytest.approx(0.1 - half, rel=0.03), pytest.approx(0.1 + half, rel=0.03))


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Four variants that are equal, but for the luck of models and of queries; that of a seed is larger, and shared."""
    generator, seeds = np.random.default_rng(2), 2
    held = 0
    for _ in range(300):
        luck = 0.03 * generator.standard_normal((4, seeds, 1)) + 0.2 * generator.standard_normal((1, seeds, 1))
        values = 0.5 + luck + 0.3 * generator.standard_normal((4, seeds, 150))
        found = compared(values[0], values[1], seed_noise(list(values)), rounds=200)
        held += found.low <= 0 <= found.high
    assert held >= 0.92 * 300


def test_values_are_those_of_the_ranks() -> None:
    images = np.eye(3, dtype=np.float32)
    texts = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0.9, 0, 0.1]], dtype=np.float32)
    outcomes = retrieval_outcomes(images, texts, np.array([0, 0, 1, 2]), captions="all")
    ranks = {outcome.way: outcome.ranks for outcome in outcomes}
    assert ranks["text_to_image"].tolist() == [1, 1, 1, 2]
    assert ranks["image_to_text"].tolist() == [1, 1, 1]
    found = {metric: values_of([ranks, ranks], metric) for metric in METRICS}
    assert found["text_to_image_MRR@10"].tolist() == [[1, 1, 1, 0.5]] * 2
    assert found["text_to_image_R@1"].tolist() == [[1, 1, 1, 0]] * 2
    assert found["image_to_text_R@1"].tolist() == [[1, 1, 1]] * 2


def test_holm_corrects_step_by_step() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("value", "p_value", "degrees", "num_images", "expected"),
    [
        (0.1, 0.01, 4, 365, HELPS),
        (-0.1, 0.01, 4, 30, HURTS),
        (0.1, 0.01, 4, 29, UNKNOWN),
        (0.1, 0.06, 4, 365, UNKNOWN),
        (0.1, 0.001, 0, 365, UNKNOWN),  # one seed
        (0.0, 0.001, 4, 365, UNKNOWN),
    ],
)
def test_verdicts(value: float, p_value: float, degrees: int, num_images: int, expected: str) -> None:
    found = PairedDifference(value=value, low=value - 0.01, high=value + 0.01, p_value=p_value)
    assert verdict(found, p_value, SeedNoise(variance=0.1, degrees=degrees), num_images=num_images) == expected
