"""A scoreboard of several models: what is scored, whether that was trained on, and the files it is written to."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_catalog.errors import ConfigError
from data_catalog.language_pack import LanguagePack
from data_catalog.manifest import Snapshot, require_snapshot
from data_catalog.shards import write_atomically, write_json
from flows.language_packs import language_pack, language_packs_of, named_language_packs
from flows.models import pair_files
from flows.recipe import Recipe
from flows.scored_models import (
    NamedModel,
    contestant,
    english_models,
    named_models,
    own_contestant,
    own_model,
    require_different,
)
from flows.scored_sets import ScoredSet, named_sets, protocol_sets, recipe_sets
from flows.seen_images import seen_images
from training.config import EvaluateConfig
from training.data import seen_in_training
from training.galleries import pairs_gallery
from training.protocols import Protocol
from training.scoreboard import Contestant, Scoreboard, refuse_seen, score_models
from training.scoreboard_plot import write_scoreboard_plot
from training.scoreboard_tables import Section, markdown, sections

logger = logging.getLogger(__name__)

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
        ConfigError: there are no models or no sets, one of them cannot be had, or a model was trained on images of a
            set, unless that is to be reported.
    """
    packs = {**language_packs_of(question.language_packs)}
    if question.recipe is not None:
        packs = {**named_language_packs(question.recipe), **packs}
    named = [*named_models(question.models), *english_models(question.english, question.recipe)]
    models, snapshot = _contestants(question, named, packs)
    scored = _sets(question, language_pack(question.language, packs))
    own = models[0].name if snapshot is not None else None
    test_sets = [_with_seen(found, own, snapshot, question) for found in scored]
    if question.recipe is not None and question.has_split:
        test_sets.insert(0, _split(question, question.recipe, own, snapshot))
    if not test_sets:
        raise ConfigError("there is nothing to score on: give a recipe with a held-out split, --test-set or --protocol")
    require_different([found.test_set.name for found in test_sets], "the set")
    if not question.report_anyway:
        refuse_seen([found.test_set for found in test_sets], models)
    board = score_models(models, [found.test_set for found in test_sets], question.evaluate)
    protocols = {found.test_set.name: found.protocol for found in test_sets if found.protocol is not None}
    return _written(board, protocols, question.out)


def _contestants(
    question: Question, named: Sequence[NamedModel], packs: dict[str, LanguagePack]
) -> tuple[list[Contestant], Snapshot | None]:
    """All models, the recipe's own first, and the snapshot that this one was trained on."""
    trained = own_model(question.root, question.recipe.name) if question.recipe is not None else None
    own = [own_contestant(trained, question.recipe.name)] if trained is not None and question.recipe is not None else []
    others = [contestant(model, question.language, packs, question.cache_dir) for model in named]
    models = [*own, *others]
    if not models:
        raise ConfigError("there is no model to score: train the recipe's, or give --model NAME open_clip=... or alike")
    require_different([model.name for model in models], "the model")
    return models, trained.snapshot if trained is not None else None


def _sets(question: Question, pack: LanguagePack) -> list[ScoredSet]:
    return [
        *(recipe_sets(question.recipe.test_sets) if question.recipe is not None else []),
        *named_sets(question.test_sets, question.language, pack),
        *protocol_sets(question.protocol, question.language, pack),
    ]


def _with_seen(found: ScoredSet, own: str | None, snapshot: Snapshot | None, question: Question) -> ScoredSet:
    """The set, with what the recipe's own model saw of it."""
    if own is None or snapshot is None or question.recipe is None:
        return found
    test_set = found.test_set
    seen = seen_images(snapshot, test_set.images, found.identities, test_set.read, question.recipe.leaks)
    return replace(found, test_set=replace(test_set, seen={own: seen}))


def _split(question: Question, recipe: Recipe, own: str | None, snapshot: Snapshot | None) -> ScoredSet:
    """The dataset's own held-out images, of the snapshot that its model was trained on or of the current one."""
    files = pair_files(snapshot or require_snapshot(question.root, recipe.name))
    split = question.evaluate.split
    gallery = pairs_gallery(f"{recipe.name} {split}", files.of(split))
    seen = {own: seen_in_training(files, split)} if own is not None else {}
    return ScoredSet(test_set=replace(gallery, seen=seen), identities=())


def _written(board: Scoreboard, protocols: dict[str, Protocol], folder: Path) -> ScoreboardReport:
    found = sections(board, protocols)
    write_json(folder / JSON_FILE, board.to_json())
    text = markdown(found)
    write_atomically(folder / MARKDOWN_FILE, lambda path: _write(path, text))
    write_scoreboard_plot(board, folder / PLOT_FILE)
    return ScoreboardReport(board=board, sections=found, folder=folder)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
