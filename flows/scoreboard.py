"""Score the models and test sets that a recipe and options name, unless models learned from the images of a set."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from cleaning.languages.engines import canonical_code
from cleaning.leaks import LeaksConfig, SeenImages
from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.language_pack import LanguagePack, require_language
from data_catalog.catalog.manifest import current_snapshots, require_snapshot, trained_on
from data_catalog.catalog.roots import FEATURE_STORES
from data_catalog.disk.barrier import open_to_readers
from data_catalog.disk.disk_errors import make_writable_folder
from data_catalog.disk.lock import writer_lock
from data_catalog.rows.origins import MACHINE, MACHINE_TRANSLATION
from flows.options import ScoreboardConfig
from flows.recipe.engines import one_way_config, open_recipes_engine, setting_values
from flows.recipe.language_packs import language_pack, language_packs_of, named_language_packs
from flows.recipe.recipe import Recipe, override_values
from flows.recipe.settings import errors_of, read
from flows.recipe.sources import TestSetSettings, read_test_sets
from training.config import EvaluateConfig
from training.data.features import rewording
from training.data.pairs import pair_files, split_to_score
from training.runs.processes import prepare_for_torch
from training.scores.encoders import OPENERS, check_source, kind_of
from training.scores.galleries import (
    FolderSettings,
    Gallery,
    LabelledImages,
    LeakCheck,
    TrainingMatch,
    captioned_gallery,
    held_out_gallery,
    named_images,
)
from training.scores.protocols import PROTOCOLS, Protocol, protocol_sets
from training.scores.rows import UNKNOWN, TextLanguage
from training.scores.scoreboard import ModelToScore, refuse_seen, score_models
from training.scores.scoreboard_files import Section, write_scoreboard
from training.towers.lineage import languages_of
from training.towers.trained_models import LearnedImages, images_learned, newest_model, own_folder
from translation.config import TranslateConfig
from translation.engine import Translator
from translation.engines.registry import open_translator
from translation.memory import TranslationMemory, translate_with_memory

logger = logging.getLogger(__name__)

ENGLISH = "en"

TestSet = Gallery | LabelledImages


class Entrant(NamedTuple):
    """A model to score: its name, how it is opened (`OPENERS`), and the engine that translates texts for it, if any."""

    name: str
    kind: str
    source: str
    translate: TranslateConfig | None = None


def make_scoreboard(recipe: Recipe | None, root: Path, config: ScoreboardConfig) -> tuple[Path, list[Section]]:
    """Score all models on all sets, and write `scoreboard.json`, `scoreboard.md` and `scoreboard.png`.

    The recipe's own model and held-out split come first; the first model is the one that others are compared with.
    Return the folder of the results, and the sections of the Markdown file.
    """
    out = config.out or root / "scoreboards" / (recipe.name if recipe is not None else config.language or "")
    reader = SetReader(recipe, root, config)
    protocols = _protocols(config.protocol, reader) if config.protocol else []
    prepare_for_torch()
    if recipe is not None:
        scoring, leaks = recipe.evaluate, recipe.leaks
    else:  # the settings of evaluate are the only ones
        values = override_values(config.overrides)
        scoring = read(EvaluateConfig, {**values.pop("evaluate", {}), **values}, "evaluate")
        leaks = LeaksConfig()
    with TemporaryDirectory(prefix="vernaclip-") as folder:  # where packed translation models are unpacked
        entrants = _entrants(recipe, root, config)
        learned = {each.name: found for each in entrants if (found := _learned(each, root)) is not None}
        reader.others = {canonical_code(code) for each in entrants for code in languages_of(Path(each.source))}
        models = [_to_score(each, learned.get(each.name), reader, Path(folder)) for each in entrants]
        named = [*reader.all(), *(test_set for test_set, _ in protocols)]
        _require_translatable(named, entrants, reader.language)  # before images are looked at
        split = _held_out(recipe, root, learned) if recipe is not None and not config.no_split else []
        if not named and not split:
            raise SettingsError(
                "there is nothing to score on: use a recipe with a held-out split, --test-set, or --protocol"
            )
        sets = [*split, *_guarded(named, learned, leaks)]
        _require_different([each.name for each in sets], "the set")
        sets = [with_language(each, reader.asked_of(each)) for each in sets]
        if not config.report_anyway:
            refuse_seen(sets, models)
        make_writable_folder(out, "--out")
        # Without a writable root, features are cached beside the results.
        board = score_models(models, sets, scoring, cache=_feature_cache(root) or out / FEATURE_STORES)
    return out, write_scoreboard(board, {test_set.name: protocol for test_set, protocol in protocols}, out)


def _protocols(words: Sequence[str], reader: "SetReader") -> list[tuple[TestSet, Protocol]]:
    """Return the sets that `--protocol NAME KEY=VALUE...` names, with their protocol."""
    name, *given = words
    if name not in PROTOCOLS:
        raise SettingsError(f"unknown --protocol {name}: use {', '.join(sorted(PROTOCOLS))}")
    settings = {key: at_home(str(value)) for key, value in override_values(given).items()}
    return [(test_set, PROTOCOLS[name]) for test_set in protocol_sets(PROTOCOLS[name], settings, reader.pack)]


def _require_different(names: Sequence[str], option: str) -> None:
    """Refuse names that are given twice."""
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"{option} {name} is given twice: rename one of them")


def _feature_cache(root: Path) -> Path | None:
    """Return the folder of the feature cache, which others may read; None if this user cannot write there."""
    kept = root / FEATURE_STORES
    open_to_readers(root, [snapshot.folder for snapshot in current_snapshots(root)])
    return kept if os.access(kept if kept.exists() else root, os.W_OK | os.X_OK) else None


class SetReader:
    """Reader of test sets in the language that models are scored in; it translates captions by a recipe's engine."""

    def __init__(self, recipe: Recipe | None, root: Path, config: ScoreboardConfig) -> None:
        target = recipe.target_language if recipe is not None else config.language
        if target is None or config.language not in (None, target):
            instead = "if no recipe is given" if target is None else f"which is {target} in the recipe"
            raise SettingsError(f"--language must name the language of captions and class names, {instead}")
        self.recipe, self.root, self.config = recipe, root, config
        self.language = require_language(target, "--language")
        named = named_language_packs(recipe) if recipe is not None else {}
        self.packs: Mapping[str, LanguagePack] = {**named, **language_packs_of(config.language_packs)}
        self.pack = language_pack(self.language, self.packs)
        self.others: Set[str] = frozenset()  # languages that one of the models was distilled for

    def asked_of(self, test_set: TestSet) -> str:
        """Return the language in which a set asks: the scored one, or another that a model was distilled for."""
        stated = test_set.stated
        return stated if stated is not None and canonical_code(stated) in self.others else self.language

    def all(self) -> list[TestSet]:
        """Return the recipe's test sets with images and captions, then those of the options."""
        scored: list[TestSet] = []
        for test_set in self.recipe.test_sets if self.recipe is not None else ():
            found = self._captioned(test_set, test_set.check)
            scored += found
            if not found:
                logger.warning("test set %s is not scored: it has no images, or no captions", test_set.name)
        for name, *words in self.config.test_sets:
            with errors_of(f"--test-set {name}"):
                scored += self._named(name, override_values(words))
        return scored

    def _named(self, name: str, settings: dict[str, Any]) -> Sequence[TestSet]:
        if settings.get("kind") == "folders":
            values = {key: at_home(value) if isinstance(value, str) else value for key, value in settings.items()}
            del values["kind"]
            return [named_images(name, read(FolderSettings, values, name), self.pack)]
        for each in read_test_sets({name: settings}, self.language):
            if scored := self._captioned(each, partial(each.kind.check, each.config)):
                return scored
        raise InputError("it has no images=..., no captions, or enabled=false, so it cannot be scored on")

    def _captioned(self, test_set: TestSetSettings, check: Callable[[], None]) -> list[Gallery]:
        """Return a set in the scored language, or translated to it, after `check`; none without images or captions.

        Of files in several languages that the models read, each is a set of its own, named by set and language.
        """
        config, notes, stated, language = test_set.config, [], test_set.captions, self.language
        if config.images is None:
            return []
        check()
        if stated.translate:
            if self.recipe is None:
                raise SettingsError("translate=true needs the engine of a recipe: name a recipe, or leave it out")
            test_set.require_translatable(self.recipe.source_language, self.recipe.target_language)
            language = self.recipe.source_language
        languages: Sequence[str] = getattr(config, "languages", ())
        read = {canonical_code(language), *(() if stated.translate else self.others)}
        same = [code for code in languages if canonical_code(code) in read]
        if len({*map(canonical_code, same)}) > 1:
            each_alone = [
                replace(test_set, name=f"{test_set.name} {code}", config=replace(config, languages=(code,)))
                for code in same
            ]
            return [gallery for each in each_alone for gallery in self._captioned(each, lambda: None)]
        if same and len(languages) > 1:
            notes.append(f"the captions are in {', '.join(languages)}; only those in {language} are scored")
            config, languages = replace(config, languages=tuple(same)), same
        gallery = captioned_gallery(test_set.name, test_set.kind, config, captions_by=stated.captions_by, notes=notes)
        if not gallery.captions:
            return []
        if stated.translate:
            return [self._translated(gallery)]
        # A setting that selects one of several languages of the files also states the language.
        code = languages[0].partition("-")[0].lower() if len(languages) == 1 else ""
        selected = canonical_code(code) if code.isascii() and code.isalpha() else None
        return [replace(gallery, stated=stated.captions_in or selected)]

    @cached_property
    def _engine(self) -> Translator:
        assert self.recipe is not None
        return open_recipes_engine(self.recipe, self.root)

    def _translated(self, gallery: Gallery) -> Gallery:
        """Return a set with translated captions and notes about the translation; add to the translation memory."""
        engine, where = self._engine, f"test set {gallery.name}"
        memory = TranslationMemory(self.root / "memory", engine.fingerprint)
        memory.require_whole()
        with writer_lock(self.root):
            found = translate_with_memory(gallery.captions, engine, memory, title=f"translate {where}", where=where)
            memory.seal()
        translated = [(each.text, owner) for each, owner in zip(found, gallery.owners, strict=True) if each.text]
        num_lost = len(gallery.captions) - len(translated)
        lost = f"; {num_lost:,} have no translation and are left out" if num_lost else ""
        by = f"({MACHINE_TRANSLATION}) from {engine.from_code} by {engine.fingerprint}"
        about_originals, *others = gallery.notes
        note = f"all captions are translated by a machine {by}{lost}; original captions: {about_originals}"
        return replace(
            gallery,
            captions=[text for text, _ in translated],
            owners=[owner for _, owner in translated],
            made_by=[MACHINE] * len(translated),
            notes=(note, *others),
        )


def with_language(test_set: TestSet, asked: str) -> TestSet:
    """Return the set with the language of its texts, and with a note if another one is stated."""
    what = "captions" if isinstance(test_set, Gallery) else "class names"
    stated, notes = test_set.stated, test_set.notes
    if stated is not None and canonical_code(stated) != canonical_code(asked):
        notes = (*notes, f"the {what} are stated to be in {stated}, not in {asked}")
    return replace(test_set, language=TextLanguage(asked=asked, stated=stated), notes=notes)


def _held_out(recipe: Recipe, root: Path, learned: Mapping[str, LearnedImages]) -> list[Gallery]:
    """Return the held-out images of the snapshot that the recipe's model was trained on, or of the current one.

    There is no gallery, with a warning, if no image is held out.
    """
    own = newest_model(root, recipe.name)
    snapshot = own.snapshot if own is not None else require_snapshot(root, recipe.name, recipe=recipe.reference)
    try:
        split = split_to_score(pair_files(snapshot), recipe.evaluate.split)
    except SettingsError as error:
        logger.warning("models are not scored on the images of %s: %s", recipe.name, error)
        return []
    return [held_out_gallery(f"{recipe.name} {split}", snapshot, split, learned, is_own=own is not None)]


def _guarded(sets: Sequence[TestSet], learned: Mapping[str, LearnedImages], leaks: LeaksConfig) -> list[TestSet]:
    """Return the sets with the images that each model was trained on, as far as known; a snapshot is read once."""
    seen = {each.snapshot: SeenImages(each, leaks) for model in learned.values() for each in model.snapshots}
    found: list[TestSet] = []
    for test_set in sets:
        compared = {name: each.find(test_set.images, test_set.identities, test_set.read) for name, each in seen.items()}
        guards = {
            name: _check([compared[each.snapshot] for each in model.snapshots], is_complete=model.is_complete)
            for name, model in learned.items()
        }
        found.append(replace(test_set, guards=guards))
    return found


def _check(compared: Sequence[tuple[Mapping[int, tuple[str, bool]], Sequence[str]]], *, is_complete: bool) -> LeakCheck:
    """Return the matches of a set with all snapshots of a model, of which the first one that has an image counts."""
    seen = {place: TrainingMatch(*match) for own, _ in reversed(compared) for place, match in own.items()}
    ways = dict.fromkeys(way for _, used in compared for way in used)
    return LeakCheck(seen=seen, ways=tuple(ways) if is_complete else ())


def _require_translatable(test_sets: Sequence[TestSet], entrants: Sequence[Entrant], language: str) -> None:
    """Refuse a set in another language if the texts of a model are translated from the scored language."""
    translated = [each.name for each in entrants if each.translate is not None]
    for each in test_sets:
        if translated and each.stated is not None and canonical_code(each.stated) != canonical_code(language):
            raise SettingsError(
                f"the captions of {each.name} are stated to be in {each.stated}, but texts for the model "
                f"{translated[0]} are translated from {language}: leave one of them out, or score this set alone with "
                f"--language {each.stated}"
            )


def _entrants(recipe: Recipe | None, root: Path, config: ScoreboardConfig) -> list[Entrant]:
    """Return the recipe's own model, if it is trained, and those of the options."""
    found: list[Entrant] = []
    if recipe is not None and (own := newest_model(root, recipe.name)) is not None:
        found.append(Entrant(recipe.name, "folder", str(own.folder)))
    for name, *words in config.models:
        folder = Path(at_home(name))
        if folder.is_dir() and not any(word.partition("=")[0] in OPENERS for word in words):
            name, words = folder.resolve().name, [f"{kind_of(str(folder))}={folder}", *words]
        found.append(_entrant(name, words))
    _require_different([each.name for each in found], "--model")
    if not found:
        raise SettingsError(
            "there is no model to score: train the model of the recipe, or add one, such as --model NAME open_clip=..."
        )
    return found


def _entrant(name: str, words: Sequence[str]) -> Entrant:
    """Return the model that KEY=VALUE words name, and the engine for its texts that others name."""
    option = f"--model {name}"
    sources = [word.partition("=") for word in words if word.partition("=")[0] in OPENERS]
    if len(sources) != 1:
        raise SettingsError(
            f"{option}: name the model by one of {', '.join(f'{kind}=...' for kind in OPENERS)}, or by its folder alone"
        )
    kind, source = sources[0][0], at_home(sources[0][2])
    check_source(kind, source, option)
    rest = [word for word in words if word.partition("=")[0] not in OPENERS]
    with errors_of(option):
        return Entrant(name, kind, source, one_way_config(setting_values(rest)) if rest else None)


def at_home(place: str) -> str:
    """Return a path with the home folder in place of `~`, which shells do not expand after "="."""
    return os.path.expanduser(place)  # noqa: PTH111 - pathlib would change the addresses of stores


def _learned(entrant: Entrant, root: Path) -> LearnedImages | None:
    """Return what a model learned from; None if it is not ours."""
    try:
        return images_learned(Path(entrant.source), root)
    except InputError as error:  # an earlier version trained it
        logger.warning("%s", error)
        return LearnedImages(files=(), snapshots=(), is_complete=False)


def _to_score(entrant: Entrant, learned: LearnedImages | None, reader: SetReader, cache_dir: Path) -> ModelToScore:
    """Return a model whose texts are translated, if an engine is named; packed models are unpacked in `cache_dir`."""
    name, kind, source, config = entrant
    stated = trained_on(own_folder(Path(source), reader.root) or Path(source))
    snapshots = learned.snapshots if learned is not None else ()
    data = " ".join(stated) if stated else ", ".join(f"{each.dataset} {each.snapshot}" for each in snapshots)
    model = ModelToScore(name=name, open=lambda: OPENERS[kind](source, name), trained_on=data or UNKNOWN)
    if config is None:
        return model
    stops = [code for code in (reader.language, config.pivot, ENGLISH) if code]
    translator = open_translator(config, [language_pack(code, reader.packs) for code in stops], cache_dir=cache_dir)

    def reword(texts: Sequence[str]) -> list[str]:
        distinct = list(dict.fromkeys(texts))
        translations = dict(zip(distinct, translator.translate(distinct), strict=True))
        return [translations[text].text for text in texts]

    return replace(model, open=lambda: rewording(model.open(), reword, name))
