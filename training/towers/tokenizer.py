"""A tokenizer of one's own: byte-level BPE, trained on the captions of the train split, saved as a Hugging Face folder.

Bytes make every script spellable, so that nothing is ever unknown. The end token has the highest id, which is where
open_clip's default text pooling (`argmax`) looks for it.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.normalizers import Normalizer

from data_catalog.errors import DamagedError, InputError
from data_catalog.storage.shards import read_json, write_atomically, write_bytes, write_json
from training.towers.tokenizer_limits import refuse_endless, try_tokenizer

if TYPE_CHECKING:
    import torch

Tokenize = Callable[[Sequence[str]], "torch.Tensor"]
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
FINAL_SIGMA = r"(?<=[\p{Lu}\p{Ll}\p{Lt}\p{M}])Σ(?![\p{Lu}\p{Ll}\p{Lt}\p{M}])"
_USUAL_BYTES = 16 * 2**20
PAD, START, END = "<|pad|>", "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(captions: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Learn a tokenizer of at most `vocab_size` tokens; lower case, NFC; the same captions give the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,  # one is left for the end token
        min_frequency=2,
        special_tokens=[PAD, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.add_special_tokens([END])
    ends = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    return tokenizer


def _normalizer() -> Normalizer:
    # Lowercase looks at one letter at a time, and would spell "ΣΚΥΛΟΣ" unlike "σκυλος".
    final_sigma = normalizers.Replace(Regex(FINAL_SIGMA), "ς")
    return normalizers.Sequence([normalizers.NFC(), final_sigma, normalizers.Lowercase(), normalizers.NFC()])


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, context_length: int) -> None:
    """Write the two files that `transformers` and open_clip's `HFTokenizer` read a tokenizer from."""
    write_atomically(folder / TOKENIZER_FILE, lambda path: tokenizer.save(str(path)))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "bos_token": START,
        "eos_token": END,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": True,  # as in tokenizer.json, of which transformers 4 believes this over that
    }
    write_json(folder / TOKENIZER_CONFIG_FILE, settings)


def copy_tokenizer(source: str, folder: Path) -> None:
    """Write the two files of a tokenizer of others, by folder or by name on the Hugging Face hub.

    Raises:
        InputError: it cannot be had, or is not one of the `tokenizers` library.
    """
    from transformers import AutoTokenizer

    try_tokenizer(Path(source) / TOKENIZER_FILE)
    try:
        found = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise InputError(f"the tokenizer {source} cannot be had: {str(error).splitlines()[0]}") from error
    files = set(found.vocab_files_names.values())
    if Path(source).is_dir() and not any((Path(source) / name).is_file() for name in files):
        # transformers makes one that knows no word then, and says nothing.
        raise InputError(f"the tokenizer {source} is not there: the folder has none of {', '.join(sorted(files))}")
    if not found.is_fast:
        raise InputError(
            f"the tokenizer {source} has no tokenizer.json, which transformers' convert_slow_tokenizer makes"
        )
    refuse_endless(found.backend_tokenizer, f"{TOKENIZER_FILE} of the tokenizer {source}")
    with TemporaryDirectory(prefix="vernaclip-") as written:
        found.save_pretrained(written)
        for name in (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE):
            write_bytes(folder / name, (Path(written) / name).read_bytes())


@dataclass(frozen=True, slots=True)
class SavedTokenizer:
    """A saved tokenizer, read by open_clip's `HFTokenizer`: texts to int64 ids, shape (texts, length of the longest).

    open_clip pads to the context length; what is cut off here is padding that a causal text tower, pooled at the end
    token, never looks at.

    Args:
        inner: open_clip's.
        vocab_size: tokens that the text tower knows; None where nothing is known of it.
    """

    inner: Any
    vocab_size: int | None = None

    def __call__(self, texts: Sequence[str]) -> "torch.Tensor":
        """Token ids of the texts; of a text that is too long its end is left out.

        Raises:
            DamagedError: the text tower does not know one of them.
        """
        ids: torch.Tensor = self.inner(list(texts))
        highest = int(ids.max())
        if self.vocab_size is not None and highest >= self.vocab_size:
            raise DamagedError(
                f"{TOKENIZER_FILE} or {TOKENIZER_CONFIG_FILE} is another model's: it makes a token {highest} where the "
                f"text tower knows {self.vocab_size}; copy the folder again from where it is whole"
            )
        longest = int((ids != self.inner.tokenizer.pad_token_id).sum(dim=1).max())
        return ids[:, :longest]

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts whose end is left out, since they have more tokens than the context."""
        cleaned = [self.inner.clean_fn(text) for text in texts]
        found = self.inner.tokenizer(cleaned, truncation=False, verbose=False).input_ids
        return [text for text, ids in zip(texts, found, strict=True) if len(ids) > self.context_length]

    @property
    def context_length(self) -> int:
        """Most tokens of a text, start and end included."""
        return int(self.inner.context_length)


def load_tokenizer(folder: Path, *, context_length: int, vocab_size: int | None = None) -> SavedTokenizer:
    """Read a saved tokenizer.

    Args:
        vocab_size: tokens that the text tower knows, where that is known.

    Raises:
        InputError: it takes too much to open, or makes texts endless.
    """
    from open_clip.tokenizer import HFTokenizer

    path = folder / TOKENIZER_FILE
    if not _is_ours(path):
        try_tokenizer(path)
    found = HFTokenizer(str(folder), context_length=context_length)
    refuse_endless(found.tokenizer.backend_tokenizer, str(path))
    return SavedTokenizer(found, vocab_size)


def _is_ours(path: Path) -> bool:
    """Return whether a file of the usual size has the normalizer of `train_tokenizer`: to open it takes little."""
    ours = json.loads(_normalizer().__getstate__())
    try:
        return path.stat().st_size < _USUAL_BYTES and read_json(path)["normalizer"] == ours
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False
