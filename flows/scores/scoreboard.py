"""A scoreboard of several models: what is scored, whether that was trained on, and the files it is written to."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from cleaning.languages.engines import canonical_code
from cleaning.leaks import LeaksConfig
from data_catalog.errors import DamagedError, PipelineError, SettingsError
from data_catalog.language_pack import LanguagePack
from data_catalog.storage.disk_errors import make_writable_folder
from data_catalog.storage.manifest import Snapshot, current_snapshots, require_snapshot
from data_catalog.storage.reading import open_to_readers
from data_catalog.storage.roots import KEPT_FEATURES
from data_catalog.storage.shards import write_bytes, write_json
from flows.recipe.language_packs import language_pack, language_packs_of, named_language_packs
from flows.recipe.recipe import Recipe
from flows.scores.scored_models import (
    NamedModel,
    contestant,
    english_models,
    named_models,
    own_contestant,
    own_model,
    require_different,
    trained_model,
)
from flows.scores.scored_sets import ScoredSet, named_sets, protocol_sets, recipe_sets, with_language
from flows.scores.seen_images import SEEN_SPLITS, TrainingImages
from flows.scores.translated_captions import CaptionTranslator
from training.config import EvaluateConfig
from training.data import seen_in_training, split_to_score
from training.encoders import PACKAGES
from training.galleries import Guard, Seen, pairs_gallery
from training.protocols import Protocol
from training.scoreboard import Contestant, Scoreboard, refuse_seen, score_models
from training.scoreboard_plot import write_scoreboard_plot
from training.scoreboard_tables import Section, markdown, sections
from training.threads import let_threads_sleep
from training.trained_models import TrainedModel, pair_files

logger = logging.getLogger(__name__)

VALIDATED = "the epoch whose weights were kept was chosen on these images, which flatters the model"
JSON_FILE, MARKDOWN_FILE, PLOT_FILE = "scoreboard.json", "scoreboard.md", "scoreboard.png"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreboardReport:
    """A scoreboard, as tables and in files."""

    board: Scoreboard
    sections: Sequence[Section]
    folder: Path


def make_scoreboard(question: Question) -> ScoreboardReport:
    """Score all models on all sets, and write `scoreboard.json`, `scoreboard.md` and `scoreboard.png`.

    Raises:
        SettingsError: there are no models or no sets.
        InputError: one of them cannot be had, or a model was trained on images of a set, unless that is to be reported.
    """
    let_threads_sleep()
    packs = {**language_packs_of(question.language_packs)}
    if question.recipe is not None:
        packs = {**named_language_packs(question.recipe), **packs}
    named = [*named_models(question.models), *english_models(question.english, question.recipe)]
    trained = _trained_models(question, named)
    models = _contestants(question, named, trained, packs)
    scored = _sets(question, language_pack(question.language, packs))
    _require_translatable(scored, named, question.language)  # before images are looked at
    own = _split(question, trained)
    if not scored and own is None:
        raise SettingsError(
            "there is nothing to score on: give a recipe with a held-out split, --test-set or --protocol"
        )
    make_writable_folder(question.out, "--out")
    leaks = question.recipe.leaks if question.recipe is not None else LeaksConfig()
    guards = {name: TrainingImages(model.snapshot, leaks) for name, model in trained.items()}
    test_sets = [*([own] if own else []), *(_guarded(found, guards) for found in scored)]
    require_different([found.test_set.name for found in test_sets], "the set")
    test_sets = [_with_language(found, question.language, packs) for found in test_sets]
    if not question.report_anyway:
        refuse_seen([found.test_set for found in test_sets], models)
    kept = _features_folder(question)
    board = score_models(models, [found.test_set for found in test_sets], question.evaluate, kept=kept)
    protocols = {found.test_set.name: found.protocol for found in test_sets if found.protocol is not None}
    return _written(board, protocols, question.out)


def _features_folder(question: Question) -> Path:
    """In the root, where other scoreboards find them; with this one where there is none, or it is others' to write."""
    kept = question.root / KEPT_FEATURES
    open_to_readers(question.root, [snapshot.folder for snapshot in current_snapshots(question.root)])
    is_ours = os.access(kept if kept.exists() else question.root, os.W_OK | os.X_OK)
    return kept if is_ours else question.out / KEPT_FEATURES


def _trained_models(question: Question, named: Sequence[NamedModel]) -> dict[str, TrainedModel]:
    """By name, the models of which it is known what they were trained on: the recipe's own first."""
    found: dict[str, TrainedModel] = {}
    if question.recipe is not None:
        require_different([question.recipe.name, *(model.name for model in named)], "--model")
        own = own_model(question.root, question.recipe.name)
        found |= {question.recipe.name: own} if own is not None else {}
    known = {model.name: trained_model(model, question.root) for model in named}
    return found | {name: model for name, model in known.items() if model is not None}


def _contestants(
    question: Question, named: Sequence[NamedModel], trained: dict[str, TrainedModel], packs: dict[str, LanguagePack]
) -> list[Contestant]:
    """All models, the recipe's own first."""
    recipe = question.recipe
    own = [own_contestant(trained[recipe.name], recipe.name)] if recipe is not None and recipe.name in trained else []
    others = [
        contestant(model, question.language, packs, question.cache_dir, trained.get(model.name)) for model in named
    ]
    models = [*own, *others]
    if not models:
        raise SettingsError(
            "there is no model to score: train the recipe's, or give --model NAME open_clip=... or alike"
        )
    require_different([model.name for model in models], "the model")
    return models


def _sets(question: Question, pack: LanguagePack) -> list[ScoredSet]:
    translator = CaptionTranslator(recipe=question.recipe, root=question.root)
    own = question.recipe.test_sets if question.recipe is not None else ()
    return [
        *recipe_sets(own, question.language, translator),
        *named_sets(question.test_sets, question.language, pack, translator),
        *protocol_sets(question.protocol, question.language, pack),
    ]


def _guarded(found: ScoredSet, guards: Mapping[str, TrainingImages]) -> ScoredSet:
    """The set, with what each model that was trained here has seen of it."""
    test_set = found.test_set
    seen = {name: images.guard(test_set.images, found.identities, test_set.read) for name, images in guards.items()}
    return replace(found, test_set=replace(test_set, guards=seen))


def _require_translatable(test_sets: Sequence[ScoredSet], named: Sequence[NamedModel], language: str) -> None:
    """Refuse captions in another language, where a model is there whose texts are translated from this one."""
    asked = [model.name for model in named if model.translate is not None]
    for found in test_sets:
        if asked and found.stated is not None and canonical_code(found.stated) != canonical_code(language):
            raise SettingsError(
                f"the captions of {found.test_set.name} are in {found.stated}, as stated, and what {asked[0]} is asked "
                f"is translated from {language}: leave one of them out, and score it with --language {found.stated}"
            )


def _with_language(found: ScoredSet, asked: str, packs: Mapping[str, LanguagePack]) -> ScoredSet:
    pack = language_pack(found.stated or asked, packs)
    return replace(found, test_set=with_language(found.test_set, asked, pack, found.stated))


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
    except DamagedError:
        raise
    except PipelineError as error:
        logger.warning("%s itself is not scored: %s", recipe.name, error)
        return None
    images = snapshot.pair_files(split)
    gallery = pairs_gallery(f"{recipe.name} {split}", images)
    guards = {name: _split_guard(images, snapshot, split, model) for name, model in trained.items()}
    notes = (VALIDATED,) if split == "val" and own is not None else ()
    return ScoredSet(test_set=replace(gallery, guards=guards, notes=(*gallery.notes, *notes)), identities=())


def _split_guard(images: Sequence[Path], snapshot: Snapshot, split: str, model: TrainedModel) -> Guard:
    """What a model has seen of a split; of the val split of its own snapshot it is known that it chose the epoch."""
    is_own_val = split == "val" and model.snapshot.snapshot == snapshot.snapshot
    splits = ("train",) if is_own_val else SEEN_SPLITS
    trained_on = [path for name in splits for path in model.snapshot.pair_files(name)]
    seen = {place: Seen(why=why, is_sure=True) for place, why in seen_in_training(images, trained_on).items()}
    return Guard(seen=seen, ways=("sample id", "bytes"))


def _written(board: Scoreboard, protocols: dict[str, Protocol], folder: Path) -> ScoreboardReport:
    found = sections(board, protocols)
    used = {name: asdict(protocol) for name, protocol in protocols.items()}
    made_with = {name: version(name) for name in PACKAGES}
    told = {"vernaclip": version("vernaclip"), "packages": made_with, **board.to_json(), "protocols": used}
    write_json(folder / JSON_FILE, told)
    text = markdown(found)
    write_bytes(folder / MARKDOWN_FILE, text.encode())
    write_scoreboard_plot(board, folder / PLOT_FILE)
    return ScoreboardReport(board=board, sections=found, folder=folder)
