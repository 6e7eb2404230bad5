"""Captions through a model that translates sentences: batches, checks, a second try for translations that repeat.

CTranslate2's models and those of `transformers` share this module. Each caption goes to the model sentence by sentence,
prepared by `translation.guards`.
"""

import logging
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from translation.engine import Translation
from translation.guards import Prepared, prepare, restore

logger = logging.getLogger(__name__)

SECOND_TRY_NGRAM = 3
# Longest translation in tokens: three times the source's length and ten more. The source's length is rounded up to a
# multiple of eight, so that the limit depends on the caption alone, not on its neighbours in the batch.
LIMIT_FACTOR, LIMIT_EXTRA, LENGTH_STEP = 3, 10, 8
MAX_SOURCE_TOKENS = 1024  # CTranslate2's default; it ignores later tokens
_BYTE = re.compile("<0x[0-9A-F]{2}>")

Token = TypeVar("Token")  # a piece, or its id
Tokens = list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A translated sentence, with the sum of its tokens' log-probabilities and the number of its tokens."""

    text: str
    log_probability: float
    num_tokens: int
    truncated: bool
    repetitive: bool


# Result of a sentence without tokens, such as one zero-width character.
_NOTHING = Decoded(text="", log_probability=0.0, num_tokens=0, truncated=False, repetitive=False)


class SentenceTranslator(ABC, Generic[Token]):
    """A `translation.engine.Translator` over a model that translates sentences."""

    max_chunk_size = None
    fingerprint: str
    from_code: str
    to_code: str
    alphabet: frozenset[str] | None  # every character that the vocabulary can spell, or None if it can spell all

    @abstractmethod
    def encode(self, sentence: str) -> list[Token]:
        """Return the tokens of a sentence for the model's encoder, special ones included; none for no text."""

    @abstractmethod
    def decode(
        self, tokens: Mapping[str, list[Token]], report: Callable[[list[str]], object], *, no_repeat_ngram_size: int = 0
    ) -> dict[str, Decoded]:
        """Translate distinct sentences, batch by batch.

        `report` is called with the sentences of each batch. Sequences of `no_repeat_ngram_size` tokens may occur once
        in a translation; 0 for no limit.
        """

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """Return one translation per caption; see `Translator.translate`.

        Equal captions, and equal sentences of different captions, are translated once.
        """
        prepared = {
            caption: prepare(caption, self.alphabet, language=self.from_code) for caption in dict.fromkeys(captions)
        }
        counts, report = Counter(captions), on_done or (lambda _: None)
        # A caption counts as done with its shortest sentence, because the longest sentences are translated first.
        waiting: Counter[str] = Counter()
        for caption, item in prepared.items():
            if item.sentences:
                waiting[min(item.sentences, key=lambda sentence: (len(sentence), sentence))] += counts[caption]

        def done(sentences: Iterable[str]) -> None:
            report(sum(waiting[sentence] for sentence in sentences))

        report(sum(counts[caption] for caption, item in prepared.items() if not item.sentences))
        sentences = sorted({sentence for item in prepared.values() for sentence in item.sentences})
        tokens = {sentence: self.encode(sentence) for sentence in sentences}
        silent = {sentence: _NOTHING for sentence, pieces in tokens.items() if not pieces}
        done(silent)
        found = silent | self._decode_twice({text: pieces for text, pieces in tokens.items() if pieces}, done)
        translations = {caption: self._joined(item, found) for caption, item in prepared.items()}
        return [translations[caption] for caption in captions]

    def _joined(self, prepared: Prepared, found: Mapping[str, Decoded]) -> Translation:
        parts = [found[sentence] for sentence in prepared.sentences]
        num_tokens = sum(part.num_tokens for part in parts)
        return Translation(
            text=restore([part.text for part in parts], prepared, language=self.to_code),
            score=sum(part.log_probability for part in parts) / num_tokens if num_tokens else None,
            truncated=any(part.truncated for part in parts),
            repetitive=any(part.repetitive for part in parts),
        )

    def _decode_twice(
        self, tokens: Mapping[str, list[Token]], report: Callable[[list[str]], object]
    ) -> dict[str, Decoded]:
        """Translate sentences, and try again, without repetition, those that repeat themselves or never end."""
        first = self.decode(tokens, report)
        doubtful = {text: tokens[text] for text, found in first.items() if found.truncated or found.repetitive}
        if not doubtful:
            return first
        second = self.decode(doubtful, lambda _: None, no_repeat_ngram_size=SECOND_TRY_NGRAM)
        mended = sum(not (found.truncated or found.repetitive) for found in second.values())
        logger.info("%d translations repeated themselves or did not end; a second try mended %d", len(doubtful), mended)
        # The second try repeats itself less, so it is used, except if only the first one ends.
        return first | {text: found for text, found in second.items() if first[text].truncated or not found.truncated}


def token_batches(tokens: Mapping[str, Sequence[object]], max_batch_tokens: int) -> Iterator[list[str]]:
    """Yield batches of texts of similar length, longest first, within a budget of padded tokens (one text at least).

    All texts of a batch have the same `decoding_limit`. Batches depend on the set of texts, not on their order.
    """
    ordered = sorted(tokens, key=lambda text: (-len(tokens[text]), text))
    batch: list[str] = []
    for text in ordered:
        longest = len(tokens[batch[0]]) if batch else 0
        full = (len(batch) + 1) * longest > max_batch_tokens
        if batch and (full or decoding_limit(longest) != decoding_limit(len(tokens[text]))):
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def decoding_limit(num_source_tokens: int) -> int:
    """Return the most target tokens for a source of `num_source_tokens` tokens."""
    rounded = -(-min(num_source_tokens, MAX_SOURCE_TOKENS) // LENGTH_STEP) * LENGTH_STEP
    return LIMIT_FACTOR * rounded + LIMIT_EXTRA


def alphabet_of(pieces: Iterable[str]) -> frozenset[str] | None:
    """Return every character that the pieces of a vocabulary can spell; None for all, if some pieces are bytes."""
    pieces = list(pieces)
    return None if any(map(_BYTE.fullmatch, pieces)) else frozenset("".join(pieces))
