"""Captions through a model that translates sentences: batches, guards, a second try where a translation loops.

What CTranslate2's models and those of `transformers` have in common. Each caption goes to the model sentence by
sentence, prepared by `translation.guards`.
"""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from translation.engine import Translation
from translation.guards import Prepared, prepare, restore

logger = logging.getLogger(__name__)

SECOND_TRY_NGRAM = 3
# Longest translation in tokens: three times the source and ten more, where the source's length is rounded up to a
# multiple of eight, so that the limit depends on the caption alone, not on its neighbours in the batch.
LIMIT_FACTOR, LIMIT_EXTRA, LENGTH_STEP = 3, 10, 8
MAX_SOURCE_TOKENS = 1024  # CTranslate2's own default: it reads no further

Token = TypeVar("Token")  # a piece, or its number
Tokens = list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One sentence as the model has it: the sum of its tokens' log-probabilities, and how many they are."""

    text: str
    log_probability: float
    num_tokens: int
    truncated: bool
    repetitive: bool


# Of a sentence in which the tokenizer finds nothing, such as one zero-width character.
_NOTHING = Decoded(text="", log_probability=0.0, num_tokens=0, truncated=False, repetitive=False)


class SentenceTranslator(ABC, Generic[Token]):
    """A `translation.engine.Translator` over a model of sentences.

    Attributes:
        fingerprint: see `Translator`, as for the others.
        from_code: of the language that it reads.
        to_code: of the language that it writes.
        alphabet: every character that the vocabulary can spell, or None if it can spell all.
    """

    max_chunk_size = None
    fingerprint: str
    from_code: str
    to_code: str
    alphabet: frozenset[str] | None

    @abstractmethod
    def encode(self, sentence: str) -> list[Token]:
        """Return the tokens as the model's encoder wants them, special ones included; none where there is no text."""

    @abstractmethod
    def decode(
        self, tokens: Mapping[str, list[Token]], report: Callable[[list[str]], object], *, no_repeat_ngram_size: int = 0
    ) -> dict[str, Decoded]:
        """Translate distinct sentences, batch by batch.

        Args:
            tokens: of each sentence, at least one.
            report: is told the sentences of a batch when they are done.
            no_repeat_ngram_size: tokens that no translation may repeat in a row; 0: it may repeat itself.
        """

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """See `Translator.translate`; equal captions, and equal sentences of different captions, are translated once.

        Raises:
            InputError: the model cannot be loaded.
        """
        prepared = {
            caption: prepare(caption, self.alphabet, language=self.from_code) for caption in dict.fromkeys(captions)
        }
        counts, report = Counter(captions), on_done or (lambda _: None)
        # A caption is counted as done with the last of its sentences to be asked for; the longest come first.
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
        """Translate sentences; those that loop or never end get a second try that may not repeat itself."""
        first = self.decode(tokens, report)
        doubtful = {text: tokens[text] for text, found in first.items() if found.truncated or found.repetitive}
        if not doubtful:
            return first
        second = self.decode(doubtful, lambda _: None, no_repeat_ngram_size=SECOND_TRY_NGRAM)
        mended = sum(not (found.truncated or found.repetitive) for found in second.values())
        logger.info("%d translations looped, %d of them no more at the second try", len(doubtful), mended)
        # What still loops does so less; only a text that ends is not given up for one that does not.
        return first | {text: found for text, found in second.items() if first[text].truncated or not found.truncated}


def token_batches(tokens: Mapping[str, Sequence[object]], max_batch_tokens: int) -> Iterator[list[str]]:
    """Groups of texts of like length, longest first, whose padded size stays within the budget (one text at least).

    All texts of a group have the same `decoding_limit`; the grouping depends on the set of texts, not on their order.
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
    """Most target tokens for a source of that many tokens."""
    rounded = -(-min(num_source_tokens, MAX_SOURCE_TOKENS) // LENGTH_STEP) * LENGTH_STEP
    return LIMIT_FACTOR * rounded + LIMIT_EXTRA
