"""Scores a trained model: retrieval both ways on the held-out images of a dataset."""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from training.config import EvaluateConfig
from training.data.features import Features, image_features, text_features
from training.data.pairs import PairFiles, read_captions, refuse_leaks, split_to_score
from training.processes import let_threads_sleep
from training.scores.outcomes import retrieval_outcomes, scores_of
from training.scores.score import Score, Scores
from training.towers.model import load_model

WORDING_MODES = ("all", "one", "distinct")


def evaluate(files: PairFiles, model_dir: Path, config: EvaluateConfig) -> Scores:
    """Score a model on the images of one split, which is the gallery.

    Raises:
        SettingsError: no images in the split.
        InputError: no trained model, or splits that overlap.
        DamagedError: a shard cannot be read, or the model's files are damaged.
    """
    let_threads_sleep()
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
    """MRR and R at each cutoff, both ways, in each caption mode that finds any caption.

    Args:
        images: unit rows, shape (images, dim).
        texts: unit rows of all captions, image by image, shape (captions, dim).
        captions: the captions of each image.
    """
    owners = np.repeat(np.arange(len(captions)), [len(group) for group in captions])
    for mode in WORDING_MODES:
        chosen = np.array(chosen_captions(captions, mode), dtype=bool)
        if chosen.any():
            left_out = len(owners) - int(chosen.sum())
            outcomes = retrieval_outcomes(images, texts[chosen], owners[chosen], captions=mode, num_dropped=left_out)
            yield from (score for outcome in outcomes for score in scores_of(outcome, config))


def chosen_captions(captions: Sequence[Sequence[str]], mode: str) -> list[bool]:
    """Which captions, image by image, a caption mode takes: one answer a caption."""
    if mode == "one":
        return [index == 0 for group in captions for index in range(len(group))]
    if mode == "distinct":
        told = [{wording(text) for text in group} for group in captions]
        owners = Counter(words for group in told for words in group)
        return [owners[wording(text)] == 1 for group in captions for text in group]
    return [True for group in captions for _ in group]


def wording(text: str) -> str:
    """A caption's words without case, punctuation and spacing: equal wordings say the same of their images."""
    folded = unicodedata.normalize("NFC", text.casefold())
    return " ".join("".join(" " if unicodedata.category(c)[0] in "PZC" else c for c in folded).split())
