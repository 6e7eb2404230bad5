"""What models want around a sentence and in front of its translation, so that they know the languages.

It follows from a model's configuration and vocabulary: its end token, the language that is read, the one that is asked
for. Converted models and those of `transformers` want the same.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.errors import InputError, SettingsError
from data_catalog.language_pack import LanguagePack, language_pack_hint

TOKENIZER_CONFIG = "tokenizer_config.json"
# How families write languages: ">>ita<<", "__it__", "ita_Latn"; unconverted ones also "it_IT", "<2it>".
LANGUAGES = {
    "opus": re.compile(r">>\w+<<"),
    "m2m": re.compile(r"__[a-z]{2,3}__"),
    "nllb": re.compile(r"[a-z]{3}_[A-Z][a-z]{3}"),
    "mbart": re.compile(r"[a-z]{2}_[A-Z]{2}"),
    "t5": re.compile(r"<2[a-z]{2,3}(_\w+)?>"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is to be known of a model.

    Args:
        folder: where it is, for messages.
        family: a key of `FRAMES`.
        tokenizer_config: Hugging Face's, empty where there is none.
        source_vocabulary: tokens of the encoder.
        target_vocabulary: tokens of the decoder.
        end: what ends a sentence; nothing where the library adds that.
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
class Frame:
    """What stands around a sentence, and in front of its translation.

    Args:
        before: tokens before the sentence.
        after: tokens after it.
        target_prefix: token that the translation begins with, often "".
        prompt: text in front of the sentence, that the tokenizer reads with it, often "".
        starts_with_prefix: the decoder starts with the prefix, instead of writing it.
    """

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    target_prefix: str = ""
    prompt: str = ""
    starts_with_prefix: bool = False


def _opus_frame(model: ModelFacts, source: LanguagePack, target: LanguagePack) -> Frame:
    """Marian wants an end token, after OpenNMT's sentences there is none; of several targets one is asked for.

    Marian's decoder starts with the end token as well, by which one tells them apart where tokenizers do not.
    """
    wanted = _target_token(model, target)
    _require_languages(model, source, None if wanted else target)
    return Frame(before=wanted, after=model.end if model.starts_with_end else ())


def _target_token(model: ModelFacts, target: LanguagePack) -> tuple[str, ...]:
    """The token that asks a model of many languages for this one; none where the model writes one language only."""
    known = list(filter(LANGUAGES["opus"].fullmatch, model.source_vocabulary))
    for code in _codes(target):
        if f">>{code}<<" in known:
            return (f">>{code}<<",)
    # Models of one target may have such tokens in their vocabulary, too.
    if known and model.tokenizer_config.get("target_lang") not in _codes(target):
        raise InputError(
            f"{model.folder} has no token for {target.code} ({', '.join(_codes(target))}), it has "
            f"{_listed(known)}: name another model, or set iso639_3 {language_pack_hint(target)}"
        )
    return ()


def _require_languages(model: ModelFacts, source: LanguagePack, target: LanguagePack | None) -> None:
    """Raise InputError where the tokenizer's configuration names others; a group, such as "roa", may be read."""
    for name, pack, lengths in (("source_lang", source, (2,)), ("target_lang", target, (2, 3))):
        given = model.tokenizer_config.get(name)
        if pack and isinstance(given, str) and given.islower() and len(given) in lengths and given not in _codes(pack):
            raise InputError(
                f"{model.folder} has {name} = {given!r} in tokenizer_config.json, but {pack.code} is needed: name "
                f"another model, or, if that is the same language, set iso639_3 {language_pack_hint(pack)}"
            )


def _m2m_frame(model: ModelFacts, source: LanguagePack, target: LanguagePack) -> Frame:
    def token(pack: LanguagePack) -> str:
        return _known(model, [f"__{code}__" for code in (pack.code, pack.iso639_3) if code], pack)

    return Frame(before=(token(source),), after=model.end, target_prefix=token(target))


def _nllb_frame(model: ModelFacts, source: LanguagePack, target: LanguagePack) -> Frame:
    """The source's language stands in front; behind the end where the tokenizer is of the years before 2023."""

    def token(pack: LanguagePack) -> str:
        if pack.flores is None:
            raise SettingsError(
                f"{model.folder} is an NLLB model, and no FLORES code of {pack.code} is known: set flores, such as "
                f'flores = "ita_Latn", {language_pack_hint(pack)}'
            )
        return _known(model, [pack.flores], pack)

    before, after, prefix = (token(source),), model.end, token(target)
    if model.tokenizer_config.get("legacy_behaviour"):
        return Frame(after=after + before, target_prefix=prefix)
    return Frame(before=before, after=after, target_prefix=prefix)


def _mbart_frame(model: ModelFacts, source: LanguagePack, target: LanguagePack) -> Frame:
    """mBART-50 has the source's language in front; mBART has it behind, and its decoder starts with the target's."""

    def token(pack: LanguagePack) -> str:
        is_language = LANGUAGES["mbart"].fullmatch
        fit = sorted(token for token in model.target_vocabulary if is_language(token) and token[:2] == pack.code)
        return _known(model, fit or [f"{pack.code}_.."], pack)

    before, after, prefix = (token(source),), model.end, token(target)
    if str(model.tokenizer_config.get("tokenizer_class")).startswith("MBart50"):
        return Frame(before=before, after=after, target_prefix=prefix)
    return Frame(after=after + before, target_prefix=prefix, starts_with_prefix=True)


def _t5_frame(model: ModelFacts, source: LanguagePack, target: LanguagePack) -> Frame:
    """T5 is asked in English; MADLAD-400, which is one, by a token such as "<2it>"."""
    if any(map(LANGUAGES["t5"].fullmatch, model.source_vocabulary)):
        return Frame(prompt=_known(model, [f"<2{code}>" for code in _codes(target)], target), after=model.end)
    for pack in (source, target):
        if not pack.name:
            raise SettingsError(
                f"{model.folder} is a T5 model, which is asked by the English names of languages, and that of "
                f'{pack.code} is not known: set name, such as name = "Italian", {language_pack_hint(pack)}'
            )
    return Frame(prompt=f"translate {source.name} to {target.name}:", after=model.end)


def _known(model: ModelFacts, tokens: list[str], pack: LanguagePack) -> str:
    """The first of these that the model has.

    Raises:
        InputError: it has none.
    """
    vocabulary = {*model.source_vocabulary} & {*model.target_vocabulary}
    for token in tokens:
        if token in vocabulary:
            return token
    known = sorted(filter(LANGUAGES[model.family].fullmatch, vocabulary))
    raise InputError(
        f"{model.folder} has no token for {pack.code} ({', '.join(tokens)}), it has {_listed(known)}: name another "
        f"model, or correct the codes {language_pack_hint(pack)}; none at all: convert or copy it again"
    )


def _listed(tokens: list[str]) -> str:
    most = 10
    return ", ".join(tokens[:most]) + (f" and {len(tokens) - most} more" if len(tokens) > most else "") or "none"


def _codes(pack: LanguagePack) -> list[str]:
    """A language's codes as models write them, the preferred one first: "it", "ita", "ita_Latn"."""
    flores = pack.flores or ""
    return [code for code in dict.fromkeys((pack.code, pack.iso639_3, flores[:3], flores)) if code]


FRAMES: dict[str, Callable[[ModelFacts, LanguagePack, LanguagePack], Frame]] = {
    "opus": _opus_frame,
    "m2m": _m2m_frame,
    "nllb": _nllb_frame,
    "mbart": _mbart_frame,
    "t5": _t5_frame,
}


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file. Raises InputError where it holds none."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object: convert or copy it again")
    return value


def read_json(path: Path) -> Any:
    """Return the JSON of a file. Raises InputError where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}): convert or copy it again") from error
