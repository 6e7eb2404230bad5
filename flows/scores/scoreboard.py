"""A scoreboard of several models: what is scored, whether that was trained on, and the files it is written to."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cleaning.languages.engines import canonical_code
from cleaning.leaks import LeaksConfig
from cleaning.seen_images import SeenImages
from data_catalog.errors import SettingsError
from data_catalog.storage.disk_errors import make_writable_folder
from data_catalog.storage.manifest import current_snapshots, require_snapshot
from data_catalog.storage.reading import open_to_readers
from data_catalog.storage.roots import KEPT_FEATURES
from flows.recipe.language_packs import language_pack, language_packs_of, named_language_packs
from flows.recipe.recipe import Recipe
from flows.scores.scored_models import (
    NamedModel,
    contestant,
    english_models,
    named_models,
    own_models,
    require_different,
)
from flows.scores.scored_sets import ScoredSet, named_sets, recipe_sets, sets_of_protocol, with_language
from flows.scores.translated_captions import CaptionTranslator
from training.config import EvaluateConfig
from training.data.pairs import split_to_score
from training.scores.galleries import Guard, Seen, held_out_gallery
from training.scores.scoreboard import refuse_seen, score_models
from training.scores.scoreboard_files import Section, write_scoreboard
from training.threads import let_threads_sleep
from training.trained_models import TrainedModel, model_of_folder, pair_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a scoreboard is asked for.

    Args:
        root: of the catalog.
        out: folder of the results.
        cache_dir: where packed translation models are unpacked.
        language: of the captions and class names.
        recipe: whose model and sets are scored; None: only what is named.
        evaluate: settings of the scoring.
        models: `--model` and what follows it, each.
        english: what follows `--english`.
        test_sets: `--test-set` and what follows it, each.
        protocol: what follows `--protocol`.
        language_packs: files of packs of the user's.
        has_split: whether the dataset's own held-out split is scored.
        report_anyway: whether images that a model was trained on are scored, beside those that are left.
    """

    root: Path
    out: Path
    cache_dir: Path
    language: str
    recipe: Recipe | None = None
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    models: Sequence[Sequence[str]] = ()
    english: Sequence[str] | None = None
    test_sets: Sequence[Sequence[str]] = ()
    protocol: Sequence[str] | None = None
    language_packs: Sequence[str] = ()
    has_split: bool = True
    report_anyway: bool = False


def make_scoreboard(question: Question) -> list[Section]:
    """Score all models on all sets, and write `scoreboard.json`, `scoreboard.md` and `scoreboard.png`.

    Raises:
        SettingsError: there are no models or no sets.
        InputError: one of them cannot be had, or a model was trained on images of a set, unless that is to be reported.
    """
    let_threads_sleep()
    recipe, language = question.recipe, question.language
    packs = language_packs_of(question.language_packs)
    if recipe is not None:
        packs = {**named_language_packs(recipe), **packs}
    others = [*named_models(question.models), *english_models(question.english, recipe)]
    require_different([*([recipe.name] if recipe is not None else []), *(model.name for model in others)], "--model")
    models = [*own_models(recipe, question.root), *others]
    if not models:
        raise SettingsError(
            "there is no model to score: train the recipe's, or give --model NAME open_clip=... or alike"
        )
    known = {
        model.name: model_of_folder(Path(model.source), question.root) if model.kind != "transformers" else None
        for model in models
    }
    trained = {name: model for name, model in known.items() if model is not None}
    contestants = [contestant(model, language, packs, question.cache_dir, known[model.name]) for model in models]
    pack = language_pack(language, packs)
    translator = CaptionTranslator(recipe=recipe, root=question.root)
    scored = [
        *(recipe_sets(recipe.test_sets, language, translator) if recipe is not None else []),
        *named_sets(question.test_sets, language, pack, translator),
        *sets_of_protocol(question.protocol, pack),
    ]
    _require_translatable(scored, models, language)  # before images are looked at
    split = _split(question, trained)
    if not scored and split is None:
        raise SettingsError(
            "there is nothing to score on: give a recipe with a held-out split, --test-set or --protocol"
        )
    make_writable_folder(question.out, "--out")
    leaks = recipe.leaks if recipe is not None else LeaksConfig()
    seen = {name: SeenImages(model.snapshot, leaks) for name, model in trained.items()}
    found = [*([split] if split is not None else []), *(_guarded(each, seen) for each in scored)]
    require_different([each.test_set.name for each in found], "the set")
    sets = [
        with_language(each.test_set, language, language_pack(each.stated or language, packs), each.stated)
        for each in found
    ]
    if not question.report_anyway:
        refuse_seen(sets, contestants)
    board = score_models(contestants, sets, question.evaluate, kept=_features_folder(question))
    protocols = {each.test_set.name: each.protocol for each in found if each.protocol is not None}
    return write_scoreboard(board, protocols, question.out)


def _features_folder(question: Question) -> Path:
    """Return a folder in the root, where other scoreboards find it; with this one where others write the root."""
    kept = question.root / KEPT_FEATURES
    open_to_readers(question.root, [snapshot.folder for snapshot in current_snapshots(question.root)])
    is_ours = os.access(kept if kept.exists() else question.root, os.W_OK | os.X_OK)
    return kept if is_ours else question.out / KEPT_FEATURES


def _guarded(found: ScoredSet, trained_on: Mapping[str, SeenImages]) -> ScoredSet:
    """Return the set, with what each model that was trained here has seen of it."""
    test_set, guards = found.test_set, {}
    for name, images in trained_on.items():
        seen, ways = images.among(test_set.images, found.identities, test_set.read)
        told = {place: Seen(why=why, is_sure=is_sure) for place, (why, is_sure) in seen.items()}
        guards[name] = Guard(seen=told, ways=ways)
    return replace(found, test_set=replace(test_set, guards=guards))


def _require_translatable(test_sets: Sequence[ScoredSet], named: Sequence[NamedModel], language: str) -> None:
    """Refuse captions in another language, where a model is there whose texts are translated from this one."""
    asked = [model.name for model in named if model.translate is not None]
    for found in test_sets:
        if asked and found.stated is not None and canonical_code(found.stated) != canonical_code(language):
            raise SettingsError(
                f"the captions of {found.test_set.name} are in {found.stated}, as stated, and what {asked[0]} is asked "
                f"is translated from {language}: leave one of them out, and score it with --language {found.stated}"
            )


def _split(question: Question, trained: Mapping[str, TrainedModel]) -> ScoredSet | None:
    """Return the dataset's own held-out images, of the snapshot that its model was trained on or of the current one.

    None where they are not asked for, or there are none, which is logged.
    """
    recipe = question.recipe
    if recipe is None or not question.has_split:
        return None
    own = trained.get(recipe.name)
    snapshot = own.snapshot if own is not None else require_snapshot(question.root, recipe.name, recipe=recipe.called)
    try:
        split = split_to_score(pair_files(snapshot), question.evaluate.split)
    except SettingsError as error:
        logger.warning("%s itself is not scored: %s", recipe.name, error)
        return None
    name = f"{recipe.name} {split}"
    return ScoredSet(test_set=held_out_gallery(name, snapshot, split, trained, own=own), identities=())
