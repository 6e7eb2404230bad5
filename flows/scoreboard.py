"""A scoreboard of several models: what is scored, whether that was trained on, and the files it is written to."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cleaning.languages.engines import canonical_code
from cleaning.leaks import LeaksConfig, SeenImages
from data_catalog.errors import PipelineError, SettingsError
from data_catalog.language_pack import LanguagePack, require_language
from data_catalog.storage.disk_errors import make_writable_folder
from data_catalog.storage.manifest import current_snapshots, require_snapshot
from data_catalog.storage.reading import open_to_readers
from data_catalog.storage.roots import KEPT_FEATURES
from flows.cli.options import ScoreboardOptions
from flows.recipe.engines import one_way_config, setting_values
from flows.recipe.language_packs import language_pack, language_packs_of, named_language_packs
from flows.recipe.recipe import Recipe, override_values
from flows.recipe.settings import read
from flows.scored_sets import ScoredSet, SetReader, at_home, with_language
from training.config import EvaluateConfig
from training.data.features import Encoder, rewording
from training.data.pairs import split_to_score
from training.processes import let_threads_sleep
from training.scores.encoders import OPENERS, check_source
from training.scores.galleries import Guard, Seen, held_out_gallery
from training.scores.scoreboard import UNKNOWN, Contestant, refuse_seen, score_models
from training.scores.scoreboard_files import CHANCE, Section, write_scoreboard
from training.trained_models import TrainedModel, model_of_folder, newest_model, pair_files
from translation.config import TranslateConfig
from translation.registry import open_translator, reverse

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
    board = score_models(contestants, sets, evaluate, kept=kept)
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
) -> Contestant:
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
        return Contestant(name=model.name, open=lambda: opener(model.source, model.name), trained_on=known)
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

    return Contestant(name=model.name, open=opened, trained_on=known)


def _require_different(names: Sequence[str], option: str) -> None:
    """Refuse names that are given twice."""
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"{option} {name} is given twice: name one of them otherwise")
