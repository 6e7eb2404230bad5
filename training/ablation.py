"""Paired comparison of models trained with and without something, each of several seeds, on the same queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.bootstrap import interval_of, mean_draws
from training.metrics import image_to_text_ranks, recalls, reciprocal_ranks, text_to_image_ranks

if TYPE_CHECKING:
    import numpy as np

    from training.features import Features

    Floats = np.ndarray[Any, np.dtype[np.float64]]
    Integers = np.ndarray[Any, np.dtype[np.int64]]

TEXT_TO_IMAGE, IMAGE_TO_TEXT = "text_to_image", "image_to_text"
# What is compared: the direction, and the value of a rank; the first one is what verdicts go by.
METRICS = {
    "text_to_image_MRR@10": (TEXT_TO_IMAGE, reciprocal_ranks, 10),
    "text_to_image_R@1": (TEXT_TO_IMAGE, recalls, 1),
    "image_to_text_R@1": (IMAGE_TO_TEXT, recalls, 1),
}
PRIMARY = "text_to_image_MRR@10"
LEVEL = 0.05
FEW_IMAGES = 30
HELPS, HURTS, UNKNOWN = "helps", "hurts", "can't be told"
SAME = "changes no row to train on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A difference of means with its 95 % interval.

    Args:
        p_value: two-sided, of no difference.
    """

    value: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedNoise:
    """What chance does to a model's mean, beside what it does to all variants of the same seed.

    Args:
        variance: of one model's mean, pooled over all variants.
        degrees: of freedom; 0 where there is one seed, or one variant, so that nothing is known of it.
    """

    variance: float
    degrees: int


def ranks_of(images: "Features", texts: "Features", owners: "Integers") -> "dict[str, Integers]":
    """Ranks of one model both ways, by direction, one a query.

    Args:
        images: unit rows, shape (images, dim).
        texts: unit rows, shape (captions, dim).
        owners: the image of each caption, shape (captions,).
    """
    return {
        TEXT_TO_IMAGE: text_to_image_ranks(texts, images, owners),
        IMAGE_TO_TEXT: image_to_text_ranks(images, texts, owners),
    }


def values_of(ranks: "Sequence[Mapping[str, Integers]]", metric: str) -> "Floats":
    """One metric's value of each query, of one variant's models: shape (seeds, queries)."""
    import numpy as np

    way, per_query, k = METRICS[metric]
    return np.stack([per_query(each[way], k) for each in ranks])


def seed_noise(variants: "Sequence[Floats]") -> SeedNoise:
    """The spread that neither variant nor seed explain, as in a randomised block design.

    One seed gives all variants the same first weights, which decide much of how far a short training comes: a seed is
    a block, and what it does to all of them alike is no noise of their differences.

    Args:
        variants: of each its values, shape (seeds, queries), of the same seeds in the same order.
    """
    import numpy as np

    means = np.stack([values.mean(axis=1) for values in variants])
    left = means - means.mean(axis=0) - means.mean(axis=1, keepdims=True) + means.mean()
    degrees = (means.shape[0] - 1) * (means.shape[1] - 1)
    return SeedNoise(variance=float(np.square(left).sum()) / degrees if degrees else 0.0, degrees=degrees)


def difference(
    with_it: "Floats", without: "Floats", clusters: "Integers", noise: SeedNoise, *, rounds: int, seed: int
) -> Difference:
    """Mean of `with_it` less mean of `without`, paired by query and by seed.

    Its interval holds two kinds of chance. Other test images: whole images are drawn again, since captions of one are
    not independent. Other seeds: to each such draw a Student's t is added, as wide as the differences of the seeds
    differ; a bootstrap of two or three seeds would say far too little.

    Args:
        with_it: values, shape (seeds, queries).
        without: likewise, of the same seeds.
        clusters: the image of each query, shape (queries,).
        noise: of all variants; where nothing is known of it, it counts for nothing.
        rounds: draws.
    """
    import numpy as np

    paired = with_it - without
    draws = mean_draws(paired.mean(axis=0), clusters, rounds=rounds, seed=seed)
    if noise.degrees:
        scale = np.sqrt(noise.variance * 2 / len(paired))
        draws = draws + scale * np.random.default_rng([seed, 1]).standard_t(noise.degrees, rounds)
    low, high = interval_of(draws)
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return Difference(
        value=float(paired.mean()),
        low=low,
        high=high,
        p_value=min(1.0, 2 * (tail + 1) / (rounds + 1)),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values for several questions at once, by Holm's step-down (https://www.jstor.org/stable/4615733)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(found: Difference, p_value: float, noise: SeedNoise, *, num_images: int) -> str:
    """What a difference says of a filter: with one seed nothing, since training anew may say otherwise.

    Args:
        p_value: corrected for the number of filters.
        num_images: test images; a bootstrap of fewer than `FEW_IMAGES` errs too often.
    """
    if num_images < FEW_IMAGES or not noise.degrees or p_value >= LEVEL or found.value == 0:
        return UNKNOWN
    return HELPS if found.value > 0 else HURTS
