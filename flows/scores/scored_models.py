"""Models as `vernaclip scoreboard` names them: the recipe's own, others' by KEY=VALUE, and what they are asked in."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.errors import PipelineError, SettingsError
from data_catalog.language_pack import LanguagePack
from flows.recipe.engines import one_way_config, setting_values
from flows.recipe.language_packs import language_pack
from flows.recipe.recipe import Recipe
from training.data.features import Encoder, rewording
from training.scores.encoders import OPENERS, check_source
from training.scores.scoreboard import UNKNOWN, Contestant
from training.scores.scoreboard_files import CHANCE
from training.trained_models import TrainedModel, newest_model
from translation.config import TranslateConfig
from translation.registry import open_translator, reverse

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


def named_models(named: Sequence[Sequence[str]]) -> list[NamedModel]:
    """Return models as `--model NAME KEY=VALUE ...` names them; settings of an engine mean that texts are translated.

    Raises:
        SettingsError: a name is missing or unfit, or settings are wrong.
    """
    models = []
    for name, *words in named:
        if not _NAME.fullmatch(name) or name == CHANCE:
            raise SettingsError(
                f"--model {name}: a name comes first, of up to 40 letters, digits, '.', '+', '-' and '_', other than "
                "chance, as in --model mine KEY=VALUE"
            )
        kind, source, rest = _source(words, f"--model {name}")
        translate = _translate_config(rest, f"--model {name}") if rest else None
        models.append(NamedModel(name=name, kind=kind, source=source, translate=translate))
    return models


def english_models(words: Sequence[str] | None, recipe: Recipe | None) -> list[NamedModel]:
    """Return the two baselines of an English model: asked in the target language as it is, and in its translation.

    Raises:
        SettingsError: settings are wrong, or nothing says what translates into English.
    """
    if not words:
        return []
    kind, source, rest = _source(words, "--english")
    translate = _translate_config(rest, "--english") if rest else _way_back(recipe)
    if translate is None:
        raise SettingsError(
            "--english asks the model in English, too: name what translates into it, such as package=FILE or "
            "engine=argos, or give the model by --model to ask it in the target language alone"
        )
    raw = NamedModel(name="english", kind=kind, source=source)
    return [raw, NamedModel(name="english-translated", kind=kind, source=source, translate=translate)]


def own_models(recipe: Recipe | None, root: Path) -> list[NamedModel]:
    """Return the model that a recipe trained, under the recipe's name; none where it trained none.

    Raises:
        DamagedError: it is damaged, or its snapshot is gone.
    """
    found = newest_model(root, recipe.name) if recipe is not None else None
    if recipe is None or found is None:
        return []
    return [NamedModel(name=recipe.name, kind="folder", source=str(found.folder))]


def contestant(
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


def require_different(names: Sequence[str], option: str) -> None:
    """Refuse names that are given twice."""
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"{option} {name} is given twice: name one of them otherwise")


def _source(words: Sequence[str], option: str) -> tuple[str, str, list[str]]:
    """Return which opener, what it opens, and the words that say something else."""
    sources = [word.partition("=") for word in words if word.partition("=")[0] in OPENERS]
    if len(sources) != 1 or not sources[0][2]:
        raise SettingsError(f"{option}: name the model by one of {', '.join(f'{kind}=...' for kind in OPENERS)}")
    kind, _, source = sources[0]
    source = at_home(source, option)
    check_source(kind, source, option)
    return kind, source, [word for word in words if word.partition("=")[0] not in OPENERS]


def at_home(place: str, option: str) -> str:
    """Return a path, its "~" put into words, which no shell does behind a "="; any other text as it is.

    Raises:
        SettingsError: it is the home of nobody.
    """
    try:
        return str(Path(place).expanduser()) if place.startswith("~") else place
    except RuntimeError as error:
        raise SettingsError(f"{option}: {place} is in the home of a user who is not known here") from error


def _translate_config(words: Sequence[str], option: str) -> TranslateConfig:
    try:
        return one_way_config(setting_values(words))
    except PipelineError as error:
        raise type(error)(f"{option}: {error}") from error


def _way_back(recipe: Recipe | None) -> TranslateConfig | None:
    """Return what a recipe says of the way back to its source language, where that is English."""
    if recipe is None or recipe.source_language != ENGLISH:
        return None
    translate = recipe.translate
    return reverse(translate) if translate.reverse_package or translate.reverse_model else None
