"""Converted OPUS-MT, M2M-100, NLLB and OpenNMT models with their tokenizers, driven by CTranslate2."""

import re
import sys
from pathlib import Path

from data_catalog.language_pack import LanguagePack
from data_catalog.storage.shards import digest
from translation.config import TranslateConfig
from translation.engines.converted_tokenizers import JsonTokenizer, SentencePieceTokenizer, SpecialTokens
from translation.engines.ctranslate2_model import CTranslate2Translator, Model, Tokenizer
from translation.engines.frames import FRAMES, Frame
from translation.engines.model_binary import max_positions
from translation.engines.model_folder import LANGUAGES, ConvertedModel, read_model

PLACEHOLDER = re.compile(r"madeupword\d+")  # fills up the vocabulary of M2M-100


def open_engine(
    config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path
) -> CTranslate2Translator:
    """The engine over the folder that `config.model` names; nothing is written to `cache_dir`.

    Raises:
        SettingsError: a code of a language, which the model needs, is not known.
        InputError: it is no converted model, a part of it is missing or damaged, or it knows another pair.
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
