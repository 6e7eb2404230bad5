"""Converted OPUS-MT, M2M-100, NLLB and OpenNMT models with their tokenizers, driven by CTranslate2.

What a model wants around a sentence follows from its configuration and vocabulary: its end token, the language that is
read, the one that is asked for.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_catalog.errors import ConfigError
from data_catalog.language_pack import LanguagePack
from data_catalog.storage.shards import digest
from translation.config import TranslateConfig
from translation.engines.converted_tokenizers import JsonTokenizer, SentencePieceTokenizer, SpecialTokens
from translation.engines.ctranslate2_model import CTranslate2Translator, Model, Tokenizer
from translation.engines.model_binary import max_positions
from translation.engines.model_folder import LANGUAGES, ConvertedModel, read_model
from translation.engines.pack_advice import in_pack_of

PLACEHOLDER = re.compile(r"madeupword\d+")  # fills up the vocabulary of M2M-100


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What stands around a sentence, and in front of its translation.

    Args:
        before: tokens before the sentence.
        after: tokens after it.
        target_prefix: token that the translation begins with, often "".
    """

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    target_prefix: str = ""


def open_engine(
    config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path
) -> CTranslate2Translator:
    """The engine over the folder that `config.model` names; nothing is written to `cache_dir`.

    Raises:
        ConfigError: it is no converted model, a part of it is missing or damaged, or it knows another pair.
    """
    (folder,) = config.model
    converted = read_model(Path(folder).expanduser())
    frame = FRAMES[converted.family](converted, source, target)
    model = Model(
        engine="ctranslate2",
        folder=converted.folder,
        sha256=digest({"files": converted.file_hashes(), "before": frame.before, "after": frame.after}),
        from_code=source.code,
        to_code=target.code,
        target_prefix=frame.target_prefix,
        max_positions=max_positions(converted.folder / "model.bin") or sys.maxsize,
    )
    return CTranslate2Translator(model, _open_tokenizer(converted, frame), config)


def _open_tokenizer(converted: ConvertedModel, frame: Frame) -> Tokenizer:
    special = SpecialTokens(
        before=frame.before, after=frame.after, unknown=converted.token("unk_token"), all=_special_tokens(converted)
    )
    source, target = converted.tokenizer[0], converted.tokenizer[-1]
    if source.suffix == ".json":
        return JsonTokenizer(source, special, converted.source_vocabulary)
    return SentencePieceTokenizer(source, target, special, converted.source_vocabulary)


def _special_tokens(converted: ConvertedModel) -> frozenset[str]:
    is_language = LANGUAGES[converted.family].fullmatch
    tokens = {*converted.source_vocabulary, *converted.target_vocabulary}
    named = {converted.token(name) for name in ("bos_token", "eos_token", "unk_token")} | {"<pad>", "<mask>"}
    return frozenset(named | {token for token in tokens if is_language(token) or PLACEHOLDER.fullmatch(token)})


def _opus_frame(converted: ConvertedModel, source: LanguagePack, target: LanguagePack) -> Frame:
    """Marian wants an end token, after OpenNMT's sentences there is none; of several targets one is asked for.

    Marian's decoder starts with the end token as well, by which one tells them apart where tokenizers do not.
    """
    is_marian = converted.config.get("decoder_start_token") == converted.token("eos_token")
    wanted = _target_token(converted, target)
    _require_languages(converted, source, None if wanted else target)
    return Frame(before=wanted, after=_end(converted) if is_marian else ())


def _target_token(converted: ConvertedModel, target: LanguagePack) -> tuple[str, ...]:
    """The token that asks a model of many languages for this one; none where the model writes one language only."""
    known = list(filter(LANGUAGES["opus"].fullmatch, converted.source_vocabulary))
    for code in _codes(target):
        if f">>{code}<<" in known:
            return (f">>{code}<<",)
    # Models of one target may have such tokens in their vocabulary, too.
    if known and converted.tokenizer_config.get("target_lang") not in _codes(target):
        raise ConfigError(
            f"{converted.folder} has no token for {target.code} ({', '.join(_codes(target))}), it has "
            f"{_listed(known)}: name another model, or set iso639_3 {in_pack_of(target)}"
        )
    return ()


def _require_languages(converted: ConvertedModel, source: LanguagePack, target: LanguagePack | None) -> None:
    """Raise ConfigError where the tokenizer's configuration names others; a group, such as "roa", may be read."""
    for name, pack, lengths in (("source_lang", source, (2,)), ("target_lang", target, (2, 3))):
        given = converted.tokenizer_config.get(name)
        if pack and isinstance(given, str) and given.islower() and len(given) in lengths and given not in _codes(pack):
            raise ConfigError(
                f"{converted.folder} has {name} = {given!r} in tokenizer_config.json, but {pack.code} is needed: name "
                f"another model, or, if that is the same language, set iso639_3 {in_pack_of(pack)}"
            )


def _m2m_frame(converted: ConvertedModel, source: LanguagePack, target: LanguagePack) -> Frame:
    def token(pack: LanguagePack) -> str:
        return _known(converted, [f"__{code}__" for code in (pack.code, pack.iso639_3) if code], pack)

    return Frame(before=(token(source),), after=_end(converted), target_prefix=token(target))


def _nllb_frame(converted: ConvertedModel, source: LanguagePack, target: LanguagePack) -> Frame:
    """The source's language stands in front; behind the end where the tokenizer is of the years before 2023."""

    def token(pack: LanguagePack) -> str:
        if pack.flores is None:
            raise ConfigError(
                f"{converted.folder} is an NLLB model, and no FLORES code of {pack.code} is known: set flores, such as "
                f'flores = "ita_Latn", {in_pack_of(pack)}'
            )
        return _known(converted, [pack.flores], pack)

    before, after, prefix = (token(source),), _end(converted), token(target)
    if converted.tokenizer_config.get("legacy_behaviour"):
        return Frame(after=after + before, target_prefix=prefix)
    return Frame(before=before, after=after, target_prefix=prefix)


def _known(converted: ConvertedModel, tokens: list[str], pack: LanguagePack) -> str:
    """The first of these that the model has.

    Raises:
        ConfigError: it has none.
    """
    vocabulary = {*converted.source_vocabulary} & {*converted.target_vocabulary}
    for token in tokens:
        if token in vocabulary:
            return token
    known = sorted(filter(LANGUAGES[converted.family].fullmatch, vocabulary))
    raise ConfigError(
        f"{converted.folder} has no token for {pack.code} ({', '.join(tokens)}), it has {_listed(known)}: name another "
        f"model, or correct the codes {in_pack_of(pack)}; none at all: convert it again"
    )


def _listed(tokens: list[str]) -> str:
    most = 10
    return ", ".join(tokens[:most]) + (f" and {len(tokens) - most} more" if len(tokens) > most else "") or "none"


def _end(converted: ConvertedModel) -> tuple[str, ...]:
    """The end token, unless CTranslate2 itself adds it."""
    return () if converted.config.get("add_source_eos") else (converted.token("eos_token"),)


def _codes(pack: LanguagePack) -> list[str]:
    """A language's codes as models write them, the preferred one first: "it", "ita", "ita_Latn"."""
    flores = pack.flores or ""
    return [code for code in dict.fromkeys((pack.code, pack.iso639_3, flores[:3], flores)) if code]


FRAMES: dict[str, Callable[[ConvertedModel, LanguagePack, LanguagePack], Frame]] = {
    "opus": _opus_frame,
    "m2m": _m2m_frame,
    "nllb": _nllb_frame,
}
