"""Make the batches of an epoch in advance: images, one caption for each, and the towers' inputs."""

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from training.config import TrainConfig
from training.data.augment import changed_images, random_crops
from training.data.images import ImageReader, decoded_groups
from training.data.mirror import Mirror
from training.data.pairs import (
    Captions,
    Integers,
    RowGroup,
    batches_of,
    epoch_order,
    read_captions,
    row_groups,
)
from training.runs.processes import process_count, process_rank
from training.towers.preprocessing import Preprocessing
from training.towers.tokenizer import SavedTokenizer, Tokenize

T = TypeVar("T")

_MOST_CACHED = 50_000  # captions, mirrored or as token ids
AHEAD = 3  # batches; more would only use more memory


@dataclass(frozen=True, slots=True)
class Batch:
    """The inputs of one step, or this process's slice of them."""

    images: torch.Tensor  # inputs of the image tower, shape (batch, ...)
    texts: torch.Tensor  # inputs of the text tower, shape (batch, ...)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """Return the batch with each tensor changed, such as moved to a device."""
        return Batch(change(self.images), change(self.texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """The samples of one batch, or this process's slice of it."""

    step: int  # optimizer step, from 0; it decides the augmentations, together with the seed
    first: int  # place of the slice's first image in the whole batch
    samples: Integers  # index of each image in the split
    captions: Integers  # index of each image's caption among all captions of the split
    mirrored: frozenset[int] = frozenset()  # rows of the slice whose image is mirrored


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSplit:
    """The train split, open for reading."""

    groups: Sequence[RowGroup]
    captions: Captions
    images: ImageReader
    mirror: Mirror | None = None  # for the augmentation: exchanges left and right in a caption; None: uncertain

    def texts(self, plan: BatchPlan) -> list[str]:
        """Return the captions of a batch, with left and right exchanged where the image is mirrored."""
        texts = self.captions.texts(plan.captions)
        if self.mirror is None:
            return texts
        return [(self.mirror(text) or text) if row in plan.mirrored else text for row, text in enumerate(texts)]

    def mirrored_rows(self, plan: BatchPlan, seed: int) -> frozenset[int]:
        """Return the rows of a batch to mirror: a random half of those whose captions all stay certain."""
        if self.mirror is None:
            return frozenset()
        draws = np.random.Generator(np.random.Philox(key=[seed + (6 << 32), plan.step]))
        drawn = draws.random(plan.first + len(plan.samples))[plan.first :] < 0.5
        return frozenset(
            row
            for row in np.flatnonzero(drawn).tolist()
            if all(self.mirror(text) is not None for text in self.captions.of_sample(int(plan.samples[row])))
        )


def open_train_split(
    paths: Sequence[Path],
    config: TrainConfig,
    *,
    preprocessing: Preprocessing,
    num_threads: int,
    mirror: Mirror | None = None,
) -> TrainSplit:
    """Read the captions of the train split, and open its images; `mirror` as in `TrainSplit`."""
    groups = row_groups(paths)
    reader = ImageReader(
        groups,
        preprocessing=preprocessing,
        num_threads=num_threads,
        cache_max_bytes=config.cache_max_bytes,
        window=config.shuffle_window,
    )
    cached = lru_cache(_MOST_CACHED)(mirror) if mirror else None  # captions come again in each epoch
    return TrainSplit(groups=groups, captions=Captions.of(read_captions(paths)), images=reader, mirror=cached)


def epoch_batches(
    split: TrainSplit,
    config: TrainConfig,
    *,
    epoch: int,
    batch_size: int,
    skip: int = 0,
    order: Integers | None = None,
) -> Iterator[BatchPlan]:
    """Yield the batches of an epoch without the first `skip`. Each process gets its own slice of every batch.

    Without an order of the samples, such as that of hard batches, they have the shuffled order of the epoch.
    """
    windows = shuffled_windows(split, config, epoch) if order is None else [order]
    chosen = captions_of_epoch(split, config, epoch)
    share = batch_size // process_count()
    first, step = process_rank() * share, epoch * (len(split.captions) // batch_size)
    for number, whole in enumerate(islice(batches_of(windows, batch_size), skip, None), start=skip):
        samples = whole[first : first + share]
        plan = BatchPlan(step=step + number, first=first, samples=samples, captions=chosen[samples])
        yield replace(plan, mirrored=split.mirrored_rows(plan, config.seed))


def shuffled_windows(split: TrainSplit, config: TrainConfig, epoch: int) -> list[Integers]:
    """Return the samples in the shuffled order of an epoch; see `epoch_order`."""
    sizes = [group.num_rows for group in split.groups]
    return epoch_order(sizes, seed=config.seed, epoch=epoch, window=config.shuffle_window)


def captions_of_epoch(split: TrainSplit, config: TrainConfig, epoch: int) -> Integers:
    """Return the index of the caption that each sample has in an epoch."""
    if config.captions == "first":
        return split.captions.starts
    return split.captions.drawn(seed=config.seed, epoch=epoch)


def image_inputs(
    split: TrainSplit, config: TrainConfig, preprocessing: Preprocessing
) -> Callable[[BatchPlan], torch.Tensor]:
    """Return a function that reads a batch's augmented and normalised images, floats (images, 3, size, size)."""

    def read(plan: BatchPlan) -> torch.Tensor:
        pixels = torch.from_numpy(split.images.read(plan.samples))
        rows = sorted(plan.mirrored)
        pixels[rows] = pixels[rows].flip(2)
        names, drawn = config.augmentations, {"seed": config.seed, "step": plan.step, "first": plan.first}
        images = preprocessing.normalised(changed_images(pixels, names, split.images.pool, **drawn))
        return random_crops(images, **drawn) if "crop" in names else images

    return read


def text_inputs(split: TrainSplit, tokenizer: SavedTokenizer) -> Callable[[BatchPlan], torch.Tensor]:
    """Return a function that gives the token ids of a batch's captions, shape (images, ..., length).

    Captions come again in each epoch. If they are few, they are tokenized once: the tokenizer holds Python's lock, for
    which the model would wait.
    """
    if split.mirror is not None or len(split.captions.flat) > _MOST_CACHED:
        return lambda plan: tokenizer(split.texts(plan))
    ids = tokenizer(split.captions.texts(np.arange(len(split.captions.flat))))
    lengths = tokenizer.lengths(ids)

    def read(plan: BatchPlan) -> torch.Tensor:
        chosen = torch.from_numpy(plan.captions)
        return ids[chosen][..., : int(lengths[chosen].max())]

    return read


def held_out_batches(
    paths: Sequence[Path], tokenizer: Tokenize, *, preprocessing: Preprocessing, batch_size: int, num_threads: int
) -> Iterator[Batch]:
    """Yield the batches of a held-out split in order, with the first caption of each image; the last may be smaller."""
    groups = decoded_groups(row_groups(paths), preprocessing, num_threads=num_threads)
    images = (image for pixels in groups for image in torch.from_numpy(pixels))
    texts = (captions.as_py()[0] for captions in read_captions(paths))
    while some := list(islice(images, batch_size)):
        yield Batch(preprocessing.normalised(torch.stack(some)), tokenizer(list(islice(texts, len(some)))))


def made_ahead(items: Iterable[T]) -> Generator[T]:
    """Yield items that are not None in order, while a thread makes the next ones. Closing the generator stops it.

    Until then, Python's threads take turns ten times as often: after each operation, the model waits for its turn.
    """
    source, interval = iter(items), sys.getswitchinterval()
    thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        sys.setswitchinterval(interval / 10)
        ahead = deque(thread.submit(next, source, None) for _ in range(AHEAD))
        while (item := ahead.popleft().result()) is not None:
            ahead.append(thread.submit(next, source, None))
            yield item
    finally:
        sys.setswitchinterval(interval)
        thread.shutdown(cancel_futures=True)
