"""Batches of one epoch: which images, which caption of each, what of them goes into the towers; made ahead."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch

from training.config import TrainConfig
from training.data.augment import changed_images, random_crops
from training.data.images import ImageReader, decoded_groups
from training.data.pairs import (
    Captions,
    Integers,
    Places,
    RowGroup,
    batches_of,
    caption_draws,
    epoch_order,
    read_captions,
    row_groups,
)
from training.processes import process_count, process_rank
from training.towers.model import normalise_pixels
from training.towers.tokenizer import Tokenize

T = TypeVar("T")

AHEAD = 3  # batches; more only take memory

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSplit:
    """The train split, open for reading.

    Args:
        starts: index of the first sample of each row group.
    """

    groups: Sequence[RowGroup]
    captions: Captions
    starts: Integers
    images: ImageReader

    def num_batches(self, batch_size: int) -> int:
        """Full batches an epoch."""
        return len(self.captions) // batch_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What a batch is made of: this process's share of it.

    Args:
        step: optimizer step, from 0; with the seed it decides the augmentations.
        first: place of the share's first image in the whole batch.
        samples: index of each image in the split.
        places: row group and row of each image, shape (images, 2).
        captions: index of each one's caption among all captions of the split.
    """

    step: int
    first: int
    samples: Integers
    places: Places
    captions: Integers


def open_train_split(paths: Sequence[Path], config: TrainConfig, *, image_size: int, num_threads: int) -> TrainSplit:
    """Read the captions of the train split and make its images ready for reading."""
    groups = row_groups(paths)
    reader = ImageReader(
        groups,
        image_size=image_size,
        num_threads=num_threads,
        cache_max_bytes=config.cache_max_bytes,
        window=config.shuffle_window,
    )
    starts = np.cumsum([0, *(group.num_rows for group in groups)])
    return TrainSplit(groups=groups, captions=Captions.of(read_captions(paths)), starts=starts, images=reader)


def epoch_draws(
    split: TrainSplit, config: TrainConfig, *, epoch: int, batch_size: int, skip: int = 0
) -> Iterator[Draw]:
    """The batches of an epoch but for the first `skip`; of several processes each gets another slice of every batch."""
    sizes = [group.num_rows for group in split.groups]
    windows = epoch_order(sizes, seed=config.seed, epoch=epoch, window=config.shuffle_window)
    chosen = split.captions.chosen(caption_draws(len(split.captions), seed=config.seed, epoch=epoch))
    if config.captions == "first":
        chosen = split.captions.starts
    share = batch_size // process_count()
    first, step = process_rank() * share, epoch * split.num_batches(batch_size)
    for number, whole in enumerate(islice(batches_of(windows, batch_size), skip, None), start=skip):
        places = whole[first : first + share]
        samples = split.starts[places[:, 0]] + places[:, 1]
        yield Draw(step=step + number, first=first, samples=samples, places=places, captions=chosen[samples])


def places_of(split: TrainSplit, samples: Integers) -> Places:
    """Row group and row of samples by index, shape (samples, 2)."""
    groups = np.searchsorted(split.starts, samples, side="right") - 1
    return np.stack([groups, samples - split.starts[groups]], axis=1)


def image_inputs(split: TrainSplit, config: TrainConfig) -> Callable[[Draw], torch.Tensor]:
    """What reads a batch's images, augmented and normalised: floats, shape (images, 3, size, size)."""

    def read(draw: Draw) -> torch.Tensor:
        pixels = torch.from_numpy(split.images.read(draw.places))
        names, drawn = config.augmentations, {"seed": config.seed, "step": draw.step, "first": draw.first}
        images = normalise_pixels(changed_images(pixels, names, split.images.pool, **drawn))
        return random_crops(images, **drawn) if "crop" in names else images

    return read


def text_inputs(split: TrainSplit, tokenizer: Tokenize) -> Callable[[Draw], torch.Tensor]:
    """What tokenizes a batch's captions: ids, shape (images, length)."""
    return lambda draw: tokenizer(split.captions.texts(draw.captions))


def held_out_batches(
    paths: Sequence[Path], tokenizer: Tokenize, *, image_size: int, batch_size: int, num_threads: int
) -> Iterator[Batch]:
    """All samples of a held-out split, in order, each with its first caption; the last batch may be smaller.

    Yields:
        Normalised floats, shape (batch, 3, size, size), and ids, shape (batch, length).
    """
    captions, start = read_captions(paths), 0
    rest: list[torch.Tensor] = []

    def batch(images: list[torch.Tensor]) -> Batch:
        texts = [texts[0] for texts in captions.slice(start, len(images)).to_pylist()]
        return normalise_pixels(torch.stack(images)), tokenizer(texts)

    for pixels in decoded_groups(row_groups(paths), image_size, num_threads=num_threads):
        rest += list(torch.from_numpy(pixels))
        while len(rest) >= batch_size:
            yield batch(rest[:batch_size])
            rest, start = rest[batch_size:], start + batch_size
    if rest:
        yield batch(rest)


class Prefetched(Generic[T]):
    """Goes through `items` once, in their order, made by a thread while the model trains on those before.

    Leave the context to let the thread go. `waited_s` is the time that was spent waiting for items.

    Args:
        items: none of them is None; an error that they raise is raised where the next item would have come.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self.waited_s = 0.0

    def __enter__(self) -> Iterator[T]:
        return self._taken([self._next() for _ in range(AHEAD)])

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _next(self) -> Future[T | None]:
        return self._thread.submit(next, self._items, None)

    def _taken(self, ahead: list[Future[T | None]]) -> Iterator[T]:
        while True:
            started = time.monotonic()
            item = ahead.pop(0).result()
            self.waited_s += time.monotonic() - started
            if item is None:
                return
            ahead.append(self._next())
            yield item
