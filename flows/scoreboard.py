"""Scoreboard and probe of several models: read the test sets, check them for leaks, and score the models."""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cleaning.languages.engines import canonical_code
from cleaning.languages.identification import other_languages
from cleaning.leaks import LeaksConfig, SeenImages
from data_catalog.base.errors import InputError, PipelineError, SettingsError, install_hint
from data_catalog.base.language_pack import LanguagePack, require_language
from data_catalog.catalog.manifest import current_snapshots, require_snapshot, trained_on
from data_catalog.catalog.roots import FEATURE_STORES
from data_catalog.disk.barrier import open_to_readers
from data_catalog.disk.disk_errors import make_writable_folder
from data_catalog.disk.lock import writer_lock
from data_catalog.rows.origins import MACHINE, MACHINE_TRANSLATION
from data_catalog.sources.test_sets import TEST_SET_KINDS
from flows.options import ModelsAndSets, ProbeOptions, ScoreboardOptions
from flows.recipe.engines import one_way_config, open_recipes_engine, setting_values
from flows.recipe.language_packs import language_pack, language_packs_of, named_language_packs
from flows.recipe.recipe import Recipe, override_values
from flows.recipe.settings import read
from flows.recipe.sources import TestSetSettings, read_test_sets
from training.changes import ChangeRules
from training.config import EvaluateConfig
from training.data.features import Encoder, rewording
from training.data.pairs import pair_files, split_to_score
from training.processes import prepare_for_torch
from training.scores.encoders import OPENERS, check_source, kind_of
from training.scores.galleries import (
    FOLDER_SETTINGS,
    Gallery,
    LabelledImages,
    LeakCheck,
    TrainingMatch,
    captioned_gallery,
    held_out_gallery,
    named_images,
)
from training.scores.probe import Probe, ProbedSet, changed_captions, probe_models, read_pairs
from training.scores.protocols import PROTOCOLS, Protocol, protocol_sets
from training.scores.rows import Board, TextLanguage
from training.scores.scoreboard import UNKNOWN, ModelToScore, refuse_seen, score_models
from training.scores.scoreboard_files import CHANCE, JSON_FILE, Section, write_scoreboard
from training.towers.trained_models import LearnedImages, TrainedModel, images_learned, newest_model, own_folder
from translation.config import TranslateConfig
from translation.engine import Translator
from translation.engines.registry import open_translator, reverse
from translation.memory import TranslationMemory, translate_with_memory

if TYPE_CHECKING:
    from training.scores.mteb_tasks import GalleryTask

FOLDERS = "folders"
_PLACES = {"imagenet", "class_names", "templates", "images"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSet:
    """A test set with the identities of its images.

    Args:
        identities: identities of each image of the gallery, in its order; empty if only pixels are known.
        protocol: protocol of a paper whose numbers are shown beside the scores, if any.
        stated: language of the captions, if the settings state it.
    """

    test_set: Gallery | LabelledImages
    identities: Sequence[frozenset[str]]
    protocol: Protocol | None = None
    stated: str | None = None


@dataclass(frozen=True, kw_only=True)
class SetReader:
    """Reader of test sets, which also translates their captions on request.

    Args:
        recipe: recipe whose engine translates captions, or None.
        root: of the catalog, which contains the translation memory.
        language: language of the captions to score, for files with several languages.
        pack: language pack with class names and templates.
    """

    recipe: Recipe | None
    root: Path
    language: str
    pack: LanguagePack

    def of_recipe(self) -> Iterator[ScoredSet]:
        """Yield the test sets of the recipe that have images and captions; log the others.

        Raises:
            InputError: a test set cannot be read.
        """
        for test_set in self.recipe.test_sets if self.recipe is not None else ():
            if test_set.config.images is None:
                logger.warning("test set %s is not scored: the recipe does not set its images", test_set.name)
                continue
            test_set.check()
            scored = self._captioned(test_set)
            if scored is None:
                logger.warning(
                    "test set %s is not scored: it has no captions and serves only the leak guard", test_set.name
                )
            else:
                yield scored

    def named(self, name: str, settings: Mapping[str, Any]) -> ScoredSet:
        """Return the test set that `--test-set NAME KEY=VALUE ...` or a table of `vernaclip.mteb_tasks` describes.

        Raises:
            SettingsError: settings are wrong, or no images are named.
            InputError: files cannot be read, or have no captions.
        """
        values = _plain_settings(settings)
        if not name.replace("_", "").isalnum():
            raise SettingsError("a name must consist of letters, digits and _")
        if values.get("kind") == FOLDERS:
            classes = named_images(name, {key: value for key, value in values.items() if key != "kind"}, self.pack)
            return ScoredSet(test_set=classes, identities=[frozenset()] * len(classes.images))
        if values.get("kind", name) not in TEST_SET_KINDS:
            problem = f"kind is {values['kind']!r}" if "kind" in values else "kind=... is missing"
            raise SettingsError(f"{problem}: use one of {', '.join(sorted([*TEST_SET_KINDS, FOLDERS]))}")
        (test_set,) = read_test_sets({name: values}, self.language) or (None,)
        if test_set is None:
            raise SettingsError("enabled=false switches it off: leave the test set out")
        if test_set.config.images is None:
            raise SettingsError("images=... is missing: nothing can be scored without images")
        test_set.kind.check(test_set.config)
        scored = self._captioned(test_set)
        if scored is None:
            raise InputError("it has no captions, so it can serve the leak guard but cannot be scored on")
        return scored

    def of_protocol(self, name: str, words: Sequence[str]) -> Iterator[ScoredSet]:
        """Yield the sets of `--protocol NAME captions=FILE images=DIR imagenet=DIR class_names=FILE`: one task or both.

        Raises:
            SettingsError: the protocol is unknown.
            InputError: the files are not those of the protocol.
        """
        if name not in PROTOCOLS:
            raise SettingsError(f"unknown --protocol {name}: use {', '.join(sorted(PROTOCOLS))}")
        for test_set, known in protocol_sets(PROTOCOLS[name], _plain_values(words), self.pack):
            yield ScoredSet(test_set=test_set, identities=known, protocol=PROTOCOLS[name])

    def _captioned(self, test_set: TestSetSettings) -> ScoredSet | None:
        """Return a test set of captioned images in the scored language, or translated to it; None without captions."""
        config, notes, stated, language = test_set.config, [], test_set.captions, self.language
        if stated.translate:
            if self.recipe is None:
                raise SettingsError("translate=true needs the engine of a recipe: name a recipe, or leave it out")
            test_set.require_translatable(self.recipe.source_language, self.recipe.target_language)
            language = self.recipe.source_language
        languages: Sequence[str] = getattr(config, "languages", ())
        same = [code for code in languages if canonical_code(code) == canonical_code(language)]
        if same and len(languages) > 1:
            config = replace(config, languages=tuple(same))
            notes.append(f"the captions are in {', '.join(languages)}; only those in {language} are scored")
        gallery, identities = captioned_gallery(
            test_set.name, test_set.kind, config, captions_by=stated.captions_by, notes=notes
        )
        if not gallery.captions:
            return None
        if stated.translate:
            return ScoredSet(test_set=self._translated(gallery), identities=identities)
        # A setting that selects one of several languages of the files also states the language.
        chosen: Sequence[str] = getattr(config, "languages", ())
        code = chosen[0].partition("-")[0].lower() if len(chosen) == 1 else ""
        selected = canonical_code(code) if code.isascii() and code.isalpha() else None
        return ScoredSet(test_set=gallery, identities=identities, stated=stated.captions_in or selected)

    @cached_property
    def _engine(self) -> Translator:
        """Return the recipe's engine; it is opened on first use."""
        assert self.recipe is not None
        return open_recipes_engine(self.recipe, self.root)

    def _translated(self, gallery: Gallery) -> Gallery:
        """Return a set with translated captions and notes about the translation; add to the translation memory.

        Raises:
            InputError: the engine cannot be opened, or does not work.
            BusyError: another process writes below the root.
        """
        engine = self._engine
        memory = TranslationMemory(self.root / "memory", engine.fingerprint)
        memory.require_whole()
        with writer_lock(self.root):
            where = f"test set {gallery.name}"
            found = translate_with_memory(gallery.captions, engine, memory, title=f"translate {where}", where=where)
            memory.seal()
        translated = [(each.text, owner) for each, owner in zip(found, gallery.owners, strict=True) if each.text]
        num_lost = len(gallery.captions) - len(translated)
        lost = f"; {num_lost:,} have no translation and are left out" if num_lost else ""
        by = f"({MACHINE_TRANSLATION}) from {engine.from_code} by {engine.fingerprint}"
        about_originals, *others = gallery.notes
        return replace(
            gallery,
            captions=[text for text, _ in translated],
            owners=[owner for _, owner in translated],
            made_by=[MACHINE] * len(translated),
            notes=(
                f"all captions are translated by a machine {by}{lost}; original captions: {about_originals}",
                *others,
            ),
        )


def at_home(place: str, option: str) -> str:
    """Return a path with "~" expanded, which shells do not do after "="; return any other text unchanged.

    Raises:
        SettingsError: the user of the home folder is unknown.
    """
    try:
        return str(Path(place).expanduser()) if place.startswith("~") else place
    except RuntimeError as error:
        raise SettingsError(f"{option}: {place} names the home folder of an unknown user") from error


def _plain_values(words: Sequence[str]) -> dict[str, Any]:
    """Return KEY=VALUE texts as a table.

    Raises:
        SettingsError: a text is not KEY=VALUE, or a value is not a string where one is needed.
    """
    return _plain_settings(override_values(words))


def _plain_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the home folder in place of `~`. Settings that may be lists of files are not validated here.

    Raises:
        SettingsError: a value is not a string where one is needed.
    """
    for key in {"kind", "imagenet", *FOLDER_SETTINGS} & values.keys():
        if not isinstance(values[key], str):
            raise SettingsError(f"{key} must be a string, got {values[key]!r}")
    return {**values, **{key: at_home(values[key], key) for key in _PLACES & values.keys()}}


def with_language(
    test_set: Gallery | LabelledImages, asked: str, pack: LanguagePack, stated: str | None = None
) -> Gallery | LabelledImages:
    """Return the set with the language of its texts, and with notes if it differs from the scored language.

    Args:
        asked: the language that models are scored in.
        pack: of the expected language of the texts: `stated`, or else `asked`.
        stated: the language that the settings or files of the set state.
    """
    what = "captions" if isinstance(test_set, Gallery) else "class names"
    texts = test_set.captions if isinstance(test_set, Gallery) else test_set.class_names
    others = other_languages(texts, pack)
    notes = list(others.notes(what, pack.code))
    if others.share > 1 / 2:
        logger.warning("%s: %s", test_set.name, notes[-1])
    if stated is not None and canonical_code(stated) != canonical_code(asked):
        notes.insert(0, f"the {what} are stated to be in {stated}, not in {asked}")
    language = TextLanguage(asked=asked, stated=stated, looks_like=others.shares, num_judged=others.num_judged)
    return replace(test_set, language=language, notes=(*test_set.notes, *notes))


logger = logging.getLogger(__name__)


ENGLISH = "en"
_NAME = re.compile(r"\w[\w.+-]{0,39}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """A model of `--model` or `--english`.

    Args:
        name: name in the scoreboard.
        kind: a key of `training.scores.encoders.OPENERS`.
        source: folder or name of the model, as that opener takes it.
        translate: settings of the engine that translates the texts for the model, or None.
    """

    name: str
    kind: str
    source: str
    translate: TranslateConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Models and sets to score, checked against the models' training images.

    Args:
        language: language that models are scored in.
        packs: language packs from the user's files, by code.
        models: the models; the first one is the reference.
        sets: the sets with the identities of their images.
        config: settings of scoring.
        cache: folder of the feature cache, or None if it is not writable.
    """

    language: str
    packs: Mapping[str, LanguagePack]
    models: Sequence[ModelToScore]
    sets: Sequence[ScoredSet]
    config: EvaluateConfig
    cache: Path | None


@contextmanager
def open_contest(
    recipe: Recipe | None,
    root: Path,
    options: ModelsAndSets,
    more_sets: Callable[[SetReader], Sequence[ScoredSet]],
    out: Path | None = None,
) -> Iterator[Contest]:
    """Yield the models and sets that a recipe and options name, the recipe's own model and held-out split first.

    Packed translation models are unpacked for as long as the context is open.

    Args:
        recipe: recipe whose model and sets are scored; None: only those of the options.
        root: of the catalog.
        options: other models and sets.
        more_sets: reads further sets.
        out: folder of the results, if any, which must be writable.

    Raises:
        SettingsError: there are no models or no sets, or settings are wrong.
        InputError: a model or set cannot be read; or a model was trained on images of a set, without `--report-anyway`.
    """
    prepare_for_torch()
    language = _language(recipe, options)
    evaluate = recipe.evaluate if recipe is not None else _evaluate_config(options.overrides)
    packs = _language_packs(recipe, options)
    models = _models(options, recipe, root)
    learned = {model.name: its for model in models if (its := _learned(model, root)) is not None}
    with TemporaryDirectory(prefix="vernaclip-") as folder:
        contestants = [
            _contestant(model, language, packs, Path(folder), _trained_on(model, root, learned.get(model.name)))
            for model in models
        ]
        reader = SetReader(recipe=recipe, root=root, language=language, pack=language_pack(language, packs))
        scored = [*_scored_sets(reader, options), *more_sets(reader)]
        _require_translatable(scored, models, language)  # before images are looked at
        split = None
        if recipe is not None and not options.no_split:
            split = _split(recipe, root, evaluate.split, newest_model(root, recipe.name), learned)
        if not scored and split is None:
            raise SettingsError(
                "there is nothing to score on: use a recipe with a held-out split, --test-set, or --protocol of "
                "`scoreboard`, or --pairs of `probe`"
            )
        if out is not None:
            make_writable_folder(out, "--out")
        leaks = recipe.leaks if recipe is not None else LeaksConfig()
        snapshots = {each.snapshot: each for model in learned.values() for each in model.snapshots}
        seen = {name: SeenImages(snapshot, leaks) for name, snapshot in snapshots.items()}
        found = [*([split] if split is not None else []), *(_guarded(each, learned, seen) for each in scored)]
        _require_different([each.test_set.name for each in found], "the set")
        sets = []
        for each in found:
            pack = language_pack(each.stated or language, packs)
            sets.append(replace(each, test_set=with_language(each.test_set, language, pack, each.stated)))
        if not options.report_anyway:
            refuse_seen([each.test_set for each in sets], contestants)
        yield Contest(
            language=language, packs=packs, models=contestants, sets=sets, config=evaluate, cache=_feature_cache(root)
        )


def make_scoreboard(recipe: Recipe | None, root: Path, options: ScoreboardOptions) -> tuple[Path, list[Section]]:
    """Score all models on all sets, and write `scoreboard.json`, `scoreboard.md` and `scoreboard.png`.

    Args:
        recipe: recipe whose model and sets are scored; None: only those of the options.
        root: of the catalog.
        options: other models and sets, the folder of the results, and another format to write.

    Returns:
        The folder of the results, and the sections of the Markdown file.

    Raises:
        SettingsError: mteb's format cannot have the scores; see also `open_contest`.
        InputError: mteb is not installed; see also `open_contest`.
    """
    if options.format == "mteb":
        if options.report_anyway:
            raise SettingsError("mteb's format has one score a set, without leak-free ones: leave out --report-anyway")
        require_mteb("results in mteb's format")

    def more_sets(reader: SetReader) -> list[ScoredSet]:
        return list(reader.of_protocol(options.protocol[0], options.protocol[1:])) if options.protocol else []

    name = recipe.name if recipe is not None else options.language or ""
    out = options.out or root / "scoreboards" / name
    with open_contest(recipe, root, options, more_sets, out) as contest:
        sets = [each.test_set for each in contest.sets]
        tasks = _mteb_tasks(contest.sets, contest.language) if options.format == "mteb" else {}
        if options.format == "mteb" and not tasks:
            raise SettingsError("mteb's format is for retrieval, and no set has captions: leave out --format mteb")
        if tasks and (without := [each.name for each in sets if each.name not in tasks]):
            logger.warning("%s: sets of classes are not in the files for mteb", ", ".join(without))
        # Without a writable root, features are cached beside the results.
        board = score_models(contest.models, sets, contest.config, cache=contest.cache or out / FEATURE_STORES)
    protocols = {each.test_set.name: each.protocol for each in contest.sets if each.protocol is not None}
    written = write_scoreboard(board, protocols, out)
    if tasks:
        from training.scores.mteb_tasks import write_mteb_results

        write_mteb_results(Board.read(out / JSON_FILE), tasks, out)
    return out, written


def make_probe(recipe: Recipe | None, root: Path, options: ProbeOptions) -> Probe:
    """Score all models on pairs of captions that differ in one thing, from all sets and from a file of pairs.

    Args:
        recipe: recipe whose model and sets are scored; None: only those of the options.
        root: of the catalog.
        options: other models and sets, and a file of pairs with its images.

    Raises:
        SettingsError: a set has no captions, or the language pack of a set has no rules; see also `open_contest`.
        InputError: no caption of a set can be changed, or the file of pairs is wrong; see also `open_contest`.
    """
    if (options.pairs is None) != (options.images is None):
        missing, other = ("--pairs", "--images") if options.pairs is None else ("--images", "--pairs")
        raise SettingsError(f"{missing} is missing: {other} needs it, as in --pairs FILE --images DIR")
    from_file: dict[str, ProbedSet] = {}

    def more_sets(reader: SetReader) -> list[ScoredSet]:
        if options.pairs is None or options.images is None:
            return []
        probed, identities = read_pairs(options.pairs, options.images)
        from_file[probed.gallery.name] = probed
        return [ScoredSet(test_set=probed.gallery, identities=identities)]

    with open_contest(recipe, root, options, more_sets) as contest:
        sets: list[ProbedSet] = []
        for each in contest.sets:
            gallery = each.test_set
            if isinstance(gallery, LabelledImages):
                raise SettingsError(f"{gallery.name} has classes and no captions: leave it out")
            if gallery.name in from_file:
                sets.append(replace(from_file[gallery.name], gallery=gallery))
                continue
            pack = language_pack(each.stated or contest.language, contest.packs)
            sets.append(changed_captions(gallery, ChangeRules.of(pack)))
        return probe_models(contest.models, sets, contest.config, cache=contest.cache)


def make_mteb_tasks(
    recipe: Recipe | None, root: Path, test_sets: Mapping[str, Mapping[str, Any]], language: str | None
) -> "list[GalleryTask]":
    """Return tasks of mteb over the captioned sets of a recipe and others, the held-out split first.

    Nothing is compared with training images, since mteb names its models later.

    Args:
        recipe: recipe whose sets are read; None: only the others.
        root: of the catalog.
        test_sets: settings of the others, by name.
        language: code of the captions' language, if there is no recipe.

    Raises:
        SettingsError: there are no such sets, two have the same name, mteb does not know their language, or settings
            are wrong.
        InputError: a set cannot be read, or mteb is not installed.
    """
    require_mteb("tasks of mteb")
    options = ModelsAndSets(language=language)
    language = _language(recipe, options)
    pack = language_pack(language, _language_packs(recipe, options))
    found = _scored_sets(SetReader(recipe=recipe, root=root, language=language, pack=pack), options, test_sets)
    split = _split(recipe, root, recipe.evaluate.split, None, {}) if recipe is not None else None
    sets = [*([split] if split is not None else []), *found]
    _require_different([each.test_set.name for each in sets], "the set")
    tasks = _mteb_tasks(sets, language)
    if not tasks:
        raise SettingsError("there is no set of captioned images: use a recipe with a held-out split, or a test set")
    return [task for of_set in tasks.values() for task in of_set]


def require_mteb(what: str) -> None:
    """Raise if mteb is not installed.

    Args:
        what: what needs it, in the plural.

    Raises:
        InputError: it is not installed.
    """
    if find_spec("mteb") is None:
        raise InputError(f"{what} need mteb: {install_hint('mteb')}")


def _mteb_tasks(sets: Sequence[ScoredSet], language: str) -> "dict[str, list[GalleryTask]]":
    """Return the tasks of both directions by the name of their set. Sets of classes have none."""
    from training.scores.mteb_tasks import gallery_tasks

    galleries = [(each.test_set, each.stated or language) for each in sets if isinstance(each.test_set, Gallery)]
    return {gallery.name: gallery_tasks(gallery, code) for gallery, code in galleries}


def _language_packs(recipe: Recipe | None, options: ModelsAndSets) -> dict[str, LanguagePack]:
    named = named_language_packs(recipe) if recipe is not None else {}
    return {**named, **language_packs_of(options.language_packs)}


def _language(recipe: Recipe | None, options: ModelsAndSets) -> str:
    """Return the language that models are scored in.

    Raises:
        SettingsError: it is not named, not a language code, or not the recipe's.
    """
    language = recipe.target_language if recipe is not None else options.language
    if language is None:
        raise SettingsError("without a recipe, --language must name the language of captions and class names")
    if options.language not in (None, language):
        raise SettingsError(f"--language {options.language} differs from the recipe's target language, {language}")
    return require_language(language, "--language")


def _evaluate_config(overrides: Sequence[str]) -> EvaluateConfig:
    """Return the settings of [evaluate] if there is no recipe.

    Raises:
        SettingsError: an override is of another section.
    """
    values = override_values(overrides)
    others = sorted(set(values) - {"evaluate"})
    if others:
        raise SettingsError(f"--set {others[0]}: without a recipe, only settings of evaluate can be set")
    return read(EvaluateConfig, values.get("evaluate", {}), "evaluate")


def _scored_sets(
    reader: SetReader, options: ModelsAndSets, tables: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> list[ScoredSet]:
    """Return the test sets of the recipe, of the options, and of tables of settings."""
    scored = list(reader.of_recipe())
    for name, *words in options.test_sets:
        with _named_in_errors(f"--test-set {name}"):
            scored.append(reader.named(name, override_values(words)))
    for name, settings in tables.items():
        with _named_in_errors(f"the test set {name}"):
            scored.append(reader.named(name, settings))
    return scored


@contextmanager
def _named_in_errors(name: str) -> Iterator[None]:
    try:
        yield
    except PipelineError as error:
        raise type(error)(f"{name}: {error}") from error


def _learned(model: NamedModel, root: Path) -> LearnedImages | None:
    """Return what a model learned from; all of it is unknown if an earlier version trained the model."""
    try:
        return images_learned(Path(model.source), root)
    except InputError as error:
        logger.warning("%s", error)
        return LearnedImages(files=(), snapshots=(), is_complete=False)


def _trained_on(model: NamedModel, root: Path, learned: LearnedImages | None) -> str:
    """Return the training data of a model, for the scoreboard."""
    source = Path(model.source)
    if (stated := trained_on(own_folder(source, root) or source)) is not None:
        return " ".join(stated)
    snapshots = learned.snapshots if learned is not None else ()
    return ", ".join(f"{each.dataset} {each.snapshot}" for each in snapshots) or UNKNOWN


def _guarded(found: ScoredSet, learned: Mapping[str, LearnedImages], images: Mapping[str, SeenImages]) -> ScoredSet:
    """Return the set with the images that each model was trained on, as far as that is known.

    Args:
        found: the set.
        learned: what each model learned from, by name.
        images: images of their snapshots, by the snapshot's id.
    """
    test_set, guards = found.test_set, {}
    compared = {
        snapshot: each.find(test_set.images, found.identities, test_set.read) for snapshot, each in images.items()
    }
    for name, model in learned.items():
        matches = [compared[each.snapshot] for each in model.snapshots]
        seen = {
            place: TrainingMatch(why=why, is_sure=is_sure)
            for own, _ in reversed(matches)
            for place, (why, is_sure) in own.items()
        }
        ways = dict.fromkeys(way for _, used in matches for way in used)
        guards[name] = LeakCheck(seen=seen, ways=tuple(ways) if model.is_complete else ())
    return replace(found, test_set=replace(test_set, guards=guards))


def _require_translatable(test_sets: Sequence[ScoredSet], named: Sequence[NamedModel], language: str) -> None:
    """Refuse a set in another language if the texts of a model are translated from the scored language."""
    translated = [model.name for model in named if model.translate is not None]
    for found in test_sets:
        if translated and found.stated is not None and canonical_code(found.stated) != canonical_code(language):
            raise SettingsError(
                f"the captions of {found.test_set.name} are stated to be in {found.stated}, but texts for the model "
                f"{translated[0]} are translated from {language}: leave one of them out, or score this set alone with "
                f"--language {found.stated}"
            )


def _split(
    recipe: Recipe, root: Path, split: str, own: TrainedModel | None, learned: Mapping[str, LearnedImages]
) -> ScoredSet | None:
    """Return the held-out images of the snapshot that the recipe's model was trained on, or of the current one.

    Return None, with a warning, if no image is held out.
    """
    snapshot = own.snapshot if own is not None else require_snapshot(root, recipe.name, recipe=recipe.reference)
    try:
        split = split_to_score(pair_files(snapshot), split)
    except SettingsError as error:
        logger.warning("models are not scored on the images of %s: %s", recipe.name, error)
        return None
    gallery = held_out_gallery(f"{recipe.name} {split}", snapshot, split, learned, is_own=own is not None)
    return ScoredSet(test_set=gallery, identities=())


def _feature_cache(root: Path) -> Path | None:
    """Return the folder of the root for features, where other scoreboards find them; None if it is not writable."""
    kept = root / FEATURE_STORES
    open_to_readers(root, [snapshot.folder for snapshot in current_snapshots(root)])
    return kept if os.access(kept if kept.exists() else root, os.W_OK | os.X_OK) else None


def _models(options: ModelsAndSets, recipe: Recipe | None, root: Path) -> list[NamedModel]:
    """Return the recipe's own model, if it is trained, and those of the options.

    Raises:
        SettingsError: there is none, or two have the same name; see also `_named_models`.
    """
    models = _named_models(options, recipe)
    _require_different([*([recipe.name] if recipe is not None else []), *(model.name for model in models)], "--model")
    own = newest_model(root, recipe.name) if recipe is not None else None
    if recipe is not None and own is not None:
        models.insert(0, NamedModel(name=recipe.name, kind="folder", source=str(own.folder)))
    if not models:
        raise SettingsError(
            "there is no model to score: train the model of the recipe, or add one, such as --model NAME open_clip=..."
        )
    return models


def _named_models(options: ModelsAndSets, recipe: Recipe | None) -> list[NamedModel]:
    """Return the models of `--model FOLDER` or `--model NAME KEY=VALUE ...`, and the two baselines of `--english ...`.

    The baselines are an English model queried in the target language, and queried in English translation.

    Raises:
        SettingsError: a name is missing or invalid, settings are wrong, or no engine translates into English.
    """
    models = []
    for name, *words in options.models:
        folder = Path(at_home(name, "--model"))
        if folder.is_dir() and not any(word.partition("=")[0] in OPENERS for word in words):
            name, words = folder.resolve().name, [f"{kind_of(str(folder))}={folder}", *words]
        if not _NAME.fullmatch(name) or name == CHANCE:
            raise SettingsError(
                f"--model {name}: the first word must be a name of up to 40 letters, digits, '.', '+', '-' and '_', "
                "other than chance, as in --model mine KEY=VALUE"
            )
        models.append(_named_model(name, words, f"--model {name}"))
    if not options.english:
        return models
    english = _named_model("english", options.english, "--english")
    translate = english.translate
    if translate is None and recipe is not None and recipe.source_language == ENGLISH:
        has_way_back = recipe.translate.reverse_package or recipe.translate.reverse_model
        translate = reverse(recipe.translate) if has_way_back else None
    if translate is None:
        raise SettingsError(
            "--english also translates queries into English: name the engine, such as package=FILE or engine=argos, or "
            "use --model to query the model in the target language only"
        )
    return [*models, replace(english, translate=None), replace(english, name="english-translated", translate=translate)]


def _named_model(name: str, words: Sequence[str], option: str) -> NamedModel:
    """Return the model that KEY=VALUE words describe; settings of an engine mean that its texts are translated."""
    sources = [word.partition("=") for word in words if word.partition("=")[0] in OPENERS]
    if len(sources) != 1 or not sources[0][2]:
        raise SettingsError(
            f"{option}: name the model by one of {', '.join(f'{kind}=...' for kind in OPENERS)}, or by its folder alone"
        )
    kind, _, source = sources[0]
    source = at_home(source, option)
    check_source(kind, source, option)
    rest = [word for word in words if word.partition("=")[0] not in OPENERS]
    try:
        translate = one_way_config(setting_values(rest)) if rest else None
    except PipelineError as error:
        raise type(error)(f"{option}: {error}") from error
    return NamedModel(name=name, kind=kind, source=source, translate=translate)


def _contestant(
    model: NamedModel,
    language: str,
    packs: Mapping[str, LanguagePack],
    cache_dir: Path,
    trained_on: str,
) -> ModelToScore:
    """Return a model for the scoreboard. It is loaded when it is scored; its translation engine is opened now.

    Args:
        language: language of the texts.
        packs: language packs from the user's files, by code.
        cache_dir: folder in which packed translation models are unpacked.
        trained_on: the training data of the model, or "unknown".

    Raises:
        SettingsError: no engine translates from the language, or the language is English.
        InputError: the engine is not installed.
    """
    opener = OPENERS[model.kind]
    if model.translate is None:
        return ModelToScore(name=model.name, open=lambda: opener(model.source, model.name), trained_on=trained_on)
    if language == ENGLISH:
        raise SettingsError(
            f"the texts for {model.name} are English already: use --model without settings of a translation engine"
        )
    stops = [language, *([model.translate.pivot] if model.translate.pivot else []), ENGLISH]
    translator = open_translator(model.translate, [language_pack(code, packs) for code in stops], cache_dir=cache_dir)

    def reword(texts: Sequence[str]) -> list[str]:
        distinct = list(dict.fromkeys(texts))
        found: list[Any] = translator.translate(distinct)
        by_text = {text: translation.text for text, translation in zip(distinct, found, strict=True)}
        return [by_text[text] for text in texts]

    def opened() -> Encoder:
        return rewording(opener(model.source, model.name), reword, model.name)

    return ModelToScore(name=model.name, open=opened, trained_on=trained_on)


def _require_different(names: Sequence[str], option: str) -> None:
    """Refuse names that are given twice."""
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"{option} {name} is given twice: rename one of them")
