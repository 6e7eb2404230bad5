"""Score several models on the same images and queries of several test sets, and compare them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_catalog.base.errors import InputError
from training.config import EvaluateConfig
from training.data.features import Encoder, FeatureStore
from training.scores.evaluation import outcomes_of
from training.scores.galleries import Gallery, LabelledImages
from training.scores.rows import TextLanguage
from training.scores.score import Difference, Outcome, Score, differences_of, scores_of

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
_NAMED_LEAKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelToScore:
    """A model to be scored.

    Args:
        name: name under which its scores are listed.
        open: loads the model. Only one model at a time is in memory.
        trained_on: its training data, or "unknown".
    """

    name: str
    open: Callable[[], Encoder]
    trained_on: str = UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Facts about a model that are listed with its scores.

    Args:
        name: name under which its scores are listed.
        origin: source of its weights, and the beginning of their sha256.
        trained_on: its training data, or "unknown".
        tensors_sha256: hash of the loaded weights (`encoders.tensors_sha256`), which is comparable between models that
            were loaded in the same way. None if it is not known.
        files: name and sha256 of the config and tokenizer files in its folder, if it has one.
    """

    name: str
    origin: str
    trained_on: str
    tensors_sha256: str | None = None
    files: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFacts:
    """Facts about a test set that are listed with its scores.

    Args:
        name: name under which scores are listed.
        task: "retrieval" or "zero-shot".
        num_images: images that were scored.
        num_texts: captions of those images, or classes.
        num_missing: images that are missing or do not decode. They and their captions are left out.
        compared: what the set was compared by with a model's training images, by model name. Nothing is known about
            models that are not listed.
        leaked: scored images that a model was trained on, with the reason, by model name.
        alike: scored images that look like a model's training image, with the reason, by model name.
        notes: remarks, a sentence each.
        files: name and sha256 of each file that it was read from.
        language: language of its texts. None if it was not checked.
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
    """A score of one model on one test set."""

    model: str
    test_set: str
    score: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedEntry:
    """The difference between a model's score and the first model's on one test set."""

    model: str
    first: str
    test_set: str
    difference: Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoreboard:
    """The scores of a scoreboard, in the order of test sets and models.

    Args:
        settings: settings of the scoring.
        models: facts about each model.
        sets: facts about each test set.
        entries: all scores.
        differences: differences from the first model.
    """

    settings: Mapping[str, Any]
    models: tuple[ModelFacts, ...]
    sets: tuple[SetFacts, ...]
    entries: tuple[Entry, ...]
    differences: tuple[PairedEntry, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return asdict(self)


def refuse_seen(sets: Sequence[Gallery | LabelledImages], models: Sequence[ModelToScore]) -> None:
    """Raise if a model was trained on an image of a test set, as far as is known.

    Raises:
        InputError: a model was trained on one. The message has their number, and names the first ones.
    """
    names = {model.name for model in models}
    for test_set in sets:
        for model, guard in test_set.guards.items():
            sure = [place for place in sorted(guard.seen) if guard.seen[place].is_sure]
            if sure and model in names:
                first = "; ".join(f"{test_set.images[place]}: {guard.seen[place].why}" for place in sure[:_NAMED_LEAKS])
                raise InputError(
                    f"{len(sure):,} of the {len(test_set.images):,} images of {test_set.name} are among those that "
                    f"{model} was trained on ({first}), so its scores would be too high. Use --report-anyway to score "
                    "all images and the leak-free ones side by side"
                )


def score_models(
    models: Sequence[ModelToScore],
    sets: Sequence[Gallery | LabelledImages],
    config: EvaluateConfig,
    *,
    cache: Path | None = None,
) -> Scoreboard:
    """Score every model on every test set, and compare the others with the first model.

    If a model was trained on images of a set, all models are scored on all images, and again without those images.

    Args:
        models: the models; the first one is the reference.
        sets: the test sets.
        config: settings of scoring.
        cache: folder of the feature cache. None caches in memory only.

    Raises:
        InputError: a model cannot be loaded, its features are not finite, or no image of a set can be read.
    """
    found: dict[tuple[str, str], list[Outcome]] = {}
    facts: list[ModelFacts] = []
    there: dict[str, dict[int, bytes]] = {}
    for model in models:
        encoder = model.open()
        store = FeatureStore(encoder, cache)
        facts.append(model_facts(model, encoder))
        for test_set in sets:
            logger.info("%s: %s", test_set.name, model.name)
            outcomes, there[test_set.name] = outcomes_of(store, test_set, config.batch_size)
            found[test_set.name, model.name] = outcomes
        del encoder, store  # free the memory before the next model is loaded
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
        sets=tuple(set_facts(test_set, there[test_set.name]) for test_set in sets),
        entries=tuple(entries),
        differences=tuple(differences),
    )


def model_facts(model: ModelToScore, encoder: Encoder) -> ModelFacts:
    """Return the facts about a model that are listed with its scores."""
    return ModelFacts(
        name=model.name,
        origin=encoder.origin,
        trained_on=model.trained_on,
        tensors_sha256=encoder.tensors_sha256,
        files=encoder.files,
    )


def set_facts(test_set: Gallery | LabelledImages, there: Mapping[int, bytes]) -> SetFacts:
    """Return the facts about a test set that are listed with its scores.

    Args:
        test_set: the test set.
        there: sha256 of the bytes of each scored image, by its place.
    """
    leaked: dict[str, dict[str, str]] = {}
    alike: dict[str, dict[str, str]] = {}
    for model, guard in test_set.guards.items():
        leaked[model], alike[model] = {}, {}
        for place in sorted(there.keys() & guard.seen.keys()):
            matches = leaked if guard.seen[place].is_sure else alike
            matches[model][test_set.images[place]] = guard.seen[place].why
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
        notes=(*test_set.notes, *_duplicates_note(test_set, there)),
        files=test_set.files,
        language=test_set.language,
    )


def _duplicates_note(test_set: Gallery | LabelledImages, there: Mapping[int, bytes]) -> tuple[str, ...]:
    """Return a note on images of a set that have the same bytes; for labelled images, only if their classes differ.

    No model can distinguish equal images, so they lower its scores.

    Args:
        test_set: the test set.
        there: sha256 of the bytes of each scored image, by its place.
    """
    alike: dict[bytes, dict[str, None]] = {}
    for place, digest in there.items():
        alike.setdefault(digest, {})[test_set.images[place]] = None  # the same name twice is not a duplicate
    groups = [list(group) for group in alike.values() if len(group) > 1]
    meaning = "so they cannot be distinguished, and their captions never rank their own image first"
    if isinstance(test_set, LabelledImages):
        labels = dict(zip(test_set.images, test_set.labels, strict=True))
        groups = [group for group in groups if len({labels[name] for name in group}) > 1]
        meaning = "but different classes, so at most one of them can be right"
    if not groups:
        return ()
    count = sum(map(len, groups))
    return (f"{count:,} images have the same bytes as another of the set ({groups[0][0]}, {groups[0][1]}), {meaning}",)
