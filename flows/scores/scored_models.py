"""Models as `vernaclip scoreboard` names them: the recipe's own, others' by KEY=VALUE, and what they are asked in."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.errors import PipelineError, SettingsError
from data_catalog.language_pack import LanguagePack
from data_catalog.storage.manifest import CURRENT_FILE
from data_catalog.storage.shards import sha256_of
from flows.recipe.engines import one_way_config, setting_values
from flows.recipe.language_packs import language_pack
from flows.recipe.recipe import Recipe
from training.encoder_openers import OPENERS, check_source
from training.encoders import Encoder, rewording
from training.model import WEIGHTS_FILE
from training.scoreboard import Contestant
from training.scoreboard_tables import CHANCE
from training.trained_models import TrainedModel, current_model
from translation.config import TranslateConfig
from translation.engine import Translator
from translation.registry import open_translator, reverse

logger = logging.getLogger(__name__)

ENGLISH = "en"
_NAME = re.compile(r"\w[\w.+-]{0,39}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """What `--model` or `--english` says.

    Args:
        name: under which its scores stand.
        kind: a key of `training.encoders.OPENERS`.
        source: what that opens.
        translate: of the engine that translates its texts, if they are.
    """

    name: str
    kind: str
    source: str
    translate: TranslateConfig | None = None


def named_models(named: Sequence[Sequence[str]]) -> list[NamedModel]:
    """Models as `--model NAME KEY=VALUE ...` names them; any settings of an engine mean that texts are translated.

    Raises:
        SettingsError: a name is missing, unfit or given twice, or settings are wrong.
    """
    models = []
    for name, *words in named:
        _check_name(name, "--model")
        kind, source, rest = _source(words, f"--model {name}")
        translate = _translate_config(rest, f"--model {name}") if rest else None
        models.append(NamedModel(name=name, kind=kind, source=source, translate=translate))
    require_different([model.name for model in models], "--model")
    return models


def english_models(words: Sequence[str] | None, recipe: Recipe | None) -> list[NamedModel]:
    """The two baselines of an English model: asked in the target language as it is, and in its translation.

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


def contestant(
    model: NamedModel,
    language: str,
    packs: Mapping[str, LanguagePack],
    cache_dir: Path,
    trained: TrainedModel | None = None,
) -> Contestant:
    """A named model, which is loaded when it is scored; its translator is opened here, so that it is known to be there.

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
    known = {"trained_on": _told(trained)} if trained is not None else {}
    if model.translate is None:
        return Contestant(name=model.name, open=lambda: opener(model.source, model.name), **known)
    if language == ENGLISH:
        raise SettingsError(
            f"the texts that {model.name} is asked are in English already: give the model by --model, without settings "
            "of an engine that translates them"
        )
    stops = [language, *([model.translate.pivot] if model.translate.pivot else []), ENGLISH]
    translator = open_translator(model.translate, [language_pack(code, packs) for code in stops], cache_dir=cache_dir)
    return Contestant(name=model.name, open=lambda: _asked_in_translation(opener, model, translator), **known)


def own_contestant(trained: TrainedModel, name: str) -> Contestant:
    """The model that a recipe trained."""
    opener = OPENERS["folder"]
    return Contestant(name=name, open=lambda: opener(str(trained.folder), name), trained_on=_told(trained))


def _told(trained: TrainedModel) -> str:
    return f"{trained.snapshot.dataset} {trained.snapshot.snapshot}"


def trained_model(model: NamedModel, root: Path) -> TrainedModel | None:
    """What a named folder is known to have been trained on: it is the newest model of a dataset, or has its weights.

    Args:
        model: whose folder may lie in any root.
        root: whose newest models it may be a copy or an export of.

    Raises:
        DamagedError: it is a newest model, and is damaged, or its snapshot is gone.
    """
    folder = Path(model.source).resolve()
    if model.kind == "transformers" or not folder.is_dir():
        return None
    if len(folder.parents) >= 3 and folder.parents[1].name == "models":
        found = own_model(folder.parents[2], folder.parent.name)
        if found is not None and found.folder.resolve() == folder:
            return found
    return _copied_model(folder, root)


def _copied_model(folder: Path, root: Path) -> TrainedModel | None:
    """The newest model of a dataset of the root whose weights a folder has, if there is one."""
    copies = [file for file in sorted(folder.glob("*.safetensors")) if file.is_file()]
    hashes: dict[Path, str] = {}
    for pointer in sorted((root / "models").glob(f"*/{CURRENT_FILE}")):
        try:
            own = current_model(root, pointer.parent.name)
        except PipelineError as error:
            logger.warning("whether %s is a copy of a model of %s is not known: %s", folder, pointer.parent.name, error)
            continue
        weights = own.folder / WEIGHTS_FILE
        if not weights.is_file():
            continue
        for file in (weights, *copies):
            if file not in hashes and file.stat().st_size == weights.stat().st_size:
                hashes[file] = sha256_of(file)
        if any(hashes.get(file) == hashes[weights] for file in copies):
            return own
    return None


def own_model(root: Path, dataset: str) -> TrainedModel | None:
    """The newest model of a dataset; None where none was trained.

    Raises:
        DamagedError: it is damaged, or its snapshot is gone.
    """
    return current_model(root, dataset) if (root / "models" / dataset / CURRENT_FILE).is_file() else None


def require_different(names: Sequence[str], option: str) -> None:
    """Refuse names that are given twice."""
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"{option} {name} is given twice: name one of them otherwise")


def _check_name(name: str, option: str) -> None:
    if not _NAME.fullmatch(name) or name == CHANCE:
        raise SettingsError(
            f"{option} {name}: a name comes first, of up to 40 letters, digits, '.', '+', '-' and '_', other than "
            f"chance, as in {option} mine KEY=VALUE"
        )


def _source(words: Sequence[str], option: str) -> tuple[str, str, list[str]]:
    """Which opener, what it opens, and the words that say something else."""
    sources = [word.partition("=") for word in words if word.partition("=")[0] in OPENERS]
    if len(sources) != 1 or not sources[0][2]:
        raise SettingsError(f"{option}: name the model by one of {', '.join(f'{kind}=...' for kind in OPENERS)}")
    kind, _, source = sources[0]
    source = at_home(source, option)
    check_source(kind, source, option)
    return kind, source, [word for word in words if word.partition("=")[0] not in OPENERS]


def at_home(place: str, option: str) -> str:
    """A path, its "~" put into words, which no shell does behind a "="; any other text as it is.

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
    """What a recipe says of the way back to its source language, where that is English."""
    if recipe is None or recipe.source_language != ENGLISH:
        return None
    translate = recipe.translate
    return reverse(translate) if translate.reverse_package or translate.reverse_model else None


def _asked_in_translation(opener: Callable[[str, str], Encoder], model: NamedModel, translator: Translator) -> Encoder:
    def reword(texts: Sequence[str]) -> list[str]:
        distinct = list(dict.fromkeys(texts))
        found: list[Any] = translator.translate(distinct)
        by_text = {text: translation.text for text, translation in zip(distinct, found, strict=True)}
        return [by_text[text] for text in texts]

    return rewording(opener(model.source, model.name), reword, model.name)
