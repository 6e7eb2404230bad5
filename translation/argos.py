"""Argos packages driven by CTranslate2 directly: captions in batches, offline, with scores.

Decoding is Argos Translate's own (`argostranslate.translate.apply_packaged_translation`); what differs is that captions
share batches, that each is one sentence (no sentence splitter, which would be downloaded), and the guards.
The only module that loads `argostranslate`, of which it takes the tokenizers; they are free of side effects.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.shards import digest
from translation.engine import Translation
from translation.guards import Prepared, is_repetitive, prepare, restore
from translation.packages import Package, default_packages_dir, find, open_package, require_pair

logger = logging.getLogger(__name__)

# Raised whenever the same package and settings give another text or score.
ENGINE_VERSION = 1
# As Argos Translate sets it.
LENGTH_PENALTY = 0.2
SECOND_TRY_NGRAM = 3
# Longest translation in tokens: three times the source and ten more, where the source's length is rounded up to a
# multiple of eight, so that the limit depends on the caption alone, not on its neighbours in the batch.
LIMIT_FACTOR, LIMIT_EXTRA, LENGTH_STEP = 3, 10, 8
MAX_SOURCE_TOKENS = 1024  # CTranslate2's own default: it reads no further
COMPUTE_TYPES = ("default", "auto", "int8", "int8_float32", "int16", "float32", "int8_float16", "float16", "bfloat16")
DEVICES = ("cpu", "cuda", "auto")

Tokens = list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslateConfig:
    """Settings of the translate step.

    All but `inter_threads` decide texts or scores, and belong to the engine's fingerprint.

    Args:
        package: an `.argosmodel` file or the folder of an installed package; None: the newest installed one that fits.
        beam_size: hypotheses kept while decoding; 4 is Argos Translate's, 1 is three times as fast and a little worse.
        max_batch_tokens: padded source tokens of a batch; 1024 to 4096 are equally fast on a CPU.
        compute_type: of CTranslate2; "default" is what the package was stored in.
        inter_threads: batches translated at the same time, 0 for one per CPU.
        intra_threads: threads that share a batch.
        device: "cpu", "cuda", or "auto" for a GPU if there is one.
    """

    package: str | None = None
    beam_size: int = 4
    max_batch_tokens: int = 2048
    compute_type: str = "default"
    inter_threads: int = 0
    intra_threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot work."""
        for name in ("beam_size", "max_batch_tokens", "intra_threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"translate.{name} must be positive, got {getattr(self, name)}")
        if self.inter_threads < 0:
            raise ConfigError(f"translate.inter_threads must not be negative, got {self.inter_threads}")
        for name, allowed in (("compute_type", COMPUTE_TYPES), ("device", DEVICES)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"translate.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")


def open_translator(config: TranslateConfig, from_code: str, to_code: str, *, cache_dir: Path) -> "ArgosTranslator":
    """The engine for a pair of languages; the model is loaded at the first translation.

    Args:
        cache_dir: where an `.argosmodel` file is unpacked; it may be removed at any time between runs.

    Raises:
        ConfigError: no package, a damaged one, or one for another pair.
    """
    if config.package is None:
        package = find(from_code, to_code, default_packages_dir())
    else:
        package = open_package(Path(config.package).expanduser(), cache_dir)
        require_pair(package, from_code, to_code)
    return ArgosTranslator(package, config)


class ArgosTranslator:
    """A `translation.engine.Translator` over one Argos package."""

    def __init__(self, package: Package, config: TranslateConfig) -> None:
        self.package, self.config = package, config
        self.from_code, self.to_code = package.from_code, package.to_code
        self.device = _resolved_device(config.device)
        self.fingerprint = _fingerprint(package, config, self.device)
        self._tokenizer = _tokenizer(package)
        self._model: Any = None

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """See `Translator.translate`; equal captions are translated once.

        Raises:
            ConfigError: the model cannot be loaded.
        """
        prepared = {caption: prepare(caption) for caption in dict.fromkeys(captions)}
        tokens = {text: self._tokenizer.encode(text) for text in sorted({item.text for item in prepared.values()})}
        waiting = Counter(prepared[caption].text for caption in captions)
        report = on_done or (lambda _: None)
        report(sum(count for text, count in waiting.items() if not tokens[text]))
        found = self._decode(
            {text: pieces for text, pieces in tokens.items() if pieces},
            lambda texts: report(sum(waiting[text] for text in texts)),
        )
        return [_published(prepared[caption], found) for caption in captions]

    def _decode(self, tokens: dict[str, Tokens], report: Callable[[list[str]], object]) -> dict[str, Translation]:
        """Translate distinct texts; those that loop or never end get a second try that may not repeat itself."""
        first = self._decode_once(tokens, report)
        doubtful = {text: tokens[text] for text, found in first.items() if found.truncated or found.repetitive}
        if not doubtful:
            return first
        second = self._decode_once(doubtful, lambda _: None, no_repeat_ngram_size=SECOND_TRY_NGRAM)
        mended = sum(not (found.truncated or found.repetitive) for found in second.values())
        logger.info("%d translations looped, %d of them no more at the second try", len(doubtful), mended)
        # What still loops does so less; only a text that ends is not given up for one that does not.
        return first | {text: found for text, found in second.items() if first[text].truncated or not found.truncated}

    def _decode_once(
        self, tokens: dict[str, Tokens], report: Callable[[list[str]], object], **options: Any
    ) -> dict[str, Translation]:
        # All batches are queued before the first result is read, so that none of the threads waits for us.
        queued = [
            (batch, self._submit([tokens[text] for text in batch], options))
            for batch in token_batches(tokens, self.config.max_batch_tokens)
        ]
        found: dict[str, Translation] = {}
        for batch, futures in queued:
            for text, future in zip(batch, futures, strict=True):
                found[text] = self._judge(tokens[text], future.result())
            report(batch)
        return found

    def _submit(self, sources: list[Tokens], options: dict[str, Any]) -> list[Any]:
        prefix = self.package.target_prefix
        futures: list[Any] = self._loaded_model().translate_batch(
            sources,
            target_prefix=[[prefix]] * len(sources) if prefix else None,
            asynchronous=True,
            beam_size=self.config.beam_size,
            length_penalty=LENGTH_PENALTY,
            replace_unknowns=True,
            return_scores=True,
            max_input_length=MAX_SOURCE_TOKENS,
            max_decoding_length=decoding_limit(len(sources[0])),
            **options,
        )
        return futures

    def _judge(self, source: Tokens, result: Any) -> Translation:
        target = result.hypotheses[0]
        text = self._tokenizer.decode(target)
        prefix = self.package.target_prefix
        text = text.removeprefix(prefix) if prefix else text
        return Translation(
            text=text.removeprefix(" "),
            score=mean_log_probability(result.scores[0], len(target)),
            truncated=len(target) >= decoding_limit(len(source)) or len(source) > MAX_SOURCE_TOKENS,
            repetitive=is_repetitive(source, target),
        )

    def _loaded_model(self) -> Any:
        if self._model is None:
            import ctranslate2

            try:
                self._model = ctranslate2.Translator(
                    str(self.package.folder / "model"),
                    device=self.device,
                    compute_type=self.config.compute_type,
                    inter_threads=self.config.inter_threads or _num_cpus(),
                    intra_threads=self.config.intra_threads,
                )
            except (RuntimeError, ValueError) as error:
                raise ConfigError(f"the model in {self.package.folder} cannot be loaded: {error}") from error
        return self._model


def token_batches(tokens: dict[str, Tokens], max_batch_tokens: int) -> Iterator[list[str]]:
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


def mean_log_probability(score: float, num_target_tokens: int) -> float:
    """CTranslate2's score, a sum over `num_target_tokens ** LENGTH_PENALTY`, as a mean, end token included."""
    return score * float(num_target_tokens**LENGTH_PENALTY) / (num_target_tokens + 1)


def _published(prepared: Prepared, found: dict[str, Translation]) -> Translation:
    translation = found.get(prepared.text)
    if translation is None:
        return Translation(text="", score=0.0)
    return replace(translation, text=restore(translation.text, prepared))


def _tokenizer(package: Package) -> Any:
    from argostranslate.tokenizer import BPETokenizer, SentencePieceTokenizer

    if package.tokenizer_path.name == "bpe.model":
        return BPETokenizer(package.tokenizer_path, package.from_code, package.to_code)
    return SentencePieceTokenizer(package.tokenizer_path)


def _fingerprint(package: Package, config: TranslateConfig, device: str) -> str:
    what = {
        "engine": ENGINE_VERSION,
        "package": package.sha256,
        "ctranslate2": version("ctranslate2"),
        "beam_size": config.beam_size,
        "max_batch_tokens": config.max_batch_tokens,
        "compute_type": config.compute_type,
        "intra_threads": config.intra_threads,
        "device": device,
    }
    return f"argos:{package.pair}:{digest(what)[:12]}"


def _resolved_device(device: str) -> str:
    if device != "auto":
        return device
    import ctranslate2

    return "cuda" if ctranslate2.get_cuda_device_count() else "cpu"


def _num_cpus() -> int:
    # A container or a batch system may have given us fewer than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
