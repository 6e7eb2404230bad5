"""Compute scores with confidence intervals, differences between models, and the rows of a score table."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data_catalog.base.plain_text import plain_table
from training.config import EvaluateConfig
from training.data.images import Features
from training.data.pairs import Integers
from training.scores.metrics import (
    METRIC_OF,
    METRICS,
    NDCG_CUTOFF,
    Metric,
    right_caption_ranks,
    text_to_image_ranks,
)

# The captions that are queries (text to image) and gallery (image to text).
CAPTION_MODES = {
    "all": "every caption",
    "one": "the first caption of each image",
    "distinct": "captions that belong to only one image of the gallery",
    "human": "captions that people wrote or validated, and native ones",
    "machine": "captions translated by a machine",
    "unstated": "captions of unstated origin",
    "bare": "class names in the bare template, {c}",
    "templates": "class names in each template, with averaged features",
}
VALIDATED = "the epoch of the weights was chosen on these images, which flatters the model"  # note on a val split
IMAGE_CHOICES = {
    "all": "every image",
    "leak-free": "images that match and resemble no known training image of any model in the table",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score(Estimate):
    """A score of a model. It is between 0 and 1, except for a median rank, which is at least 1.

    Args:
        name: name, such as "text_to_image_MRR@5".
        captions: caption mode, a key of `CAPTION_MODES`.
        images: image choice, a key of `IMAGE_CHOICES`.
        chance: expected value for a random order.
        gallery_size: number of images or captions in the gallery.
        num_queries: number of queries.
        num_dropped: number of queries that the caption mode leaves out.
    """

    name: str
    captions: str
    chance: float
    gallery_size: int
    num_queries: int
    num_dropped: int
    images: str = "all"

    def shown(self, value: float) -> str:
        """Format a value with the decimals of this score's metric, or with four if the metric is unknown."""
        metric = METRIC_OF.get(self.name)
        return f"{value:.{metric.digits if metric else 4}f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Estimate):
    """A model's score minus another model's, by paired bootstrap of the same queries."""

    name: str
    captions: str
    images: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The scores of one model on one split.

    Args:
        split: split whose images are the gallery.
        model_sha256: sha256 of the weights.
        scores: the scores.
    """

    split: str
    model_sha256: str
    scores: tuple[Score, ...]

    def get(self, name: str, captions: str = "all") -> Score:
        """Return one score by name and caption mode.

        Raises:
            KeyError: there is no such score.
        """
        for score in self.scores:
            if (score.name, score.captions) == (name, captions):
                return score
        raise KeyError(f"no score {name} over {captions} captions")

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return asdict(self)

    def rows(self, captions: str | None = None) -> list[dict[str, str | int]]:
        """Return table rows by column title, for one caption mode or for all."""
        return [
            {
                "metric": score.name,
                "captions": score.captions,
                "score": score.shown(score.value),
                "95 % interval": f"{score.shown(score.low)}-{score.shown(score.high)}",
                "chance": score.shown(score.chance),
                "gallery": score.gallery_size,
                "queries": score.num_queries,
                "left out": score.num_dropped,
            }
            for score in self.scores
            if captions in (None, score.captions)
        ]

    def table(self, captions: str | None = None) -> str:
        """Return the scores as a text table, for one caption mode or for all, with the meaning of modes and split."""
        rows = self.rows(captions)
        modes = [mode for mode in CAPTION_MODES if any(row["captions"] == mode for row in rows)]
        notes = [f"split val: {VALIDATED}"] if self.split == "val" else []
        notes += [f"captions {mode}: {CAPTION_MODES[mode]}" for mode in modes]
        return "\n".join([plain_table(rows), "", *notes])


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The ranks of a set of queries in a gallery.

    Args:
        way: "text_to_image", "image_to_text" or "zero_shot".
        captions: caption mode, a key of `CAPTION_MODES`.
        images: image choice, a key of `IMAGE_CHOICES`.
        right_ranks: ranks of the right items of each query, from 1, the best first, shape (queries, right). 0 fills the
            rows of queries with fewer right items; ranks beyond the first `NDCG_CUTOFF` are left out.
        clusters: image of each query, shape (queries,).
        num_right: number of right items in the gallery for each query, shape (queries,).
        gallery_size: number of items in the gallery.
        num_dropped: number of queries that `captions` or `images` leave out.
    """

    way: str
    captions: str
    images: str
    right_ranks: Integers
    clusters: Integers
    num_right: Integers
    gallery_size: int
    num_dropped: int

    @property
    def ranks(self) -> Integers:
        """Return the best rank of each query, shape (queries,)."""
        return self.right_ranks[:, 0]

    def ranks_for(self, metric: Metric) -> Integers:
        """Return the ranks that a metric takes."""
        return self.right_ranks if metric.takes_all else self.ranks


def retrieval_outcomes(
    images: Features,
    texts: Features,
    owners: Integers,
    *,
    captions: str,
    subset: str = "all",
    num_dropped: int = 0,
) -> Iterator[Outcome]:
    """Yield the outcomes of both directions: the image of each text, and the texts of each image that has any.

    Args:
        images: unit rows, shape (images, dim).
        texts: unit rows, shape (texts, dim).
        owners: image of each text, shape (texts,).
        captions: caption mode, a key of `CAPTION_MODES`.
        subset: image choice, a key of `IMAGE_CHOICES`.
        num_dropped: number of texts that were left out before.

    Raises:
        InputError: a feature is not finite.
    """
    yield Outcome(
        way="text_to_image",
        captions=captions,
        images=subset,
        right_ranks=text_to_image_ranks(texts, images, owners)[:, None],
        clusters=owners,
        num_right=np.ones(len(owners), dtype=np.int64),
        gallery_size=len(images),
        num_dropped=num_dropped,
    )
    queries, num_right = np.unique(owners, return_counts=True)
    yield Outcome(
        way="image_to_text",
        captions=captions,
        images=subset,
        right_ranks=right_caption_ranks(images, texts, owners, most=NDCG_CUTOFF),
        clusters=queries,
        num_right=num_right,
        gallery_size=len(texts),
        num_dropped=len(images) - len(queries),
    )


def scores_of(outcome: Outcome, config: EvaluateConfig) -> Iterator[Score]:
    """Yield every metric of an outcome, with its 95 % interval and its chance level."""
    gallery_size = outcome.gallery_size
    for metric in METRICS:
        if outcome.way in metric.ways:
            ranks = outcome.ranks_for(metric)
            low, high = metric.interval(
                ranks, outcome.clusters, gallery_size=gallery_size, rounds=config.bootstrap_rounds, seed=config.seed
            )
            yield Score(
                name=f"{outcome.way}_{metric.name}",
                captions=outcome.captions,
                images=outcome.images,
                value=metric.value(ranks),
                low=low,
                high=high,
                chance=metric.chance(gallery_size=gallery_size, num_right=outcome.num_right),
                gallery_size=gallery_size,
                num_queries=len(ranks),
                num_dropped=outcome.num_dropped,
            )


def differences_of(first: Outcome, other: Outcome, config: EvaluateConfig) -> Iterator[Difference]:
    """Yield another model's metrics minus the first one's on the same queries, with intervals by paired bootstrap."""
    for metric in METRICS:
        if first.way in metric.ways:
            value, low, high = metric.difference(
                first.ranks_for(metric),
                other.ranks_for(metric),
                first.clusters,
                gallery_size=first.gallery_size,
                rounds=config.bootstrap_rounds,
                seed=config.seed,
            )
            yield Difference(
                name=f"{first.way}_{metric.name}",
                captions=first.captions,
                images=first.images,
                value=value,
                low=low,
                high=high,
            )
