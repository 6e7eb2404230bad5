"""Train the two heads that map features of frozen towers into one space: in closed form, then contrastively."""

import math
from collections.abc import Generator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import AlignConfig
from training.data.images import Features
from training.data.pairs import Integers
from training.fit.optimisation import MAX_LOGIT_SCALE
from training.runs.runner import Task
from training.scores.metrics import reciprocal_ranks, refuse_not_finite, text_to_image_ranks


@dataclass(frozen=True, slots=True)
class FeaturePairs:
    """Features of the images of a split and of all their captions, from frozen towers. Every image has a caption."""

    views: tuple[Features, ...]  # (images, image dim); if images were mirrored too, a second matrix of those
    texts: Features  # (captions, text dim)
    owners: Integers  # image of each caption, in ascending order

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.views[0])

    def joined(self, other: "FeaturePairs") -> "FeaturePairs":
        """Return these pairs followed by others. Images of which there is no mirrored view have the same view twice."""
        theirs = (*other.views, *other.views)[: len(self.views)]
        views = tuple(np.concatenate(both) for both in zip(self.views, theirs, strict=True))
        owners = np.concatenate([self.owners, other.owners + len(self)])
        return FeaturePairs(views, np.concatenate([self.texts, other.texts]), owners)

    def scaled(self, image: float, text: float) -> "FeaturePairs":
        """Return the pairs with all features multiplied by the factor of their side."""
        views = tuple(np.float32(image) * view for view in self.views)
        return FeaturePairs(views, np.float32(text) * self.texts, self.owners)


class Heads(nn.Module):
    """A head for the features of each side, and the natural logarithm of the factor of cosines."""

    def __init__(self, image: nn.Module, text: nn.Module, logit_scale: nn.Parameter) -> None:
        super().__init__()
        self.image, self.text, self.logit_scale = image, text, logit_scale

    @torch.no_grad()
    def multiply(self, image: float, text: float) -> None:
        """Make the heads take features that are 1 / factor times as large."""
        linear_layers(self.image)[0].weight.mul_(image)
        linear_layers(self.text)[0].weight.mul_(text)

    @torch.no_grad()
    def encoded(self, pairs: FeaturePairs) -> tuple[Features, Features]:
        """Return the unit features of the images, unmirrored, and of their captions in the common space."""
        images, texts = self.image(torch.from_numpy(pairs.views[0])), self.text(torch.from_numpy(pairs.texts))
        return F.normalize(images, dim=-1).numpy(), F.normalize(texts, dim=-1).numpy()


def linear_layers(head: nn.Module) -> list[nn.Linear]:
    """Return the linear layers of a head, in order."""
    return [part for part in head.modules() if isinstance(part, nn.Linear)]


def canonical_directions(pairs: FeaturePairs, *, dim: int, ridge: float) -> tuple[Features, Features]:
    """Return the two matrices of regularised canonical correlation analysis (CCA), in closed form.

    The directions of the two sides whose projections correlate most, scaled by the square root of their correlation.
    Means are not subtracted, which would need a bias. Instead, the direction of each side's mean is projected out.

    `ridge` is the share of the mean variance that is added to each variance. The matrices have the shapes (image dim,
    dim) and (text dim, dim). If a side has fewer directions, the rest is zero.
    """
    images, texts = np.stack(pairs.views).mean(axis=0, dtype=np.float64), pairs.texts.astype(np.float64)
    counts = np.bincount(pairs.owners, minlength=len(images)).astype(np.float64)
    # Each image counts as often as it has captions, so the pairs are those of images with the sum of their captions.
    sums = np.add.reduceat(texts, np.searchsorted(pairs.owners, np.arange(len(images))))
    roots = []
    for rows, weights in ((images, counts), (texts, np.ones(len(texts)))):
        mean = weights @ rows
        mean /= np.linalg.norm(mean)
        without = np.eye(len(mean)) - np.outer(mean, mean)
        variance = without @ ((rows * weights[:, None]).T @ rows) @ without / len(texts)
        variance += ridge * np.trace(variance) / len(variance) * np.eye(len(variance))
        values, vectors = np.linalg.eigh(variance)
        roots.append(without @ (vectors / np.sqrt(values) @ vectors.T))  # inputs still have the direction of the mean
    across = roots[0].T @ (images.T @ sums / len(texts)) @ roots[1]
    left, correlations, right = np.linalg.svd(across, full_matrices=False)
    kept = min(dim, len(correlations))
    scale = np.sqrt(correlations[:kept])
    found = []
    for root, vectors in ((roots[0], left), (roots[1], right.T)):
        directions = np.zeros((len(root), dim))
        directions[:, :kept] = root @ (vectors[:, :kept] * scale)
        found.append(directions.astype(np.float32))
    return found[0], found[1]


@torch.no_grad()
def set_closed_form(heads: Heads, pairs: FeaturePairs, *, ridge: float) -> None:
    """Set linear heads to the canonical directions. Heads with a hidden layer stay as they are."""
    layers = [*linear_layers(heads.image), *linear_layers(heads.text)]
    if len(layers) > 2:
        return
    refuse_not_finite(*pairs.views, pairs.texts)
    dim = layers[0].out_features
    for layer, direction in zip(layers, canonical_directions(pairs, dim=dim, ridge=ridge), strict=True):
        # A step of the optimizer is then as large for each head, whatever its number of inputs.
        layer.weight.copy_(torch.from_numpy(direction.T / np.linalg.norm(direction) * math.sqrt(dim)))
        if layer.bias is not None:
            layer.bias.zero_()


class HeadsTask(Task[tuple[Tensor, Tensor]]):
    """Train heads contrastively. `best` has those of the best epoch, the start or later."""

    remedy = "Lower align.lr"
    device = torch.device("cpu")

    def __init__(self, heads: Heads, train: FeaturePairs, val: FeaturePairs | None, config: AlignConfig) -> None:
        self._heads, self._val, self._config, self.best = heads, val, config, heads
        self._generator = torch.Generator().manual_seed(config.seed)
        self._views, self._texts = [torch.from_numpy(view) for view in train.views], torch.from_numpy(train.texts)
        self._starts = torch.from_numpy(np.searchsorted(train.owners, np.arange(len(train))))
        self._counts = torch.diff(self._starts, append=torch.tensor([len(train.texts)]))
        self._batch_size = min(config.batch_size, len(train))
        self.modules = {"heads": heads}
        groups: list[dict[str, Any]] = [
            {"params": [*heads.image.parameters(), *heads.text.parameters()], "weight_decay": config.weight_decay},
            {"params": [heads.logit_scale], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), eps=1e-6)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, on a cosine that ends after `align.epochs`, also in a shorter run."""
        total = self._config.epochs * self.num_batches(0)
        return self._config.lr * 0.5 * (1 + math.cos(math.pi * step / total))

    def num_batches(self, epoch: int) -> int:
        """Return the number of full batches."""
        return len(self._starts) // self._batch_size

    def batches(self, epoch: int, places: range) -> Generator[tuple[Tensor, Tensor]]:
        """Yield features of images, each from a random view, and of one random caption of each."""
        num_images = len(self._starts)
        order = torch.randperm(num_images, generator=self._generator)
        captions = self._starts + (torch.rand(num_images, generator=self._generator) * self._counts).long()
        sides = torch.randint(len(self._views), (num_images,), generator=self._generator)
        for place in places:
            some = order[place * self._batch_size : (place + 1) * self._batch_size]
            seen = self._views[0][some]
            for side, view in enumerate(self._views[1:], start=1):
                seen = torch.where((sides[some] == side)[:, None], view[some], seen)
            yield seen, self._texts[captions[some]]

    def step(self, batch: tuple[Tensor, Tensor], lr: float) -> dict[str, float]:
        """Take one optimizer step, and return the loss."""
        heads = self._heads
        images, texts = (
            F.normalize(head(self._dropped(features)), dim=-1)
            for head, features in zip((heads.image, heads.text), batch, strict=True)
        )
        logits = heads.logit_scale.exp() * images @ texts.T
        labels = torch.arange(len(logits))
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in heads.parameters() if weight.grad is not None])
        if not (loss.isfinite() and norm.isfinite()):
            raise FloatingPointError("the loss or its gradient is not finite")
        self.optimizer.step()
        with torch.no_grad():
            heads.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        return {"loss": loss.item()}

    def _dropped(self, features: Tensor) -> Tensor:
        share = self._config.dropout
        if not share:
            return features
        kept = torch.rand(features.shape, generator=self._generator) >= share
        return features * kept / (1 - share)

    def validate(self) -> tuple[float | None, dict[str, Any]]:
        """Return MRR@10 on the validation split, over all captions. Without one, the last heads are kept."""
        if self._val is None:
            return None, {"val_mrr@10": None, "val_gallery": 0}
        images, texts = self._heads.encoded(self._val)
        mrr = float(reciprocal_ranks(text_to_image_ranks(texts, images, self._val.owners), 10).mean())
        return mrr, {"val_mrr@10": mrr, "val_gallery": len(images)}

    def keep(self) -> None:
        """Keep a copy of the heads in memory."""
        self.best = deepcopy(self._heads)
