"""Tokenizers of converted models, straight from their files; see `translation.engines.ctranslate2_model.Tokenizer`.

The tokens are those of the classes in `transformers`, which is not asked: it takes seconds to import, and its fifth
version reads an NLLB sentencepiece model without its languages, so that any source language becomes "<unk>". Three
differences are meant. A word that the vocabulary lacks stays itself instead of "<unk>", so that `replace_unknowns` can
copy it. The name of a special token in a caption ("</s>") is text, and ends nothing. The spaces of a translation are
the model's own.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.errors import InputError
from translation.engines.token_batches import Tokens

SPACE = "▁"  # how sentencepiece writes it
_BYTE = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """Tokens that are no text.

    Args:
        before: what the encoder wants in front of a sentence.
        after: what it wants after it.
        unknown: stands for what the vocabulary lacks.
        all: these, and every other one that the model might write.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    unknown: str
    all: frozenset[str]

    def framed(self, pieces: Iterable[str]) -> Tokens:
        """The tokens of a sentence, special ones added; a piece that is named like a special one is unknown.

        There are none where nothing but spaces is left of a sentence: a model would make something up.
        """
        text = [self.unknown if piece in self.all else piece for piece in pieces]
        return [*self.before, *text, *self.after] if any(piece.strip(SPACE) for piece in text) else []

    def removed(self, tokens: Tokens) -> Tokens:
        """What is text."""
        return [token for token in tokens if token not in self.all]


class SentencePieceTokenizer:
    """Sentencepiece models, one for the language that is read and one for the other; they may be the same."""

    def __init__(self, source: Path, target: Path, special: SpecialTokens, vocabulary: Collection[str]) -> None:
        self._source, self._target, self._special = _sentencepiece(source), _sentencepiece(target), special
        pieces = (self._source.id_to_piece(number) for number in range(self._source.get_piece_size()))
        self.alphabet = _alphabet(pieces, vocabulary, special)

    def encode(self, text: str) -> Tokens:
        """Pieces between the model's special tokens."""
        return self._special.framed(self._source.encode(text, out_type=str))

    def decode(self, tokens: Tokens) -> str:
        """Pieces as text."""
        text: str = self._target.decode_pieces(self._special.removed(tokens))
        # Pieces that only the source's model knows are left as they are: names that are copied, most of all.
        return text.replace(SPACE, " ")


class JsonTokenizer:
    """A `tokenizer.json` of Hugging Face."""

    def __init__(self, path: Path, special: SpecialTokens, vocabulary: Collection[str]) -> None:
        self._tokenizer, self._special = _tokenizers(path), special
        # Without this "</s>" in a caption would end it, and "fra_Latn" would change its language.
        self._tokenizer.encode_special_tokens = True
        pieces = self._tokenizer.get_vocab(with_added_tokens=False)
        self.alphabet = _alphabet(pieces, vocabulary, special)

    def encode(self, text: str) -> Tokens:
        """Pieces between the model's special tokens."""
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return self._special.framed(
            text[start:end] if token == self._special.unknown else token
            for token, (start, end) in zip(encoded.tokens, encoded.offsets, strict=True)
        )

    def decode(self, tokens: Tokens) -> str:
        """Pieces as text."""
        text: str = self._tokenizer.decoder.decode(self._special.removed(tokens))
        return text


def _alphabet(pieces: Iterable[str], vocabulary: Collection[str], special: SpecialTokens) -> frozenset[str] | None:
    """Characters that the tokenizer's pieces spell, as far as the model knows these."""
    known = (set(pieces) & set(vocabulary)) - special.all
    if any(map(_BYTE.fullmatch, known)):
        return None
    return frozenset("".join(known))


def _sentencepiece(path: Path) -> Any:
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_file=str(path))
    except RuntimeError as error:
        raise InputError(f"{path} is no whole sentencepiece model: copy it from the original again") from error


def _tokenizers(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"{path} is damaged ({error}): copy it from the original again") from error
    if tokenizer.decoder is None:
        raise InputError(f"{path} has no decoder: copy it from the original again")
    # A file that was saved in the middle of a training has both, and captions would be cut or filled up.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
