"""Train, save and load tokenizers: byte-level BPE, trained on the captions of the train split.

Bytes cover every script, so no text is unknown. The end token has the highest id, because open_clip's default text
pooling (`argmax`) looks for it there.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from data_catalog.base.boundary import about
from data_catalog.disk.files import write_atomically, write_bytes, write_json

if TYPE_CHECKING:
    import torch

Tokenize = Callable[[Sequence[str]], "torch.Tensor"]
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
# Lowercase sees single letters only, and would spell "ΣΚΥΛΟΣ" differently from "σκυλος".
FINAL_SIGMA = r"(?<=[\p{Lu}\p{Ll}\p{Lt}\p{M}])Σ(?![\p{Lu}\p{Ll}\p{Lt}\p{M}])"
PAD, START, END = "<|pad|>", "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(captions: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Train a lower-case NFC tokenizer of at most `vocab_size` tokens. Equal captions give equal tokenizers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(FINAL_SIGMA), "ς"), normalizers.Lowercase(), normalizers.NFC()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,  # leave one for the end token
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


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, context_length: int) -> None:
    """Write the two tokenizer files that `transformers` and open_clip's `HFTokenizer` read."""
    write_atomically(folder / TOKENIZER_FILE, lambda path: tokenizer.save(str(path)))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "bos_token": START,
        "eos_token": END,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": True,  # as in tokenizer.json; transformers 4 uses this value
    }
    write_json(folder / TOKENIZER_CONFIG_FILE, settings)


def copy_tokenizer(source: str, folder: Path) -> None:
    """Write the two files of a third-party tokenizer, named by a folder or by its name on the Hugging Face hub."""
    from transformers import AutoTokenizer

    what = f"the tokenizer {source} cannot be opened"
    with about(what, remedy="name an encoder with its tokenizer"), TemporaryDirectory(prefix="vernaclip-") as written:
        found = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        files = set(found.vocab_files_names.values())
        if Path(source).is_dir() and not any((Path(source) / name).is_file() for name in files):
            # Without these files transformers silently creates a tokenizer with an empty vocabulary.
            raise ValueError(f"the folder has none of {', '.join(sorted(files))}")
        found.save_pretrained(written)
        for name in (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE):
            write_bytes(folder / name, (Path(written) / name).read_bytes())


@dataclass(frozen=True, slots=True)
class SavedTokenizer:
    """A saved tokenizer, read by open_clip's `HFTokenizer` (`inner`).

    It turns texts into int64 ids, shape (texts, longest). open_clip pads to the context length. The padding that is
    removed here does not affect a causal text tower that is pooled at the end token.
    """

    inner: Any

    def __call__(self, texts: Sequence[str]) -> "torch.Tensor":
        """Return the token ids of texts. The end of a text that is too long is cut off."""
        ids: torch.Tensor = self.inner(list(texts))
        return ids[:, : int(self.lengths(ids).max())]

    def lengths(self, ids: "torch.Tensor") -> "torch.Tensor":
        """Return the number of tokens of each text, shape (texts,), without padding."""
        tokenizer = self.inner.tokenizer
        is_end_padding = tokenizer.pad_token_id == tokenizer.eos_token_id  # as in CLIP's own: the first is the end
        found: torch.Tensor = (ids != tokenizer.pad_token_id).sum(dim=1) + int(is_end_padding)
        return found.clamp(max=ids.shape[1])

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """Return the texts that have more tokens than the context, so that their end is cut off."""
        cleaned = [self.inner.clean_fn(text) for text in texts]
        found = self.inner.tokenizer(cleaned, truncation=False, verbose=False).input_ids
        return [text for text, ids in zip(texts, found, strict=True) if len(ids) > self.context_length]

    @property
    def context_length(self) -> int:
        """Return the maximum number of tokens of a text, including start and end."""
        return int(self.inner.context_length)


def load_tokenizer(folder: Path, *, context_length: int) -> SavedTokenizer:
    """Load the tokenizer of a model folder, for texts of that many tokens at most."""
    from open_clip.tokenizer import HFTokenizer

    return SavedTokenizer(HFTokenizer(str(folder), context_length=context_length, trust_remote_code=False))
