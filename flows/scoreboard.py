"""Compare models on test sets: a scoreboard, and tasks for mteb."""

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.base.errors import InputError, SettingsError, install_hint
from data_catalog.catalog.roots import FEATURE_STORES
from data_catalog.disk.disk_errors import make_writable_folder
from flows.contest import SetReader, TestSet, at_home, held_out, open_contest, require_different
from flows.options import ContestConfig, ScoreboardConfig
from flows.recipe.recipe import Recipe, override_values
from training.scores.galleries import Gallery
from training.scores.protocols import PROTOCOLS, Protocol, protocol_sets
from training.scores.scoreboard import score_models
from training.scores.scoreboard_files import Section, write_scoreboard

if TYPE_CHECKING:
    from training.scores.mteb_tasks import GalleryTask

logger = logging.getLogger(__name__)


def make_scoreboard(recipe: Recipe | None, root: Path, config: ScoreboardConfig) -> tuple[Path, list[Section]]:
    """Score all models on all sets, and write `scoreboard.json`, `scoreboard.md` and `scoreboard.png`.

    Return the folder of the results, and the sections of the Markdown file.
    """
    if config.format == "mteb":
        if config.report_anyway:
            raise SettingsError("mteb's format has one score a set, without leak-free ones: leave out --report-anyway")
        require_mteb("results in mteb's format")
    out = config.out or root / "scoreboards" / (recipe.name if recipe is not None else config.language or "")
    reader = SetReader(recipe, root, config)
    protocols = _protocols(config.protocol, reader) if config.protocol else []
    with open_contest(reader, [test_set for test_set, _ in protocols]) as contest:
        make_writable_folder(out, "--out")
        tasks = _mteb_tasks(contest.sets, reader.language) if config.format == "mteb" else {}
        if config.format == "mteb" and (without := [each.name for each in contest.sets if each.name not in tasks]):
            logger.warning("%s: sets of classes are not in the files for mteb", ", ".join(without))
        # Without a writable root, features are cached beside the results.
        cache = contest.cache or out / FEATURE_STORES
        board = score_models(contest.models, contest.sets, contest.config, cache=cache)
    if tasks:
        from training.scores.mteb_tasks import write_mteb_results

        write_mteb_results(board, tasks, out)
    return out, write_scoreboard(board, {test_set.name: protocol for test_set, protocol in protocols}, out)


def _protocols(words: Sequence[str], reader: SetReader) -> list[tuple[TestSet, Protocol]]:
    """Return the sets that `--protocol NAME KEY=VALUE...` names, with their protocol."""
    name, *given = words
    if name not in PROTOCOLS:
        raise SettingsError(f"unknown --protocol {name}: use {', '.join(sorted(PROTOCOLS))}")
    settings = {key: at_home(str(value)) for key, value in override_values(given).items()}
    return [(test_set, PROTOCOLS[name]) for test_set in protocol_sets(PROTOCOLS[name], settings, reader.pack)]


def make_mteb_tasks(
    recipe: Recipe | None, root: Path, test_sets: Mapping[str, Mapping[str, Any]], language: str | None
) -> "list[GalleryTask]":
    """Return tasks of mteb over the captioned sets of a recipe and others, the held-out split first.

    Nothing is compared with training images, since mteb names its models later. `test_sets` are settings by name.
    """
    require_mteb("tasks of mteb")
    reader = SetReader(recipe, root, ContestConfig(language=language))
    held = held_out(recipe, root, None) if recipe is not None else []
    sets: list[TestSet] = [
        *held,
        *reader.all((f"the test set {name}", name, given) for name, given in test_sets.items()),
    ]
    require_different([each.name for each in sets], "the set")
    tasks = _mteb_tasks(sets, reader.language)
    if not tasks:
        raise SettingsError("there is no set of captioned images: use a recipe with a held-out split, or a test set")
    return [task for of_set in tasks.values() for task in of_set]


def require_mteb(what: str) -> None:
    """Refuse what needs mteb, in the plural, if mteb is not installed."""
    if find_spec("mteb") is None:
        raise InputError(f"{what} need mteb: {install_hint('mteb')}")


def _mteb_tasks(sets: Sequence[TestSet], language: str) -> "dict[str, list[GalleryTask]]":
    """Return the tasks of both directions by the name of their set. Sets of classes have none."""
    from training.scores.mteb_tasks import gallery_tasks

    return {each.name: gallery_tasks(each, each.stated or language) for each in sets if isinstance(each, Gallery)}
