"""Limits for tokenizers of others: a child that may use so much opens them first; none may make texts endless.

Run as a module it is that child: `python -m training.towers.tokenizer_limits FILE.json`.
"""

import json
import math
import os
import re
import signal
import subprocess
import sys
from base64 import b64decode
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_catalog.errors import InputError
from data_catalog.images.children import cap_memory
from data_catalog.storage.failpoints import kill_with_parent
from data_catalog.storage.shards import sha256_of
from training.towers.model_files import ANY_TEXTS, REMEDY

MEMORY_BYTES, DEADLINE_S = 2 * 2**30, 60
# Letters that one may become, by all steps together. Of the tokenizers in use, ALBERT's come near two thousand.
MOST_GROWTH = 10_000
_REFUSED, _OUT_OF_MEMORY = 3, 77  # exit statuses of the child; the reason of a refusal is on its standard output
# A regex of one letter or class, perhaps repeated: it never fits between two letters.
_ONE_LETTER = re.compile(r"(\[[^\[\]]+\]|\\[sSdDwW]|[^\\()\[\]{}*?+|^$.])(\+|\{[1-9]\d*,\d*\})?")
# Of the steps that add letters; those that only take some away, or cut a text into pieces, are not here.
_GROWTH: Mapping[str, int] = {
    "NFC": 3,
    "NFD": 4,
    "NFKC": 18,
    "NFKD": 18,
    "Lowercase": 3,
    "BertNormalizer": 12,  # taken apart, in lower case, with blanks around
    "ByteLevel": 4,
    "Metaspace": 2,
}


def refuse_endless(tokenizer: Any, source: str) -> None:
    """Refuse a tokenizer whose steps may multiply the letters of a text without a reasonable bound.

    The bound is worked out from the steps, not tried: a letter that grows may be one that no trial has.

    Args:
        tokenizer: of the `tokenizers` library.
        source: what the message calls it.

    Raises:
        InputError: it may be made more than `MOST_GROWTH` times as long.
    """
    parts = (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.post_processor)
    growth = math.prod(_growth(json.loads(part.__getstate__())) for part in parts if part is not None)
    if growth > MOST_GROWTH:
        raise InputError(
            f"{source} is refused: it may make a text more than {MOST_GROWTH:,} times as long, which no good tokenizer "
            f"does: {REMEDY}"
        )


def _growth(step: dict[str, Any]) -> int:
    """Return the most letters that a step makes of one."""
    kind = step["type"]
    if kind == "Sequence":
        (steps,) = (value for name, value in step.items() if name != "type")
        return math.prod(map(_growth, steps))
    if kind == "Replace":
        return _growth_of_replacing(step["pattern"], len(step["content"]))
    if kind == "Prepend":
        return 1 + len(step["prepend"])
    if kind == "Precompiled":
        return _longest_of(b64decode(step["precompiled_charsmap"]))
    if kind == "TemplateProcessing":
        special = {name: len(token["ids"]) for name, token in step["special_tokens"].items()}
        named = [piece["SpecialToken"]["id"] for piece in step["single"] if "SpecialToken" in piece]
        return max(1, len(step["single"]) - len(named), sum(special[name] for name in named) // 100)
    return _GROWTH.get(kind, 1)


def _growth_of_replacing(pattern: dict[str, str], num_letters: int) -> int:
    if pattern.get("String"):
        return max(1, math.ceil(num_letters / len(pattern["String"])))
    if _ONE_LETTER.fullmatch(pattern.get("Regex", "")):
        return max(1, num_letters)
    return 1 + num_letters  # it may fit between any two letters


def _longest_of(charsmap: bytes) -> int:
    """Return the letters of the longest text that SentencePiece's table, a trie and then texts, has for a letter."""
    texts = charsmap[4 + int.from_bytes(charsmap[:4], "little") :].split(b"\0")
    return max(1, *(len(text.decode("utf-8", "replace")) for text in texts))


def try_tokenizer(path: Path) -> None:
    """Open a `tokenizer.json` in a child process of limited memory and time before it is opened here.

    One that is damaged passes: whoever opens it here says so.

    Raises:
        InputError: it takes too much, or makes texts endless.
    """
    if path.is_file():
        _try_once(path, sha256_of(path))


@lru_cache(maxsize=64)
def _try_once(path: Path, sha256: str) -> None:
    """Try a file, of this content, once in the life of this process."""
    # Without threads: each reserves memory, and machines differ in how many there are.
    one_thread = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-P", "-m", "training.towers.tokenizer_limits", str(path)]
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
            raise InputError(f"{path} is refused: it ends its process ({child.returncode}): {REMEDY}")
    raise InputError(
        f"{path} is refused: to open it takes more than {MEMORY_BYTES // 2**30} GB of memory or {DEADLINE_S} s, which "
        f"no good tokenizer does: {REMEDY}"
    )


def main(path: str) -> int:
    """Open a file within the limits, and read texts with it; the exit status says what became of it."""
    from tokenizers import Tokenizer

    kill_with_parent()
    cap_memory(MEMORY_BYTES)
    try:
        tokenizer = Tokenizer.from_file(path)
        refuse_endless(tokenizer, path)
        tokenizer.encode_batch(list(ANY_TEXTS))
    except InputError as error:
        sys.stdout.write(str(error))
        return _REFUSED
    except MemoryError:
        return _OUT_OF_MEMORY
    except BaseException:  # noqa: BLE001  damaged: whoever opens it next says how, Rust's panics included
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
