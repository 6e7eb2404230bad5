"""A scoreboard of several models: what is scored, whether that was trained on, and the files it is written to."""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cleaning.languages.engines import canonical_code
from cleaning.languages.identification import other_languages
from cleaning.leaks import LeaksConfig, SeenImages
from data_catalog.errors import InputError, PipelineError, SettingsError
from data_catalog.language_pack import LanguagePack, require_language
from data_catalog.sources.origins import MACHINE, MACHINE_TRANSLATION
from data_catalog.storage.disk_errors import make_writable_folder
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.manifest import current_snapshots, require_snapshot
from data_catalog.storage.reading import open_to_readers
from data_catalog.storage.roots import KEPT_FEATURES
from data_catalog.test_sets import TEST_SET_KINDS
from flows.cli.options import ScoreboardOptions
from flows.recipe.engines import one_way_config, open_recipes_engine, setting_values
from flows.recipe.language_packs import language_pack, language_packs_of, named_language_packs
from flows.recipe.recipe import Recipe, override_values
from flows.recipe.settings import read
from flows.recipe.sources import TestSetSettings, read_test_sets
from training.config import EvaluateConfig
from training.data.features import Encoder, rewording
from training.data.pairs import split_to_score
from training.processes import let_threads_sleep
from training.scores.encoders import OPENERS, check_source
from training.scores.galleries import (
    FOLDER_SETTINGS,
    Gallery,
    LabelledImages,
    LeakCheck,
    TextLanguage,
    TrainingMatch,
    captioned_gallery,
    held_out_gallery,
    named_images,
)
from training.scores.protocols import PROTOCOLS, Protocol, protocol_sets
from training.scores.scoreboard import UNKNOWN, ModelToScore, refuse_seen, score_models
from training.scores.scoreboard_files import CHANCE, Section, write_scoreboard
from training.trained_models import TrainedModel, model_of_folder, newest_model, pair_files
from translation.config import TranslateConfig
from translation.engine import Translator
from translation.memory import TranslationMemory, translate_with_memory
from translation.registry import open_translator, reverse

FOLDERS = "folders"
_PLACES = {"imagenet", "class_names", "templates", "images"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSet:
    """A set, and by what its images are known.

    Args:
        identities: of each image of the gallery, in its order; empty where nothing is known but pixels.
        protocol: whose numbers stand beside its scores, if any.
        stated: the language of its captions, where its settings say it.
    """

    test_set: Gallery | LabelledImages
    identities: Sequence[frozenset[str]]
    protocol: Protocol | None = None
    stated: str | None = None


@dataclass(frozen=True, kw_only=True)
class SetReader:
    """Reads sets, and has their captions translated where that is asked for.

    Args:
        recipe: whose engine translates captions; None: there is none.
        root: of the catalog, which has the translations.
        language: of captions that are scored, where files have several.
        pack: has class names and templates.
    """

    recipe: Recipe | None
    root: Path
    language: str
    pack: LanguagePack

    def of_recipe(self) -> Iterator[ScoredSet]:
        """Yield the test sets of the recipe whose images are here, with captions; others are logged.

        Raises:
            InputError: one cannot be read.
        """
        for test_set in self.recipe.test_sets if self.recipe is not None else ():
            if test_set.config.images is None:
                logger.warning("test set %s is not scored: the recipe names no place of its images", test_set.name)
                continue
            test_set.check()
            scored = self._captioned(test_set)
            if scored is None:
                logger.warning(
                    "test set %s is not scored: it has no captions, and guards training alone", test_set.name
                )
            else:
                yield scored

    def named(self, name: str, words: Sequence[str]) -> ScoredSet:
        """Return a set as `--test-set NAME KEY=VALUE ...` names it.

        Raises:
            SettingsError: settings are wrong, or no images are named.
            InputError: files cannot be read, or have no captions.
        """
        values = _plain_values(words)
        if not name.replace("_", "").isalnum():
            raise SettingsError("a name must be letters, digits and _")
        if values.get("kind") == FOLDERS:
            classes = named_images(name, {key: value for key, value in values.items() if key != "kind"}, self.pack)
            return ScoredSet(test_set=classes, identities=[frozenset()] * len(classes.images))
        if values.get("kind", name) not in TEST_SET_KINDS:
            problem = f"kind is {values['kind']!r}" if "kind" in values else "kind=... is missing"
            raise SettingsError(f"{problem}: kinds are {', '.join(sorted([*TEST_SET_KINDS, FOLDERS]))}")
        (test_set,) = read_test_sets({name: values}, self.language) or (None,)
        if test_set is None:
            raise SettingsError("it is switched off by enabled=false: leave it out")
        if test_set.config.images is None:
            raise SettingsError("images=... is missing: without pixels there is nothing to score")
        test_set.kind.check(test_set.config)
        scored = self._captioned(test_set)
        if scored is None:
            raise InputError("it has no captions: it can guard training data, but not be scored on")
        return scored

    def of_protocol(self, name: str, words: Sequence[str]) -> Iterator[ScoredSet]:
        """Yield the sets of `--protocol NAME captions=FILE images=DIR imagenet=DIR class_names=FILE`: one task or both.

        Raises:
            SettingsError: there is no such protocol.
            InputError: files are not those it is about.
        """
        if name not in PROTOCOLS:
            raise SettingsError(f"--protocol {name}: there is {', '.join(sorted(PROTOCOLS))}")
        for test_set, known in protocol_sets(PROTOCOLS[name], _plain_values(words), self.pack):
            yield ScoredSet(test_set=test_set, identities=known, protocol=PROTOCOLS[name])

    def _captioned(self, test_set: TestSetSettings) -> ScoredSet | None:
        """Read a test set of captioned images; of several languages that alone which is scored, or translated."""
        config, notes, stated, language = test_set.config, [], test_set.captions, self.language
        if stated.translate:
            if self.recipe is None:
                raise SettingsError("translate is true, and no recipe says by which engine: name one, or leave it out")
            test_set.require_translatable(self.recipe.source_language, self.recipe.target_language)
            language = self.recipe.source_language
        languages: Sequence[str] = getattr(config, "languages", ())
        same = [code for code in languages if canonical_code(code) == canonical_code(language)]
        if same and len(languages) > 1:
            config = replace(config, languages=tuple(same))
            notes.append(f"of captions in {', '.join(languages)} those in {language} count")
        gallery, identities = captioned_gallery(
            test_set.name, test_set.kind, config, captions_by=stated.captions_by, notes=notes
        )
        if not gallery.captions:
            return None
        if stated.translate:
            return ScoredSet(test_set=self._translated(gallery), identities=identities)
        # Where a set's files have several languages and its settings choose one, that is stated too.
        chosen: Sequence[str] = getattr(config, "languages", ())
        code = chosen[0].partition("-")[0].lower() if len(chosen) == 1 else ""
        told = canonical_code(code) if code.isascii() and code.isalpha() else None
        return ScoredSet(test_set=gallery, identities=identities, stated=stated.captions_in or told)

    @cached_property
    def _engine(self) -> Translator:
        """Return the recipe's engine, opened when the first captions are to be translated."""
        assert self.recipe is not None
        return open_recipes_engine(self.recipe, self.root)

    def _translated(self, gallery: Gallery) -> Gallery:
        """Return a set with its captions translated, and what is to be said of that; translations are recorded.

        Raises:
            InputError: the engine cannot be opened, or does not work.
            BusyError: a build of the root may be recording translations, too.
        """
        engine = self._engine
        memory = TranslationMemory(self.root / "memory", engine.fingerprint)
        memory.require_whole()
        with writer_lock(self.root):
            where = f"test set {gallery.name}"
            found = translate_with_memory(gallery.captions, engine, memory, title=f"translate {where}", where=where)
            memory.seal()
        told = [(each.text, owner) for each, owner in zip(found, gallery.owners, strict=True) if each.text]
        num_lost = len(gallery.captions) - len(told)
        lost = f"; {num_lost:,} have no translation and are left out" if num_lost else ""
        by = f"({MACHINE_TRANSLATION}) from {engine.from_code} by {engine.fingerprint}"
        of_originals, *others = gallery.notes
        return replace(
            gallery,
            captions=[text for text, _ in told],
            owners=[owner for _, owner in told],
            made_by=[MACHINE] * len(told),
            notes=(f"all captions are translated by a machine {by}{lost}; of the originals, {of_originals}", *others),
        )


def at_home(place: str, option: str) -> str:
    """Return a path, its "~" put into words, which no shell does behind a "="; any other text as it is.

    Raises:
        SettingsError: it is the home of nobody.
    """
    try:
        return str(Path(place).expanduser()) if place.startswith("~") else place
    except RuntimeError as error:
        raise SettingsError(f"{option}: {place} is in the home of a user who is not known here") from error


def _plain_values(words: Sequence[str]) -> dict[str, Any]:
    """Return KEY=VALUE texts as a table; what may be a list of files is left to those who read it.

    Raises:
        SettingsError: a text is not of that form, or a value is no text, where one is needed.
    """
    values = override_values(words)
    for key in {"kind", "imagenet", *FOLDER_SETTINGS} & values.keys():
        if not isinstance(values[key], str):
            raise SettingsError(f"{key} must be a text, got {values[key]!r}")
    return values | {key: at_home(values[key], key) for key in _PLACES & values.keys()}


def with_language(
    test_set: Gallery | LabelledImages, asked: str, pack: LanguagePack, stated: str | None = None
) -> Gallery | LabelledImages:
    """Return the set with what language its texts are in, and notes where that is not the one models are scored in.

    Args:
        asked: the language that models are scored in.
        pack: of the language that the texts should be in: `stated`, or `asked` where nothing is stated.
        stated: what whoever named the set says, or its files.
    """
    what = "captions" if isinstance(test_set, Gallery) else "class names"
    texts = test_set.captions if isinstance(test_set, Gallery) else test_set.class_names
    others = other_languages(texts, pack)
    notes = list(others.notes(what, pack.code))
    if others.share > 1 / 2:
        logger.warning("%s: %s", test_set.name, notes[-1])
    if stated is not None and canonical_code(stated) != canonical_code(asked):
        notes.insert(0, f"the {what} are in {stated}, as stated, not in {asked}")
    language = TextLanguage(asked=asked, stated=stated, looks_like=others.shares, num_judged=others.num_judged)
    return replace(test_set, language=language, notes=(*test_set.notes, *notes))


logger = logging.getLogger(__name__)


ENGLISH = "en"
_NAME = re.compile(r"\w[\w.+-]{0,39}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """What `--model` or `--english` says.

    Args:
        name: under which its scores stand.
        kind: a key of `training.scores.encoders.OPENERS`.
        source: what that opens.
        translate: of the engine that translates its texts, if they are.
    """

    name: str
    kind: str
    source: str
    translate: TranslateConfig | None = None


def make_scoreboard(
    recipe: Recipe | None, root: Path, options: ScoreboardOptions, cache_dir: Path
) -> tuple[Path, list[Section]]:
    """Score all models on all sets, and write `scoreboard.json`, `scoreboard.md` and `scoreboard.png`.

    Args:
        recipe: whose model and sets are scored; None: only what the options name.
        root: of the catalog.
        cache_dir: where packed translation models are unpacked.

    Returns:
        The folder of the results, and what the Markdown shows.

    Raises:
        SettingsError: there are no models or no sets, or settings are wrong.
        InputError: one of them cannot be had, or a model was trained on images of a set, unless that is to be reported.
    """
    let_threads_sleep()
    language = recipe.target_language if recipe is not None else options.language
    if language is None:
        raise SettingsError("--language is missing: without a recipe, it says what captions and class names are in")
    if options.language not in (None, language):
        raise SettingsError(f"--language {options.language}: the recipe's target language is {language}")
    require_language(language, "--language")
    evaluate = recipe.evaluate if recipe is not None else _evaluate_config(options.overrides)
    out = options.out or root / "scoreboards" / (language if recipe is None else recipe.name)
    packs = language_packs_of(options.language_packs)
    if recipe is not None:
        packs = {**named_language_packs(recipe), **packs}
    models = _named_models(options, recipe)
    _require_different([*([recipe.name] if recipe is not None else []), *(model.name for model in models)], "--model")
    own = newest_model(root, recipe.name) if recipe is not None else None
    if recipe is not None and own is not None:
        models.insert(0, NamedModel(name=recipe.name, kind="folder", source=str(own.folder)))
    if not models:
        raise SettingsError(
            "there is no model to score: train the recipe's, or give --model NAME open_clip=... or alike"
        )
    known = {
        model.name: model_of_folder(Path(model.source), root) if model.kind != "transformers" else None
        for model in models
    }
    trained = {name: model for name, model in known.items() if model is not None}
    contestants = [_contestant(model, language, packs, cache_dir, known[model.name]) for model in models]
    reader = SetReader(recipe=recipe, root=root, language=language, pack=language_pack(language, packs))
    scored = _scored_sets(reader, options)
    _require_translatable(scored, models, language)  # before images are looked at
    split = None
    if recipe is not None and not options.no_split:
        split = _split(recipe, root, evaluate.split, trained)
    if not scored and split is None:
        raise SettingsError(
            "there is nothing to score on: give a recipe with a held-out split, --test-set or --protocol"
        )
    make_writable_folder(out, "--out")
    leaks = recipe.leaks if recipe is not None else LeaksConfig()
    seen = {name: SeenImages(model.snapshot, leaks) for name, model in trained.items()}
    found = [*([split] if split is not None else []), *(_guarded(each, seen) for each in scored)]
    _require_different([each.test_set.name for each in found], "the set")
    sets = [
        with_language(each.test_set, language, language_pack(each.stated or language, packs), each.stated)
        for each in found
    ]
    if not options.report_anyway:
        refuse_seen(sets, contestants)
    # Features are kept in the root, where other scoreboards find them; with this one where others write the root.
    kept = root / KEPT_FEATURES
    open_to_readers(root, [snapshot.folder for snapshot in current_snapshots(root)])
    if not os.access(kept if kept.exists() else root, os.W_OK | os.X_OK):
        kept = out / KEPT_FEATURES
    board = score_models(contestants, sets, evaluate, cache=kept)
    protocols = {each.test_set.name: each.protocol for each in found if each.protocol is not None}
    return out, write_scoreboard(board, protocols, out)


def _evaluate_config(overrides: Sequence[str]) -> EvaluateConfig:
    """Return the settings of the scoring where there is no recipe."""
    values = override_values(overrides)
    others = sorted(set(values) - {"evaluate"})
    if others:
        raise SettingsError(f"--set {others[0]}: without a recipe there are the settings of evaluate only")
    return read(EvaluateConfig, values.get("evaluate", {}), "evaluate")


def _scored_sets(reader: SetReader, options: ScoreboardOptions) -> list[ScoredSet]:
    """Return the recipe's test sets, those that the options name, and the protocol's."""
    scored = list(reader.of_recipe())
    for name, *words in options.test_sets:
        try:
            scored.append(reader.named(name, words))
        except PipelineError as error:
            raise type(error)(f"--test-set {name}: {error}") from error
    if options.protocol:
        scored += reader.of_protocol(options.protocol[0], options.protocol[1:])
    return scored


def _guarded(found: ScoredSet, trained_on: Mapping[str, SeenImages]) -> ScoredSet:
    """Return the set, with what each model that was trained here has seen of it."""
    test_set, guards = found.test_set, {}
    for name, images in trained_on.items():
        seen, ways = images.among(test_set.images, found.identities, test_set.read)
        told = {place: TrainingMatch(why=why, is_sure=is_sure) for place, (why, is_sure) in seen.items()}
        guards[name] = LeakCheck(seen=told, ways=ways)
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


def _split(recipe: Recipe, root: Path, split: str, trained: Mapping[str, TrainedModel]) -> ScoredSet | None:
    """Return the dataset's own held-out images, of the snapshot that its model was trained on or of the current one.

    None where there are none, which is logged.
    """
    own = trained.get(recipe.name)
    snapshot = own.snapshot if own is not None else require_snapshot(root, recipe.name, recipe=recipe.called)
    try:
        split = split_to_score(pair_files(snapshot), split)
    except SettingsError as error:
        logger.warning("%s itself is not scored: %s", recipe.name, error)
        return None
    gallery = held_out_gallery(f"{recipe.name} {split}", snapshot, split, trained, own=own)
    return ScoredSet(test_set=gallery, identities=())


def _named_models(options: ScoreboardOptions, recipe: Recipe | None) -> list[NamedModel]:
    """Return models as `--model NAME KEY=VALUE ...` names them, and the two baselines of `--english KEY=VALUE ...`.

    An English model is asked in the target language as it is, and in translation.

    Raises:
        SettingsError: a name is missing or unfit, settings are wrong, or nothing says what translates into English.
    """
    models = []
    for name, *words in options.models:
        if not _NAME.fullmatch(name) or name == CHANCE:
            raise SettingsError(
                f"--model {name}: a name comes first, of up to 40 letters, digits, '.', '+', '-' and '_', other than "
                "chance, as in --model mine KEY=VALUE"
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
            "--english asks the model in English, too: name what translates into it, such as package=FILE or "
            "engine=argos, or give the model by --model to ask it in the target language alone"
        )
    return [*models, replace(english, translate=None), replace(english, name="english-translated", translate=translate)]


def _named_model(name: str, words: Sequence[str], option: str) -> NamedModel:
    """Return a model as KEY=VALUE words name it; settings of an engine mean that texts are translated."""
    sources = [word.partition("=") for word in words if word.partition("=")[0] in OPENERS]
    if len(sources) != 1 or not sources[0][2]:
        raise SettingsError(f"{option}: name the model by one of {', '.join(f'{kind}=...' for kind in OPENERS)}")
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
    trained: TrainedModel | None = None,
) -> ModelToScore:
    """Return a named model, which is loaded when it is scored; what translates its texts is opened here.

    Args:
        language: of the texts that models are asked in.
        packs: language packs in files of the user's, by code.
        cache_dir: where packed translation models are unpacked.
        trained: what it was trained on, where that is known.

    Raises:
        SettingsError: nothing translates from the language, or it is English.
        InputError: what translates is not there.
    """
    opener = OPENERS[model.kind]
    known = f"{trained.snapshot.dataset} {trained.snapshot.snapshot}" if trained is not None else UNKNOWN
    if model.translate is None:
        return ModelToScore(name=model.name, open=lambda: opener(model.source, model.name), trained_on=known)
    if language == ENGLISH:
        raise SettingsError(
            f"the texts that {model.name} is asked are in English already: give the model by --model, without settings "
            "of an engine that translates them"
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

    return ModelToScore(name=model.name, open=opened, trained_on=known)


def _require_different(names: Sequence[str], option: str) -> None:
    """Refuse names that are given twice."""
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"{option} {name} is given twice: name one of them otherwise")
