"""Rank the queries of a test set in its gallery, and turn the ranks into rows of scores and differences."""

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from data_catalog.base.errors import DamagedError, InputError
from data_catalog.rows.origins import HUMAN, MACHINE
from training.config import EvaluateConfig
from training.data.features import FeatureStore
from training.data.images import Features
from training.data.pairs import Integers
from training.scores.galleries import BARE_TEMPLATE, PLACEHOLDER, UNSTATED, Gallery, ImageSet, LabelledImages
from training.scores.metrics import METRICS, NDCG_CUTOFF, right_caption_ranks, text_to_image_ranks
from training.scores.rows import ALL, LEAK_FREE, ScoreRow

WORDING_MODES = (ALL, "one", "distinct")
Mask = np.ndarray[Any, np.dtype[np.bool_]]
TextsOf = Callable[[Sequence[str]], Features]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The ranks of a set of queries in a gallery."""

    way: str  # "text_to_image", "image_to_text" or "zero_shot"
    captions: str
    images: str
    right_ranks: Integers  # of the right items of each query, at most `NDCG_CUTOFF`, as `Metric` takes them
    clusters: Integers  # image of each query, shape (queries,)
    num_right: Integers  # right items in the gallery for each query, shape (queries,)
    gallery_size: int
    num_dropped: int  # queries that `captions` or `images` leave out


def retrieval_outcomes(
    images: Features, texts: Features, owners: Integers, *, captions: str, choice: str = ALL, num_dropped: int = 0
) -> Iterator[Outcome]:
    """Yield the outcomes of both directions: the image of each text, and the texts of each image that has any.

    Images and texts are unit rows, `owners` the image of each text, shape (texts,), and `num_dropped` the number of
    texts that the modes `captions` and `choice` left out before.
    """
    same: dict[str, Any] = {"captions": captions, "images": choice}
    yield Outcome(
        way="text_to_image",
        right_ranks=text_to_image_ranks(texts, images, owners)[:, None],
        clusters=owners,
        num_right=np.ones(len(owners), dtype=np.int64),
        gallery_size=len(images),
        num_dropped=num_dropped,
        **same,
    )
    queries, num_right = np.unique(owners, return_counts=True)
    yield Outcome(
        way="image_to_text",
        right_ranks=right_caption_ranks(images, texts, owners, most=NDCG_CUTOFF),
        clusters=queries,
        num_right=num_right,
        gallery_size=len(texts),
        num_dropped=len(images) - len(queries),
        **same,
    )


def score_rows(
    outcome: Outcome, config: EvaluateConfig, *, model: str, test_set: str, first: tuple[str, Outcome] | None = None
) -> Iterator[ScoreRow]:
    """Yield every metric of an outcome with its interval and chance level, or its difference from another model's.

    `first` is the other model and its outcome on the same queries. The bootstrap of differences is paired.
    """
    minus, other = first or (None, None)
    drawn = {"gallery_size": outcome.gallery_size, "rounds": config.bootstrap_rounds, "seed": config.seed}
    for metric in METRICS:
        if outcome.way in metric.ways:
            first_ranks = other.right_ranks if other is not None else None
            value, low, high = metric.estimate(outcome.right_ranks, outcome.clusters, first=first_ranks, **drawn)
            chance = metric.chance(gallery_size=outcome.gallery_size, num_right=outcome.num_right)
            yield ScoreRow(
                model=model,
                test_set=test_set,
                metric=f"{outcome.way}_{metric.name}",
                captions=outcome.captions,
                images=outcome.images,
                value=value,
                low=low,
                high=high,
                chance=chance if minus is None else 0.0,
                gallery=outcome.gallery_size,
                queries=len(outcome.clusters),
                left_out=outcome.num_dropped,
                minus=minus,
            )


def outcomes_of(
    store: FeatureStore, test_set: Gallery | LabelledImages, batch_size: int
) -> tuple[list[Outcome], dict[int, bytes]]:
    """Return a model's ranks on a test set: on all images and, if a model was trained on some, on the others alone.

    There is one outcome for each direction, caption mode and image choice, in an order that depends on the test set
    alone. With them comes the sha256 of the bytes of each image that exists and decodes, by its place.
    """
    store, images, there = read_images(store, test_set, batch_size)
    places = np.array(list(there), dtype=np.int64)
    texts_of = partial(store.texts, batch_size=batch_size)
    choices = image_choices(test_set, places)
    if isinstance(test_set, LabelledImages):
        return list(_zero_shot(test_set, images, places, choices, texts_of)), there
    found = list(_retrieval(test_set, images, places, choices, texts_of))
    if not found:
        raise InputError(f"no image of {test_set.name} with a caption can be found and decoded")
    return found, there


def read_images(
    store: FeatureStore, test_set: ImageSet, batch_size: int
) -> tuple[FeatureStore, Features, dict[int, bytes]]:
    """Return the features of a set's images that exist and decode, and the sha256 of their bytes by place.

    Images of the catalog must all decode. Of them nothing is cached on disk, where a take-down would not find it: the
    store that is returned, which is for their captions too, is then another one.
    """
    if test_set.of_catalog:
        store = FeatureStore(store.encoder)
    images, there = store.images(test_set.images, test_set.read, batch_size=batch_size)
    if test_set.of_catalog and (missing := len(test_set.images) - len(there)):
        raise DamagedError(f"{missing:,} images of {test_set.name} do not decode: run `vernaclip verify`")
    if not there:
        raise InputError(f"none of the {len(test_set.images):,} images of {test_set.name} can be found and decoded")
    return store, images, there


def image_choices(test_set: ImageSet, places: Integers) -> dict[str, Mask]:
    """Return by image choice which of some places are chosen: all, and the unseen ones if a model saw some."""
    seen = [place for guard in test_set.guards.values() for place in guard.seen]
    is_new = ~np.isin(places, seen)
    choices = {ALL: np.ones(len(places), dtype=bool)}
    return choices | {LEAK_FREE: is_new} if 0 < is_new.sum() < len(places) else choices


def _retrieval(
    gallery: Gallery, images: Features, places: Integers, choices: Mapping[str, Mask], texts_of: TextsOf
) -> Iterator[Outcome]:
    texts, owners = texts_of(gallery.captions), np.array(gallery.owners, dtype=np.int64)
    for choice, some in choices.items():
        row_of = np.full(len(gallery.images), -1, dtype=np.int64)
        row_of[places[some]] = np.arange(some.sum())
        for mode, chosen in caption_modes(gallery, owners, row_of[owners] >= 0).items():
            if chosen.any():
                rows, num_dropped = row_of[owners[chosen]], len(owners) - int(chosen.sum())
                yield from retrieval_outcomes(
                    images[some], texts[chosen], rows, captions=mode, choice=choice, num_dropped=num_dropped
                )


def caption_modes(gallery: Gallery, owners: Integers, in_gallery: Mask) -> dict[str, Mask]:
    """Return by caption mode which captions it selects, among those of images in the gallery."""
    some = np.flatnonzero(in_gallery)
    captions, modes = [gallery.captions[caption] for caption in some.tolist()], {}
    for mode in WORDING_MODES:
        modes[mode] = np.zeros(len(owners), dtype=bool)
        modes[mode][some] = chosen_captions(captions, owners[some], mode)
    makers = np.array(gallery.made_by)
    if len(set(gallery.made_by)) > 1:
        modes |= {maker: in_gallery & (makers == maker) for maker in (HUMAN, MACHINE, UNSTATED)}
    return modes


def chosen_captions(captions: Sequence[str], owners: Integers, mode: str) -> Mask:
    """Return for each caption, given the image of each, if a mode of `WORDING_MODES` selects it."""
    chosen = np.ones(len(captions), dtype=bool)
    if mode == "one":
        chosen[:] = False
        chosen[np.unique(owners, return_index=True)[1]] = True
    elif mode == "distinct":
        words = [wording(caption) for caption in captions]
        images: dict[str, set[int]] = {}
        for text, owner in zip(words, owners.tolist(), strict=True):
            images.setdefault(text, set()).add(owner)
        chosen[:] = [len(images[text]) == 1 for text in words]
    return chosen


def wording(text: str) -> str:
    """Return a caption without case, punctuation and spacing, to find captions with the same words."""
    return " ".join("".join(map(_letter, unicodedata.normalize("NFC", text.casefold()))).split())


@cache
def _letter(character: str) -> str:
    """Return a space instead of punctuation, separators and control characters."""
    return character if unicodedata.category(character)[0] not in "PZC" else " "


def _zero_shot(
    test_set: LabelledImages, images: Features, places: Integers, choices: Mapping[str, Mask], texts_of: TextsOf
) -> Iterator[Outcome]:
    names, labels = test_set.class_names, np.array(test_set.labels, dtype=np.int64)[places]
    prompts = {"bare": (BARE_TEMPLATE,), "templates": tuple(test_set.templates)}
    if prompts["templates"] == prompts["bare"]:
        del prompts["templates"]
    for mode, templates in prompts.items():
        texts = texts_of([template.replace(PLACEHOLDER, name) for name in names for template in templates])
        means = texts.reshape(len(names), len(templates), -1).mean(axis=1)  # mean over the templates of each class
        classes: Features = means / np.linalg.norm(means, axis=1, keepdims=True)
        for choice, some in choices.items():
            yield Outcome(
                way="zero_shot",
                captions=mode,
                images=choice,
                right_ranks=text_to_image_ranks(images[some], classes, labels[some])[:, None],
                clusters=places[some],
                num_right=np.ones(int(some.sum()), dtype=np.int64),
                gallery_size=len(classes),
                num_dropped=len(test_set.images) - int(some.sum()),
            )
