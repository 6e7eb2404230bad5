"""Provide the inputs of the towers in a training phase: images and token ids, or cached features of a frozen tower.

For a frozen tower, the cache holds the features that go into its trained projection. For a locked tower, whose
projection is frozen too, it holds the output. Features are computed once for each image or caption, and kept in a
temporary file beside the run until its phase ends. They depend only on the settings and the order of epochs, so a
resumed run computes the same ones.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.transformer import TextTransformer
from torch.nn import functional

from data_catalog.base.progress import Progress
from data_catalog.disk.disk_errors import disk_errors
from training.data.batches import (
    Batch,
    BatchPlan,
    captions_of_epoch,
    epoch_batches,
    image_inputs,
    shuffled_windows,
    text_inputs,
)
from training.data.pairs import Integers
from training.fit.hard_batches import near_misses
from training.fit.hard_negatives import HARD_LOSS, ChangedInputs
from training.fit.losses import Encoders, autocast, both, by_length, encode_images
from training.fit.run import Run
from training.processes import all_cores, broadcast, has_second_core
from training.scores.evaluation import wording
from training.towers.backbones import FrozenPart, backbone_features, frozen_parts, projected

Encode = Callable[[torch.Tensor], torch.Tensor]


class PhaseInputs:
    """The input batches of a phase, and the encoders that turn them into features.

    A tower's features are cached if the tower is frozen or locked, and if the same image or caption always has the same
    features. Features of augmented images are computed each time. So are features that need more memory than the image,
    such as a ResNet's before its attention pool, and features of changed captions and their anchors.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._next_epoch = run.state.phase_epoch
        self._changed = ChangedInputs(run.split, run.config, run.tokenizer, run.rules) if run.rules else None
        image_part, text_part = _frozen_parts(run)
        self._images: FrozenTower | None = None
        self._texts: FrozenTower | None = None
        if image_part is not None and not run.config.augmentations and _is_small(image_part, run):

            def pixels(samples: Integers) -> torch.Tensor:
                return run.preprocessing.normalised(torch.from_numpy(run.split.images.read(samples)))

            rows = FeatureRows(len(run.split.captions), run.out)
            self._images = FrozenTower("images", image_part, rows, pixels, lambda plan: plan.samples, run)
        if text_part is not None and "mirror" not in run.config.augmentations:
            captions = run.split.captions

            def tokens(indices: Integers) -> torch.Tensor:
                found: torch.Tensor = run.tokenizer(captions.texts(indices))
                return found

            rows = FeatureRows(len(captions.flat), run.out)
            self._texts = FrozenTower("captions", text_part, rows, tokens, lambda plan: plan.captions, run)
        self._read_texts = self._texts.read if self._texts else text_inputs(run.split, run.tokenizer)

    @property
    def encoders(self) -> Encoders:
        """Return the encoders of the inputs that `batches` yields."""
        run, module = self._run, self._run.module
        encode_text, is_plain = module.encode_text, isinstance(module.text, TextTransformer)
        if is_plain:  # encoders with dropout learned worse in groups
            encode_text = by_length(encode_text, run.tokenizer.lengths)
        return Encoders(
            image=self._images.encode if self._images else lambda images: encode_images(module, images),
            text=self._texts.encode if self._texts else encode_text,
            changed=encode_text,
            # Where torch computes on one thread, the second core has the text tower. A plain one draws no numbers. In
            # bf16, each thread would change which attention the process uses.
            are_apart=is_plain
            and run.device.type == "cpu"
            and run.config.precision == "fp32"
            and has_second_core(run.num_threads),
        )

    def prepare(self, epoch: int) -> None:
        """Compute the missing cached features, and with hard batches choose the order of the epoch, unless it began."""
        self.fill(epoch)
        run = self._run
        if run.order and run.state.step == epoch * run.steps_per_epoch:
            run.order.samples.copy_(torch.from_numpy(broadcast(self._order(epoch))))

    def fill(self, epoch: int) -> None:
        """Compute the missing cached features of an epoch's batches, and of the phase's earlier epochs first."""
        run = self._run
        while self._next_epoch <= epoch:
            # The order of earlier epochs is not known any more, and it decides which samples are left over.
            plans = [self._every_sample(self._next_epoch)] if run.order else list(self._plans(self._next_epoch))
            for tower in (self._images, self._texts):
                if tower is not None:
                    tower.fill(plans)
            self._next_epoch += 1

    def batches(self, epoch: int, *, skip: int) -> Iterator[Batch]:
        """Yield the tower inputs of an epoch's batches, without the first `skip`."""
        run = self._run
        read_images = self._images.read if self._images else image_inputs(run.split, run.config, run.preprocessing)
        read_texts, read_changed = self._read_texts, self._read_changed
        for plan in self._plans(epoch, skip):
            yield Batch(read_images(plan), read_texts(plan), *read_changed(plan))

    @property
    def _read_changed(self) -> Callable[[BatchPlan], tuple[torch.Tensor, ...]]:
        run = self._run
        if self._changed is None:
            return lambda _: ()
        last = run.state.history[-1] if run.state.history else {}
        losses = {kind: last.get(HARD_LOSS + kind) for kind in run.config.hard_negatives}
        return partial(self._changed.read, losses=losses)

    def _plans(self, epoch: int, skip: int = 0) -> Iterator[BatchPlan]:
        run = self._run
        order = run.order.samples.numpy() if run.order else None
        return epoch_batches(run.split, run.config, epoch=epoch, batch_size=run.batch_size, skip=skip, order=order)

    def _every_sample(self, epoch: int) -> BatchPlan:
        """Return all samples with their captions of an epoch, as one batch."""
        samples = np.arange(len(self._run.split.captions))
        captions = captions_of_epoch(self._run.split, self._run.config, epoch)
        return BatchPlan(step=0, first=0, samples=samples, captions=captions)

    def _order(self, epoch: int) -> Integers:
        """Return the order of an epoch's samples: shuffled in the first epoch, then in groups of near misses."""
        run, config, every = self._run, self._run.config, self._every_sample(epoch)
        windows = shuffled_windows(run.split, config, epoch)
        if not epoch:
            return np.concatenate(windows)
        draws, ordered = np.random.Generator(np.random.Philox(key=[config.seed + (5 << 32), epoch])), []
        with Progress("compare captions for hard batches", total=len(every.samples), unit="captions") as progress:
            for samples in windows:
                captions = every.captions[samples]
                wordings = [wording(text) for text in run.split.captions.texts(captions)]
                features = self._caption_features(replace(every, samples=samples, captions=captions))
                ordered.append(samples[near_misses(features, wordings, config.hard_batches, draws)])
                progress.advance(len(samples))
        return np.concatenate(ordered)

    def _caption_features(self, plan: BatchPlan) -> torch.Tensor:
        """Return unit features of captions, shape (captions, dim), by the text tower in evaluation mode."""
        run, encoders, found = self._run, self.encoders, []
        size, was_training = run.config.microbatch or run.batch_size, run.module.text.training

        def encoded(inputs: torch.Tensor) -> torch.Tensor:
            with torch.no_grad(), autocast(run.config.precision, run.device):
                return functional.normalize(encoders.text(inputs).float(), dim=-1).cpu()

        run.module.text.eval()
        for start in range(0, len(plan.captions), 2 * size):
            pair = [plan.captions[at : at + size] for at in (start, start + size)]
            inputs = [self._read_texts(replace(plan, captions=each)).to(run.device) for each in pair if len(each)]
            found += both(*(partial(encoded, each) for each in inputs), are_apart=encoders.are_apart)
        run.module.text.train(was_training)
        return torch.cat(found)


def _frozen_parts(run: Run) -> tuple[FrozenPart | None, FrozenPart | None]:
    frozen, config = run.state.is_frozen, run.config
    return frozen_parts(run.module, frozen=frozen, lock_image=config.lock_image, freeze_image=config.freeze_image)


def frozen_image_part(run: Run) -> FrozenPart | None:
    """Return the image tower if it is frozen and its features are smaller than its images, which are kept then."""
    part, _ = _frozen_parts(run)
    return part if part is not None and _is_small(part, run) else None


@dataclass(frozen=True, slots=True)
class FrozenTower:
    """A frozen tower, and the cache of its features.

    Args:
        name: what the features describe, as a plural: "images" or "captions".
        part: the tower, and its projection if that is trained.
        rows: cache of the features.
        inputs: returns the tower's inputs by index.
        indices: returns the indices of a batch's inputs.
        run: the training run.
    """

    name: str
    part: FrozenPart
    rows: "FeatureRows"
    inputs: Callable[[Integers], torch.Tensor]
    indices: Callable[[BatchPlan], Integers]
    run: Run

    def fill(self, plans: list[BatchPlan]) -> None:
        """Compute the features that batches need and that are not cached yet, in the order of their indices."""
        run = self.run
        wanted = np.concatenate([self.indices(plan) for plan in plans])
        missing, size = self.rows.missing(wanted), run.config.microbatch or run.batch_size
        if not len(missing):
            return
        what = f"encode {self.name} with the frozen tower"
        with Progress(what, total=len(missing), unit=self.name) as progress, all_cores():
            for start in range(0, len(missing), size):
                indices = missing[start : start + size]
                with torch.no_grad(), autocast(run.config.precision, run.device):
                    features = backbone_features(self.part, self.inputs(indices).to(run.device))
                self.rows.put(indices, features.float().cpu())
                progress.advance(len(indices))

    def read(self, plan: BatchPlan) -> torch.Tensor:
        """Return the cached features of a batch."""
        return self.rows.read(self.indices(plan))

    @property
    def encode(self) -> Encode:
        """Return the encoder of cached features."""
        return projected(self.part.tower, self.part.projection)


class FeatureRows:
    """A cache with one row of features for each index, in an unnamed file that is deleted with the process.

    Args:
        count: maximum number of rows.
        folder: folder whose disk has the file. The file takes `count` times the size of a row.
    """

    def __init__(self, count: int, folder: Path) -> None:
        self._folder = folder
        self._is_there = np.zeros(count, dtype=bool)
        self._rows: Any = None

    def missing(self, indices: Integers) -> Integers:
        """Return the indices that have no row yet, each once, in ascending order."""
        found: Integers = np.unique(indices[~self._is_there[indices]])
        return found

    def put(self, indices: Integers, rows: torch.Tensor) -> None:
        """Write the rows of some indices.

        Raises:
            DiskError: the disk is full.
        """
        if self._rows is None:
            whole = (len(self._is_there), *rows.shape[1:])
            with disk_errors(self._folder), tempfile.TemporaryFile(dir=self._folder) as file:
                # Allocate all blocks now: writing through a memory map cannot report a full disk.
                os.posix_fallocate(file.fileno(), 0, max(1, 4 * int(np.prod(whole))))
                self._rows = np.memmap(file, dtype=np.float32, mode="r+", shape=whole)
        self._rows[indices] = rows.numpy()
        self._is_there[indices] = True

    def read(self, indices: Integers) -> torch.Tensor:
        """Return the float32 rows of indices that are all present."""
        return torch.from_numpy(self._rows[indices])


def _is_small(part: FrozenPart, run: Run) -> bool:
    side = run.preprocessing.size
    with torch.no_grad():
        features = backbone_features(part, torch.zeros((1, 3, side, side), device=run.device))
    return bool(features.numel() * 4 <= side * side * 3)
