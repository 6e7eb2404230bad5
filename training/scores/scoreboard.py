"""Score models on the same images and queries of test sets, and compare them with the first one."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from data_catalog.base.errors import InputError
from training.config import EvaluateConfig
from training.data.features import Encoder, FeatureStore
from training.data.pairs import PairFiles, refuse_leaks, split_to_score
from training.runs.processes import prepare_for_torch
from training.scores.encoders import open_model_folder
from training.scores.evaluation import Outcome, outcomes_of, score_rows
from training.scores.galleries import Gallery, ImageSet, LabelledImages, pairs_gallery
from training.scores.rows import UNKNOWN, VALIDATED, Board, ModelFacts, ScoreRow, SetFacts

logger = logging.getLogger(__name__)

_NAMED_LEAKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelToScore:
    """A model to be scored; `open` loads it, since only one model at a time is in memory."""

    name: str
    open: Callable[[], Encoder]
    trained_on: str = UNKNOWN


def evaluate(files: PairFiles, model_dir: Path, config: EvaluateConfig) -> Board:
    """Score a model on the images of one split of its dataset, which form the gallery."""
    prepare_for_torch()
    split = split_to_score(files, config.split)
    refuse_leaks(files)
    gallery = pairs_gallery(split, files.of(split))
    if split == "val":
        gallery = replace(gallery, notes=(*gallery.notes, VALIDATED))
    model = ModelToScore(name=model_dir.name, open=lambda: open_model_folder(model_dir, model_dir.name))
    return score_models([model], [gallery], config)


def refuse_seen(sets: Sequence[ImageSet], models: Sequence[ModelToScore]) -> None:
    """Raise if a model was trained on an image of a test set, as far as is known."""
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
) -> Board:
    """Score every model on every test set, and compare the others with the first model.

    If a model was trained on images of a set, all models are scored on all images, and again without those images. The
    folder `cache` has features of earlier calls; None caches in memory only.
    """
    facts, found = [], dict[tuple[str, str], tuple[list[Outcome], dict[int, bytes]]]()
    for model in models:
        encoder = model.open()
        facts.append(
            ModelFacts(
                name=model.name,
                origin=encoder.origin,
                trained_on=model.trained_on,
                tensors_sha256=encoder.tensors_sha256,
                files=encoder.files,
            )
        )
        store = FeatureStore(encoder, cache)
        for each in sets:
            logger.info("%s: %s", each.name, model.name)
            found[each.name, model.name] = outcomes_of(store, each, config.batch_size)
        del encoder, store  # free the memory before the next model is loaded
    first, scores, differences = models[0].name, list[ScoreRow](), list[ScoreRow]()
    for test_set in sets:
        reference = found[test_set.name, first][0]
        for model in models:
            rows = partial(score_rows, config=config, model=model.name, test_set=test_set.name)
            for one, outcome in zip(reference, found[test_set.name, model.name][0], strict=True):
                scores += rows(outcome)
                differences += rows(outcome, first=(first, one)) if model.name != first else ()
    return Board(
        rows=(*scores, *differences),
        models=tuple(facts),
        sets=tuple(_set_facts(test_set, found[test_set.name, first][1]) for test_set in sets),
        settings=asdict(config),
    )


def _set_facts(test_set: Gallery | LabelledImages, there: Mapping[int, bytes]) -> SetFacts:
    """Return the facts about a test set, given the sha256 of each scored image by its place."""
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
    """Return a note on images with equal bytes, which no model can distinguish; labelled ones if classes differ."""
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
