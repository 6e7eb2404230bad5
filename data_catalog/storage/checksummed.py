"""JSON documents that carry a checksum of their own text, so that any flipped bit shows.

The value of "checksum" is the sha256 of the file's bytes with 64 zeros in the checksum's place.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.storage.shards import write_json

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
    """Return the value of a checksummed document.

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


def content_problem(content: bytes) -> str | None:
    """Say what is wrong with the bytes of a document; None if nothing is."""
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
    if found is None:
        return "its checksum is missing, or has lost its name or its place"
    blank = content[: found.start()] + _BLANK.encode() + content[found.end() :]
    whole = hashlib.sha256(blank).hexdigest().encode() == found.group()
    return None if whole else "its text does not fit its checksum"
