"""Converted OPUS-MT, M2M-100, NLLB and OpenNMT models with their tokenizers, run by CTranslate2.

A folder contains the output of `ct2-transformers-converter` (or another converter of CTranslate2) and the tokenizer's
files from the original model. Tokenizers give the tokens of the classes in `transformers`. That library is not used: it
takes seconds to import, and its version 5 reads an NLLB sentencepiece model without its languages. Three differences
are intended. A word that is not in the vocabulary stays itself instead of "<unk>", so that `replace_unknowns` can copy
it. The name of a special token in a caption ("</s>") is text, and ends nothing. The spaces are the model's own.
"""

import mmap
import re
import struct
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.disk.files import digest, sha256_of
from translation.config import TranslateConfig
from translation.engines.ctranslate2_model import CTranslate2Translator, Model, Tokens, alphabet_of
from translation.engines.language_tokens import (
    LANGUAGE_PATTERNS,
    TOKENIZER_CONFIG,
    LanguageTokens,
    ModelInfo,
    language_tokens,
    read_json,
    read_object,
)

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
    special = frozenset({*named.values(), "<pad>", "<mask>", *no_text})
    tokenizer = ConvertedTokenizer(
        _tokenizer_files(folder, family), tokens, source_vocabulary, special=special, unknown=named["unk_token"]
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


class ConvertedTokenizer:
    """A model's tokenizer, from sentencepiece models of source and target, or from Hugging Face's `tokenizer.json`.

    `special` are all tokens that are no text; the name of one in a caption becomes an unknown word.
    """

    def __init__(
        self,
        files: Sequence[Path],
        tokens: LanguageTokens,
        vocabulary: Collection[str],
        *,
        special: frozenset[str],
        unknown: str,
    ) -> None:
        self._tokens, self._special, self._unknown = tokens, special, unknown
        pieces = self._read_json(files[0]) if files[0].suffix == ".json" else self._read_sentencepiece(files)
        self.alphabet = alphabet_of((set(pieces) & set(vocabulary)) - special)

    def encode(self, text: str) -> Tokens:
        """Return the pieces of a text between the model's special tokens.

        The result is empty for a text of spaces only, for which a model would invent something.
        """
        pieces = [self._unknown if piece in self._special else piece for piece in self._split(text)]
        is_text = any(piece.strip(SPACE) for piece in pieces)
        return [*self._tokens.before, *pieces, *self._tokens.after] if is_text else []

    def decode(self, tokens: Tokens) -> str:
        """Return the text of pieces."""
        return self._join([token for token in tokens if token not in self._special])

    def _read_sentencepiece(self, files: Sequence[Path]) -> Iterable[str]:
        """Read one model for the source language and one for the target, maybe the same; return the source's pieces."""
        from sentencepiece import SentencePieceProcessor

        models = []
        for path in (files[0], files[-1]):
            with about(f"{path} is no complete sentencepiece model", remedy="copy it from the original again"):
                models.append(SentencePieceProcessor(model_file=str(path)))
        source, target = models
        self._split: Callable[[str], Iterable[str]] = lambda text: source.encode(text, out_type=str)
        # Pieces that only the source's model knows, mostly copied names, keep their space characters.
        self._join: Callable[[Tokens], str] = lambda tokens: target.decode_pieces(tokens).replace(SPACE, " ")
        return map(source.id_to_piece, range(source.get_piece_size()))

    def _read_json(self, path: Path) -> Iterable[str]:
        """Read a tokenizer, and return its pieces."""
        from tokenizers import Tokenizer

        with about(f"{path} is damaged", remedy="copy it from the original again"):
            tokenizer = Tokenizer.from_file(str(path))
            if tokenizer.decoder is None:
                raise ValueError("no decoder")
        # A file that was saved during a training has both: captions would be truncated or padded.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # Otherwise "</s>" in a caption would end it, and "fra_Latn" would change its language.
        tokenizer.encode_special_tokens = True

        def split(text: str) -> Iterator[str]:
            encoded = tokenizer.encode(text, add_special_tokens=False)
            for token, (start, end) in zip(encoded.tokens, encoded.offsets, strict=True):
                yield text[start:end] if token == self._unknown else token

        self._split, self._join = split, tokenizer.decoder.decode
        return tokenizer.get_vocab(with_added_tokens=False)


def max_positions(path: Path) -> int | None:
    """Return the longest sequence, in tokens, of a model's stored position encodings; None if they are computed.

    CTranslate2 raises an error at the first token beyond it, and has no setting that truncates. Where a file names the
    encodings a second time, as an alias, no dimensions follow.
    """
    with about(path), path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        lengths = [struct.unpack("<I", found[1])[0] for found in _POSITIONS.finditer(content)]
    return min(lengths, default=None)
