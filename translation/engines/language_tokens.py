"""Special tokens around a sentence and before its translation, which give a model the languages.

They follow from a model's configuration and vocabulary: its end token, its source language, its target language.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.language_pack import LanguagePack, language_pack_hint

TOKENIZER_CONFIG = "tokenizer_config.json"
# Language tokens by model family: ">>ita<<", "__it__", "ita_Latn".
LANGUAGE_PATTERNS = {
    "opus": re.compile(r">>\w+<<"),
    "m2m": re.compile(r"__[a-z]{2,3}__"),
    "nllb": re.compile(r"[a-z]{3}_[A-Z][a-z]{3}"),
}
_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The facts about a model that decide its special tokens."""

    folder: Path
    family: str  # a key of `LANGUAGE_PATTERNS`
    tokenizer_config: Mapping[str, Any]  # of Hugging Face, empty if there is none
    source_vocabulary: Collection[str]
    target_vocabulary: Collection[str]
    end: tuple[str, ...]  # tokens that end a sentence; none if CTranslate2 adds them
    starts_with_end: bool  # the decoder starts with the end token


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageTokens:
    """The tokens around a sentence and before its translation."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    target_prefix: str = ""  # token that the translation begins with


def language_tokens(model: ModelInfo, source: LanguagePack, target: LanguagePack) -> LanguageTokens:
    """Return the tokens that a model of this family needs; refuse languages that it does not know."""
    if model.family == "opus":
        wanted = _opus_target(model, target)
        _require_stated(model, source, None if wanted else target)
        # The decoder of Marian, unlike OpenNMT's, starts with the end token.
        return LanguageTokens(before=wanted, after=model.end if model.starts_with_end else ())
    before, prefix = (_token(model, source),), _token(model, target)
    if model.family == "nllb" and model.tokenizer_config.get("legacy_behaviour"):  # of before 2023
        return LanguageTokens(after=model.end + before, target_prefix=prefix)
    return LanguageTokens(before=before, after=model.end, target_prefix=prefix)


def _token(model: ModelInfo, pack: LanguagePack) -> str:
    """Return the token of a language in an M2M-100 or NLLB model."""
    if model.family == "m2m":
        return _known(model, [f"__{code}__" for code in (pack.code, pack.iso639_3) if code], pack)
    if pack.flores is None:
        raise SettingsError(
            f"{model.folder} is an NLLB model, and the FLORES code of {pack.code} is not known: set flores, such as "
            f'flores = "ita_Latn", {language_pack_hint(pack)}'
        )
    return _known(model, [pack.flores], pack)


def _opus_target(model: ModelInfo, target: LanguagePack) -> tuple[str, ...]:
    """Return the token that selects the target language in a multilingual model; none for a model of one target."""
    known = list(filter(LANGUAGE_PATTERNS["opus"].fullmatch, model.source_vocabulary))
    wanted = [f">>{code}<<" for code in _codes(target)]
    if not set(wanted).intersection(known) and _stated(model, "target_lang") in _codes(target):
        return ()  # the vocabulary of a model of one target may contain such tokens as well
    return (_known(model, wanted, target, known),) if known else ()


def _require_stated(model: ModelInfo, source: LanguagePack, target: LanguagePack | None) -> None:
    """Refuse other languages than the tokenizer's configuration states; a source group such as "roa" is accepted."""
    for name, pack, lengths in (("source_lang", source, (2,)), ("target_lang", target, (2, 3))):
        given = _stated(model, name)
        if pack and given.islower() and len(given) in lengths and given not in _codes(pack):
            raise InputError(
                f"{model.folder} has {name} = {given!r} in tokenizer_config.json, but {pack.code} is needed. Name "
                f"another model, or, if that is the same language, set iso639_3 {language_pack_hint(pack)}"
            )


def _stated(model: ModelInfo, name: str) -> str:
    value = model.tokenizer_config.get(name)
    return value if isinstance(value, str) else ""


def _known(model: ModelInfo, tokens: Sequence[str], pack: LanguagePack, among: Collection[str] | None = None) -> str:
    """Return the first of these tokens that the model has."""
    vocabulary = {*model.source_vocabulary} & {*model.target_vocabulary} if among is None else among
    for token in tokens:
        if token in vocabulary:
            return token
    known = sorted(filter(LANGUAGE_PATTERNS[model.family].fullmatch, vocabulary))
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    raise InputError(
        f"{model.folder} has no token for {pack.code} ({', '.join(tokens)}), it has "
        f"{', '.join(known[:_SHOWN]) or 'none'}{more}. Name another model, or correct the codes "
        f"(such as iso639_3) {language_pack_hint(pack)}"
    )


def _codes(pack: LanguagePack) -> list[str]:
    """Return a language's codes as models write them, the preferred one first: "it", "ita", "ita_Latn"."""
    flores = pack.flores or ""
    return [code for code in dict.fromkeys((pack.code, pack.iso639_3, flores[:3], flores)) if code]


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a model."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} must contain a JSON object: convert or copy it again")
    return value


def read_json(path: Path) -> Any:
    """Return the JSON value in a file of a model."""
    with about(f"{path} is missing or damaged", remedy="convert or copy it again"):
        return json.loads(path.read_text(encoding="utf-8"))
