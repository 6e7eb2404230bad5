"""Special tokens around a sentence and before its translation, which give a model the languages.

They follow from a model's configuration and vocabulary: its end token, its source language, its target language.
Converted models and those of `transformers` need the same tokens.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.language_pack import LanguagePack, language_pack_hint

TOKENIZER_CONFIG = "tokenizer_config.json"
# Language tokens by model family: ">>ita<<", "__it__", "ita_Latn"; unconverted families also have "it_IT" and "<2it>".
LANGUAGE_PATTERNS = {
    "opus": re.compile(r">>\w+<<"),
    "m2m": re.compile(r"__[a-z]{2,3}__"),
    "nllb": re.compile(r"[a-z]{3}_[A-Z][a-z]{3}"),
    "mbart": re.compile(r"[a-z]{2}_[A-Z]{2}"),
    "t5": re.compile(r"<2[a-z]{2,3}(_\w+)?>"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The facts about a model that decide its special tokens.

    Args:
        folder: folder of the model, for messages.
        family: a key of `LANGUAGE_TOKENS`.
        tokenizer_config: tokenizer configuration of Hugging Face, empty if there is none.
        source_vocabulary: tokens of the encoder.
        target_vocabulary: tokens of the decoder.
        end: tokens that end a sentence; empty if the library adds them.
        starts_with_end: the decoder starts with the end token.
    """

    folder: Path
    family: str
    tokenizer_config: Mapping[str, Any]
    source_vocabulary: Collection[str]
    target_vocabulary: Collection[str]
    end: tuple[str, ...]
    starts_with_end: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageTokens:
    """The tokens around a sentence and before its translation.

    Args:
        before: tokens before the sentence.
        after: tokens after it.
        target_prefix: token that the translation begins with, often "".
        prompt: text before the sentence that the tokenizer reads with it, often "".
        starts_with_prefix: the decoder starts with the prefix, instead of writing it.
    """

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    target_prefix: str = ""
    prompt: str = ""
    starts_with_prefix: bool = False


def _opus_tokens(model: ModelInfo, source: LanguagePack, target: LanguagePack) -> LanguageTokens:
    """Return the tokens of an OPUS model: an end token for Marian only, and the target language if there are several.

    Marian's decoder also starts with the end token, which distinguishes it from OpenNMT if the tokenizers do not.
    """
    wanted = _target_token(model, target)
    _require_languages(model, source, None if wanted else target)
    return LanguageTokens(before=wanted, after=model.end if model.starts_with_end else ())


def _target_token(model: ModelInfo, target: LanguagePack) -> tuple[str, ...]:
    """Return the token that selects the target language in a multilingual model; none for a model of one target."""
    known = list(filter(LANGUAGE_PATTERNS["opus"].fullmatch, model.source_vocabulary))
    for code in _codes(target):
        if f">>{code}<<" in known:
            return (f">>{code}<<",)
    # The vocabulary of a model of one target may contain such tokens as well.
    if known and model.tokenizer_config.get("target_lang") not in _codes(target):
        raise InputError(
            f"{model.folder} has no token for {target.code} ({', '.join(_codes(target))}), it has "
            f"{_listed(known)}. Name another model, or set iso639_3 {language_pack_hint(target)}"
        )
    return ()


def _require_languages(model: ModelInfo, source: LanguagePack, target: LanguagePack | None) -> None:
    """Check the languages in the tokenizer's configuration; a source group such as "roa" is accepted.

    Raises:
        InputError: it names other languages.
    """
    for name, pack, lengths in (("source_lang", source, (2,)), ("target_lang", target, (2, 3))):
        given = model.tokenizer_config.get(name)
        if pack and isinstance(given, str) and given.islower() and len(given) in lengths and given not in _codes(pack):
            raise InputError(
                f"{model.folder} has {name} = {given!r} in tokenizer_config.json, but {pack.code} is needed. Name "
                f"another model, or, if that is the same language, set iso639_3 {language_pack_hint(pack)}"
            )


def _m2m_tokens(model: ModelInfo, source: LanguagePack, target: LanguagePack) -> LanguageTokens:
    def token(pack: LanguagePack) -> str:
        return _known(model, [f"__{code}__" for code in (pack.code, pack.iso639_3) if code], pack)

    return LanguageTokens(before=(token(source),), after=model.end, target_prefix=token(target))


def _nllb_tokens(model: ModelInfo, source: LanguagePack, target: LanguagePack) -> LanguageTokens:
    """Return the tokens of an NLLB model: the source language first, or after the end for a tokenizer before 2023."""

    def token(pack: LanguagePack) -> str:
        if pack.flores is None:
            raise SettingsError(
                f"{model.folder} is an NLLB model, and the FLORES code of {pack.code} is not known: set flores, such "
                f'as flores = "ita_Latn", {language_pack_hint(pack)}'
            )
        return _known(model, [pack.flores], pack)

    before, after, prefix = (token(source),), model.end, token(target)
    if model.tokenizer_config.get("legacy_behaviour"):
        return LanguageTokens(after=after + before, target_prefix=prefix)
    return LanguageTokens(before=before, after=after, target_prefix=prefix)


def _mbart_tokens(model: ModelInfo, source: LanguagePack, target: LanguagePack) -> LanguageTokens:
    """Return the tokens of an mBART model.

    mBART-50 has the source language first. mBART has it last, and its decoder starts with the target language.
    """

    def token(pack: LanguagePack) -> str:
        is_language = LANGUAGE_PATTERNS["mbart"].fullmatch
        fit = sorted(token for token in model.target_vocabulary if is_language(token) and token[:2] == pack.code)
        return _known(model, fit or [f"{pack.code}_.."], pack)

    before, after, prefix = (token(source),), model.end, token(target)
    if str(model.tokenizer_config.get("tokenizer_class")).startswith("MBart50"):
        return LanguageTokens(before=before, after=after, target_prefix=prefix)
    return LanguageTokens(after=after + before, target_prefix=prefix, starts_with_prefix=True)


def _t5_tokens(model: ModelInfo, source: LanguagePack, target: LanguagePack) -> LanguageTokens:
    """Return the prompt of a T5 model: an English sentence, or for MADLAD-400 a token such as "<2it>"."""
    if any(map(LANGUAGE_PATTERNS["t5"].fullmatch, model.source_vocabulary)):
        return LanguageTokens(prompt=_known(model, [f"<2{code}>" for code in _codes(target)], target), after=model.end)
    for pack in (source, target):
        if not pack.name:
            raise SettingsError(
                f"{model.folder} is a T5 model, whose prompt has the English names of languages, and the name of "
                f'{pack.code} is not known: set name, such as name = "Italian", {language_pack_hint(pack)}'
            )
    return LanguageTokens(prompt=f"translate {source.name} to {target.name}:", after=model.end)


def _known(model: ModelInfo, tokens: list[str], pack: LanguagePack) -> str:
    """Return the first of these tokens that the model has.

    Raises:
        InputError: it has none.
    """
    vocabulary = {*model.source_vocabulary} & {*model.target_vocabulary}
    for token in tokens:
        if token in vocabulary:
            return token
    known = sorted(filter(LANGUAGE_PATTERNS[model.family].fullmatch, vocabulary))
    raise InputError(
        f"{model.folder} has no token for {pack.code} ({', '.join(tokens)}), it has {_listed(known)}. Name another "
        f"model, or correct the codes {language_pack_hint(pack)}. If it has none, convert or copy it again"
    )


def _listed(tokens: list[str]) -> str:
    most = 10
    return ", ".join(tokens[:most]) + (f" and {len(tokens) - most} more" if len(tokens) > most else "") or "none"


def _codes(pack: LanguagePack) -> list[str]:
    """Return a language's codes as models write them, the preferred one first: "it", "ita", "ita_Latn"."""
    flores = pack.flores or ""
    return [code for code in dict.fromkeys((pack.code, pack.iso639_3, flores[:3], flores)) if code]


LANGUAGE_TOKENS: dict[str, Callable[[ModelInfo, LanguagePack, LanguagePack], LanguageTokens]] = {
    "opus": _opus_tokens,
    "m2m": _m2m_tokens,
    "nllb": _nllb_tokens,
    "mbart": _mbart_tokens,
    "t5": _t5_tokens,
}


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        InputError: the file is damaged or contains no object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} must contain a JSON object: convert or copy it again")
    return value


def read_json(path: Path) -> Any:
    """Return the JSON value in a file.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}). Convert or copy it again") from error
