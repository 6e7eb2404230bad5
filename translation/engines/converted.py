"""Converted OPUS-MT, M2M-100, NLLB and OpenNMT models with their tokenizers, driven by CTranslate2."""

import os
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_catalog.errors import InputError
from data_catalog.language_pack import LanguagePack
from data_catalog.storage.shards import digest
from translation.config import TranslateConfig
from translation.engines.converted_tokenizers import JsonTokenizer, SentencePieceTokenizer, SpecialTokens
from translation.engines.ctranslate2_model import CTranslate2Translator, Model, Tokenizer
from translation.engines.frames import FRAMES, Frame
from translation.engines.model_folder import LANGUAGES, ConvertedModel, read_model

PLACEHOLDER = re.compile(r"madeupword\d+")  # fills up the vocabulary of M2M-100
# The layout since CTranslate2 3.0, as `ctranslate2.specs.ModelSpec` writes it: version, name and revision of the
# specification, then each variable as name, dimensions, type, size in bytes and the bytes, then pairs of names for the
# same variable.
LAYOUT = 6
POSITIONS = "position_encodings/encodings"


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


def max_positions(path: Path) -> int | None:
    """Longest sequence, in tokens, that a model's position encodings are stored for; None: they are computed.

    CTranslate2 stops with an error at the first token beyond, and knows of no setting that tells it to cut.

    Raises:
        InputError: the file is cut off, or no model of CTranslate2 3.0 or later.
    """
    try:
        with path.open("rb") as file:
            lengths = [shape[0] for name, shape in _variables(file) if name.endswith(POSITIONS)]
    except (EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged, or no CTranslate2 model: convert or copy it again") from error
    return min(lengths, default=None)


def _variables(file: BinaryIO) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, as they come."""
    (layout,) = _read(file, "<I")
    if layout != LAYOUT:
        raise InputError(f"{file.name} has layout {layout}, {LAYOUT} is needed: convert the model with CTranslate2 4")
    _read_text(file)
    _, num_variables = _read(file, "<II")
    for _ in range(num_variables):
        name = _read_text(file)
        (rank,) = _read(file, "<B")
        shape = _read(file, f"<{rank}I")
        _, num_bytes = _read(file, "<BI")
        file.seek(num_bytes, os.SEEK_CUR)
        yield name, shape
    (num_aliases,) = _read(file, "<I")
    for _ in range(2 * num_aliases):
        _read_text(file)


def _read(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, _read_bytes(file, struct.calcsize(layout)))


def _read_text(file: BinaryIO) -> str:
    (size,) = _read(file, "<H")
    return _read_bytes(file, size).removesuffix(b"\0").decode("utf-8")


def _read_bytes(file: BinaryIO, size: int) -> bytes:
    found = file.read(size)
    if len(found) < size:
        raise EOFError
    return found
