"""A CTranslate2 model as a `translation.engine.Translator`: captions in batches, offline, with scores and checks.

This is the only module that loads `ctranslate2` to translate. Sentences are sorted by length into batches with a budget
of tokens.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from data_catalog.base.boundary import about
from data_catalog.disk.files import digest
from translation.config import TranslateConfig, default_batch_tokens
from translation.engines.sentences import (
    MAX_SOURCE_TOKENS,
    Decoded,
    SentenceTranslator,
    Tokens,
    decoding_limit,
    token_batches,
)
from translation.guards import is_repetitive

# Increase it when a change of this module gives another text or score for the same model and settings.
ENGINE_VERSION = 5
# Batches that wait for each worker: enough that workers never idle, few enough that few results are in memory.
QUEUED_BATCHES_PER_WORKER = 4


class Tokenizer(Protocol):
    """A converter between texts and tokens of the model's vocabulary."""

    def encode(self, text: str) -> Tokens:
        """Return the tokens of a text for the model's encoder, special ones included."""

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


class CTranslate2Translator(SentenceTranslator[str]):
    """A `translation.engine.Translator` over one model; the model is loaded at the first translation."""

    def __init__(self, model: Model, tokenizer: Tokenizer, config: TranslateConfig) -> None:
        self.model, self.config = model, config
        self.from_code, self.to_code = model.from_code, model.to_code
        self.device = config.device
        if self.device == "auto":
            import ctranslate2

            self.device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        self.max_batch_tokens = config.max_batch_tokens or default_batch_tokens(self.device, config.beam_size)
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
        self._tokenizer = tokenizer
        self._loaded: Any = None

    def encode(self, sentence: str) -> Tokens:
        """Return the tokens of a sentence; see `SentenceTranslator.encode`."""
        return self._tokenizer.encode(sentence)

    def decode(
        self, tokens: Mapping[str, Tokens], report: Callable[[list[str]], object], *, no_repeat_ngram_size: int = 0
    ) -> dict[str, Decoded]:
        """Translate distinct sentences, several batches at once; see `SentenceTranslator.decode`."""
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
        self.decode({"a": ["a"]}, lambda _: None)

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
            text=self._tokenizer.decode(target),
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
