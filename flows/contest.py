"""Read the models and test sets that a recipe and options name, and look for images that the models learned from."""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cleaning.languages.engines import canonical_code
from cleaning.languages.identification import other_languages
from cleaning.leaks import LeaksConfig, SeenImages
from data_catalog.base.errors import InputError, PipelineError, SettingsError
from data_catalog.base.language_pack import LanguagePack, require_language
from data_catalog.catalog.manifest import current_snapshots, require_snapshot, trained_on
from data_catalog.catalog.roots import FEATURE_STORES
from data_catalog.disk.barrier import open_to_readers
from data_catalog.disk.lock import writer_lock
from data_catalog.rows.origins import MACHINE, MACHINE_TRANSLATION
from data_catalog.sources.test_sets import TEST_SET_KINDS
from flows.options import ModelsAndSets
from flows.recipe.engines import one_way_config, open_recipes_engine, setting_values
from flows.recipe.language_packs import language_pack, language_packs_of, named_language_packs
from flows.recipe.recipe import Recipe, override_values
from flows.recipe.settings import read
from flows.recipe.sources import TestSetSettings, read_test_sets
from training.config import EvaluateConfig
from training.data.features import rewording
from training.data.pairs import pair_files, split_to_score
from training.runs.processes import prepare_for_torch
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
from training.scores.rows import UNKNOWN, TextLanguage
from training.scores.scoreboard import ModelToScore, refuse_seen
from training.scores.scoreboard_files import CHANCE
from training.towers.trained_models import LearnedImages, images_learned, newest_model, own_folder
from translation.config import TranslateConfig
from translation.engine import Translator
from translation.engines.registry import open_translator, reverse
from translation.memory import TranslationMemory, translate_with_memory

logger = logging.getLogger(__name__)

FOLDERS = "folders"
ENGLISH = "en"
_NAME = re.compile(r"\w[\w.+-]{0,39}")
_PLACES = {"imagenet", "class_names", "templates", "images"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSet:
    """A test set with the known identities of each of its images, and the language that its settings state."""

    test_set: Gallery | LabelledImages
    identities: Sequence[frozenset[str]]
    stated: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """A model to score, what it learned from if it is one of ours, and the engine that translates texts for it."""

    model: ModelToScore
    learned: LearnedImages | None
    translate: TranslateConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Models and sets to score, the first model being the reference, and the folder of the feature cache, if any."""

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
    more_sets: "Callable[[SetReader], Sequence[ScoredSet]]",
) -> Iterator[Contest]:
    """Yield the models and sets that a recipe and options name, the recipe's own model and held-out split first.

    Packed translation models are unpacked for as long as the context is open. `more_sets` reads further sets.
    """
    prepare_for_torch()
    language, packs = scored_language(recipe, options), packs_of(recipe, options)
    config = recipe.evaluate if recipe is not None else _evaluate_config(options.overrides)
    with TemporaryDirectory(prefix="vernaclip-") as folder:
        entrants = _entrants(recipe, root, options)
        models = [_with_translator(each, language, packs, Path(folder)) for each in entrants]
        learned = {each.model.name: each.learned for each in entrants if each.learned is not None}
        reader = SetReader(recipe=recipe, root=root, language=language, pack=language_pack(language, packs))
        scored = [*reader.all(options), *more_sets(reader)]
        _require_translatable(scored, entrants, language)  # before images are looked at
        split = held_out(recipe, root, learned) if recipe is not None and not options.no_split else None
        if not scored and split is None:
            raise SettingsError(
                "there is nothing to score on: use a recipe with a held-out split, --test-set, or --protocol of "
                "`scoreboard`, or --pairs of `probe`"
            )
        leaks = recipe.leaks if recipe is not None else LeaksConfig()
        snapshots = {each.snapshot: each for model in learned.values() for each in model.snapshots}
        seen = {name: SeenImages(snapshot, leaks) for name, snapshot in snapshots.items()}
        sets = [*([split] if split is not None else []), *(_guarded(each, learned, seen) for each in scored)]
        require_different([each.test_set.name for each in sets], "the set")
        for place, each in enumerate(sets):
            pack = language_pack(each.stated or language, packs)
            sets[place] = replace(each, test_set=with_language(each.test_set, language, pack, each.stated))
        if not options.report_anyway:
            refuse_seen([each.test_set for each in sets], models)
        yield Contest(
            language=language, packs=packs, models=models, sets=sets, config=config, cache=_feature_cache(root)
        )


def packs_of(recipe: Recipe | None, options: ModelsAndSets) -> dict[str, LanguagePack]:
    """Return the language packs that recipe and options name, by code."""
    named = named_language_packs(recipe) if recipe is not None else {}
    return {**named, **language_packs_of(options.language_packs)}


def scored_language(recipe: Recipe | None, options: ModelsAndSets) -> str:
    """Return the language that models are scored in."""
    language = recipe.target_language if recipe is not None else options.language
    if language is None:
        raise SettingsError("without a recipe, --language must name the language of captions and class names")
    if options.language not in (None, language):
        raise SettingsError(f"--language {options.language} differs from the recipe's target language, {language}")
    return require_language(language, "--language")


def _evaluate_config(overrides: Sequence[str]) -> EvaluateConfig:
    values = override_values(overrides)
    if others := sorted(set(values) - {"evaluate"}):
        raise SettingsError(f"--set {others[0]}: without a recipe, only settings of evaluate can be set")
    return read(EvaluateConfig, values.get("evaluate", {}), "evaluate")


def require_different(names: Sequence[str], option: str) -> None:
    """Refuse names that are given twice."""
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"{option} {name} is given twice: rename one of them")


def _feature_cache(root: Path) -> Path | None:
    kept = root / FEATURE_STORES
    open_to_readers(root, [snapshot.folder for snapshot in current_snapshots(root)])
    return kept if os.access(kept if kept.exists() else root, os.W_OK | os.X_OK) else None


@dataclass(frozen=True, kw_only=True)
class SetReader:
    """Reader of test sets in a language, which also translates captions into it by the engine of a recipe."""

    recipe: Recipe | None
    root: Path
    language: str
    pack: LanguagePack

    def all(self, options: ModelsAndSets, tables: Mapping[str, Mapping[str, Any]] | None = None) -> list[ScoredSet]:
        """Return the test sets of the recipe that have images and captions, and those of options and tables."""
        scored = []
        for test_set in self.recipe.test_sets if self.recipe is not None else ():
            if test_set.config.images is None:
                logger.warning("test set %s is not scored: the recipe does not set its images", test_set.name)
                continue
            test_set.check()
            if (found := self._captioned(test_set)) is not None:
                scored.append(found)
            else:
                logger.warning("test set %s is not scored: it has no captions", test_set.name)
        named: list[tuple[str, str, Any]] = [(f"--test-set {name}", name, words) for name, *words in options.test_sets]
        named += [(f"the test set {name}", name, settings) for name, settings in (tables or {}).items()]
        for where, name, settings in named:
            try:
                scored.append(self.named(name, override_values(settings)))
            except PipelineError as error:
                raise type(error)(f"{where}: {error}") from error
        return scored

    def named(self, name: str, settings: Mapping[str, Any]) -> ScoredSet:
        """Return the test set that a name and settings describe."""
        values = plain_settings(settings)
        if values.get("kind") == FOLDERS:
            classes = named_images(name, {key: value for key, value in values.items() if key != "kind"}, self.pack)
            return ScoredSet(test_set=classes, identities=[frozenset()] * len(classes.images))
        if values.get("kind", name) not in TEST_SET_KINDS:
            problem = f"kind is {values['kind']!r}" if "kind" in values else "kind=... is missing"
            raise SettingsError(f"{problem}: use one of {', '.join(sorted([*TEST_SET_KINDS, FOLDERS]))}")
        found = read_test_sets({name: values}, self.language)
        if not found or found[0].config.images is None:
            raise SettingsError("images=... is missing, or enabled=false: nothing can be scored without images")
        found[0].kind.check(found[0].config)
        scored = self._captioned(found[0])
        if scored is None:
            raise InputError("it has no captions, so it can serve the leak guard but cannot be scored on")
        return scored

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
        assert self.recipe is not None
        return open_recipes_engine(self.recipe, self.root)

    def _translated(self, gallery: Gallery) -> Gallery:
        """Return a set with translated captions and notes about the translation; add to the translation memory."""
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
        note = f"all captions are translated by a machine {by}{lost}; original captions: {about_originals}"
        return replace(
            gallery,
            captions=[text for text, _ in translated],
            owners=[owner for _, owner in translated],
            made_by=[MACHINE] * len(translated),
            notes=(note, *others),
        )


def plain_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the home folder in place of `~`, which shells do not expand after "="."""
    for key in {"kind", "imagenet", *FOLDER_SETTINGS} & values.keys():
        if not isinstance(values[key], str):
            raise SettingsError(f"{key} must be a string, got {values[key]!r}")
    return {**values, **{key: _at_home(values[key]) for key in _PLACES & values.keys()}}


def with_language(
    test_set: Gallery | LabelledImages, asked: str, pack: LanguagePack, stated: str | None = None
) -> Gallery | LabelledImages:
    """Return the set with the language of its texts, and with notes if it differs from the scored language.

    The pack is that of the expected language: the one that the settings or files of the set state, or else `asked`.
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


def held_out(recipe: Recipe, root: Path, learned: Mapping[str, LearnedImages] | None) -> ScoredSet | None:
    """Return the held-out images of the snapshot that the recipe's model was trained on, or of the current one.

    Return None, with a warning, if no image is held out. Without `learned` no model is looked for.
    """
    own = newest_model(root, recipe.name) if learned is not None else None
    snapshot = own.snapshot if own is not None else require_snapshot(root, recipe.name, recipe=recipe.reference)
    try:
        split = split_to_score(pair_files(snapshot), recipe.evaluate.split)
    except SettingsError as error:
        logger.warning("models are not scored on the images of %s: %s", recipe.name, error)
        return None
    gallery = held_out_gallery(f"{recipe.name} {split}", snapshot, split, learned or {}, is_own=own is not None)
    return ScoredSet(test_set=gallery, identities=())


def _guarded(found: ScoredSet, learned: Mapping[str, LearnedImages], images: Mapping[str, SeenImages]) -> ScoredSet:
    """Return the set with the images that each model was trained on, as far as known; images are by snapshot."""
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


def _require_translatable(test_sets: Sequence[ScoredSet], entrants: Sequence[Entrant], language: str) -> None:
    """Refuse a set in another language if the texts of a model are translated from the scored language."""
    translated = [each.model.name for each in entrants if each.translate is not None]
    for found in test_sets:
        if translated and found.stated is not None and canonical_code(found.stated) != canonical_code(language):
            raise SettingsError(
                f"the captions of {found.test_set.name} are stated to be in {found.stated}, but texts for the model "
                f"{translated[0]} are translated from {language}: leave one of them out, or score this set alone with "
                f"--language {found.stated}"
            )


def _entrants(recipe: Recipe | None, root: Path, options: ModelsAndSets) -> list[Entrant]:
    """Return the recipe's own model, if it is trained, and those of the options."""
    found: list[Entrant] = []
    if recipe is not None and (own := newest_model(root, recipe.name)) is not None:
        found.append(_entrant(recipe.name, "folder", str(own.folder), root))
    for name, *words in options.models:
        folder = Path(_at_home(name))
        if folder.is_dir() and not any(word.partition("=")[0] in OPENERS for word in words):
            name, words = folder.resolve().name, [f"{kind_of(str(folder))}={folder}", *words]
        if not _NAME.fullmatch(name) or name == CHANCE:
            raise SettingsError(
                f"--model {name}: the first word must be a name of up to 40 letters, digits, '.', '+', '-' and '_', "
                "other than chance, as in --model mine KEY=VALUE"
            )
        kind, source, translate = _source(words, f"--model {name}")
        found.append(replace(_entrant(name, kind, source, root), translate=translate))
    if options.english:
        kind, source, translate = _source(options.english, "--english")
        if translate is None and recipe is not None and recipe.source_language == ENGLISH:
            has_way_back = recipe.translate.reverse_package or recipe.translate.reverse_model
            translate = reverse(recipe.translate) if has_way_back else None
        if translate is None:
            raise SettingsError(
                "--english also translates queries into English: name the engine, such as package=FILE or "
                "engine=argos, or use --model to query the model in the target language only"
            )
        found.append(_entrant("english", kind, source, root))
        found.append(replace(_entrant("english-translated", kind, source, root), translate=translate))
    require_different([each.model.name for each in found], "--model")
    if not found:
        raise SettingsError(
            "there is no model to score: train the model of the recipe, or add one, such as --model NAME open_clip=..."
        )
    return found


def _source(words: Sequence[str], option: str) -> tuple[str, str, TranslateConfig | None]:
    """Return kind and source of the model that KEY=VALUE words name, and the engine for its texts that others name."""
    sources = [word.partition("=") for word in words if word.partition("=")[0] in OPENERS]
    if len(sources) != 1 or not sources[0][2]:
        raise SettingsError(
            f"{option}: name the model by one of {', '.join(f'{kind}=...' for kind in OPENERS)}, or by its folder alone"
        )
    kind, source = sources[0][0], _at_home(sources[0][2])
    check_source(kind, source, option)
    rest = [word for word in words if word.partition("=")[0] not in OPENERS]
    try:
        return kind, source, one_way_config(setting_values(rest)) if rest else None
    except PipelineError as error:
        raise type(error)(f"{option}: {error}") from error


def _at_home(place: str) -> str:
    return os.path.expanduser(place)  # noqa: PTH111 - pathlib would change the addresses of stores


def _entrant(name: str, kind: str, source: str, root: Path) -> Entrant:
    try:
        learned = images_learned(Path(source), root)
    except InputError as error:  # an earlier version trained it
        logger.warning("%s", error)
        learned = LearnedImages(files=(), snapshots=(), is_complete=False)
    snapshots = learned.snapshots if learned is not None else ()
    stated = trained_on(own_folder(Path(source), root) or Path(source))
    data = " ".join(stated) if stated else ", ".join(f"{each.dataset} {each.snapshot}" for each in snapshots)
    model = ModelToScore(name=name, open=lambda: OPENERS[kind](source, name), trained_on=data or UNKNOWN)
    return Entrant(model=model, learned=learned)


def _with_translator(found: Entrant, language: str, packs: Mapping[str, LanguagePack], cache_dir: Path) -> ModelToScore:
    """Return a model whose texts are translated, if an engine is named; packed models are unpacked in `cache_dir`."""
    model, config = found.model, found.translate
    if config is None:
        return model
    if language == ENGLISH:
        raise SettingsError(
            f"the texts for {model.name} are English already: use --model without settings of a translation engine"
        )
    stops = [language, *([config.pivot] if config.pivot else []), ENGLISH]
    translator = open_translator(config, [language_pack(code, packs) for code in stops], cache_dir=cache_dir)

    def reword(texts: Sequence[str]) -> list[str]:
        distinct = list(dict.fromkeys(texts))
        translations = dict(zip(distinct, translator.translate(distinct), strict=True))
        return [translations[text].text for text in texts]

    return replace(model, open=lambda: rewording(model.open(), reword, model.name))
