"""Which of several texts says best what is in an image: zero-shot classification with one's own classes."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.errors import DamagedError, SettingsError
from training.data.features import text_features
from training.data.images import picture_features, read_picture, squashed
from training.towers.model import WEIGHTS_FILE, LoadedModel, open_model, require_texts

SOFTMAX, SIGMOID = "softmax", "sigmoid"
PLACEHOLDER = "{c}"
_LONGEST_QUOTED = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A class and how likely it is.

    Args:
        rank: from 1.
        label: the class as it was given.
        text: what the model read: the template with the class in it.
        cosine: of the features of image and text.
        probability: see `Classification.method`.
        is_cut: whether the text has more tokens than the model reads, so that its end was left out.
    """

    rank: int
    label: str
    text: str
    cosine: float
    probability: float
    is_cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """The classes of an image, most likely first.

    Args:
        method: "softmax": probabilities compare the given texts with each other, and add up to 1; or, of a model that
            was trained to judge each text by itself (SigLIP), "sigmoid".
        logit_scale: what cosines are multiplied with, as the model has learned it.
        logit_bias: what a sigmoid adds; None for softmax.
        model_sha256: of the model's weights.
    """

    image: Path
    choices: tuple[Choice, ...]
    method: str
    logit_scale: float
    logit_bias: float | None
    model_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for a JSON file."""
        return {**asdict(self), "image": str(self.image), "choices": [asdict(choice) for choice in self.choices]}


def classify(
    image: Path, labels: Sequence[str], model: LoadedModel | Path, *, template: str = PLACEHOLDER
) -> Classification:
    """Judge how well each of several texts fits an image file, as probabilities.

    Args:
        labels: two or more texts, or names of classes for the template.
        model: a folder, or a loaded model.
        template: what is made of each, with `PLACEHOLDER` where it goes: "una foto di {c}".

    Raises:
        SettingsError: fewer than two labels, one twice, two that the model reads alike, an empty one, or no
            placeholder.
        InputError: no image, or no model.
        DamagedError: the model's files are damaged.
    """
    require_texts(labels)
    if PLACEHOLDER not in template:
        raise SettingsError(f"the template {template!r} has no {PLACEHOLDER}, where the classes go")
    if len(labels) < 2:
        raise SettingsError("one text is always chosen, with probability 1: give two or more to compare")
    ((most, count),) = Counter(" ".join(label.split()) for label in labels).most_common(1)
    if count > 1:
        raise SettingsError(f"the text {most!r} is there {count} times: give each once")
    texts = [template.replace(PLACEHOLDER, label) for label in labels]
    loaded = open_model(model)
    too_long = set(loaded.tokenizer.too_long(texts))
    _require_told_apart(loaded, labels, texts, too_long)
    pixels = squashed(read_picture(image, loaded.image_size).image, loaded.image_size)
    cosines = text_features(loaded, texts).astype(np.float64) @ picture_features(loaded, np.stack([pixels]))[0]
    if not np.isfinite(cosines).all():
        raise DamagedError(f"the model's features are not finite: {WEIGHTS_FILE} is broken, so train it again")
    scale = float(loaded.module.logit_scale.exp().item())
    bias = None if loaded.module.logit_bias is None else float(loaded.module.logit_bias.item())
    if bias is None:
        weights = np.exp(scale * (cosines - cosines.max()))
        probabilities = weights / weights.sum()
    else:
        probabilities = 0.5 * (1 + np.tanh(0.5 * (cosines * scale + bias)))  # a sigmoid, which overflows nowhere
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


def _require_told_apart(
    model: LoadedModel, labels: Sequence[str], texts: Sequence[str], too_long: Collection[str]
) -> None:
    """Refuse two texts that are the same tokens: they would share, unseen, the probability of one."""
    first: dict[tuple[int, ...], int] = {}
    for place, ids in enumerate(model.tokenizer(texts).tolist()):
        other = first.setdefault(tuple(ids), place)
        if other != place:
            one, two = (
                repr(label if len(label) <= _LONGEST_QUOTED else f"{label[:_LONGEST_QUOTED]}...")
                for label in (labels[other], labels[place])
            )
            is_cut = texts[other] in too_long or texts[place] in too_long
            why = "the end of a text that is too long is left out" if is_cut else "it sees no such difference"
            raise SettingsError(
                f"the model reads {one} and {two} as one text ({why}), and would split its probability between them: "
                "give one of the two, or word them otherwise"
            )
