"""Classify an image among texts or class names that the user gives (zero-shot classification)."""

import reprlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from data_catalog.base.errors import SettingsError
from training.data.features import text_features
from training.towers.model import LoadedModel, open_model, require_texts
from training.use.search import query_features, require_finite

SOFTMAX, SIGMOID = "softmax", "sigmoid"
PLACEHOLDER = "{c}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A class and its probability. `text` is the template with the class; `is_cut`: its end was cut off."""

    rank: int
    label: str
    text: str
    cosine: float
    probability: float
    is_cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """The classes of an image, the most likely first.

    Probabilities of "softmax" add up to 1 over the given texts. "sigmoid" is for models that were trained to judge each
    text independently (SigLIP).
    """

    image: Path
    choices: tuple[Choice, ...]
    method: str
    logit_scale: float  # the trained factor of cosines
    logit_bias: float | None  # the trained bias of a sigmoid
    model_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return {**asdict(self), "image": str(self.image), "choices": [asdict(choice) for choice in self.choices]}


def classify(
    image: Path, labels: Sequence[str], model: LoadedModel | Path, *, template: str = PLACEHOLDER
) -> Classification:
    """Return how well each of two or more texts fits an image file, as probabilities.

    `template` has `PLACEHOLDER` in place of a label, such as "una foto di {c}".
    """
    require_texts(labels)
    if PLACEHOLDER not in template:
        raise SettingsError(f"the template {template!r} has no {PLACEHOLDER} in place of the class")
    if len(labels) < 2:
        raise SettingsError("a single text always gets the probability 1: give two or more texts to compare")
    texts = [template.replace(PLACEHOLDER, label) for label in labels]
    loaded = open_model(model)
    # Two texts with the same tokens would split one probability.
    first: dict[tuple[int, ...], str] = {}
    for text, ids in zip(texts, loaded.tokenizer(texts).flatten(1).tolist(), strict=True):
        if (same := first.setdefault(tuple(ids), text)) is not text:
            raise SettingsError(
                f"the model reads {reprlib.repr(same)} and {reprlib.repr(text)} as the same text, and "
                "would split one probability between them: give only one of the two, or word them differently"
            )
    cosines = text_features(loaded, texts).astype(np.float64) @ query_features(loaded, image)
    require_finite(cosines)
    scale = float(loaded.module.logit_scale.exp().item())
    bias = None if loaded.module.logit_bias is None else float(loaded.module.logit_bias.item())
    probabilities = softmax(cosines * scale) if bias is None else expit(cosines * scale + bias)
    too_long = set(loaded.tokenizer.too_long(texts))
    choices = tuple(
        Choice(
            rank=rank,
            label=labels[place],
            text=texts[place],
            cosine=float(cosines[place]),
            probability=float(probabilities[place]),
            is_cut=texts[place] in too_long,
        )
        for rank, place in enumerate(np.argsort(-cosines, kind="stable").tolist(), start=1)
    )
    return Classification(
        image=image,
        choices=choices,
        method=SOFTMAX if bias is None else SIGMOID,
        logit_scale=scale,
        logit_bias=bias,
        model_sha256=loaded.sha256,
    )
