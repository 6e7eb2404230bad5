"""Converted OPUS-MT, M2M-100, NLLB and OpenNMT models with their tokenizers, run by CTranslate2.

A folder contains the output of `ct2-transformers-converter` (or another converter of CTranslate2) and the tokenizer's
files from the original model. Tokenizers are read directly from these files, and give the tokens of the classes in
`transformers`. That library is not used: it takes seconds to import, and its version 5 reads an NLLB sentencepiece
model without its languages, so that any source language becomes "<unk>". Three differences are intended. A word that is
not in the vocabulary stays itself instead of "<unk>", so that `replace_unknowns` can copy it. The name of a special
token in a caption ("</s>") is text, and ends nothing. The spaces of a translation are the model's own.
"""

import mmap
import re
import struct
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.disk.files import digest, sha256_of
from translation.config import TranslateConfig
from translation.engines.ctranslate2_model import CTranslate2Translator, Model
from translation.engines.language_tokens import (
    LANGUAGE_PATTERNS,
    TOKENIZER_CONFIG,
    ModelInfo,
    language_tokens,
    read_json,
    read_object,
)
from translation.engines.sentences import Tokens

# Tokenizer files by model family: alternatives, the preferred one first.
TOKENIZERS = {
    "opus": (("source.spm", "target.spm"), ("sentencepiece.model",)),
    "m2m": (("sentencepiece.bpe.model",),),
    "nllb": (("tokenizer.json",), ("sentencepiece.bpe.model",)),
}
TOKENIZER_FILES = (
    "source.spm", "target.spm", "sentencepiece.model", "sentencepiece.bpe.model", "vocab.json", "tokenizer.json",
    TOKENIZER_CONFIG, "special_tokens_map.json",
)  # fmt: skip
# Model families by tokenizer class. For a generic class, the vocabulary decides.
FAMILIES = {
    "MarianTokenizer": "opus",
    "M2M100Tokenizer": "m2m",
    "NllbTokenizer": "nllb",
    "NllbTokenizerFast": "nllb",
}
GENERIC_CLASSES = (None, "PreTrainedTokenizerFast", "TokenizersBackend")
DEFAULT_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}  # CTranslate2's
PLACEHOLDER = re.compile(r"madeupword\d+")  # pads the vocabulary of M2M-100
# In a model.bin: the name of stored position encodings, which ends with NUL, their two dimensions, the first of these.
_POSITIONS = re.compile(rb"position_encodings/encodings\x00\x02(.{4})", re.DOTALL)
SPACE = "▁"  # sentencepiece's character for a space
_BYTE = re.compile("<0x[0-9A-F]{2}>")


def open_engine(
    config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path
) -> CTranslate2Translator:
    """Return the engine over the folder that `config.model` names; nothing is written to `cache_dir`."""
    folder = Path(config.model[0]).expanduser()
    _require_converted(folder)
    model_config = read_object(folder / "config.json")
    tokenizer_config = read_object(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    source_vocabulary, target_vocabulary = _read_vocabularies(folder)
    if tokenizer_config.get("separate_vocabs") and source_vocabulary == target_vocabulary:
        # CTranslate2's converter keeps only the source's vocabulary. Translations would be written in its pieces.
        raise InputError(f"{folder} lost its target vocabulary when it was converted: name another model")
    family = _family(folder, tokenizer_config, target_vocabulary)
    named = {name: str(model_config.get(name) or default) for name, default in DEFAULT_TOKENS.items()}
    facts = ModelInfo(
        folder=folder,
        family=family,
        tokenizer_config=tokenizer_config,
        source_vocabulary=source_vocabulary,
        target_vocabulary=target_vocabulary,
        end=() if model_config.get("add_source_eos") else (named["eos_token"],),
        starts_with_end=model_config.get("decoder_start_token") == named["eos_token"],  # true for Marian
    )
    tokens, is_language = language_tokens(facts, source, target), LANGUAGE_PATTERNS[family].fullmatch
    all_tokens = {*source_vocabulary, *target_vocabulary}
    no_text = {token for token in all_tokens if is_language(token) or PLACEHOLDER.fullmatch(token)}
    special = SpecialTokens(
        before=tokens.before,
        after=tokens.after,
        unknown=named["unk_token"],
        all=frozenset({*named.values(), "<pad>", "<mask>", *no_text}),
    )
    files = _tokenizer_files(folder, family)
    tokenizer = (
        JsonTokenizer(files[0], special, source_vocabulary)
        if files[0].suffix == ".json"
        else SentencePieceTokenizer(files[0], files[-1], special, source_vocabulary)
    )
    names = ["model.bin", "config.json", *TOKENIZER_FILES, *(path.name for path in folder.glob("*_vocabulary.*"))]
    hashes = {name: sha256_of(folder / name) for name in names if (folder / name).is_file()}
    model = Model(
        engine="ctranslate2",
        folder=folder,
        sha256=digest({"files": hashes, "before": tokens.before, "after": tokens.after}),
        from_code=source.code,
        to_code=target.code,
        target_prefix=tokens.target_prefix,
        max_positions=max_positions(folder / "model.bin") or sys.maxsize,
    )
    return CTranslate2Translator(model, tokenizer, config)


def _require_converted(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"translate.model: {folder} is not a folder. Name the folder of a converted model")
    if not (folder / "model.bin").is_file():
        files = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
        command = f"ct2-transformers-converter --model {folder} --output_dir {folder}-ct2"
        command = " ".join([command, "--copy_files", *files]) if files else command
        raise InputError(f"{folder} has no model.bin, it is not converted: run `{command}` and name {folder}-ct2")


def _family(folder: Path, tokenizer_config: Mapping[str, Any], vocabulary: Collection[str]) -> str:
    name = tokenizer_config.get("tokenizer_class")
    if str(name) in FAMILIES:
        return FAMILIES[str(name)]
    if name not in GENERIC_CLASSES:
        raise InputError(f"{folder} has a {name}: only OPUS-MT (Marian), M2M-100, NLLB and OpenNMT models work")
    for family in ("nllb", "m2m"):
        if any(map(LANGUAGE_PATTERNS[family].fullmatch, vocabulary)):
            return family
    return "opus"


def _tokenizer_files(folder: Path, family: str) -> tuple[Path, ...]:
    for names in TOKENIZERS[family]:
        if all((folder / name).is_file() for name in names):
            return tuple(folder / name for name in names)
    wanted = ", or ".join(" and ".join(names) for names in TOKENIZERS[family])
    raise InputError(f"{folder} has no tokenizer: copy {wanted} from the original model into it")


def _read_vocabularies(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tokens of source and target in the order of their ids."""
    for names in (("shared_vocabulary",), ("source_vocabulary", "target_vocabulary")):
        found = [_read_vocabulary(folder, name) for name in names]
        if all(found):
            return found[0], found[-1]
    raise InputError(f"{folder} has no vocabulary, such as shared_vocabulary.json: convert the model again")


def _read_vocabulary(folder: Path, name: str) -> tuple[str, ...]:
    path, lines = folder / f"{name}.json", folder / f"{name}.txt"
    with about(f"{path} is damaged", remedy="convert the model again"):
        if not path.is_file():
            return tuple(lines.read_text(encoding="utf-8").rstrip("\n").split("\n")) if lines.is_file() else ()
        tokens = read_json(path)
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise TypeError("no list of tokens")
        return tuple(tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """Tokens that are not text: around a sentence, for unknown words, and all that the model might write."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    unknown: str
    all: frozenset[str]

    def with_special(self, pieces: Iterable[str]) -> Tokens:
        """Return the tokens of a sentence, special ones added; a piece named as a special token becomes unknown.

        The result is empty for a sentence of spaces only, for which a model would invent text.
        """
        text = [self.unknown if piece in self.all else piece for piece in pieces]
        return [*self.before, *text, *self.after] if any(piece.strip(SPACE) for piece in text) else []

    def without_special(self, tokens: Tokens) -> Tokens:
        """Return the tokens that are text."""
        return [token for token in tokens if token not in self.all]


class SentencePieceTokenizer:
    """Sentencepiece models, one for the source language and one for the target; they may be the same."""

    def __init__(self, source: Path, target: Path, special: SpecialTokens, vocabulary: Collection[str]) -> None:
        self._source, self._target, self._special = _sentencepiece(source), _sentencepiece(target), special
        pieces = (self._source.id_to_piece(number) for number in range(self._source.get_piece_size()))
        self.alphabet = _alphabet(pieces, vocabulary, special)

    def encode(self, text: str) -> Tokens:
        """Return the pieces of a text between the model's special tokens."""
        return self._special.with_special(self._source.encode(text, out_type=str))

    def decode(self, tokens: Tokens) -> str:
        """Return the text of pieces."""
        text: str = self._target.decode_pieces(self._special.without_special(tokens))
        # Pieces that only the source's model knows, mostly copied names, keep their space characters.
        return text.replace(SPACE, " ")


class JsonTokenizer:
    """A `tokenizer.json` of Hugging Face."""

    def __init__(self, path: Path, special: SpecialTokens, vocabulary: Collection[str]) -> None:
        self._tokenizer, self._special = _tokenizers(path), special
        # Otherwise "</s>" in a caption would end it, and "fra_Latn" would change its language.
        self._tokenizer.encode_special_tokens = True
        pieces = self._tokenizer.get_vocab(with_added_tokens=False)
        self.alphabet = _alphabet(pieces, vocabulary, special)

    def encode(self, text: str) -> Tokens:
        """Return the pieces of a text between the model's special tokens."""
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return self._special.with_special(
            text[start:end] if token == self._special.unknown else token
            for token, (start, end) in zip(encoded.tokens, encoded.offsets, strict=True)
        )

    def decode(self, tokens: Tokens) -> str:
        """Return the text of pieces."""
        text: str = self._tokenizer.decoder.decode(self._special.without_special(tokens))
        return text


def _alphabet(pieces: Iterable[str], vocabulary: Collection[str], special: SpecialTokens) -> frozenset[str] | None:
    """Return the characters of the pieces that both the tokenizer and the model know; None if some pieces are bytes."""
    known = (set(pieces) & set(vocabulary)) - special.all
    if any(map(_BYTE.fullmatch, known)):
        return None
    return frozenset("".join(known))


def _sentencepiece(path: Path) -> Any:
    from sentencepiece import SentencePieceProcessor

    with about(f"{path} is no complete sentencepiece model", remedy="copy it from the original again"):
        return SentencePieceProcessor(model_file=str(path))


def _tokenizers(path: Path) -> Any:
    from tokenizers import Tokenizer

    with about(f"{path} is damaged", remedy="copy it from the original again"):
        tokenizer = Tokenizer.from_file(str(path))
        if tokenizer.decoder is None:
            raise ValueError("no decoder")
    # A file that was saved during a training has both: captions would be truncated or padded.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def max_positions(path: Path) -> int | None:
    """Return the longest sequence, in tokens, of a model's stored position encodings; None if they are computed.

    CTranslate2 raises an error at the first token beyond it, and has no setting that truncates. Where a file names the
    encodings a second time, as an alias, no dimensions follow.
    """
    with about(path), path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        lengths = [struct.unpack("<I", found[1])[0] for found in _POSITIONS.finditer(content)]
    return min(lengths, default=None)
