"""Unit features of the images of pair shards and of texts, as float32 matrices."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.progress import Progress
from training.data.images import decoded_groups
from training.data.pairs import row_groups
from training.towers.model import LoadedModel, normalise_pixels

Features = np.ndarray[Any, np.dtype[np.float32]]


def image_features(model: LoadedModel, paths: Sequence[Path], *, batch_size: int = 128) -> Features:
    """Features of every image of pair shards, in their order: shape (images, dim), rows of length 1."""
    import torch

    groups = row_groups(paths)
    found: list[Features] = []
    with (
        _encoding() as num_threads,
        Progress("encode images", total=sum(group.num_rows for group in groups), unit="images") as progress,
    ):
        for pixels in decoded_groups(groups, model.image_size, num_threads=num_threads):
            for start in range(0, len(pixels), batch_size):
                images = normalise_pixels(torch.from_numpy(pixels[start : start + batch_size]))
                found.append(model.module.encode_image(images, normalize=True).numpy())
                progress.advance(len(images))
    return np.concatenate(found) if found else np.empty((0, 0), dtype=np.float32)


def text_features(model: LoadedModel, texts: Sequence[str], *, batch_size: int = 128) -> Features:
    """Features of texts: shape (texts, dim), rows of length 1."""
    with _encoding():
        found = [
            model.module.encode_text(model.tokenizer(texts[start : start + batch_size]), normalize=True).numpy()
            for start in range(0, len(texts), batch_size)
        ]
    return np.concatenate(found) if found else np.empty((0, 0), dtype=np.float32)


@contextmanager
def _encoding() -> Iterator[int]:
    """No gradients; yields the number of threads to decode images with."""
    import torch

    with torch.no_grad():
        yield len(os.sched_getaffinity(0))


def stacked(rows: Sequence[Features]) -> Features:
    """Rows as a matrix, which of none has no columns either."""
    return np.stack(rows) if rows else np.empty((0, 0), dtype=np.float32)
