"""Batches of one epoch: images at the model's size and the ids of the caption drawn for each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from training.config import TrainConfig
from training.data import (
    RowGroup,
    batches_of,
    caption_draws,
    chosen_caption,
    epoch_order,
    read_captions,
    row_groups,
)
from training.images import ImageReader, decoded_groups

if TYPE_CHECKING:
    import torch

    from training.data import Places
    from training.tokenizer import Tokenize

Batch = tuple["torch.Tensor", "torch.Tensor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSplit:
    """The train split, open for reading.

    Args:
        captions: one list a sample.
        starts: index of the first sample of each row group.
    """

    groups: Sequence[RowGroup]
    captions: pa.ChunkedArray
    starts: Sequence[int]
    images: ImageReader

    def num_batches(self, batch_size: int) -> int:
        """Full batches an epoch."""
        return len(self.captions) // batch_size


def open_train_split(paths: Sequence[Path], config: TrainConfig, *, image_size: int, num_threads: int) -> TrainSplit:
    """Read the captions of the train split and make its images ready for reading."""
    groups = row_groups(paths)
    starts = [0]
    for group in groups:
        starts.append(starts[-1] + group.num_rows)
    reader = ImageReader(
        groups,
        image_size=image_size,
        num_threads=num_threads,
        cache_max_bytes=config.cache_max_bytes,
        window=config.shuffle_window,
    )
    return TrainSplit(groups=groups, captions=read_captions(paths), starts=starts, images=reader)


def epoch_batches(
    split: TrainSplit, tokenizer: "Tokenize", config: TrainConfig, *, epoch: int, batch_size: int, skip: int
) -> Iterator[Batch]:
    """The batches of an epoch but for the first `skip`: uint8 (batch, height, width, 3) and ids (batch, length)."""
    sizes = [group.num_rows for group in split.groups]
    windows = epoch_order(sizes, seed=config.seed, epoch=epoch, window=config.shuffle_window)
    draws = caption_draws(len(split.captions), seed=config.seed, epoch=epoch)
    if config.captions == "first":
        draws = draws * 0
    for places in islice(batches_of(windows, batch_size), skip, None):
        yield _batch(split, tokenizer, places, draws)


def _batch(split: TrainSplit, tokenizer: "Tokenize", places: "Places", draws: Any) -> Batch:
    import torch

    samples = [split.starts[group] + row for group, row in places.tolist()]
    texts = [chosen_caption(split.captions[sample].as_py(), draws[sample]) for sample in samples]
    return torch.from_numpy(split.images.read(places)), tokenizer(texts)


def held_out_batches(
    paths: Sequence[Path], tokenizer: "Tokenize", *, image_size: int, batch_size: int, num_threads: int
) -> Iterator[Batch]:
    """All samples of a held-out split, in order, each with its first caption; the last batch may be smaller."""
    import torch

    groups, captions, start = row_groups(paths), read_captions(paths), 0
    rest: list[torch.Tensor] = []
    for pixels in decoded_groups(groups, image_size, num_threads=num_threads):
        rest += list(torch.from_numpy(pixels))
        while len(rest) >= batch_size:
            yield torch.stack(rest[:batch_size]), tokenizer(_firsts(captions, start, batch_size))
            rest, start = rest[batch_size:], start + batch_size
    if rest:
        yield torch.stack(rest), tokenizer(_firsts(captions, start, len(rest)))


def _firsts(captions: pa.ChunkedArray, start: int, count: int) -> list[str]:
    return [texts[0] for texts in captions.slice(start, count).to_pylist()]
