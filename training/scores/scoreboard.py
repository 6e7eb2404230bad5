"""Scores of several models on several sets, on the same images and with the same queries, and how they differ."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_catalog.errors import InputError
from training.config import EvaluateConfig
from training.data.features import Encoder, FeatureStore
from training.scores.evaluation import outcomes_of
from training.scores.galleries import Gallery, LabelledImages, TextLanguage
from training.scores.score import Difference, Outcome, Score, differences_of, scores_of

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
_NAMED_LEAKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A model to be scored.

    Args:
        name: under which its scores stand.
        open: loads it; one model at a time is in memory.
        trained_on: what it was trained on, or "unknown".
    """

    name: str
    open: Callable[[], Encoder]
    trained_on: str = UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is told of a model beside its scores.

    Args:
        name: under which they stand.
        origin: where its weights are from, and the beginning of a sha256 of them.
        trained_on: what it was trained on, or "unknown".
        tensors_sha256: of the weights as they were loaded (`encoders.tensors_sha256`), by which models compare that
            were loaded in one way; None: not known.
        files: name and sha256 of configs and tokenizers that lie in its folder, if it has one.
    """

    name: str
    origin: str
    trained_on: str
    tensors_sha256: str | None = None
    files: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFacts:
    """What is told of a set beside its scores.

    Args:
        task: "retrieval" or "zero-shot".
        num_images: that were scored.
        num_texts: captions of those, or classes.
        num_missing: images that are not there, or do not decode; they and their captions are left out.
        compared: by name of the model, by what its training images were compared with the set; of a model that is not
            named nothing is known.
        leaked: by name of the model, scored images that it was trained on, and how that is known.
        alike: likewise, scored images that look like one that it was trained on.
        notes: sentences.
        files: name and sha256 of each file that it was read from.
        language: that its texts are in; None: nobody looked.
    """

    name: str
    task: str
    num_images: int
    num_texts: int
    num_missing: int
    compared: Mapping[str, tuple[str, ...]]
    leaked: Mapping[str, Mapping[str, str]]
    alike: Mapping[str, Mapping[str, str]]
    notes: tuple[str, ...]
    files: tuple[Mapping[str, str], ...]
    language: TextLanguage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One score of one model on one set."""

    model: str
    test_set: str
    score: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedEntry:
    """By how much a model's score lies above the first model's."""

    model: str
    first: str
    test_set: str
    difference: Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoreboard:
    """All numbers of a run, in the order of sets and models.

    Args:
        settings: of the scoring.
    """

    settings: Mapping[str, Any]
    models: tuple[ModelFacts, ...]
    sets: tuple[SetFacts, ...]
    entries: tuple[Entry, ...]
    differences: tuple[PairedEntry, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a JSON file."""
        return asdict(self)


def refuse_seen(sets: Sequence[Gallery | LabelledImages], models: Sequence[Contestant]) -> None:
    """Make sure that no model was trained on an image of a set.

    Raises:
        InputError: one was, as far as is known; says on how many, and which the first ones are.
    """
    names = {model.name for model in models}
    for test_set in sets:
        for model, guard in test_set.guards.items():
            sure = [place for place in sorted(guard.seen) if guard.seen[place].is_sure]
            if sure and model in names:
                first = "; ".join(f"{test_set.images[place]}: {guard.seen[place].why}" for place in sure[:_NAMED_LEAKS])
                raise InputError(
                    f"{len(sure):,} of the {len(test_set.images):,} images of {test_set.name} are among those that "
                    f"{model} was trained on ({first}): its numbers would be of its memory. With --report-anyway all "
                    "images and those that are left are scored side by side"
                )


def score_models(
    models: Sequence[Contestant],
    sets: Sequence[Gallery | LabelledImages],
    config: EvaluateConfig,
    *,
    kept: Path | None = None,
) -> Scoreboard:
    """Score every model on every set; the first model is what the others are compared with.

    Where a model was trained on images of a set, all models are scored on all images, and on those that none of them
    was trained on.

    Args:
        kept: where features are kept between runs, if they are.

    Raises:
        InputError: a model cannot be had, makes features that are no numbers, or none of a set's images is there.
    """
    found: dict[tuple[str, str], list[Outcome]] = {}
    facts: list[ModelFacts] = []
    there: dict[str, dict[int, bytes]] = {}
    for model in models:
        encoder = model.open()
        store = FeatureStore(encoder, kept)
        facts.append(
            ModelFacts(
                name=model.name,
                origin=encoder.origin,
                trained_on=model.trained_on,
                tensors_sha256=encoder.tensors_sha256,
                files=encoder.files,
            )
        )
        for test_set in sets:
            logger.info("%s: %s", test_set.name, model.name)
            outcomes, there[test_set.name] = outcomes_of(store, test_set, config.batch_size)
            found[test_set.name, model.name] = outcomes
        del encoder, store  # one model at a time is in memory
    entries: list[Entry] = []
    differences: list[PairedEntry] = []
    for test_set in sets:
        first = found[test_set.name, models[0].name]
        for model in models:
            outcomes = found[test_set.name, model.name]
            scores = [score for outcome in outcomes for score in scores_of(outcome, config)]
            entries += [Entry(model=model.name, test_set=test_set.name, score=score) for score in scores]
            if model is not models[0]:
                pairs = zip(first, outcomes, strict=True)
                differences += [
                    PairedEntry(model=model.name, first=models[0].name, test_set=test_set.name, difference=delta)
                    for one, other in pairs
                    for delta in differences_of(one, other, config)
                ]
    return Scoreboard(
        settings=asdict(config),
        models=tuple(facts),
        sets=tuple(_facts(test_set, there[test_set.name]) for test_set in sets),
        entries=tuple(entries),
        differences=tuple(differences),
    )


def _facts(test_set: Gallery | LabelledImages, there: Mapping[int, bytes]) -> SetFacts:
    leaked: dict[str, dict[str, str]] = {}
    alike: dict[str, dict[str, str]] = {}
    for model, guard in test_set.guards.items():
        leaked[model], alike[model] = {}, {}
        for place in sorted(there.keys() & guard.seen.keys()):
            told = leaked if guard.seen[place].is_sure else alike
            told[model][test_set.images[place]] = guard.seen[place].why
    if isinstance(test_set, Gallery):
        task, num_texts = "retrieval", sum(owner in there for owner in test_set.owners)
    else:
        task, num_texts = "zero-shot", len(test_set.class_names)
    return SetFacts(
        name=test_set.name,
        task=task,
        num_images=len(there),
        num_texts=num_texts,
        num_missing=len(test_set.images) - len(there),
        compared={model: guard.ways for model, guard in test_set.guards.items()},
        leaked=leaked,
        alike=alike,
        notes=(*test_set.notes, *_copies_note(test_set, there)),
        files=test_set.files,
        language=test_set.language,
    )


def _copies_note(test_set: Gallery | LabelledImages, there: Mapping[int, bytes]) -> tuple[str, ...]:
    """Return a sentence on the copies of a set, if any count: of classes, those with more than one class.

    No model can tell pictures apart that a set has twice, under two names, so that it looks worse than it is.

    Args:
        there: the sha256 of the bytes of the images that were scored, by their places.
    """
    alike: dict[bytes, dict[str, None]] = {}
    for place, digest in there.items():
        alike.setdefault(digest, {})[test_set.images[place]] = None  # a name that is there twice is no copy
    groups = [list(group) for group in alike.values() if len(group) > 1]
    meaning = "so nothing tells them apart: captions of theirs never find their own image first"
    if isinstance(test_set, LabelledImages):
        labels = dict(zip(test_set.images, test_set.labels, strict=True))
        groups = [group for group in groups if len({labels[name] for name in group}) > 1]
        meaning = "under different classes: one of them at most can be found right"
    if not groups:
        return ()
    count = sum(map(len, groups))
    return (f"{count:,} images have the same bytes as another of the set ({groups[0][0]}, {groups[0][1]}), {meaning}",)
