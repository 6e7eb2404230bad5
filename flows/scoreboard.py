"""Compare models on test sets: a scoreboard, a probe, and tasks for mteb."""

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.base.errors import InputError, SettingsError, install_hint
from data_catalog.catalog.roots import FEATURE_STORES
from data_catalog.disk.disk_errors import make_writable_folder
from flows.contest import (
    ScoredSet,
    SetReader,
    held_out,
    open_contest,
    packs_of,
    plain_settings,
    require_different,
    scored_language,
)
from flows.options import ModelsAndSets, ProbeOptions, ScoreboardOptions
from flows.recipe.language_packs import language_pack
from flows.recipe.recipe import Recipe, override_values
from training.changes import ChangeRules
from training.scores.galleries import Gallery, LabelledImages
from training.scores.probe import ProbedSet, changed_captions, probe_models, read_pairs
from training.scores.protocols import PROTOCOLS, Protocol, protocol_sets
from training.scores.rows import Board
from training.scores.scoreboard import score_models
from training.scores.scoreboard_files import Section, write_scoreboard

if TYPE_CHECKING:
    from training.scores.mteb_tasks import GalleryTask

logger = logging.getLogger(__name__)


def make_scoreboard(recipe: Recipe | None, root: Path, options: ScoreboardOptions) -> tuple[Path, list[Section]]:
    """Score all models on all sets, and write `scoreboard.json`, `scoreboard.md` and `scoreboard.png`.

    Return the folder of the results, and the sections of the Markdown file.
    """
    if options.format == "mteb":
        if options.report_anyway:
            raise SettingsError("mteb's format has one score a set, without leak-free ones: leave out --report-anyway")
        require_mteb("results in mteb's format")
    protocols: dict[str, Protocol] = {}

    def more_sets(reader: SetReader) -> list[ScoredSet]:
        if not options.protocol:
            return []
        name, *words = options.protocol
        if name not in PROTOCOLS:
            raise SettingsError(f"unknown --protocol {name}: use {', '.join(sorted(PROTOCOLS))}")
        found = list(protocol_sets(PROTOCOLS[name], plain_settings(override_values(words)), reader.pack))
        protocols.update({test_set.name: PROTOCOLS[name] for test_set, _ in found})
        return [ScoredSet(test_set=test_set, identities=known) for test_set, known in found]

    out = options.out or root / "scoreboards" / (recipe.name if recipe is not None else options.language or "")
    with open_contest(recipe, root, options, more_sets) as contest:
        make_writable_folder(out, "--out")
        sets = [each.test_set for each in contest.sets]
        tasks = _mteb_tasks(contest.sets, contest.language) if options.format == "mteb" else {}
        if options.format == "mteb" and not tasks:
            raise SettingsError("mteb's format is for retrieval, and no set has captions: leave out --format mteb")
        if tasks and (without := [each.name for each in sets if each.name not in tasks]):
            logger.warning("%s: sets of classes are not in the files for mteb", ", ".join(without))
        # Without a writable root, features are cached beside the results.
        board = score_models(contest.models, sets, contest.config, cache=contest.cache or out / FEATURE_STORES)
    if tasks:
        from training.scores.mteb_tasks import write_mteb_results

        write_mteb_results(board, tasks, out)
    return out, write_scoreboard(board, protocols, out)


def make_probe(recipe: Recipe | None, root: Path, options: ProbeOptions) -> Board:
    """Score all models on pairs of captions that differ in one thing, from all sets and from a file of pairs."""
    if (options.pairs is None) != (options.images is None):
        missing, other = ("--pairs", "--images") if options.pairs is None else ("--images", "--pairs")
        raise SettingsError(f"{missing} is missing: {other} needs it, as in --pairs FILE --images DIR")

    def more_sets(_: SetReader) -> list[ScoredSet]:
        if options.pairs is None or options.images is None:
            return []
        probed, identities = read_pairs(options.pairs, options.images)
        return [ScoredSet(test_set=probed, identities=identities)]

    with open_contest(recipe, root, options, more_sets) as contest:
        sets: list[ProbedSet] = []
        for each in contest.sets:
            gallery = each.test_set
            if isinstance(gallery, LabelledImages):
                raise SettingsError(f"{gallery.name} has classes and no captions: leave it out")
            if not isinstance(gallery, ProbedSet):
                pack = language_pack(each.stated or contest.language, contest.packs)
                gallery = changed_captions(gallery, ChangeRules.of(pack))
            sets.append(gallery)
        return probe_models(contest.models, sets, contest.config, cache=contest.cache)


def make_mteb_tasks(
    recipe: Recipe | None, root: Path, test_sets: Mapping[str, Mapping[str, Any]], language: str | None
) -> "list[GalleryTask]":
    """Return tasks of mteb over the captioned sets of a recipe and others, the held-out split first.

    Nothing is compared with training images, since mteb names its models later. `test_sets` are settings by name.
    """
    require_mteb("tasks of mteb")
    options = ModelsAndSets(language=language)
    language = scored_language(recipe, options)
    pack = language_pack(language, packs_of(recipe, options))
    found = SetReader(recipe=recipe, root=root, language=language, pack=pack).all(options, test_sets)
    split = held_out(recipe, root, None) if recipe is not None else None
    sets = [*([split] if split is not None else []), *found]
    require_different([each.test_set.name for each in sets], "the set")
    tasks = _mteb_tasks(sets, language)
    if not tasks:
        raise SettingsError("there is no set of captioned images: use a recipe with a held-out split, or a test set")
    return [task for of_set in tasks.values() for task in of_set]


def require_mteb(what: str) -> None:
    """Refuse what needs mteb, in the plural, if mteb is not installed."""
    if find_spec("mteb") is None:
        raise InputError(f"{what} need mteb: {install_hint('mteb')}")


def _mteb_tasks(sets: Sequence[ScoredSet], language: str) -> "dict[str, list[GalleryTask]]":
    """Return the tasks of both directions by the name of their set. Sets of classes have none."""
    from training.scores.mteb_tasks import gallery_tasks

    galleries = [(each.test_set, each.stated or language) for each in sets if isinstance(each.test_set, Gallery)]
    return {gallery.name: gallery_tasks(gallery, code) for gallery, code in galleries}
