"""Train, save and load tokenizers: byte-level BPE, trained on the captions of the train split.

Bytes cover every script, so no text is unknown. The end token has the highest id, because open_clip's default text
pooling (`argmax`) looks for it there.

Third-party tokenizers have limits. A child process with limited memory and time opens them first, and none may make
texts much longer. Run as a module, this file is that child process: `python -m training.towers.tokenizer FILE.json`.
"""

import json
import math
import os
import re
import signal
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.normalizers import Normalizer

from data_catalog.base.errors import DamagedError, InputError
from data_catalog.disk.child_process import cap_memory
from data_catalog.disk.failpoints import kill_with_parent
from data_catalog.disk.files import read_json, sha256_of, write_atomically, write_bytes, write_json
from training.towers.model_files import REMEDY, TRIAL_TEXTS

if TYPE_CHECKING:
    import torch

Tokenize = Callable[[Sequence[str]], "torch.Tensor"]
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
FINAL_SIGMA = r"(?<=[\p{Lu}\p{Ll}\p{Lt}\p{M}])Σ(?![\p{Lu}\p{Ll}\p{Lt}\p{M}])"
_USUAL_BYTES = 16 * 2**20
PAD, START, END = "<|pad|>", "<|startoftext|>", "<|endoftext|>"

# Limits for third-party tokenizers.
MEMORY_BYTES, DEADLINE_S = 2 * 2**30, 60
# Maximum number of letters that one letter may become. Of the tokenizers in use, ALBERT's reach nearly two thousand.
MOST_GROWTH = 10_000
_REFUSED, _OUT_OF_MEMORY = 3, 77  # exit statuses of the child process; it prints the reason of a refusal
# A regex of one letter or class, possibly repeated. It never matches between two letters.
_ONE_LETTER = re.compile(r"(\[[^\[\]]+\]|\\[sSdDwW]|[^\\()\[\]{}*?+|^$.])(\+|\{[1-9]\d*,\d*\})?")
# Growth by the steps that add letters. Steps that only remove letters or split a text are not listed.
_GROWTH: Mapping[str, int] = {
    "NFC": 3,
    "NFD": 4,
    "NFKC": 18,
    "NFKD": 18,
    "Lowercase": 3,
    "BertNormalizer": 12,  # decomposed, in lower case, with spaces around
    "ByteLevel": 4,
    "Metaspace": 2,
}


def train_tokenizer(captions: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Train a lower-case NFC tokenizer of at most `vocab_size` tokens. Equal captions give equal tokenizers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = _normalizer()
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


def _normalizer() -> Normalizer:
    # Lowercase sees single letters only, and would spell "ΣΚΥΛΟΣ" differently from "σκυλος".
    final_sigma = normalizers.Replace(Regex(FINAL_SIGMA), "ς")
    return normalizers.Sequence([normalizers.NFC(), final_sigma, normalizers.Lowercase(), normalizers.NFC()])


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
    """Write the two files of a third-party tokenizer, named by a folder or by its name on the Hugging Face hub.

    Raises:
        InputError: the tokenizer cannot be fetched, is not one of the `tokenizers` library, or exceeds the limits.
    """
    from transformers import AutoTokenizer

    try_in_child_process(Path(source) / TOKENIZER_FILE)
    try:
        found = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"the tokenizer {source} cannot be loaded: {str(error).splitlines()[0]}") from error
    files = set(found.vocab_files_names.values())
    if Path(source).is_dir() and not any((Path(source) / name).is_file() for name in files):
        # Without these files transformers silently creates a tokenizer with an empty vocabulary.
        raise InputError(f"the tokenizer {source} is missing: the folder has none of {', '.join(sorted(files))}")
    if not found.is_fast:
        raise InputError(
            f"the tokenizer {source} has no tokenizer.json: create it with transformers' convert_slow_tokenizer"
        )
    refuse_unbounded_growth(found.backend_tokenizer, f"{TOKENIZER_FILE} of the tokenizer {source}")
    with TemporaryDirectory(prefix="vernaclip-") as written:
        found.save_pretrained(written)
        for name in (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE):
            write_bytes(folder / name, (Path(written) / name).read_bytes())


@dataclass(frozen=True, slots=True)
class SavedTokenizer:
    """A saved tokenizer, read by open_clip's `HFTokenizer`. It turns texts into int64 ids, shape (texts, longest).

    open_clip pads to the context length. The padding that is removed here does not affect a causal text tower that is
    pooled at the end token.

    Args:
        inner: open_clip's tokenizer.
        vocab_size: vocabulary size of the text tower. None if it is not known.
    """

    inner: Any
    vocab_size: int | None = None

    def __call__(self, texts: Sequence[str]) -> "torch.Tensor":
        """Return the token ids of texts. The end of a text that is too long is cut off.

        Raises:
            DamagedError: the text tower does not have one of the tokens.
        """
        ids: torch.Tensor = self.inner(list(texts))
        highest = int(ids.max())
        if self.vocab_size is not None and highest >= self.vocab_size:
            raise DamagedError(
                f"{TOKENIZER_FILE} or {TOKENIZER_CONFIG_FILE} belongs to another model: it gives token {highest}, but "
                f"the text tower has {self.vocab_size} tokens. Restore the folder from an intact copy"
            )
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


@dataclass(frozen=True, slots=True)
class JoinedTokenizer:
    """The tokenizers of joined text towers. It turns texts into int64 ids, shape (texts, towers, longest).

    Args:
        tokenizers: one for each tower.
    """

    tokenizers: Sequence[SavedTokenizer]

    def __call__(self, texts: Sequence[str]) -> "torch.Tensor":
        """Return the token ids of texts. The end of a text that is too long is cut off."""
        import torch

        found = [tokenizer(texts) for tokenizer in self.tokenizers]
        longest = max(ids.shape[1] for ids in found)
        padded = [
            torch.nn.functional.pad(ids, (0, longest - ids.shape[1]), value=tokenizer.inner.tokenizer.pad_token_id)
            for tokenizer, ids in zip(self.tokenizers, found, strict=True)
        ]
        return torch.stack(padded, dim=1)

    def lengths(self, ids: "torch.Tensor") -> "torch.Tensor":
        """Return the number of tokens of each text, shape (texts,), for the tower that needs most."""
        import torch

        towers = zip(self.tokenizers, ids.unbind(1), strict=True)
        return torch.stack([tokenizer.lengths(own) for tokenizer, own in towers]).amax(dim=0)

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """Return the texts whose end one of the towers does not see."""
        cut = {text for tokenizer in self.tokenizers for text in tokenizer.too_long(texts)}
        return [text for text in texts if text in cut]

    @property
    def context_length(self) -> int:
        """Return the maximum number of tokens of a text that every tower sees."""
        return min(tokenizer.context_length for tokenizer in self.tokenizers)


AnyTokenizer = SavedTokenizer | JoinedTokenizer


def load_tokenizer(folder: Path, *, context_length: int, vocab_size: int | None = None) -> SavedTokenizer:
    """Load a saved tokenizer.

    Args:
        folder: the model folder.
        context_length: maximum number of tokens of a text.
        vocab_size: vocabulary size of the text tower, if it is known.

    Raises:
        InputError: it needs too much memory or time to open, or makes texts too long.
    """
    from open_clip.tokenizer import HFTokenizer

    path = folder / TOKENIZER_FILE
    ours = json.loads(_normalizer().__getstate__())
    try:  # our own tokenizers of the usual size open quickly, so they need no trial
        is_ours = path.stat().st_size < _USUAL_BYTES and read_json(path)["normalizer"] == ours
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        is_ours = False
    if not is_ours:
        try_in_child_process(path)
    found = HFTokenizer(str(folder), context_length=context_length, trust_remote_code=False)
    refuse_unbounded_growth(found.tokenizer.backend_tokenizer, str(path))
    return SavedTokenizer(found, vocab_size)


def refuse_unbounded_growth(tokenizer: Any, source: str) -> None:
    """Raise if a tokenizer's steps may make a text much longer.

    The limit is computed from the steps and not measured, because a trial may miss the letter that grows.

    Args:
        tokenizer: a tokenizer of the `tokenizers` library.
        source: name of the tokenizer in the message.

    Raises:
        InputError: it may make a text more than `MOST_GROWTH` times as long.
    """
    parts = (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.post_processor)
    growth = math.prod(_growth(json.loads(part.__getstate__())) for part in parts if part is not None)
    if growth > MOST_GROWTH:
        raise InputError(
            f"{source} is refused because it may make a text more than {MOST_GROWTH:,} times as long, which no good "
            f"tokenizer does: {REMEDY}"
        )


def _growth(step: dict[str, Any]) -> int:
    """Return the maximum number of letters that a step makes of one letter."""
    kind = step["type"]
    if kind == "Sequence":
        (steps,) = (value for name, value in step.items() if name != "type")
        return math.prod(map(_growth, steps))
    if kind == "Replace":
        pattern, num_letters = step["pattern"], len(step["content"])
        if pattern.get("String"):
            return max(1, math.ceil(num_letters / len(pattern["String"])))
        if _ONE_LETTER.fullmatch(pattern.get("Regex", "")):
            return max(1, num_letters)
        return 1 + num_letters  # it may match between any two letters
    if kind == "Prepend":
        return 1 + len(step["prepend"])
    if kind == "Precompiled":
        # SentencePiece's table is a trie, followed by the replacement texts. The longest of them counts.
        charsmap = b64decode(step["precompiled_charsmap"])
        texts = charsmap[4 + int.from_bytes(charsmap[:4], "little") :].split(b"\0")
        return max(1, *(len(text.decode("utf-8", "replace")) for text in texts))
    if kind == "TemplateProcessing":
        special = {name: len(token["ids"]) for name, token in step["special_tokens"].items()}
        named = [piece["SpecialToken"]["id"] for piece in step["single"] if "SpecialToken" in piece]
        return max(1, len(step["single"]) - len(named), sum(special[name] for name in named) // 100)
    return _GROWTH.get(kind, 1)


_HARMLESS: set[str] = set()  # sha256 of the files that passed their trial


def try_in_child_process(path: Path) -> None:
    """Open a `tokenizer.json` in a child process with limited memory and time, before this process opens it.

    A damaged file passes, since opening it in this process raises the proper error. The same content, wherever it is,
    is tried once per process.

    Raises:
        InputError: it needs too much memory or time, or makes texts too long.
    """
    if path.is_file() and (sha256 := sha256_of(path)) not in _HARMLESS:
        _try(path)
        _HARMLESS.add(sha256)


def _try(path: Path) -> None:
    # Use one thread: each thread reserves memory, and their number differs between machines.
    one_thread = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-P", "-m", "training.towers.tokenizer", str(path)]
    try:
        child = subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE_S, env=os.environ | one_thread, check=False
        )
    except subprocess.TimeoutExpired:
        pass
    else:
        if child.returncode == 0:
            return
        if child.returncode == _REFUSED:
            raise InputError(child.stdout.strip())
        if child.returncode not in (_OUT_OF_MEMORY, -signal.SIGABRT, -signal.SIGKILL):
            raise InputError(f"{path} is refused because it crashes its process ({child.returncode}): {REMEDY}")
    raise InputError(
        f"{path} is refused because opening it takes more than {MEMORY_BYTES // 2**30} GB of memory or {DEADLINE_S} s, "
        f"which no good tokenizer does: {REMEDY}"
    )


def main(path: str) -> int:
    """Open a tokenizer file within the limits, tokenize some texts, and return an exit status."""
    kill_with_parent()
    cap_memory(MEMORY_BYTES)
    try:
        tokenizer = Tokenizer.from_file(path)
        refuse_unbounded_growth(tokenizer, path)
        tokenizer.encode_batch(list(TRIAL_TEXTS))
    except InputError as error:
        sys.stdout.write(str(error))
        return _REFUSED
    except MemoryError:
        return _OUT_OF_MEMORY
    except BaseException:  # noqa: BLE001 - a damaged file, or a Rust panic: the parent will report it
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
