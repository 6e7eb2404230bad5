"""What a model did on one set of queries in one gallery, as ranks, and the numbers that follow from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from training.config import EvaluateConfig
from training.data.features import Features
from training.scores.bootstrap import (
    FEW_CLUSTERS,
    interval_of,
    median_draws,
    median_interval,
    median_rank,
    num_clusters,
    share_interval,
)
from training.scores.metrics import (
    PER_QUERY,
    Floats,
    Integers,
    chance_level,
    chance_median_rank,
    image_to_text_ranks,
    text_to_image_ranks,
)
from training.scores.score import Score, ScoreDifference

MEDIAN_RANK = "median_rank"
RETRIEVAL_MEASURES = ("MRR@1", "MRR@5", "MRR@10", "R@1", "R@5", "R@10", MEDIAN_RANK)
ZERO_SHOT_MEASURES = ("accuracy@1", "accuracy@5", "accuracy@10", "accuracy@100")
ZERO_SHOT = "zero_shot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The ranks of one set of queries.

    Args:
        way: "text_to_image", "image_to_text" or "zero_shot".
        captions: which texts were queries or gallery, as `scores.CAPTION_MODES` names them.
        images: which images were: "all" or "leak-free".
        ranks: of the right item for each query, from 1, shape (queries,).
        clusters: the image of each query, shape (queries,).
        num_right: right items in the gallery for each query, shape (queries,).
        gallery_size: items to choose from.
        num_dropped: queries left out because of `captions` or `images`.
        measures: what is told of it.
    """

    way: str
    captions: str
    images: str
    ranks: Integers
    clusters: Integers
    num_right: Integers
    gallery_size: int
    num_dropped: int
    measures: Sequence[str] = RETRIEVAL_MEASURES


def retrieval_outcomes(
    images: Features,
    texts: Features,
    owners: Integers,
    *,
    captions: str,
    subset: str = "all",
    num_dropped: int = 0,
) -> Iterator[Outcome]:
    """Both ways of one gallery: the image of each text, and the best of its own texts for each image that has any.

    Args:
        images: unit rows, shape (images, dim).
        texts: unit rows, shape (texts, dim).
        owners: the image of each text, shape (texts,).
        captions: name of the caption mode.
        subset: name of the choice of images.
        num_dropped: texts that were left out before.

    Raises:
        InputError: a feature is no finite number.
    """
    named = {"captions": captions, "images": subset}
    yield Outcome(
        way="text_to_image",
        **named,
        ranks=text_to_image_ranks(texts, images, owners),
        clusters=owners,
        num_right=np.ones(len(owners), dtype=np.int64),
        gallery_size=len(images),
        num_dropped=num_dropped,
    )
    queries, num_right = np.unique(owners, return_counts=True)
    yield Outcome(
        way="image_to_text",
        **named,
        ranks=image_to_text_ranks(images, texts, owners),
        clusters=queries,
        num_right=num_right,
        gallery_size=len(texts),
        num_dropped=len(images) - len(queries),
    )


def scores_of(outcome: Outcome, config: EvaluateConfig) -> Iterator[Score]:
    """Every measure of an outcome with its 95 % interval and what chance would give."""
    for measure in outcome.measures:
        value, low, high, chance = _estimate(outcome, measure, config)
        yield Score(
            name=f"{outcome.way}_{measure}",
            captions=outcome.captions,
            images=outcome.images,
            value=value,
            low=low,
            high=high,
            chance=chance,
            gallery_size=outcome.gallery_size,
            num_queries=len(outcome.ranks),
            num_dropped=outcome.num_dropped,
        )


def differences_of(first: Outcome, other: Outcome, config: EvaluateConfig) -> Iterator[ScoreDifference]:
    """By how much another model's outcome on the same queries lies above the first one's, by paired bootstrap."""
    how = {"rounds": config.bootstrap_rounds, "seed": config.seed}
    for measure in first.measures:
        if measure == MEDIAN_RANK:
            value = median_rank(other.ranks) - median_rank(first.ranks)
            low, high = _median_difference(first, other, config)
        else:
            deltas = per_query(other, measure) - per_query(first, measure)
            value = float(deltas.mean()) if len(deltas) else 0.0
            low, high = share_interval(deltas, first.clusters, least=-1.0, **how)
        yield ScoreDifference(
            name=f"{first.way}_{measure}", captions=first.captions, images=first.images, value=value, low=low, high=high
        )


def _median_difference(first: Outcome, other: Outcome, config: EvaluateConfig) -> tuple[float, float]:
    if num_clusters(first.clusters) < FEW_CLUSTERS:
        return (1.0 - first.gallery_size, first.gallery_size - 1.0)
    how = {"rounds": config.bootstrap_rounds, "seed": config.seed}
    return interval_of(
        median_draws(other.ranks, other.clusters, **how) - median_draws(first.ranks, first.clusters, **how)
    )


def per_query(outcome: Outcome, measure: str) -> Floats:
    """What each query contributes to the mean that a measure is; not for the median rank."""
    metric, k = measure.split("@")
    return PER_QUERY[metric](outcome.ranks, int(k))


def _median_interval(outcome: Outcome, config: EvaluateConfig) -> tuple[float, float]:
    return median_interval(
        outcome.ranks,
        outcome.clusters,
        rounds=config.bootstrap_rounds,
        seed=config.seed,
        gallery_size=outcome.gallery_size,
    )


def _estimate(outcome: Outcome, measure: str, config: EvaluateConfig) -> tuple[float, float, float, float]:
    """Value, both ends of its interval, and chance."""
    how = {"rounds": config.bootstrap_rounds, "seed": config.seed}
    if measure == MEDIAN_RANK:
        chance = chance_median_rank(gallery_size=outcome.gallery_size, num_right=outcome.num_right)
        return median_rank(outcome.ranks), *_median_interval(outcome, config), chance
    values = per_query(outcome, measure)
    metric, k = measure.split("@")
    chance = chance_level(metric, int(k), gallery_size=outcome.gallery_size, num_right=outcome.num_right)
    value = float(values.mean()) if len(values) else 0.0
    return value, *share_interval(values, outcome.clusters, **how), chance
