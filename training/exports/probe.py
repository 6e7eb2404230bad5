"""The proof of an export: the same pixels and texts go through both models, and come out the same."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data_catalog.errors import DefectError
from training.exports.source import TrainedFolder

Floats = np.ndarray[Any, np.dtype[np.float32]]

# Most that a number of a unit feature, or a cosine, may differ.
TOLERANCE = 1e-4
# One word, capitals and punctuation, blanks, other scripts, curly quotes, and more than fits in any context.
TEXTS = (
    "una",
    "Un CANE nero, che corre sull'erba: verde!",
    "  due\t spazi  e\na capo ",
    "γάτα 猫 кошка",
    "“l’albero” della città",
    "parola " * 300,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What goes through the models, and what ours made of it.

    Args:
        pixels: normalised images, float32 of shape (images, 3, size, size).
        ids: of `TEXTS`, int64 of shape (texts, longest), filled up with padding.
        image_features: unit rows.
        text_features: unit rows.
    """

    pixels: torch.Tensor
    ids: torch.Tensor
    image_features: Floats
    text_features: Floats


def make_probe(trained: TrainedFolder) -> Probe:
    """Run random pixels and `TEXTS` through our own model."""
    size = trained.loaded.image_size
    pixels = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    ids = trained.loaded.tokenizer(TEXTS)
    module = trained.loaded.module
    with torch.no_grad():
        return Probe(
            pixels=pixels,
            ids=ids,
            image_features=module.encode_image(pixels, normalize=True).numpy(),
            text_features=module.encode_text(ids, normalize=True).numpy(),
        )


def require_same_ids(probe: Probe, ids: Sequence[Sequence[int]], what: str) -> None:
    """Make sure that an export's tokenizer says what ours does.

    Raises:
        DefectError: it does not.
    """
    for text, ours, theirs in zip(TEXTS, probe.ids.tolist(), ids, strict=True):
        if ours != list(theirs):
            raise DefectError(
                f"{what}: its tokenizer reads {text[:40]!r} otherwise than the model's, so that it would score "
                "otherwise: nothing is written"
            )


def require_same_scores(probe: Probe, image_features: Floats, text_features: Floats, what: str) -> float:
    """Make sure that an export scores as ours does; returns by how much its numbers differ at most.

    Raises:
        DefectError: it does not, to `TOLERANCE`.
    """
    ours, theirs = probe.image_features @ probe.text_features.T, image_features @ text_features.T
    pairs = [(probe.image_features, image_features), (probe.text_features, text_features), (ours, theirs)]
    # NaN comes through numpy's maximum, and is not within anything.
    worst = float(np.max([np.abs(a - b).max() if a.shape == b.shape else np.inf for a, b in pairs]))
    if not worst <= TOLERANCE:
        raise DefectError(
            f"{what}: it scores otherwise than the model (by {worst:.2g}, where {TOLERANCE:g} is allowed): nothing is "
            "written"
        )
    return worst


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """While inside, libraries warn nobody of their own affairs: what matters is proven by the probe."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
