"""JSON documents of any size, read in bounded memory, and typed access to their values."""

import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from data_catalog.errors import InputError
from data_catalog.sources.files import check_text_file, gzip_errors, open_bytes

# Limit of one record; the largest known ones have some thousands. Parsed, a character takes up to 50 bytes.
MAX_VALUE_CHARS = 2 * 2**20
_MAX_ITEMS = 10_000_000
_MAX_NAMES = 1000
_MAX_NAME_CHARS = 100
_MAX_DIGITS = 40
READ_CHARS = 2**18
_OF_NUMBERS = "0123456789+-.eE"
_LONGEST_WORD = len("-Infinity")
_MORE_TEXT = "more text follows the end"
_SPACE = re.compile(r"[ \t\n\r]*")


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
    """Parse a JSON text.

    Raises:
        ValueError: it is not JSON, or a name is repeated in an object.
        RecursionError: it is nested too deeply.
    """
    return _DECODER.decode(text)


class _JsonReader:
    """A parser of a file's JSON text, value by value, that keeps only the unparsed part in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        self._text = ""
        self._place = 0

    def value(self) -> object:
        """Parse the next value."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._place)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - _LONGEST_WORD
                if not is_cut or not self._read_more():
                    raise
            else:
                following = self._text[end : end + 1]
                if (following and following not in _OF_NUMBERS) or not self._read_more():  # a number may continue
                    self._place = end
                    return cast("object", value)

    def items(self, ends: str) -> Iterator[None]:
        """Iterate over a list or an object; the caller parses each item before the next step.

        Args:
            ends: the opening and closing character.
        """
        self.take(ends[0])
        if self.peek() != ends[1]:
            yield
            while self.peek() == ",":
                self.take(",")
                yield
        self.take(ends[1])

    def peek(self) -> str:
        """Return the next character that is not white space, or "" at the end of the file."""
        while True:
            found = _SPACE.match(self._text, self._place)
            self._place = found.end() if found else self._place
            if self._place < len(self._text) or not self._read_more():
                return self._text[self._place : self._place + 1]

    def take(self, expected: str) -> None:
        """Skip the expected next character, or check for the end of the file with "". Raises `JSONDecodeError`."""
        if self.peek() != expected:
            what = f"{expected!r} is missing" if expected else _MORE_TEXT
            raise json.JSONDecodeError(what, self._text, self._place)
        self._place += len(expected)

    def _read_more(self) -> bool:
        """Read more text and drop what is parsed. Return False at the end of the file."""
        pending = len(self._text) - self._place
        if pending > MAX_VALUE_CHARS:
            raise ValueError(f"a value has more than {MAX_VALUE_CHARS:,} characters")
        if not (read := self._file.read(max(READ_CHARS, pending))):
            return False
        self._text, self._place = self._text[self._place :] + read, 0
        return True


class JsonList:
    """A list in a document's outermost object; each iteration reads the file again."""

    def __init__(self, path: Path, name: str, num_items: int, expected: str) -> None:
        self._path, self._name, self._num_items, self._expected = path, name, num_items, expected

    def __len__(self) -> int:
        return self._num_items

    def __iter__(self) -> Iterator[object]:
        with _open_reader(self._path, self._expected) as reader:
            for name in _names(reader):
                if name == self._name:
                    yield from (reader.value() for _ in reader.items("[]"))
                    return
                _skip_value(reader)


def open_json(path: Path, *, expected: str) -> object:
    """Read a plain or gzipped JSON file to its end.

    If the document is an object, return its lists as `JsonList` by name, and None for its other members. Any other
    document is returned as it is.

    Raises:
        InputError: the file is empty, of another format, truncated or not JSON, repeats a name in an object, or has a
            value too large for the memory of readers; the message says what was expected.
    """
    check_text_file(path, expected=expected)
    with _open_reader(path, expected) as reader:
        if reader.peek() != "{":
            document = reader.value()
            reader.take("")
            return document
        counts: dict[str, int | None] = {}
        for name in _names(reader):
            if name in counts:
                raise ValueError(f"{name[:_MAX_NAME_CHARS]!r} is repeated in the outermost object")
            if len(counts) == _MAX_NAMES:
                raise ValueError(f"the outermost object has more than {_MAX_NAMES:,} names")
            counts[name[:_MAX_NAME_CHARS]] = _skip_value(reader)
        reader.take("")
    return {name: None if num is None else JsonList(path, name, num, expected) for name, num in counts.items()}


def json_items(path: Path, *, expected: str) -> Iterator[object]:
    """Yield the items of a plain or gzipped JSON file whose document is a list, in bounded memory.

    Raises:
        InputError: see `open_json`; or the document is not a list.
    """
    check_text_file(path, expected=expected)
    with _open_reader(path, expected) as reader:
        if reader.peek() != "[":
            raise ValueError("it is not a list")
        for num_items, _ in enumerate(reader.items("[]")):
            if num_items >= _MAX_ITEMS:
                raise ValueError(f"a list has more than {_MAX_ITEMS:,} items")
            yield reader.value()
        reader.take("")


def _names(reader: _JsonReader) -> Iterator[str]:
    """Yield the names of the outermost object; the caller parses each value before the next step."""
    for _ in reader.items("{}"):
        name = reader.value()
        if not isinstance(name, str):
            raise ValueError("a name in the outermost object is not a text")
        reader.take(":")
        yield name


def _skip_value(reader: _JsonReader) -> int | None:
    """Skip a value; return the number of its items if it is a list, else None."""
    if reader.peek() == "[":
        num_items = 0
        for _ in reader.items("[]"):
            reader.value()
            num_items += 1
            if num_items > _MAX_ITEMS:
                raise ValueError(f"a list has more than {_MAX_ITEMS:,} items")
        return num_items
    reader.value()
    return None


@contextmanager
def _open_reader(path: Path, expected: str) -> Iterator[_JsonReader]:
    """Open a document; turn errors of the parser into an `InputError` that names the file."""
    with gzip_errors(path), open_bytes(path) as file:
        reader = _JsonReader(cast("BinaryIO", file))
        try:
            yield reader
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8: expected {expected}") from error
        except json.JSONDecodeError as error:
            is_cut = error.msg.startswith("Unterminated") or not error.doc[error.pos + 1 :].strip()
            what = "ends too early" if is_cut and error.msg != _MORE_TEXT else "is not valid JSON"
            near = error.doc[max(0, error.pos - 20) : error.pos + 20]
            raise InputError(
                f"{path} {what} ({error.msg} near {near!r}): expected {expected}; download it again"
            ) from error
        except RecursionError as error:
            raise InputError(f"{path} is nested too deeply: expected {expected}") from error
        except ValueError as error:
            raise InputError(f"{path} cannot be read ({error}): expected {expected}") from error


_MAX_ID_CHARS = 200
_MAX_NAMES_CHARS = 500
_EXCERPT_CHARS = 50


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


def missing_id(record: Mapping[str, object], name: str) -> str:
    """Return why `id_field` found no id, as the detail of a rejected row."""
    return f"no {name}" if record.get(name) is None else f"no {name} but {str(record[name])[:_EXCERPT_CHARS]}"


class Records:
    """The objects of a list; items of other types become empty objects, so that the numbering stays."""

    def __init__(self, items: list[object] | JsonList) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Mapping[str, object]]:
        return (item if isinstance(item, dict) else {} for item in self._items)

    @property
    def first_names(self) -> str:
        """Return the names in the first object, for a message."""
        return ", ".join(list(next(iter(self), {}))[:20])[:_MAX_NAMES_CHARS] or "none"


def records_of(value: object) -> Records | None:
    """Return the objects of a list, or None if the value is not a list."""
    return Records(value) if isinstance(value, list | JsonList) else None


def describe(value: object) -> str:
    """Return a description of a JSON value, for a message: its type, and the keys of an object."""
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(map(str, list(value)[:20])) or '(none)'}"
    return {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
