"""Scores of several models on several sets, on the same images and with the same queries, and how they differ."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from data_catalog.errors import InputError
from training.config import EvaluateConfig
from training.scores.encoders import Encoder
from training.scores.galleries import Gallery, Guard, LabelledImages, TextLanguage
from training.scores.kept_features import FeatureStore
from training.scores.metrics import Integers
from training.scores.model_outcomes import outcomes_of
from training.scores.outcomes import Outcome, differences_of, scores_of
from training.scores.score import Score, ScoreDifference

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
    difference: ScoreDifference


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
    differences: tuple[PairedEntry, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a JSON file."""
        return asdict(self)


class WatchedReader:
    """Reads a set's images as it does, and remembers what each one's bytes were."""

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._read = read
        self._digests: dict[str, bytes] = {}

    def read(self, name: str) -> bytes:
        """See `Gallery.read`; may be called from several threads."""
        raw = self._read(name)
        self._digests[name] = hashlib.blake2b(raw, digest_size=16).digest()
        return raw

    def groups(self, names: Iterable[str]) -> list[list[str]]:
        """Those of the names, two or more together, that had the same bytes when they were read."""
        found: dict[bytes, list[str]] = {}
        for name in dict.fromkeys(names):
            if name in self._digests:
                found.setdefault(self._digests[name], []).append(name)
        return [group for group in found.values() if len(group) > 1]


def copies_note(test_set: Gallery | LabelledImages, there: Iterable[int], watched: WatchedReader) -> tuple[str, ...]:
    """A sentence on the copies of a set, if there are any that count: of classes, those with more than one class.

    No model can tell pictures apart that a set has twice, under two names, so that it looks worse than it is.

    Args:
        test_set: whose images were read.
        there: places of those that were scored.
        watched: what read them.
    """
    groups = watched.groups(test_set.images[place] for place in sorted(there))
    if isinstance(test_set, LabelledImages):
        labels = dict(zip(test_set.images, test_set.labels, strict=True))
        groups = [group for group in groups if len({labels[name] for name in group}) > 1]
        meaning = "under different classes: one of them at most can be found right"
    else:
        meaning = "so nothing tells them apart: captions of theirs never find their own image first"
    if not groups:
        return ()
    count = sum(map(len, groups))
    return (f"{count:,} images have the same bytes as another of the set ({groups[0][0]}, {groups[0][1]}), {meaning}",)


def refuse_seen(sets: Sequence[Gallery | LabelledImages], models: Sequence[Contestant]) -> None:
    """Make sure that no model was trained on an image of a set.

    Raises:
        InputError: one was, as far as is known; says on how many, and which the first ones are.
    """
    names = {model.name for model in models}
    for test_set in sets:
        for model, guard in test_set.guards.items():
            sure = {place: seen.why for place, seen in sorted(guard.seen.items(), key=itemgetter(0)) if seen.is_sure}
            if sure and model in names:
                named = list(sure.items())[:_NAMED_LEAKS]
                first = "; ".join(f"{test_set.images[place]}: {why}" for place, why in named)
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
    places: dict[str, Integers] = {}
    watched = {test_set.name: WatchedReader(test_set.read) for test_set in sets}
    for model in models:
        encoder = model.open()
        store = FeatureStore(encoder, kept) if kept is not None else None
        facts.append(_model_facts(model, encoder))
        for test_set in sets:
            logger.info("%s: %s", test_set.name, model.name)
            read = replace(test_set, read=watched[test_set.name].read) if model is models[0] else test_set
            outcomes, places[test_set.name] = outcomes_of(encoder, read, config.batch_size, store=store)
            found[test_set.name, model.name] = outcomes
        del encoder, store  # one model at a time is in memory
    entries, differences = _numbers(models, sets, found, config)
    return Scoreboard(
        settings=asdict(config),
        models=tuple(facts),
        sets=tuple(_facts(test_set, places[test_set.name], watched[test_set.name]) for test_set in sets),
        entries=tuple(entries),
        differences=tuple(differences),
    )


def _numbers(
    models: Sequence[Contestant],
    sets: Sequence[Gallery | LabelledImages],
    found: Mapping[tuple[str, str], Sequence[Outcome]],
    config: EvaluateConfig,
) -> tuple[list[Entry], list[PairedEntry]]:
    """Scores of all models, and differences of all but the first from that one, set by set."""
    entries, differences = [], []
    for test_set in sets:
        first = found[test_set.name, models[0].name]
        for model in models:
            outcomes = found[test_set.name, model.name]
            scores = [score for outcome in outcomes for score in scores_of(outcome, config)]
            entries += [Entry(model=model.name, test_set=test_set.name, score=score) for score in scores]
            if model is not models[0]:
                names = {"model": model.name, "first": models[0].name, "test_set": test_set.name}
                pairs = zip(first, outcomes, strict=True)
                paired = (delta for one, other in pairs for delta in differences_of(one, other, config))
                differences += [PairedEntry(**names, difference=delta) for delta in paired]
    return entries, differences


def _model_facts(model: Contestant, encoder: Encoder) -> ModelFacts:
    return ModelFacts(
        name=model.name,
        origin=encoder.origin,
        trained_on=model.trained_on,
        tensors_sha256=encoder.tensors_sha256,
        files=encoder.files,
    )


def _facts(test_set: Gallery | LabelledImages, places: Integers, watched: WatchedReader) -> SetFacts:
    there = frozenset(places.tolist())
    return SetFacts(
        name=test_set.name,
        task="retrieval" if isinstance(test_set, Gallery) else "zero-shot",
        num_images=len(there),
        num_texts=_num_texts(test_set, there),
        num_missing=len(test_set.images) - len(there),
        compared={model: guard.ways for model, guard in test_set.guards.items()},
        leaked={model: _told(test_set, guard, there, is_sure=True) for model, guard in test_set.guards.items()},
        alike={model: _told(test_set, guard, there, is_sure=False) for model, guard in test_set.guards.items()},
        notes=(*test_set.notes, *copies_note(test_set, there, watched)),
        files=test_set.files,
        language=test_set.language,
    )


def _num_texts(test_set: Gallery | LabelledImages, there: frozenset[int]) -> int:
    if isinstance(test_set, LabelledImages):
        return len(test_set.class_names)
    return sum(owner in there for owner in test_set.owners)


def _told(test_set: Gallery | LabelledImages, guard: Guard, there: frozenset[int], *, is_sure: bool) -> dict[str, str]:
    found = [
        item
        for item in sorted(guard.seen.items(), key=itemgetter(0))
        if item[0] in there and item[1].is_sure == is_sure
    ]
    return {test_set.images[place]: seen.why for place, seen in found}
