"""Provide the inputs of the towers in a training phase: images and token ids, or cached features of a frozen tower.

For a frozen tower, the cache holds the features that go into its trained projection. For a locked tower, whose
projection is frozen too, it holds the output. Features are computed once for each image or caption, and kept in a
temporary file beside the run until its phase ends. They depend only on the settings and the order of epochs, so a
resumed run computes the same ones.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_catalog.progress import Progress
from data_catalog.storage.disk_errors import disk_errors
from training.data.batches import BatchPlan, epoch_batches, image_inputs, places_of, text_inputs
from training.data.pairs import Integers
from training.fit.losses import Encoders, autocast, encode_images
from training.fit.run import Run
from training.towers.backbones import FrozenPart, backbone_features, frozen_parts, projected

Encode = Callable[[torch.Tensor], torch.Tensor]


class PhaseInputs:
    """The input batches of a phase, and the encoders that turn them into features.

    A tower's features are cached if the tower is frozen or locked, and if the same image or caption always has the same
    features. Features of augmented images are computed each time. So are features that need more memory than the image,
    such as a ResNet's before its attention pool.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._next_epoch = run.state.phase_epoch
        image_part, text_part = frozen_parts(run.module, frozen=run.state.is_frozen, lock_image=run.config.lock_image)
        self._images: FrozenTower | None = None
        self._texts: FrozenTower | None = None
        if image_part is not None and not run.config.augmentations and _is_small(image_part, run):

            def pixels(samples: Integers) -> torch.Tensor:
                return run.preprocessing.normalised(
                    torch.from_numpy(run.split.images.read(places_of(run.split, samples)))
                )

            rows = FeatureRows(len(run.split.captions), run.out)
            self._images = FrozenTower("images", image_part, rows, pixels, lambda plan: plan.samples, run)
        if text_part is not None:
            captions = run.split.captions

            def tokens(indices: Integers) -> torch.Tensor:
                found: torch.Tensor = run.tokenizer(captions.texts(indices))
                return found

            rows = FeatureRows(len(captions.flat), run.out)
            self._texts = FrozenTower("captions", text_part, rows, tokens, lambda plan: plan.captions, run)

    @property
    def encoders(self) -> Encoders:
        """Return the encoders of the inputs that `batches` yields."""
        module = self._run.module
        return Encoders(
            image=self._images.encode if self._images else lambda images: encode_images(module, images),
            text=self._texts.encode if self._texts else module.encode_text,
        )

    def prepare(self, epoch: int) -> None:
        """Compute the missing cached features of an epoch's batches, and of the phase's earlier epochs first."""
        while self._next_epoch <= epoch:
            for tower in (self._images, self._texts):
                if tower is not None:
                    tower.fill(list(self._plans(self._next_epoch)))
            self._next_epoch += 1

    def batches(self, epoch: int, *, skip: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the tower inputs of an epoch's batches, without the first `skip`."""
        run = self._run
        read_images = self._images.read if self._images else image_inputs(run.split, run.config, run.preprocessing)
        read_texts = self._texts.read if self._texts else text_inputs(run.split, run.tokenizer)
        for plan in self._plans(epoch, skip):
            yield read_images(plan), read_texts(plan)

    def _plans(self, epoch: int, skip: int = 0) -> Iterator[BatchPlan]:
        run = self._run
        return epoch_batches(run.split, run.config, epoch=epoch, batch_size=run.batch_size, skip=skip)


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
        with Progress(f"encode {self.name} with the frozen tower", total=len(missing), unit=self.name) as progress:
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
        """Return the encoder of cached features: the tower's projection, or the identity if that is locked too."""
        return projected(self.part.tower, self.part.projection) if self.part.projection else lambda features: features


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
