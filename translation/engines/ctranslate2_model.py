"""A CTranslate2 model as a `translation.engine.Translator`: captions in batches, offline, with scores and checks.

This is the only module that loads `ctranslate2` to translate. Each caption goes to the model sentence by sentence,
prepared by `translation.guards`. Sentences are sorted by length into batches with a budget of tokens. A translation
that repeats itself is tried a second time.
"""

import logging
import os
import re
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from data_catalog.base.boundary import about
from data_catalog.disk.files import digest
from translation.config import TranslateConfig
from translation.engine import Translation
from translation.guards import Prepared, is_repetitive, prepare, restore

logger = logging.getLogger(__name__)

# Increase it when a change of this module gives another text or score for the same model and settings.
ENGINE_VERSION = 5
# Batches that wait for each worker: enough that workers never idle, few enough that few results are in memory.
QUEUED_BATCHES_PER_WORKER = 4
# Padded source tokens of a batch times hypotheses, and most padded source tokens. On two cores, a model of published
# size translated 109 captions a second with 4 hypotheses and 512 or 1,024 tokens, 98 with 2,048 and 82 with 4,096. With
# 1 or 2 hypotheses, 1,024 to 2,048 tokens were fastest. A GPU needs larger batches; its numbers are not measured.
HYPOTHESIS_TOKENS = {"cpu": 4_096, "cuda": 65_536}
MOST_TOKENS = {"cpu": 2_048, "cuda": 32_768}
SECOND_TRY_NGRAM = 3
# Longest translation in tokens: three times the source's length and ten more. The source's length is rounded up to a
# multiple of eight, so that the limit depends on the caption alone, not on its neighbours in the batch.
LIMIT_FACTOR, LIMIT_EXTRA, LENGTH_STEP = 3, 10, 8
MAX_SOURCE_TOKENS = 1024  # CTranslate2's default; it ignores later tokens
_BYTE = re.compile("<0x[0-9A-F]{2}>")

Tokens = list[str]


class Tokenizer(Protocol):
    """A converter between texts and tokens of the model's vocabulary."""

    def encode(self, text: str) -> Tokens:
        """Return the tokens of a text for the model's encoder, special ones included; none for no text."""

    def decode(self, tokens: Tokens) -> str:
        """Return the text of a translation's tokens, without special ones."""

    @property
    def alphabet(self) -> frozenset[str] | None:
        """Return every character that the vocabulary can spell, or None if it can spell all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A CTranslate2 model and the facts that its use needs."""

    engine: str  # the first part of the fingerprint
    folder: Path
    sha256: str  # of everything that decides its translations, tokenizer included
    from_code: str
    to_code: str
    target_prefix: str = ""  # token that multilingual models need in front of the translation
    length_penalty: float = 1.0  # hypotheses are compared by their scores divided by their lengths to this power
    # Tokens, prefix included, beyond which CTranslate2 would raise an error. Most models compute their positions.
    max_positions: int = sys.maxsize


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


class CTranslate2Translator:
    """A `translation.engine.Translator` over one model; the model is loaded at the first translation."""

    max_chunk_size = None

    def __init__(self, model: Model, tokenizer: Tokenizer, config: TranslateConfig) -> None:
        self.model, self.config = model, config
        self.from_code, self.to_code = model.from_code, model.to_code
        self.device = config.device
        if self.device == "auto":
            import ctranslate2

            self.device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        self.max_batch_tokens = config.max_batch_tokens or max(
            1, min(MOST_TOKENS[self.device], HYPOTHESIS_TOKENS[self.device] // config.beam_size)
        )
        what = {
            "engine": ENGINE_VERSION,
            "model": model.sha256,
            "ctranslate2": version("ctranslate2"),
            "beam_size": config.beam_size,
            "patience": config.patience,
            "max_batch_tokens": self.max_batch_tokens,
            "compute_type": config.compute_type,
            "intra_threads": config.intra_threads,
            "device": self.device,
            "target_prefix": model.target_prefix,
            "length_penalty": model.length_penalty,
        }
        self.fingerprint = f"{model.engine}:{model.from_code}-{model.to_code}:{digest(what)[:12]}"
        self.alphabet = tokenizer.alphabet
        self.tokenizer = tokenizer
        self._loaded: Any = None

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
        tokens = {sentence: self.tokenizer.encode(sentence) for sentence in sentences}
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

    def _decode_twice(self, tokens: Mapping[str, Tokens], report: Callable[[list[str]], object]) -> dict[str, Decoded]:
        """Translate sentences, and try again, without repetition, those that repeat themselves or never end."""
        first = self._decode(tokens, report)
        doubtful = {text: tokens[text] for text, found in first.items() if found.truncated or found.repetitive}
        if not doubtful:
            return first
        second = self._decode(doubtful, lambda _: None, no_repeat_ngram_size=SECOND_TRY_NGRAM)
        mended = sum(not (found.truncated or found.repetitive) for found in second.values())
        logger.info("%d translations repeated themselves or did not end; a second try mended %d", len(doubtful), mended)
        # The second try repeats itself less, so it is used, except if only the first one ends.
        return first | {text: found for text, found in second.items() if first[text].truncated or not found.truncated}

    def _decode(
        self, tokens: Mapping[str, Tokens], report: Callable[[list[str]], object], *, no_repeat_ngram_size: int = 0
    ) -> dict[str, Decoded]:
        """Translate distinct sentences, several batches at once; `report` is called with the sentences of each."""
        options = {"no_repeat_ngram_size": no_repeat_ngram_size} if no_repeat_ngram_size else {}
        found: dict[str, Decoded] = {}
        queued: deque[tuple[list[str], list[Any]]] = deque()

        def take() -> None:
            batch, futures = queued.popleft()
            remedy = f"a smaller translate.max_batch_tokens needs less memory{_advice(self.device)}"
            with about(f"CTranslate2 cannot translate with {self.model.folder}", remedy=remedy):
                results = [future.result() for future in futures]
            found.update((text, self._judge(tokens[text], result)) for text, result in zip(batch, results, strict=True))
            report(batch)

        for batch in token_batches(tokens, self.max_batch_tokens):
            queued.append((batch, self._submit([tokens[text] for text in batch], options)))
            if len(queued) > QUEUED_BATCHES_PER_WORKER * self._num_workers():
                take()
        while queued:
            take()
        return found

    def try_out(self) -> None:
        """Load the model and translate one token with it."""
        self._decode({"a": ["a"]}, lambda _: None)

    def _submit(self, sources: list[Tokens], options: dict[str, Any]) -> list[Any]:
        prefix = self.model.target_prefix
        futures: list[Any] = self._load().translate_batch(
            sources,
            target_prefix=[[prefix]] * len(sources) if prefix else None,
            asynchronous=True,
            beam_size=self.config.beam_size,
            patience=self.config.patience,
            length_penalty=self.model.length_penalty,
            replace_unknowns=True,
            return_scores=True,
            max_input_length=self._max_source_tokens(),
            max_decoding_length=self._max_target_tokens(len(sources[0])),
            **options,
        )
        return futures

    def _judge(self, source: Tokens, result: Any) -> Decoded:
        target: Tokens = result.hypotheses[0]
        ended = len(target) < self._max_target_tokens(len(source))
        # CTranslate2 counts the prefix, and the end token if there is one, but adds no probability for the prefix.
        num_counted = len(target) + ended
        log_probability = result.scores[0] * num_counted**self.model.length_penalty
        if self.model.target_prefix and target[:1] == [self.model.target_prefix]:
            target = target[1:]
            num_counted -= 1
        return Decoded(
            text=self.tokenizer.decode(target),
            log_probability=log_probability,
            num_tokens=num_counted,
            truncated=not ended or len(source) > self._max_source_tokens(),
            repetitive=is_repetitive(source, target),
        )

    def _max_source_tokens(self) -> int:
        return min(MAX_SOURCE_TOKENS, self.model.max_positions)

    def _max_target_tokens(self, num_source_tokens: int) -> int:
        return min(decoding_limit(num_source_tokens), self.model.max_positions)

    def _num_workers(self) -> int:
        return self.config.inter_threads or (len(os.sched_getaffinity(0)) if self.device == "cpu" else 1)

    def _load(self) -> Any:
        if self._loaded is None:
            import ctranslate2

            remedy = f"copy it again, or name another model{_advice(self.device)}"
            with about(f"the model in {self.model.folder} cannot be loaded", remedy=remedy):
                self._loaded = ctranslate2.Translator(
                    str(self.model.folder),
                    device=self.device,
                    compute_type=self.config.compute_type,
                    inter_threads=self._num_workers(),
                    intra_threads=self.config.intra_threads,
                )
        return self._loaded


def _advice(device: str) -> str:
    """Return advice for an error that may have its cause in the GPU."""
    return "" if device == "cpu" else ". Without a GPU, its driver and CUDA's libraries, set translate.device=cpu"


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
