"""JSON documents, and typed access to their values."""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError
from data_catalog.sources.files import MAX_EXCERPT_CHARS, open_bytes, reading

# The largest known document, Karpathy's of MSCOCO, has 148 MB; parsed, it takes four times as much.
MAX_DOCUMENT_BYTES = 512 * 2**20
_MAX_NAME_CHARS = 100
_MAX_NAMES_CHARS = 500
_MAX_DIGITS = 40
_MAX_ID_CHARS = 200


class _Unread:
    """A list or an object that no reader needs: only its text stays, for rejected rows, in a tenth of the memory."""

    __slots__ = ("text",)

    def __init__(self, value: object) -> None:
        self.text = repr(value)[:MAX_EXCERPT_CHARS]

    def __repr__(self) -> str:
        return self.text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{repeated[:_MAX_NAME_CHARS]!r} stands twice in one object")
    return found


def _integer(digits: str) -> int | float:
    """Return an integer, or an inexact float for more than 40 digits: Python does not parse thousands of digits."""
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)


def parse_json(text: str) -> object:
    """Parse a JSON text; a `ValueError` if it is not JSON or repeats a name in an object."""
    return _DECODER.decode(text)


def open_json(path: Path, *, expected: str, names: Collection[str]) -> object:
    """Read a plain or gzipped JSON file; of lists and objects, only those in fields with these names can be read."""

    def with_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = _object(pairs)
        for name, value in pairs:
            if isinstance(value, list | dict) and name not in names:
                found[name] = _Unread(value)
        return found

    with reading(path), open_bytes(path) as file:
        content = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise InputError(f"{path} has more than {MAX_DOCUMENT_BYTES // 2**20} MiB of JSON: split it")
    with about(f"{path} is not valid JSON", remedy=f"expected {expected}; download it again"):
        text = content.decode("utf-8-sig")
        del content  # it would stay in memory beside the text
        return json.loads(text, object_pairs_hook=with_names, parse_int=_integer)


def open_object(path: Path, *, expected: str, names: Collection[str]) -> Mapping[str, object]:
    """Read a document as `open_json` does; another value than an object is an empty one."""
    document = open_json(path, expected=expected, names=names)
    return document if isinstance(document, dict) else {}


def text_field(record: Mapping[str, object], name: str) -> str | None:
    """Return a text field, or None if it is missing, null or of another type."""
    value = record.get(name)
    return value if isinstance(value, str) else None


def id_field(record: Mapping[str, object], name: str) -> str | None:
    """Return a normalised id field, or None if there is none: 391895, "391895" and " 000391895 " are "391895"."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value).strip()
    if len(text) > _MAX_ID_CHARS:
        return None
    return (text.lstrip("0") or "0") if text.isascii() and text.isdigit() else text or None


def records_in(document: Mapping[str, object], name: str) -> list[Mapping[str, object]]:
    """Return the objects in a list; an item that is no object becomes an empty one. Another value is an empty list."""
    value = document.get(name)
    return [item if isinstance(item, dict) else {} for item in value] if isinstance(value, list) else []


def describe(value: object) -> str:
    """Return a description of a JSON value, for a message: its type, and the keys of an object."""
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(list(value)[:20])[:_MAX_NAMES_CHARS] or '(none)'}"
    return {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
