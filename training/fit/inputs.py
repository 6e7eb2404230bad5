"""Provide the inputs of the towers in a training phase: images and token ids, or cached features of a frozen tower.

For a frozen tower, the cache holds the features that go into its trained projection. For a locked tower, whose
projection is frozen too, it holds the output. Features are computed once for each image or caption, and kept in a
temporary file beside the run until its phase ends. They depend only on the settings and the order of epochs, so a
resumed run computes the same ones.

Hard batches hold near misses: groups of images whose captions are nearly alike, by their features from the model as it
is at the start of the epoch. Near misses are captions of other images, so that a model cannot tell them from true ones
by their wording alone, as it can with negatives that nobody would write (https://arxiv.org/abs/2306.14610).
"""

import os
import tempfile
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from open_clip.transformer import TextTransformer
from torch.nn import functional

from data_catalog.base.boundary import about
from data_catalog.base.progress import Progress
from training.data.batches import (
    Batch,
    BatchPlan,
    captions_of_epoch,
    epoch_batches,
    image_inputs,
    made_ahead,
    shuffled_windows,
    text_inputs,
)
from training.data.images import Features
from training.data.pairs import Integers
from training.fit.losses import Encoders, autocast, both, by_length, encode_images
from training.fit.setup import Setup
from training.runs.processes import all_cores, broadcast, has_second_core
from training.scores.evaluation import wording
from training.towers.backbones import FrozenPart, backbone_features, frozen_parts, projected

_SEEDS = 64  # groups whose candidates are found at a time
_CANDIDATES = 8  # nearest captions that are looked at for each place in a group


class PhaseInputs:
    """The input batches of a phase, and the encoders that turn them into features.

    A tower's features are cached if the tower is frozen or locked, and if the same image or caption always has the same
    features. Features of augmented images are computed each time. So are features that need more memory than the image,
    such as a ResNet's before its attention pool.

    `encoders` are those of the inputs that `batches` yields; `frozen_image` is the image tower if it is frozen and its
    features are smaller than its images.
    """

    def __init__(self, setup: Setup, *, frozen: bool, first_epoch: int, order: "EpochOrder | None") -> None:
        self._setup, self._order, self._next_epoch = setup, order, first_epoch
        config, split, module, tokenizer = setup.config, setup.split, setup.module, setup.tokenizer
        image, text = frozen_parts(
            module, frozen=frozen, lock_image=config.lock_image, freeze_image=config.freeze_image
        )
        self.frozen_image = image if image is not None and _is_small(image, setup) else None
        images = texts = None
        if self.frozen_image is not None and not config.augmentations:
            images = FrozenTower(self.frozen_image, "images", len(split.captions), setup, self._pixels)
        if text is not None and "mirror" not in config.augmentations:
            texts = FrozenTower(text, "captions", len(split.captions.flat), setup, self._token_ids)
        self._images, self._texts = images, texts
        self._read_images = (
            (lambda plan: images.read(plan.samples)) if images else image_inputs(split, config, setup.preprocessing)
        )
        self._read_texts = (lambda plan: texts.read(plan.captions)) if texts else text_inputs(split, tokenizer)
        is_plain = isinstance(module.text, TextTransformer)
        # Encoders with dropout learned worse in groups.
        encode_text = by_length(module.encode_text, tokenizer.lengths) if is_plain else module.encode_text
        self.encoders = Encoders(
            image=images.encode if images else partial(encode_images, module),
            text=texts.encode if texts else encode_text,
            # Where torch computes on one thread, the second core has the text tower. A plain one draws no numbers. In
            # bf16, each thread would change which attention the process uses.
            are_apart=is_plain
            and setup.device.type == "cpu"
            and config.precision == "fp32"
            and has_second_core(setup.num_threads),
        )

    def fill(self, epoch: int) -> None:
        """Compute the missing cached features of an epoch's batches, and of the phase's earlier epochs first."""
        while self._next_epoch <= epoch:
            # The order of earlier epochs is not known any more, and it decides which samples are left over.
            plans = [self._whole(self._next_epoch)] if self._order else list(self._plans(self._next_epoch))
            if self._images:
                self._images.fill(np.concatenate([plan.samples for plan in plans]))
            if self._texts:
                self._texts.fill(np.concatenate([plan.captions for plan in plans]))
            self._next_epoch += 1

    def _pixels(self, samples: Integers) -> torch.Tensor:
        return self._setup.preprocessing.normalised(torch.from_numpy(self._setup.split.images.read(samples)))

    def _token_ids(self, captions: Integers) -> torch.Tensor:
        return self._setup.tokenizer(self._setup.split.captions.texts(captions))

    def batches(self, epoch: int, places: range) -> Generator[Batch]:
        """Yield some batches of an epoch. With hard batches, choose its order first, unless it has begun."""
        self.fill(epoch)
        if self._order and places.start == 0:
            self._order.samples.copy_(torch.from_numpy(broadcast(self._order_of(epoch))))
        plans = islice(self._plans(epoch, skip=places.start), len(places))
        yield from made_ahead(Batch(self._read_images(plan), self._read_texts(plan)) for plan in plans)

    def _plans(self, epoch: int, skip: int = 0) -> Iterator[BatchPlan]:
        setup, order = self._setup, self._order.samples.numpy() if self._order else None
        size = setup.batch_size
        return epoch_batches(setup.split, setup.config, epoch=epoch, batch_size=size, skip=skip, order=order)

    def _whole(self, epoch: int) -> BatchPlan:
        """Return all samples with their captions of an epoch, as one batch."""
        split = self._setup.split
        samples, captions = np.arange(len(split.captions)), captions_of_epoch(split, self._setup.config, epoch)
        return BatchPlan(step=0, first=0, samples=samples, captions=captions)

    def _order_of(self, epoch: int) -> Integers:
        """Return the order of an epoch's samples: shuffled in the first epoch, then in groups of near misses."""
        config, split, whole = self._setup.config, self._setup.split, self._whole(epoch)
        windows = shuffled_windows(split, config, epoch)
        if epoch == 0:
            return np.concatenate(windows)
        draws, ordered = np.random.Generator(np.random.Philox(key=[config.seed + (5 << 32), epoch])), []
        with Progress("compare captions for hard batches", total=len(whole.samples), unit="captions") as progress:
            for samples in windows:
                captions = whole.captions[samples]
                wordings = [wording(text) for text in split.captions.texts(captions)]
                features = self._caption_features(replace(whole, samples=samples, captions=captions))
                ordered.append(samples[near_misses(features, wordings, config.hard_batches, draws)])
                progress.advance(len(samples))
        return np.concatenate(ordered)

    def _caption_features(self, plan: BatchPlan) -> torch.Tensor:
        """Return unit features of captions, shape (captions, dim), by the text tower in evaluation mode."""
        setup, tower, found = self._setup, self._setup.module.text, list[torch.Tensor]()
        size, was_training = setup.config.microbatch or setup.batch_size, tower.training

        def encoded(inputs: torch.Tensor) -> torch.Tensor:
            with torch.no_grad(), autocast(setup.config.precision, setup.device):
                return functional.normalize(self.encoders.text(inputs).float(), dim=-1).cpu()

        tower.eval()
        for start in range(0, len(plan.captions), 2 * size):
            pair = [plan.captions[at : at + size] for at in (start, start + size)]
            inputs = [self._read_texts(replace(plan, captions=each)).to(setup.device) for each in pair if len(each)]
            found += both(*(partial(encoded, each) for each in inputs), are_apart=self.encoders.are_apart)
        tower.train(was_training)
        return torch.cat(found)


class EpochOrder(torch.nn.Module):
    """The order of an epoch's samples. It is a buffer, so that the resume state has it."""

    samples: torch.Tensor

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        self.register_buffer("samples", torch.arange(num_samples))


def near_misses(
    features: torch.Tensor, wordings: Sequence[Hashable], size: int, draws: np.random.Generator
) -> Integers:
    """Return an order of captions, each index once, in which groups of near misses follow each other.

    The first free caption and its nearest free ones form a group of at most `size`. Captions with the same wording fit
    each other's images, so they are never in the same group. The groups are then shuffled, so that the last ones, whose
    captions have no near neighbours left, are in no particular place. `features` are unit rows, shape (captions, dim).
    """
    is_free = np.ones(len(features), dtype=bool)
    groups: list[list[int]] = []
    while is_free.any():
        free = np.flatnonzero(is_free)
        seeds = free[:_SEEDS]
        similar = features[seeds] @ features[free].T
        nearest = free[similar.topk(min(size * _CANDIDATES, len(free))).indices.numpy()]
        for seed, candidates in zip(seeds.tolist(), nearest.tolist(), strict=True):
            if not is_free[seed]:
                continue
            group = {wordings[seed]: seed}
            for other in candidates:
                if len(group) < size and is_free[other]:
                    group.setdefault(wordings[other], other)
            is_free[list(group.values())] = False
            groups.append(list(group.values()))
    shuffled = [index for number in draws.permutation(len(groups)) for index in groups[number]]
    return np.array(shuffled, dtype=np.int64)


class FrozenTower:
    """A frozen tower with a cache of its features, in an unnamed file in the run's folder that ends with the process.

    The file takes `count` times the size of a feature. `inputs` returns the tower's inputs by index.
    """

    def __init__(
        self, part: FrozenPart, name: str, count: int, setup: Setup, inputs: Callable[[Integers], torch.Tensor]
    ) -> None:
        self._part, self._name, self._setup, self._inputs = part, name, setup, inputs
        self._is_there = np.zeros(count, dtype=bool)
        self._rows: Any = None
        self.encode = projected(part.tower, part.projection)  # encodes cached features

    def fill(self, indices: Integers) -> None:
        """Compute features that are not cached yet, in the order of their indices."""
        config, device = self._setup.config, self._setup.device
        missing = np.unique(indices[~self._is_there[indices]])
        size, label = config.microbatch or self._setup.batch_size, f"encode {self._name} with the frozen tower"
        with Progress(label, total=len(missing), unit=self._name) as progress, all_cores():
            for start in range(0, len(missing), size):
                batch = missing[start : start + size]
                with torch.no_grad(), autocast(config.precision, device):
                    features = backbone_features(self._part, self._inputs(batch).to(device))
                self._put(batch, features.float().cpu().numpy())
                progress.advance(len(batch))

    def _put(self, indices: Integers, features: Features) -> None:
        if self._rows is None:
            shape, folder = (len(self._is_there), *features.shape[1:]), self._setup.out
            with about(folder), tempfile.TemporaryFile(dir=folder) as file:
                # Allocate all blocks now: writing through a memory map cannot report a full disk.
                os.posix_fallocate(file.fileno(), 0, 4 * int(np.prod(shape)))
                self._rows = np.memmap(file, dtype=np.float32, mode="r+", shape=shape)
        self._rows[indices] = features
        self._is_there[indices] = True

    def read(self, indices: Integers) -> torch.Tensor:
        """Return the cached features of some indices."""
        return torch.from_numpy(self._rows[indices])


def _is_small(part: FrozenPart, setup: Setup) -> bool:
    side = setup.preprocessing.size
    with torch.no_grad():
        features = backbone_features(part, torch.zeros((1, 3, side, side), device=setup.device))
    return bool(features.numel() * 4 <= side * side * 3)
