"""JSON documents that carry a checksum of their own text, so that any flipped bit shows.

The value of "checksum" is the sha256 of the file's bytes with 64 zeros in the checksum's place. Documents that were
written before there were checksums are read as well: nobody can tell whether they are what was written.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.shards import write_json

CHECKSUM = "checksum"
_BLANK = "0" * 64
# Of a whole file: one space deep, where only the document's own keys are.
_IN_FILE = re.compile(rb'(?<=\n "checksum": ")[0-9a-f]{64}(?=")')
# Of a line: its first key.
_IN_LINE = re.compile(rb'(?<=\A\{"checksum": ")[0-9a-f]{64}(?=")')


def write_checksummed(path: Path, value: Mapping[str, Any]) -> str:
    """Write `value` as `write_json` does, with its checksum; returns the file's sha256."""
    text = json.dumps({**value, CHECKSUM: _BLANK}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    found = hashlib.sha256(text.encode()).hexdigest()
    return write_json(path, {**value, CHECKSUM: found})


def read_checksummed(path: Path, *, remedy: str) -> dict[str, Any]:
    """The value of a checksummed document, or of one that was written before there were checksums.

    Args:
        path: the file.
        remedy: what a user can do if it is damaged, such as "restore it from a copy".

    Raises:
        ConfigError: it is damaged, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): {remedy}") from error
    problem = content_problem(content)
    if problem is not None:
        raise ConfigError(f"{path} is damaged ({problem}): {remedy}")
    value: dict[str, Any] = json.loads(content)
    value.pop(CHECKSUM, None)
    return value


def has_checksum(content: bytes) -> bool:
    """Whether the bytes of a document, or of a line of a log, carry a checksum."""
    return _IN_FILE.search(content) is not None or _IN_LINE.search(content) is not None


def content_problem(content: bytes) -> str | None:
    """What is wrong with the bytes of a document that may carry a checksum; None if nothing is, as far as it says."""
    return _problem(content, _IN_FILE)


def checksummed_line(value: Mapping[str, Any]) -> str:
    """A line of a log of JSON values, with a checksum as its first key and without the line's end."""
    rest = json.dumps(dict(value), sort_keys=True)[1:]
    found = hashlib.sha256(f'{{"{CHECKSUM}": "{_BLANK}", {rest}'.encode()).hexdigest()
    return f'{{"{CHECKSUM}": "{found}", {rest}'


def line_problem(line: bytes) -> str | None:
    """What is wrong with one line of a log, given without its end; None if nothing is."""
    return _problem(line, _IN_LINE)


def _problem(content: bytes, place: re.Pattern[bytes]) -> str | None:
    found = place.search(content)
    if found is not None:
        blank = content[: found.start()] + _BLANK.encode() + content[found.end() :]
        whole = hashlib.sha256(blank).hexdigest().encode() == found.group()
        return None if whole else "its text does not fit its checksum"
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return f"it is no JSON text: {error}"
    if not isinstance(value, dict):
        return "it is no JSON object"
    if any(_is_nearly_checksum(key) for key in value):
        return "its checksum has lost its name or its place"
    return None


def _is_nearly_checksum(key: str) -> bool:
    """Whether a key is "checksum" with one letter changed at most: what is left of one that was hit."""
    return len(key) == len(CHECKSUM) and sum(a != b for a, b in zip(key, CHECKSUM, strict=True)) <= 1
