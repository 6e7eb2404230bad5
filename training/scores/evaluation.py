"""Score a model on a split of a dataset, and rank its queries on any test set."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.base.errors import InputError
from data_catalog.rows.origins import HUMAN, MACHINE
from training.config import EvaluateConfig
from training.data.features import FeatureStore, image_features, text_features
from training.data.images import Features
from training.data.pairs import Integers, PairFiles, read_captions, refuse_leaks, split_to_score
from training.runs.processes import prepare_for_torch
from training.scores.galleries import BARE_TEMPLATE, PLACEHOLDER, UNSTATED, Gallery, LabelledImages
from training.scores.metrics import text_to_image_ranks
from training.scores.score import Outcome, Score, Scores, retrieval_outcomes, scores_of
from training.towers.model import load_model

WORDING_MODES = ("all", "one", "distinct")
ALL, LEAK_FREE = "all", "leak-free"


def evaluate(files: PairFiles, model_dir: Path, config: EvaluateConfig) -> Scores:
    """Score a model on the images of one split, which form the gallery.

    Args:
        files: pair shards by split.
        model_dir: the model folder.
        config: settings of scoring.

    Raises:
        SettingsError: the split has no images.
        InputError: there is no trained model, or splits overlap.
        DamagedError: a shard cannot be read, or the model's files are damaged.
    """
    prepare_for_torch()
    split = split_to_score(files, config.split)
    paths = files.of(split)
    captions = [list(texts) for texts in read_captions(paths).to_pylist()]
    refuse_leaks(files)
    model = load_model(model_dir)
    images = image_features(model, paths, batch_size=config.batch_size)
    texts = text_features(model, [text for group in captions for text in group], batch_size=config.batch_size)
    scores = retrieval_scores(images, texts, captions, config)
    return Scores(split=split, model_sha256=model.sha256, scores=tuple(scores))


def retrieval_scores(
    images: Features, texts: Features, captions: Sequence[Sequence[str]], config: EvaluateConfig
) -> Iterator[Score]:
    """Yield every retrieval metric in both directions, for each caption mode that selects any caption.

    Args:
        images: unit rows, shape (images, dim).
        texts: unit rows of all captions, image by image, shape (captions, dim).
        captions: the captions of each image.
        config: settings of scoring.
    """
    owners = np.repeat(np.arange(len(captions)), [len(group) for group in captions])
    for mode in WORDING_MODES:
        chosen = np.array(chosen_captions(captions, mode), dtype=bool)
        if chosen.any():
            left_out = len(owners) - int(chosen.sum())
            outcomes = retrieval_outcomes(images, texts[chosen], owners[chosen], captions=mode, num_dropped=left_out)
            yield from (score for outcome in outcomes for score in scores_of(outcome, config))


def chosen_captions(captions: Sequence[Sequence[str]], mode: str) -> list[bool]:
    """Return for each caption, image by image, if a caption mode selects it."""
    if mode == "one":
        return [index == 0 for group in captions for index in range(len(group))]
    if mode == "distinct":
        worded = [{wording(text) for text in group} for group in captions]
        owners = Counter(words for group in worded for words in group)
        return [owners[wording(text)] == 1 for group in captions for text in group]
    return [True for group in captions for _ in group]


def wording(text: str) -> str:
    """Return a caption without case, punctuation and spacing, to find captions with the same words."""
    return " ".join(unicodedata.normalize("NFC", text.casefold()).translate(_WORDS_ALONE).split())


class _WordsAlone(dict[int, int]):
    """A table for `str.translate` that makes spaces of punctuation, separators and control characters."""

    def __missing__(self, character: int) -> int:
        is_word = unicodedata.category(chr(character))[0] not in "PZC"
        self[character] = character if is_word else ord(" ")
        return self[character]


_WORDS_ALONE = _WordsAlone()


def outcomes_of(
    store: FeatureStore, test_set: Gallery | LabelledImages, batch_size: int
) -> tuple[list[Outcome], dict[int, bytes]]:
    """Return a model's ranks on a test set: on all images and, if a model was trained on some, on the others alone.

    Args:
        store: cache of the model's features. Images and captions of the catalog are not written to its disk cache.
        test_set: images with captions or labels.
        batch_size: images or texts that are encoded at a time.

    Returns:
        One outcome for each direction, caption mode and image choice, in an order that depends on the test set alone;
        and the sha256 of the bytes of each image that exists and decodes, by its place.

    Raises:
        InputError: no image can be read, none of those has a caption, or a feature is not finite.
    """
    if test_set.of_catalog:
        store = FeatureStore(store.encoder)
    images, there = store.images(test_set.images, test_set.read, batch_size=batch_size)
    if not there:
        raise InputError(f"none of the {len(test_set.images):,} images of {test_set.name} can be found and decoded")
    places = np.array(list(there), dtype=np.int64)
    rows = np.arange(len(places))
    subsets = {ALL: rows}
    seen = {place for guard in test_set.guards.values() for place in guard.seen}
    left = rows[~np.isin(places, list(seen))]
    if 0 < len(left) < len(rows):
        subsets[LEAK_FREE] = left
    encoded = images, places, subsets, partial(store.texts, batch_size=batch_size)
    found = list(_retrieval(test_set, *encoded) if isinstance(test_set, Gallery) else _zero_shot(test_set, *encoded))
    if not found:
        raise InputError(f"no image of {test_set.name} with a caption can be found and decoded")
    return found, there


def _retrieval(
    gallery: Gallery,
    images: Features,
    places: Integers,
    subsets: Mapping[str, Integers],
    texts_of: Callable[[Sequence[str]], Features],
) -> Iterator[Outcome]:
    texts = texts_of(gallery.captions)
    owners = np.array(gallery.owners, dtype=np.int64)
    for subset, rows in subsets.items():
        row_of = np.full(len(gallery.images), -1, dtype=np.int64)
        row_of[places[rows]] = np.arange(len(rows))
        for mode, chosen in _modes(gallery, row_of[owners] >= 0).items():
            if chosen.any():
                yield from retrieval_outcomes(
                    images[rows],
                    texts[chosen],
                    row_of[owners[chosen]],
                    captions=mode,
                    subset=subset,
                    num_dropped=len(owners) - int(chosen.sum()),
                )


def _modes(gallery: Gallery, in_gallery: Any) -> dict[str, Any]:
    """Return by caption mode which captions it selects, among those of images in the gallery."""
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


def _zero_shot(
    test_set: LabelledImages,
    images: Features,
    places: Integers,
    subsets: Mapping[str, Integers],
    texts_of: Callable[[Sequence[str]], Features],
) -> Iterator[Outcome]:
    names, labels = test_set.class_names, np.array(test_set.labels, dtype=np.int64)[places]
    prompts = {"bare": (BARE_TEMPLATE,), "templates": tuple(test_set.templates)}
    if prompts["templates"] == prompts["bare"]:
        del prompts["templates"]
    for mode, templates in prompts.items():
        texts = texts_of([template.replace(PLACEHOLDER, name) for name in names for template in templates])
        means = texts.reshape(len(names), len(templates), -1).mean(axis=1)  # mean over the templates of each class
        classes: Features = means / np.linalg.norm(means, axis=1, keepdims=True)
        for subset, rows in subsets.items():
            yield Outcome(
                way="zero_shot",
                captions=mode,
                images=subset,
                right_ranks=text_to_image_ranks(images[rows], classes, labels[rows])[:, None],
                clusters=places[rows],
                num_right=np.ones(len(rows), dtype=np.int64),
                gallery_size=len(classes),
                num_dropped=len(test_set.images) - len(rows),
            )
