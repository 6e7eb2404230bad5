"""Any sequence-to-sequence model of Hugging Face as an engine: MarianMT, M2M-100, NLLB, mBART, T5 and others.

This is the only module that loads `transformers` to translate. A model folder is not trusted: weights are read from
safetensors only, and no code of the folder runs.
"""

import logging
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.disk.files import digest, sha256_of
from translation.config import TranslateConfig, default_batch_tokens
from translation.engines.language_tokens import (
    LANGUAGE_PATTERNS,
    TOKENIZER_CONFIG,
    ModelInfo,
    language_tokens,
    read_object,
)
from translation.engines.sentences import (
    MAX_SOURCE_TOKENS,
    Decoded,
    SentenceTranslator,
    alphabet_of,
    decoding_limit,
    token_batches,
)
from translation.guards import is_repetitive

logger = logging.getLogger(__name__)

# Increase it when a change of this module gives another text or score for the same model and settings.
ENGINE_VERSION = 2
REMEDY = "copy it again from a complete original, or name another model"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")
# Suffixes of files that decide translations, in the folder itself; never a pickle, never code.
_DECIDING = (".json", ".safetensors", ".spm", ".model", ".txt", ".bpe")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MOST_LAYERS = 1_000  # a config with more is damaged, and the library would create them for hours
# Probabilities that are in memory at once while translations are scored: 64 MB.
_SCORED_AT_ONCE = 16_000_000
_T5 = ("t5", "mt5", "umt5", "longt5", "switch_transformers")
_PLACEHOLDER = re.compile(r"madeupword\d+|<extra_id_\d+>")
_BLANK = "▁Ġ \n\t"  # characters with which vocabularies write spaces
_MOST_SPARE = 4_096  # ids above the vocabulary, which pad a matrix


def open_engine(
    config: TranslateConfig, source: LanguagePack, target: LanguagePack, cache_dir: Path
) -> "TransformersTranslator":
    """Return the engine over the model that `config.model` names; one of the hub is downloaded to the hub's cache."""
    (name,) = config.model
    folder = _model_folder(name)
    _require_whole(folder, name)
    with about(f"the model {name} cannot be opened", remedy=REMEDY):
        vocabulary = Vocabulary(folder)
        token_ids = _token_ids(vocabulary, source, target)
    return TransformersTranslator(vocabulary, token_ids, config, from_code=source.code, to_code=target.code)


def _model_folder(name: str) -> Path:
    """Return the folder of a model: a local folder, or the hub's cache, downloaded if necessary."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(name):
        raise InputError(f"translate.model: {name} is not a folder and not the name of a model")
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    patterns = [f"*{suffix}" for suffix in _DECIDING]
    remedy = "without a network, name a folder with a copy of the model"
    with about(f"translate.model: {name} is not a folder, and cannot be downloaded from the hub", remedy=remedy):
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=patterns, ignore_patterns=["*/*"])
        )


def _require_whole(folder: Path, name: str) -> None:
    """Refuse an incomplete or unsafe folder before a library reads it."""
    if not (folder / _WEIGHTS).is_file() and not (folder / _INDEX).is_file():
        raise InputError(
            f"translate.model: {name} has no weights in safetensors, and pickles may run code. Name a revision with "
            "safetensors, such as NAME@refs/pr/1 (a pull request on the hub often adds them), or another model"
        )
    if (folder / "adapter_config.json").exists():  # the library would open any model that it names
        raise InputError(f"translate.model: {name} is an adapter of another model: name a model with merged weights")
    _require_harmless(read_object(folder / "config.json"), folder / "config.json")
    parts = read_object(folder / _INDEX).get("weight_map") if (folder / _INDEX).is_file() else {}
    if not isinstance(parts, dict) or not all(
        re.fullmatch(r"[\w.-]+\.safetensors", str(part)) for part in parts.values()
    ):
        raise InputError(f"{folder / _INDEX} names weights that are not safetensors files in its folder: {REMEDY}")


def _require_harmless(settings: Mapping[str, Any], path: Path) -> None:
    """Refuse a config.json that downloads code, names other weights, or has more layers than any model."""
    for name, value in settings.items():
        if "_implementation" in name and value not in (None, "eager", "sdpa"):  # others may be downloaded from the hub
            raise InputError(f"{path} asks for code that is not part of it ({name} = {value!r}): remove that line")
        if name == "transformers_weights" and value is not None:  # weights that were not checked
            raise InputError(f"{path} names other weights ({name} = {value!r}) than {_WEIGHTS}: {REMEDY}")
        if isinstance(value, Mapping):
            _require_harmless(value, path)
        elif "layers" in name and isinstance(value, int) and value > _MOST_LAYERS:
            raise InputError(f"{path} is damaged: no model has {name} = {value!r}: {REMEDY}")


class Vocabulary:
    """A model's tokenizer with facts about its tokens.

    `family` is a key of `LANGUAGE_PATTERNS`, "" for models of one pair without language tokens. Ids in `special` are no
    text, those in `blank` only space. `alphabet` has every character that the tokens can spell; None if some tokens are
    bytes, or no token contains a space.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoConfig, AutoTokenizer
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

        here = {"trust_remote_code": False, "local_files_only": True}
        model_type = AutoConfig.from_pretrained(folder, **here).model_type
        if model_type not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
            raise InputError(f"{folder} has a model of type {model_type}, which does not translate: name another model")
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **here)
        if not isinstance(tokenizer.eos_token_id, int) or not isinstance(tokenizer.unk_token_id, int):
            raise InputError(f"{folder} has a tokenizer without eos_token or unk_token: {REMEDY}")
        self.folder, self.tokenizer = folder, tokenizer
        self.numbers: dict[str, int] = tokenizer.get_vocab() | getattr(tokenizer, "lang_token_to_id", {})
        if model_type == "m2m_100":
            self.family = "nllb" if any(map(LANGUAGE_PATTERNS["nllb"].fullmatch, self.numbers)) else "m2m"
        else:
            self.family = {"marian": "opus", "mbart": "mbart", **dict.fromkeys(_T5, "t5")}.get(model_type, "")
        is_language = LANGUAGE_PATTERNS[self.family].fullmatch if self.family else lambda _: None
        others = (n for token, n in self.numbers.items() if is_language(token) or _PLACEHOLDER.fullmatch(token))
        self.special = frozenset([*tokenizer.all_special_ids, *others])
        self.blank = frozenset(number for token, number in self.numbers.items() if not token.strip(_BLANK))
        spelling = [token for token, number in self.numbers.items() if number not in self.special]
        self.alphabet = alphabet_of(spelling) if any(text.startswith("▁") for text in spelling) else None

    def pieces(self, text: str) -> list[int]:
        """Return the ids of a text's tokens, without special ones."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _TokenIds:
    """Ids around a sentence; id with which the decoder starts, or which it writes first."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    prefix: int | None = None
    starts_with_prefix: bool = False


def _token_ids(vocabulary: Vocabulary, source: LanguagePack, target: LanguagePack) -> _TokenIds:
    """Return the tokens that the model needs around a sentence to know the languages."""
    folder, numbers = vocabulary.folder, vocabulary.numbers
    if vocabulary.family:
        facts = ModelInfo(
            folder=folder,
            family=vocabulary.family,
            tokenizer_config=read_object(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {},
            source_vocabulary=numbers,
            target_vocabulary=numbers,
            end=(str(vocabulary.tokenizer.eos_token),),
        )
        tokens = language_tokens(facts, source, target)
        before = vocabulary.pieces(tokens.prompt) if tokens.prompt else [numbers[token] for token in tokens.before]
        return _TokenIds(
            before=tuple(before),
            after=tuple(numbers[token] for token in tokens.after),
            prefix=numbers[tokens.target_prefix] if tokens.target_prefix else None,
            starts_with_prefix=tokens.starts_with_prefix,
        )
    logger.warning(
        "%s does not state its languages; it is assumed to translate %s to %s", folder, source.code, target.code
    )
    # The tokens that the tokenizer itself puts around a text.
    bare, whole = vocabulary.pieces("a"), list(vocabulary.tokenizer("a").input_ids)
    for start in range(len(whole) - len(bare) + 1):
        if bare and whole[start : start + len(bare)] == bare:
            return _TokenIds(before=tuple(whole[:start]), after=tuple(whole[start + len(bare) :]))
    raise InputError(f"{folder} has a tokenizer that splits a text differently with special tokens: name another model")


class TransformersTranslator(SentenceTranslator[int]):
    """A `translation.engine.Translator` over a model of `transformers`; it is loaded at the first translation.

    A score is the model's own for the text that it wrote. The suppression of special tokens does not change it.
    """

    def __init__(
        self, vocabulary: Vocabulary, token_ids: _TokenIds, config: TranslateConfig, *, from_code: str, to_code: str
    ) -> None:
        self.from_code, self.to_code, self.alphabet = from_code, to_code, vocabulary.alphabet
        self._vocabulary, self._token_ids, self._beam_size = vocabulary, token_ids, config.beam_size
        self._device = config.device
        if self._device == "auto":
            import torch

            self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._type = "float32" if config.compute_type == "default" else config.compute_type
        self._max_batch_tokens = config.max_batch_tokens or default_batch_tokens(self._device, config.beam_size)
        files = sorted(path for path in vocabulary.folder.iterdir() if path.suffix in _DECIDING and path.is_file())
        what = {
            "engine": ENGINE_VERSION,
            "files": {path.name: sha256_of(path) for path in files},
            "frame": [token_ids.before, token_ids.after, token_ids.prefix, token_ids.starts_with_prefix],
            "libraries": [version("transformers"), version("torch")],
            "beam_size": config.beam_size,
            "max_batch_tokens": self._max_batch_tokens,
            "compute_type": self._type,
            "device": self._device,
        }
        self.fingerprint = f"transformers:{from_code}-{to_code}:{digest(what)[:12]}"

    def encode(self, sentence: str) -> list[int]:
        """Return the ids of a sentence; see `SentenceTranslator.encode`.

        The name of a special token in a caption becomes an unknown word.
        """
        unknown, special = self._vocabulary.tokenizer.unk_token_id, self._vocabulary.special
        text = [unknown if number in special else number for number in self._vocabulary.pieces(sentence)]
        is_text = any(number not in self._vocabulary.blank for number in text)
        return [*self._token_ids.before, *text, *self._token_ids.after] if is_text else []

    def decode(
        self, tokens: Mapping[str, list[int]], report: Callable[[list[str]], object], *, no_repeat_ngram_size: int = 0
    ) -> dict[str, Decoded]:
        """Translate distinct sentences; see `SentenceTranslator.decode`."""
        found: dict[str, Decoded] = {}
        for batch in token_batches(tokens, self._max_batch_tokens):
            with about(
                f"the model in {self._vocabulary.folder} cannot translate",
                remedy="a smaller translate.max_batch_tokens needs less memory; otherwise name another model",
            ):
                found |= self._decoded({text: tokens[text] for text in batch}, no_repeat_ngram_size)
            report(batch)
        return found

    def _decoded(self, batch: Mapping[str, list[int]], no_repeat_ngram_size: int) -> dict[str, Decoded]:
        import torch

        model, num_after = self._model, len(self._token_ids.after)
        most = min(MAX_SOURCE_TOKENS, model.most_positions)
        longest = min(decoding_limit(max(map(len, batch.values()))), model.most_positions - 1)
        # A sentence that is too long for the model is cut; the special tokens stay.
        rows = [
            numbers if len(numbers) <= most else numbers[: most - num_after] + numbers[len(numbers) - num_after :]
            for numbers in batch.values()
        ]
        width = max(map(len, rows))
        padded = [row + [model.padding] * (width - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        # Tokens at the start of a translation that the model did not choose.
        num_given = 1 + (self._token_ids.prefix is not None and not self._token_ids.starts_with_prefix)
        with torch.inference_mode():
            inputs = {
                "input_ids": torch.tensor(padded, device=self._device),
                "attention_mask": torch.tensor(mask, device=self._device),
            }
            written = model.generate(inputs, longest, no_repeat_ngram_size)
            scores = model.scores(inputs, written, num_given)
        return {
            text: self._judged(numbers, target[num_given:], total, was_cut=len(row) < len(numbers))
            for (text, numbers), row, target, total in zip(batch.items(), rows, written.tolist(), scores, strict=True)
        }

    def _judged(self, source: list[int], target: list[int], log_probability: float, *, was_cut: bool) -> Decoded:
        ended = self._model.end in target
        words = target[: target.index(self._model.end)] if ended else target
        text = [number for number in words if number not in self._vocabulary.special]
        return Decoded(
            text=self._vocabulary.tokenizer.decode(text, skip_special_tokens=True, clean_up_tokenization_spaces=False),
            log_probability=log_probability,
            num_tokens=len(words) + ended,
            truncated=was_cut or not ended,
            repetitive=is_repetitive(source, text),
        )

    @cached_property
    def _model(self) -> "_Network":
        with about(f"the model in {self._vocabulary.folder} cannot be loaded", remedy=REMEDY):
            return _Network(self._vocabulary, self._token_ids, self._beam_size, self._type, self._device)


class _Network:
    """The loaded model; it can neither read nor write more than `most_positions` tokens."""

    def __init__(
        self, vocabulary: Vocabulary, token_ids: _TokenIds, beam_size: int, compute_type: str, device: str
    ) -> None:
        import torch
        from transformers import AutoModelForSeq2SeqLM, GenerationConfig

        self._module, loading_info = AutoModelForSeq2SeqLM.from_pretrained(
            vocabulary.folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        # The library would go on with random weights.
        if wrong := [*loading_info["missing_keys"], *loading_info["mismatched_keys"]]:
            raise InputError(
                f"the weights in {vocabulary.folder} lack {min(map(str, wrong))}, or it has another shape: {REMEDY}"
            )
        self._module = self._module.to(device=device, dtype=getattr(torch, compute_type)).eval()
        self.end = int(vocabulary.tokenizer.eos_token_id)
        self.padding = _first_number(vocabulary.tokenizer.pad_token_id, self._setting("pad_token_id"), self.end)
        self.most_positions = int(getattr(self._module.config, "max_position_embeddings", None) or sys.maxsize)
        start = token_ids.prefix if token_ids.starts_with_prefix else self._setting("decoder_start_token_id")
        forced = None if token_ids.starts_with_prefix else token_ids.prefix
        if forced is None and not vocabulary.family:
            forced = self._setting("forced_bos_token_id")
        # Ids that are not text: special tokens, and ids that only pad the model's matrix.
        size = int(self._module.config.vocab_size)
        spare = range(max(vocabulary.numbers.values()) + 1, size)
        no_text = {*vocabulary.special, *spare[:_MOST_SPARE]} - {self.end, forced}
        never_written = sorted(number for number in no_text if number is not None and number < size)
        self._options = {
            "num_beams": beam_size,
            "do_sample": False,
            "decoder_start_token_id": _first_number(start, self._setting("bos_token_id")),
            "forced_bos_token_id": forced,
            "bos_token_id": self._setting("bos_token_id"),
            "eos_token_id": self.end,
            "pad_token_id": self.padding,
            "suppress_tokens": never_written,
        }
        # Otherwise the folder's decoding options (sampling, penalties, lengths) would be merged into ours.
        self._module.generation_config = GenerationConfig()

    def _setting(self, name: str) -> Any:
        """Return a decoding setting of the folder, from its generation config or else its model config."""
        found = getattr(self._module.generation_config, name, None)
        return getattr(self._module.config, name, None) if found is None else found

    def generate(self, inputs: Mapping[str, Any], longest: int, no_repeat_ngram_size: int) -> Any:
        """Return the ids that the model writes, one row a sentence, with the decoder's start id first."""
        from transformers import GenerationConfig

        config = GenerationConfig(
            **self._options, max_new_tokens=max(1, longest), no_repeat_ngram_size=no_repeat_ngram_size
        )
        return self._module.generate(**inputs, generation_config=config)

    def scores(self, inputs: Mapping[str, Any], written: Any, num_given: int) -> list[float]:
        """Return the sum of each row's log-probabilities up to the end token, without the tokens that were given.

        The rows go through the model again, some at a time. To score them during generation, the probabilities of all
        hypotheses and steps would have to be in memory.
        """
        size = int(self._module.config.vocab_size)
        step = max(1, _SCORED_AT_ONCE // (size * written.shape[1]))
        totals: list[float] = []
        for start in range(0, len(written), step):
            part = slice(start, start + step)
            rows = written[part]
            inputs_of_rows = {name: values[part] for name, values in inputs.items()}
            logits = self._module(**inputs_of_rows, decoder_input_ids=rows[:, :-1], use_cache=False).logits
            chosen = logits.float().log_softmax(-1).gather(-1, rows[:, 1:, None])[..., 0]
            ends = (rows[:, 1:] == self.end).int()
            ends[:, : num_given - 1] = 0
            counts = (ends.cumsum(-1) - ends) == 0  # up to and including the first end token
            counts[:, : num_given - 1] = False
            totals += chosen.masked_fill(~counts, 0.0).sum(-1).tolist()
        return totals


def _first_number(*found: object) -> int:
    """Return the first value that is an id."""
    for number in found:
        if type(number) is int and number >= 0:
            return number
    raise InputError(f"neither config.json nor generation_config.json of the model has a start token: {REMEDY}")
