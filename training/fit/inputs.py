"""What goes into the two towers in a phase: images and token ids, or the kept features of a frozen tower."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data_catalog.progress import Progress
from training.data.batches import Draw, epoch_draws, image_inputs, places_of, text_inputs
from training.data.pairs import Integers
from training.fit.frozen import Encode, FeatureStore, projected, without
from training.fit.losses import Encoders, autocast, encode_images
from training.fit.optimisation import Kept, kept_parts
from training.fit.run import Run
from training.towers.model import normalise_pixels

Read = Callable[[Draw], torch.Tensor]


class PhaseInputs:
    """The inputs of a phase's batches, and what makes features of them.

    A tower's features are kept where the tower is frozen, or locked, and the same image or caption always gives the
    same: where images are augmented they are computed anew. So are those that are larger than the image, as a ResNet
    has them before its attention pool.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._next_epoch = run.state.phase_epoch
        image_part, text_part = kept_parts(run.module, frozen=run.state.is_frozen, lock_image=run.config.lock_image)
        self._images = self._kept_images(image_part)
        self._texts = self._kept_texts(text_part)

    @property
    def encoders(self) -> Encoders:
        """What makes features of what `batches` gives."""
        module = self._run.module
        return Encoders(
            image=self._images.encode if self._images else lambda images: encode_images(module, images),
            text=self._texts.encode if self._texts else module.encode_text,
        )

    def prepare(self, epoch: int) -> None:
        """Compute what is to be kept for an epoch's batches and isn't there yet, for the phase's earlier ones first."""
        while self._next_epoch <= epoch:
            for kept in (self._images, self._texts):
                if kept is not None:
                    kept.fill(list(self._draws(self._next_epoch)))
            self._next_epoch += 1

    def batches(self, epoch: int, *, skip: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """What goes into the towers, batch by batch of an epoch but for the first `skip`."""
        run = self._run
        read_images = self._images.read if self._images else image_inputs(run.split, run.config)
        read_texts = self._texts.read if self._texts else text_inputs(run.split, run.tokenizer)
        for draw in self._draws(epoch, skip):
            yield read_images(draw), read_texts(draw)

    def _draws(self, epoch: int, skip: int = 0) -> Iterator[Draw]:
        run = self._run
        return epoch_draws(run.split, run.config, epoch=epoch, batch_size=run.batch_size, skip=skip)

    def _kept_images(self, part: Kept | None) -> "KeptFeatures | None":
        run = self._run
        if part is None or run.config.augmentations or not _is_small(part, run):
            return None

        def read(samples: Integers) -> torch.Tensor:

            return normalise_pixels(torch.from_numpy(run.split.images.read(places_of(run.split, samples))))

        store = FeatureStore(len(run.split.captions), run.out)
        return KeptFeatures("images", part, store, read, lambda draw: draw.samples, run)

    def _kept_texts(self, part: Kept | None) -> "KeptFeatures | None":
        run = self._run
        if part is None:
            return None
        store = FeatureStore(len(run.split.captions.flat), run.out)
        return KeptFeatures(
            "captions",
            part,
            store,
            lambda captions: run.tokenizer(run.split.captions.texts(captions)),
            lambda draw: draw.captions,
            run,
        )


@dataclass(frozen=True, slots=True)
class KeptFeatures:
    """Features of one tower, kept.

    Args:
        name: of what they are features of, plural.
        part: the tower, and what of it isn't kept.
        inputs: of the tower, by index.
        indices: of a batch's inputs.
    """

    name: str
    part: Kept
    store: FeatureStore
    inputs: Callable[[Integers], torch.Tensor]
    indices: Callable[[Draw], Integers]
    run: Run

    def fill(self, draws: list[Draw]) -> None:
        """Compute the features that batches ask for and that aren't kept yet, in the order of their indices."""
        wanted = np.concatenate([self.indices(draw) for draw in draws])
        missing, size = self.store.missing(wanted), self.run.config.microbatch or self.run.batch_size
        if not len(missing):
            return
        with Progress(f"encode {self.name} by the frozen tower", total=len(missing), unit=self.name) as progress:
            for start in range(0, len(missing), size):
                indices = missing[start : start + size]
                self.store.put(indices, self._backbone(self.inputs(indices)))
                progress.advance(len(indices))

    def _backbone(self, inputs: torch.Tensor) -> torch.Tensor:

        device = self.run.device
        with torch.no_grad(), autocast(self.run.config.precision, device):
            found: torch.Tensor = backbone_features(self.part, inputs.to(device)).float().cpu()
            return found

    def read(self, draw: Draw) -> torch.Tensor:
        """The kept features of a batch."""
        return self.store.rows(self.indices(draw))

    @property
    def encode(self) -> Encode:
        """What makes features of the kept ones: the tower's projection, or nothing where that is locked too."""
        return projected(self.part.tower, self.part.projection) if self.part.projection else lambda features: features


def backbone_features(part: Kept, inputs: torch.Tensor) -> Any:
    """What a tower gives without the part of it that isn't kept."""
    if not part.projection:
        return part.tower(inputs)
    with without(part.tower, part.projection):
        return part.tower(inputs)


def _is_small(part: Kept, run: Run) -> bool:

    with torch.no_grad():
        features = backbone_features(part, torch.zeros((1, 3, run.image_size, run.image_size), device=run.device))
    return bool(features.numel() * 4 <= run.image_size * run.image_size * 3)
