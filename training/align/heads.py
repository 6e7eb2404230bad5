"""Train the two heads that map features of frozen towers into one space: in closed form, then contrastively."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from data_catalog.base.errors import InputError, SettingsError
from training.config import AlignConfig
from training.data.images import Features
from training.data.pairs import Integers
from training.fit.clip import CUTOFF
from training.fit.optimisation import MAX_LOGIT_SCALE
from training.scores.metrics import reciprocal_ranks, text_to_image_ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturePairs:
    """Features of the images of a split and of all their captions, from frozen towers.

    Args:
        views: features of the images, shape (images, image dim); if they were mirrored too, a second matrix of those.
        texts: features of the captions, shape (captions, text dim).
        owners: image of each caption, shape (captions,), in ascending order. Every image has a caption.
    """

    views: tuple[Features, ...]
    texts: Features
    owners: Integers

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.views[0])

    def subset(self, images: Integers) -> "FeaturePairs":
        """Return the pairs of some images, in the order of their places."""
        kept = np.sort(images)
        chosen = np.isin(self.owners, kept)
        return FeaturePairs(
            views=tuple(view[kept] for view in self.views),
            texts=self.texts[chosen],
            owners=np.searchsorted(kept, self.owners[chosen]),
        )

    def joined(self, other: "FeaturePairs") -> "FeaturePairs":
        """Return these pairs followed by others."""
        return FeaturePairs(
            views=tuple(np.concatenate(both) for both in zip(self.views, other.views, strict=True)),
            texts=np.concatenate([self.texts, other.texts]),
            owners=np.concatenate([self.owners, other.owners + len(self)]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """The two heads and the logarithm of their logit scale.

    Args:
        image: maps image features to the common space.
        text: maps text features to the common space.
        logit_scale: natural logarithm of the factor of cosines, a scalar.
    """

    image: Any
    text: Any
    logit_scale: Any

    def encoded(self, pairs: FeaturePairs) -> tuple[Features, Features]:
        """Return the unit features of the images, unmirrored, and of their captions in the common space."""
        with torch.no_grad():
            images, texts = self.image(torch.from_numpy(pairs.views[0])), self.text(torch.from_numpy(pairs.texts))
            return F.normalize(images, dim=-1).numpy(), F.normalize(texts, dim=-1).numpy()

    def mrr(self, pairs: FeaturePairs) -> float:
        """Return MRR@10 from captions to images, over all captions."""
        images, texts = self.encoded(pairs)
        return float(reciprocal_ranks(text_to_image_ranks(texts, images, pairs.owners), CUTOFF).mean())


def canonical_directions(pairs: FeaturePairs, *, dim: int, ridge: float) -> tuple[Features, Features]:
    """Return the two matrices of regularised canonical correlation analysis (CCA), in closed form.

    The directions of the two sides whose projections correlate most, scaled by the square root of their correlation.
    Means are not subtracted, which would need a bias. Instead, the direction of each side's mean is projected out.

    Args:
        pairs: pairs of the train split.
        dim: number of directions.
        ridge: share of the mean variance that is added to each variance.

    Returns:
        Matrices of shape (image dim, dim) and (text dim, dim). If a side has fewer directions, the rest is zero.
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


def closed_form(pairs: FeaturePairs, config: AlignConfig, *, image: nn.Module, text: nn.Module) -> Heads:
    """Set linear heads to the closed-form start, and return them. Heads with a hidden layer stay random.

    Raises:
        InputError: a feature is not finite.
    """
    for matrix in (*pairs.views, pairs.texts):
        if not np.isfinite(matrix).all():
            raise InputError("a tower's features contain NaN or infinity: its weights are damaged")
    linear = [[part for part in head.modules() if isinstance(part, nn.Linear)] for head in (image, text)]
    if all(len(parts) == 1 for parts in linear):
        dim = linear[0][0].out_features
        directions = canonical_directions(pairs, dim=dim, ridge=config.ridge)
        for (part,), direction in zip(linear, directions, strict=True):
            with torch.no_grad():
                # A step of the optimizer is then as large for each head, whatever its number of inputs.
                part.weight.copy_(torch.from_numpy(direction.T / np.linalg.norm(direction) * math.sqrt(dim)))
                if part.bias is not None:
                    part.bias.zero_()
    return Heads(image=image, text=text, logit_scale=torch.nn.Parameter(torch.tensor(math.log(config.logit_scale))))


def epochs_of(heads: Heads, pairs: FeaturePairs, config: AlignConfig, *, num_epochs: int) -> Iterator[float]:
    """Train heads contrastively, and yield the mean loss after each epoch.

    Each epoch has one random caption and, if there are mirrored images, one random view of each image. The learning
    rate falls along a cosine that ends after `config.epochs`, whatever `num_epochs` is.
    """
    generator = torch.Generator().manual_seed(config.seed)
    views, texts = [torch.from_numpy(view) for view in pairs.views], torch.from_numpy(pairs.texts)
    starts = torch.from_numpy(np.searchsorted(pairs.owners, np.arange(len(pairs))))
    counts = torch.diff(starts, append=torch.tensor([len(texts)]))
    weights = [*heads.image.parameters(), *heads.text.parameters()]
    groups = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": [heads.logit_scale], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), eps=1e-6)
    size = min(config.batch_size, len(pairs))
    num_batches = len(pairs) // size

    def dropped(features: torch.Tensor) -> torch.Tensor:
        if not config.dropout:
            return features
        kept = torch.rand(features.shape, generator=generator) >= config.dropout
        return features * kept / (1 - config.dropout)

    for epoch in range(num_epochs):
        order = torch.randperm(len(pairs), generator=generator)
        captions = starts + (torch.rand(len(pairs), generator=generator) * counts).long()
        sides = torch.randint(len(views), (len(pairs),), generator=generator)
        total = 0.0
        for number in range(num_batches):
            step = epoch * num_batches + number
            rate = config.lr * 0.5 * (1 + math.cos(math.pi * step / (config.epochs * num_batches)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            some = order[number * size : (number + 1) * size]
            seen = views[0][some]
            for side, view in enumerate(views[1:], start=1):
                seen = torch.where((sides[some] == side)[:, None], view[some], seen)
            images = F.normalize(heads.image(dropped(seen)), dim=-1)
            sentences = F.normalize(heads.text(dropped(texts[captions[some]])), dim=-1)
            logits = heads.logit_scale.exp() * images @ sentences.T
            labels = torch.arange(len(some))
            loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
            if not math.isfinite(loss.item()):
                raise SettingsError(
                    f"the heads diverged in epoch {epoch + 1} (the loss is {loss.item()}): lower align.lr"
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                heads.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
            total += loss.item()
        yield total / num_batches
