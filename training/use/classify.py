"""Classify an image among texts or class names that the user gives (zero-shot classification)."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.base.errors import DamagedError, SettingsError
from training.data.features import text_features
from training.data.images import picture_features, read_picture
from training.towers.model import WEIGHTS_FILE, LoadedModel, open_model, require_texts

SOFTMAX, SIGMOID = "softmax", "sigmoid"
PLACEHOLDER = "{c}"
_LONGEST_QUOTED = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A class and its probability.

    Args:
        rank: rank, from 1.
        label: the class as the user gave it.
        text: the text that the model encoded: the template with the class.
        cosine: cosine similarity of image and text.
        probability: probability of the text, computed by `Classification.method`.
        is_cut: the text is longer than the model's context, so its end was cut off.
    """

    rank: int
    label: str
    text: str
    cosine: float
    probability: float
    is_cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """The classes of an image, the most likely first.

    Args:
        image: the image file.
        choices: the classes.
        method: "softmax" for probabilities that add up to 1 over the given texts, or "sigmoid" for models that were
            trained to judge each text independently (SigLIP).
        logit_scale: the trained factor of cosines.
        logit_bias: the trained bias of a sigmoid. None for softmax.
        model_sha256: sha256 of the model's weights.
    """

    image: Path
    choices: tuple[Choice, ...]
    method: str
    logit_scale: float
    logit_bias: float | None
    model_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return {**asdict(self), "image": str(self.image), "choices": [asdict(choice) for choice in self.choices]}


def classify(
    image: Path, labels: Sequence[str], model: LoadedModel | Path, *, template: str = PLACEHOLDER
) -> Classification:
    """Return how well each of several texts fits an image file, as probabilities.

    Args:
        image: the image file.
        labels: two or more texts, or class names for the template.
        model: a model folder or a loaded model.
        template: text with `PLACEHOLDER` in place of a label, such as "una foto di {c}".

    Raises:
        SettingsError: there are fewer than two labels, a label is empty or repeated, two give the same tokens, or the
            template has no placeholder.
        InputError: the image cannot be read, or there is no model.
        DamagedError: the model's files are damaged.
    """
    require_texts(labels)
    if PLACEHOLDER not in template:
        raise SettingsError(f"the template {template!r} has no {PLACEHOLDER} in place of the class")
    if len(labels) < 2:
        raise SettingsError("a single text always gets the probability 1: give two or more texts to compare")
    ((most, count),) = Counter(" ".join(label.split()) for label in labels).most_common(1)
    if count > 1:
        raise SettingsError(f"the text {most!r} is given {count} times: give each text once")
    texts = [template.replace(PLACEHOLDER, label) for label in labels]
    loaded = open_model(model)
    too_long = set(loaded.tokenizer.too_long(texts))
    _require_distinct_texts(loaded, labels, texts, too_long)
    pixels = loaded.preprocessing.resized(read_picture(image, loaded.image_size).image)
    cosines = text_features(loaded, texts).astype(np.float64) @ picture_features(loaded, np.stack([pixels]))[0]
    if not np.isfinite(cosines).all():
        raise DamagedError(f"the model's features are not finite: {WEIGHTS_FILE} is damaged, so train it again")
    scale = float(loaded.module.logit_scale.exp().item())
    bias = None if loaded.module.logit_bias is None else float(loaded.module.logit_bias.item())
    if bias is None:
        weights = np.exp(scale * (cosines - cosines.max()))
        probabilities = weights / weights.sum()
    else:
        probabilities = 0.5 * (1 + np.tanh(0.5 * (cosines * scale + bias)))  # a sigmoid that cannot overflow
    order = sorted(range(len(texts)), key=lambda index: (-cosines[index], index))
    choices = tuple(
        Choice(
            rank=rank,
            label=labels[index],
            text=texts[index],
            cosine=float(cosines[index]),
            probability=float(probabilities[index]),
            is_cut=texts[index] in too_long,
        )
        for rank, index in enumerate(order, start=1)
    )
    return Classification(
        image=image,
        choices=choices,
        method=SOFTMAX if bias is None else SIGMOID,
        logit_scale=scale,
        logit_bias=bias,
        model_sha256=loaded.sha256,
    )


def _require_distinct_texts(
    model: LoadedModel, labels: Sequence[str], texts: Sequence[str], too_long: Collection[str]
) -> None:
    """Raise if two texts have the same tokens, because they would split one probability.

    Raises:
        SettingsError: two texts have the same tokens.
    """
    first: dict[tuple[int, ...], int] = {}
    for place, ids in enumerate(model.tokenizer(texts).flatten(1).tolist()):
        other = first.setdefault(tuple(ids), place)
        if other != place:
            one, two = (
                repr(label if len(label) <= _LONGEST_QUOTED else f"{label[:_LONGEST_QUOTED]}...")
                for label in (labels[other], labels[place])
            )
            is_cut = texts[other] in too_long or texts[place] in too_long
            why = "texts that are too long are cut off" if is_cut else "its tokenizer ignores the difference"
            raise SettingsError(
                f"the model reads {one} and {two} as the same text ({why}), and would split one probability between "
                "them. Give only one of the two, or word them differently"
            )
