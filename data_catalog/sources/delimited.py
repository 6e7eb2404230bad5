"""Quoted CSV and TSV, read with Python's csv module; reading resumes at the next line after a broken record.

csv alone takes every row up to the next quote as one field after an unterminated quote, so it is given a line only when
it needs one, and no line that starts a row.
"""

import csv
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from data_catalog.sources.files import Line, Trouble

# Limits of the search for a closing quote. Wikipedia sections have up to a few hundred lines.
MAX_RECORD_LINES = 5_000
MAX_RECORD_CHARS = 8 * 2**20
_NO_CR = "\ud800"  # no decoded text has it; csv would end a row at a carriage return
csv.field_size_limit(2**31 - 1)  # of the whole process; the limits above and of a line bound a field
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
    with suppress(csv.Error):
        _read_cells(cells, [Line(0, text, "", None)], lambda: None, delimiter, lambda cells: False)
    return cells


def read_records(lines: Iterable[Line], *, delimiter: str, num_cells: int, starts_row: StartsRow) -> Iterator[Record]:
    """Yield every record; blank lines between records are skipped.

    A quoted field may contain delimiters, doubled quotes and line ends. A record is malformed if:
      its closing quote is missing; the search ends at a line that starts a row, at a limit, or at the end of the file
      its quote is closed in the middle of a text
      its number of cells is not `num_cells`

    Reading resumes at the line after the first line of a malformed record. No row is lost, but each further line of a
    broken record becomes a malformed record too. A line whose quotes are only text (`"Hi" he said`) is split without
    quoting if that gives the right number of cells.
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
            except csv.Error as error:
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
    start = end = num_read = 0
    why = ""

    def pieces() -> Iterator[str]:
        """Yield cell by cell, each with the delimiter after it: csv returns each as a row unless a quote is open."""
        nonlocal start, end, why
        num_chars = 0
        while not why:
            line, start = used[-1], 0
            for piece in line.text.split(delimiter):
                end = start + len(piece)
                yield piece.replace("\r", _NO_CR) + (delimiter if end < len(line.text) else line.end)
                start = end + 1
            num_chars += len(line.text)
            if len(used) >= MAX_RECORD_LINES or num_chars > MAX_RECORD_CHARS:
                why = f"within {len(used)} lines"
            elif (following := take()) is None:
                why = f"before the file ends; {len(cells)} fields before it"
            else:
                used.append(following)
                if starts_row(complete_cells(following.text, delimiter=delimiter)):
                    why = f"before the next row; {len(cells)} fields before it"

    rows = csv.reader(pieces(), delimiter=delimiter, strict=True)
    try:
        for row in rows:
            cells.append(row[0].replace(_NO_CR, "\r") if row else "")
            if end == len(used[-1].text):
                return None
            num_read = rows.line_num
    except csv.Error as error:
        if not why:
            opened_here = rows.line_num == num_read + 1
            found = _TO_CLOSING_QUOTE.match(used[-1].text, start + opened_here)
            place = found.end() if found else start
            raise csv.Error(f"a quoted field is closed in mid-text at character {place} of the line") from error
    return f"a quoted field is not closed {why}"
