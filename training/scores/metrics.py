"""Metrics as pure functions on feature matrices: ranks, MRR@k, R@k, accuracy, median rank, and what chance gives.

A rank is 1 + the number of wrong items that are as similar as the right one, or more: ties count against the model, so
that one whose features have collapsed scores 0 and not 1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_catalog.errors import InputError

Features = np.ndarray[Any, np.dtype[np.floating[Any]]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Integers = np.ndarray[Any, np.dtype[np.int64]]

# Cosines closer than this are the same: features of equal inputs differ by so much when their batches differ.
TIE_TOLERANCE = 1e-6
_QUERIES_AT_A_TIME = 1024


def text_to_image_ranks(text_features: Features, image_features: Features, owners: Integers) -> Integers:
    """Rank of its own image for each caption.

    Args:
        text_features: unit rows, shape (captions, dim).
        image_features: unit rows, shape (images, dim): the gallery.
        owners: the image of each caption, shape (captions,).

    Raises:
        InputError: a feature is no finite number.
    """
    refuse_not_finite(text_features, image_features)
    images = image_features.astype(np.float64)
    ranks = []
    for start in range(0, len(text_features), _QUERIES_AT_A_TIME):
        own = owners[start : start + _QUERIES_AT_A_TIME]
        cosines = text_features[start : start + _QUERIES_AT_A_TIME].astype(np.float64) @ images.T
        right = np.take_along_axis(cosines, own[:, None], axis=1)
        # The right image itself is among those counted: it stands for the 1.
        ranks.append((cosines >= right - TIE_TOLERANCE).sum(axis=1))
    return _joined(ranks)


def image_to_text_ranks(image_features: Features, text_features: Features, owners: Integers) -> Integers:
    """Rank of the best of its own captions for each image that has any in the gallery.

    Args:
        image_features: unit rows, shape (images, dim).
        text_features: unit rows, shape (captions, dim): the gallery.
        owners: the image of each caption, shape (captions,).

    Returns:
        One rank for each image that owns a caption, in the order of the images.

    Raises:
        InputError: a feature is no finite number.
    """
    refuse_not_finite(text_features, image_features)
    texts = text_features.astype(np.float64)
    ranks = []
    queries = np.unique(owners)
    for start in range(0, len(queries), _QUERIES_AT_A_TIME):
        block = queries[start : start + _QUERIES_AT_A_TIME]
        cosines = image_features[block].astype(np.float64) @ texts.T
        own = owners[None, :] == block[:, None]
        best = np.where(own, cosines, -np.inf).max(axis=1, keepdims=True)
        ranks.append(1 + ((cosines >= best - TIE_TOLERANCE) & ~own).sum(axis=1))
    return _joined(ranks)


def refuse_not_finite(*features: Features) -> None:
    """Make sure that features can be compared at all: NaN is neither larger nor smaller than anything.

    Raises:
        InputError: one is NaN or infinite.
    """
    for matrix in features:
        if not np.isfinite(matrix).all():
            raise InputError("the model's features hold NaN or infinity: nothing can be scored by them")


def _joined(ranks: Sequence[Integers]) -> Integers:

    return np.concatenate(ranks) if ranks else np.empty(0, dtype=np.int64)


def reciprocal_ranks(ranks: Integers, k: int) -> Floats:
    """1/rank where the rank is at most k, else 0; the mean of it is MRR@k."""
    return np.where(ranks <= k, 1.0 / ranks, 0.0)


def recalls(ranks: Integers, k: int) -> Floats:
    """1 where the rank is at most k, else 0; the mean of it is R@k."""
    return (ranks <= k).astype(np.float64)


PER_QUERY = {"MRR": reciprocal_ranks, "R": recalls, "accuracy": recalls}


def chance_level(metric: str, k: int, *, gallery_size: int, num_right: Integers) -> float:
    """What random order gives on average.

    Args:
        metric: a name of `PER_QUERY`.
        num_right: right items in the gallery for each query, shape (queries,).
    """
    if not len(num_right):
        return 0.0
    not_yet = np.ones(len(num_right))  # probability that no right item stands at this place or before it
    reciprocals = np.zeros(len(num_right))
    for place in range(1, min(k, gallery_size) + 1):
        num_left = gallery_size - place + 1
        before, not_yet = not_yet, not_yet * np.maximum(0, num_left - num_right) / num_left
        reciprocals += (before - not_yet) / place
    return float(reciprocals.mean() if metric == "MRR" else 1 - not_yet.mean())


def chance_median_rank(*, gallery_size: int, num_right: Integers) -> float:
    """The median rank that random order gives: the lowest one that half of the queries reach.

    Args:
        num_right: right items in the gallery for each query, shape (queries,).
    """
    if not len(num_right):
        return 0.0
    kinds, counts = np.unique(num_right.astype(np.float64), return_counts=True)
    not_yet = np.ones(len(kinds))  # probability that no right item stands before this place
    for place in range(1, gallery_size + 1):
        not_yet *= 1 - np.minimum(1.0, kinds / (gallery_size - place + 1))
        if float(not_yet @ counts) <= counts.sum() / 2 + 1e-9:
            return float(place)
    return float(gallery_size)
