"""Quoted CSV and TSV; reading resumes at the next line after a broken record.

Python's csv module takes every row up to the next quote as one field after an unterminated quote.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from data_catalog.sources.files import Line, Trouble

# Limits of the search for a closing quote. Wikipedia sections have up to a few hundred lines.
MAX_RECORD_LINES = 5_000
MAX_RECORD_CHARS = 8 * 2**20
_TO_CLOSING_QUOTE = re.compile(r'(?:[^"]+|"")*+')

StartsRow = Callable[[list[str]], bool]  # takes the complete cells of a line; can they only be the start of a row?


class Record(NamedTuple):
    """A record: its first line number, its cells (none if they could not be parsed), its text, and its trouble."""

    line: int
    cells: list[str]
    text: str
    trouble: Trouble | None


def complete_cells(text: str, *, delimiter: str) -> list[str]:
    """Return the cells of one physical line parsed alone, up to the first that is broken or not closed."""
    cells: list[str] = []
    with suppress(ValueError):
        _read_cells(cells, [Line(0, text, "", None)], lambda: None, delimiter, lambda cells: False)
    return cells


def read_records(lines: Iterable[Line], *, delimiter: str, num_cells: int, starts_row: StartsRow) -> Iterator[Record]:
    """Yield every record; blank lines between records are skipped.

    A quoted field may contain delimiters, doubled quotes and line ends. A record is malformed if it has not `num_cells`
    cells, if its quote is closed in the middle of a text, or never: the search ends at a line that starts a row, at a
    limit, or at the end of the file. Reading resumes at the line after the first line of a malformed record, so no row
    is lost, but each further line of it becomes a malformed record too. A line whose quotes are only text
    (`"Hi" he said`) is split without quoting if that gives the right number of cells.
    """
    source, unread = iter(lines), deque[Line]()

    def take() -> Line | None:
        return unread.popleft() if unread else next(source, None)

    while (first := take()) is not None:
        if not first.text:
            continue
        cells, used, detail = first.text.split(delimiter), [first], None
        if '"' in first.text:
            quoted: list[str] = []
            try:
                detail = _read_cells(quoted, used, take, delimiter, starts_row)
                cells = quoted
            except ValueError as error:
                if len(used) > 1 or len(cells) != num_cells:
                    detail = str(error)
        if detail is None and len(cells) == num_cells:
            yield Record(first.number, cells, first.text, next((line.trouble for line in used if line.trouble), None))
            continue
        unread.extendleft(reversed(used[1:]))
        detail = detail or f"{len(cells)} fields instead of {num_cells}"
        yield Record(first.number, [], first.text, first.trouble or Trouble("malformed_row", detail))


def _read_cells(
    cells: list[str], used: list[Line], take: Callable[[], Line | None], delimiter: str, starts_row: StartsRow
) -> str | None:
    """Append a record's cells, and its lines after the first; return why a quote never closes, if one does not."""
    start = num_chars = 0
    while True:
        text = used[-1].text
        if not text.startswith('"', start):
            end = text.find(delimiter, start)
            end = len(text) if end < 0 else end
            cells.append(text[start:end])
        else:
            parts: list[str] = []
            start += 1
            while (end := _closing_quote(text, start)) == len(text):
                parts += [text[start:], used[-1].end]
                num_chars += len(text)
                if len(used) >= MAX_RECORD_LINES or num_chars > MAX_RECORD_CHARS:
                    return f"a quoted field is not closed within {len(used)} lines"
                if (following := take()) is None:
                    return f"a quoted field is not closed before the file ends; {len(cells)} fields before it"
                used.append(following)
                if starts_row(complete_cells(following.text, delimiter=delimiter)):
                    return f"a quoted field is not closed before the next row; {len(cells)} fields before it"
                text, start = following.text, 0
            if end + 1 < len(text) and not text.startswith(delimiter, end + 1):
                raise ValueError(f"a quoted field is closed in mid-text at character {end} of the line")
            cells.append("".join([*parts, text[start:end]]).replace('""', '"'))
            end += 1
        if end == len(text):
            return None
        start = end + 1


def _closing_quote(text: str, start: int) -> int:
    """Return the place of the quote that closes a field, or the length of the text if none does."""
    found = _TO_CLOSING_QUOTE.match(text, start)
    assert found is not None
    return found.end()
