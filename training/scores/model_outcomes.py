"""What one model does on one set: features of its images and texts, and the ranks that follow."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_catalog.errors import InputError
from data_catalog.sources.origins import HUMAN, MACHINE
from training.data.features import Features
from training.scores.encoders import Encoder, encode_images, encode_texts
from training.scores.evaluation import WORDING_MODES, chosen_captions
from training.scores.galleries import BARE_TEMPLATE, PLACEHOLDER, UNSTATED, Gallery, LabelledImages
from training.scores.kept_features import FeatureStore
from training.scores.metrics import Integers, text_to_image_ranks
from training.scores.outcomes import ZERO_SHOT, ZERO_SHOT_MEASURES, Outcome, retrieval_outcomes

ALL, LEAK_FREE = "all", "leak-free"


def outcomes_of(
    encoder: Encoder, test_set: Gallery | LabelledImages, batch_size: int, *, store: FeatureStore | None = None
) -> tuple[list[Outcome], Integers]:
    """Ranks of a model on a set, on all images, and where a model was trained on some, on those that are left.

    Args:
        store: keeps features, if they are kept; those of the catalog's own images and captions never are.

    Returns:
        One outcome for each way, choice of captions and choice of images, in an order that depends on the set alone;
        and the places of its images that are there and decode.

    Raises:
        InputError: none is, or none that has a caption, or features are no numbers.
    """
    of_catalog = isinstance(test_set, Gallery) and test_set.of_catalog
    model = _Model(encoder=encoder, batch_size=batch_size, store=None if of_catalog else store)
    images, places = model.images(test_set)
    if not len(places):
        raise InputError(f"none of the {len(test_set.images):,} images of {test_set.name} is there and decodes")
    seen = {place for guard in test_set.guards.values() for place in guard.seen}.intersection(places.tolist())
    subsets = {ALL: _among(places, set())} | ({LEAK_FREE: _among(places, seen)} if seen else {})
    subsets = {name: rows for name, rows in subsets.items() if len(rows)}
    encoded = _Encoded(model=model, images=images, places=places, subsets=subsets)
    made = _retrieval(encoded, test_set) if isinstance(test_set, Gallery) else _zero_shot(encoded, test_set)
    found = list(made)
    if not found:
        raise InputError(f"no image of {test_set.name} that has a caption is there and decodes")
    return found, places


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A model, and what keeps its features, if they are kept."""

    encoder: Encoder
    batch_size: int
    store: FeatureStore | None

    def images(self, test_set: Gallery | LabelledImages) -> tuple[Features, Integers]:
        names, read = test_set.images, test_set.read
        if self.store is None:
            return encode_images(self.encoder, names, read, batch_size=self.batch_size)
        return self.store.images(names, read, batch_size=self.batch_size)

    def texts(self, texts: Sequence[str]) -> Features:
        if self.store is None:
            return encode_texts(self.encoder, texts, batch_size=self.batch_size)
        return self.store.texts(texts, batch_size=self.batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoded:
    """Features of the images of a set that are there, their places in it, and the rows of each choice of images."""

    model: _Model
    images: Features
    places: Integers
    subsets: Mapping[str, Integers]


def _among(places: Integers, left_out: set[int]) -> Integers:
    """Rows of the feature matrix whose images are not left out."""
    return np.array([row for row, place in enumerate(places.tolist()) if place not in left_out], dtype=np.int64)


def _retrieval(encoded: _Encoded, gallery: Gallery) -> Iterator[Outcome]:

    texts = encoded.model.texts(gallery.captions)
    owners = np.array(gallery.owners, dtype=np.int64)
    for subset, rows in encoded.subsets.items():
        row_of = np.full(len(gallery.images), -1, dtype=np.int64)
        row_of[encoded.places[rows]] = np.arange(len(rows))
        for mode, chosen in _modes(gallery, row_of[owners] >= 0).items():
            if chosen.any():
                yield from retrieval_outcomes(
                    encoded.images[rows],
                    texts[chosen],
                    row_of[owners[chosen]],
                    captions=mode,
                    subset=subset,
                    num_dropped=len(owners) - int(chosen.sum()),
                )


def _modes(gallery: Gallery, in_gallery: Any) -> dict[str, Any]:
    """Which captions each mode takes, of images that are there: one answer a caption."""
    grouped: dict[int, list[int]] = {}
    for caption, owner in enumerate(gallery.owners):
        if in_gallery[caption]:
            grouped.setdefault(owner, []).append(caption)
    order = [caption for captions in grouped.values() for caption in captions]
    groups = [[gallery.captions[caption] for caption in captions] for captions in grouped.values()]
    modes = {}
    for mode in WORDING_MODES:
        modes[mode] = np.zeros(len(gallery.captions), dtype=bool)
        modes[mode][order] = chosen_captions(groups, mode)
    makers = np.array(gallery.made_by)
    if len(set(gallery.made_by)) > 1:
        modes |= {maker: in_gallery & (makers == maker) for maker in (HUMAN, MACHINE, UNSTATED)}
    return modes


def _zero_shot(encoded: _Encoded, test_set: LabelledImages) -> Iterator[Outcome]:

    labels = np.array(test_set.labels, dtype=np.int64)[encoded.places]
    bare = (BARE_TEMPLATE,)
    prompts = {"bare": bare} | ({"templates": tuple(test_set.templates)} if tuple(test_set.templates) != bare else {})
    for mode, templates in prompts.items():
        classes = _class_features(encoded.model, test_set.class_names, templates)
        for subset, rows in encoded.subsets.items():
            yield Outcome(
                way=ZERO_SHOT,
                captions=mode,
                images=subset,
                ranks=text_to_image_ranks(encoded.images[rows], classes, labels[rows]),
                clusters=encoded.places[rows],
                num_right=np.ones(len(rows), dtype=np.int64),
                gallery_size=len(classes),
                num_dropped=len(test_set.images) - len(rows),
                measures=ZERO_SHOT_MEASURES,
            )


def _class_features(model: _Model, class_names: Sequence[str], templates: Sequence[str]) -> Features:
    """Unit features of classes: the mean, over templates, of the features of a class's texts, shape (classes, dim)."""
    texts = [template.replace(PLACEHOLDER, name) for name in class_names for template in templates]
    features = model.texts(texts)
    means = features.reshape(len(class_names), len(templates), -1).mean(axis=1)
    units: Features = means / np.linalg.norm(means, axis=1, keepdims=True)
    return units
