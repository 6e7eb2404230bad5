"""Quoted CSV and TSV records over physical lines, read so that a broken record costs its first line and no other.

Python's csv module cannot do this: an unterminated quote makes it swallow every row up to the next quote, it refuses
NULs and long fields, and it does not say on which line a record began.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from data_catalog.sources.files import Line, Trouble

# Bounds of the search for a closing quote. Wikipedia sections run to a few hundred lines.
MAX_RECORD_LINES = 5_000
MAX_RECORD_CHARS = 8 * 2**20

StartsRow = Callable[[list[str]], bool]


class Record(NamedTuple):
    """One record: the line where it starts, its cells (none if they could not be told apart), and its trouble."""

    line: int
    cells: list[str]
    text: str
    trouble: Trouble | None


class _BrokenQuoteError(ValueError):
    """A closing quote is followed by something other than a delimiter or the end of the line."""


@dataclass(slots=True)
class _Scan:
    """Cells of a record as its lines come in; `open_cell` holds the parts of a quoted cell that goes on."""

    delimiter: str
    cells: list[str] = field(default_factory=list)
    open_cell: list[str] | None = None

    def feed(self, text: str) -> None:
        """Take one more physical line, without its end; afterwards `open_cell` is None if the record is complete."""
        position = 0
        while position <= len(text):
            if self.open_cell is None and not text.startswith('"', position):
                end = text.find(self.delimiter, position)
                end = len(text) if end < 0 else end
                self.cells.append(text[position:end])
                position = end + 1
                continue
            if self.open_cell is None:
                self.open_cell, position = [], position + 1
            position = self._quoted(text, position)

    def _quoted(self, text: str, position: int) -> int:
        assert self.open_cell is not None
        end = _closing_quote(text, position)
        if end < 0:
            self.open_cell.append(text[position:])
            return len(text) + 1
        after = text[end + 1 : end + 2]
        if after and after != self.delimiter:
            raise _BrokenQuoteError(f"a quoted field is closed in mid-text at character {end} of the line")
        self.open_cell.append(text[position:end])
        self.cells.append("".join(self.open_cell).replace('""', '"'))
        self.open_cell = None
        return end + 2


def _closing_quote(text: str, position: int) -> int:
    """Return the index of the first quote that is not doubled, or -1."""
    while (position := text.find('"', position)) >= 0 and text.startswith('""', position):
        position += 2
    return position


def complete_cells(text: str, *, delimiter: str) -> list[str]:
    """Return the cells of one physical line taken by itself, up to the first that is not closed or is broken."""
    scan = _Scan(delimiter)
    try:
        scan.feed(text)
    except _BrokenQuoteError:
        return scan.cells
    return scan.cells


def read_records(lines: Iterable[Line], *, delimiter: str, num_cells: int, starts_row: StartsRow) -> Iterator[Record]:
    """Yield every record; blank lines between records are none.

    A quoted field may hold delimiters, doubled quotes and line ends. If its closing quote is missing (the search ends
    at a line that itself starts a row, at a bound, or at the end of the file), if the quote is closed in mid-text, or
    if the number of cells is not `num_cells`, the record is malformed at its first line and reading resumes at the very
    next line: nothing is swallowed, at the price of one malformed record for each further line of a broken one. A
    line whose quotes are mere text (`"Hi" he said`) is taken as it stands if it has the right number of cells so.

    Args:
        lines: physical lines, header excluded.
        delimiter: one character.
        num_cells: cells of a well-formed record.
        starts_row: whether the complete cells of a line, taken by itself, can only be the start of a row.
    """
    source, pending = iter(lines), deque[Line]()

    def take() -> Line | None:
        return pending.popleft() if pending else next(source, None)

    while (first := take()) is not None:
        if not first.text:
            continue
        record, unread = _read_record(first, take, delimiter=delimiter, num_cells=num_cells, starts_row=starts_row)
        pending.extendleft(reversed(unread))
        yield record


def _read_record(
    first: Line, take: Callable[[], Line | None], *, delimiter: str, num_cells: int, starts_row: StartsRow
) -> tuple[Record, list[Line]]:
    """Read one record from its first line on; also give back the lines that turned out not to belong to it."""
    cells, used, detail = first.text.split(delimiter), [first], None
    if '"' in first.text:
        scan = _Scan(delimiter)
        try:
            detail = _scan_record(scan, used, take, starts_row)
            cells = scan.cells
        except _BrokenQuoteError as error:
            if len(used) > 1 or len(cells) != num_cells:
                detail = str(error)
    if detail is None and len(cells) == num_cells:
        trouble = first.trouble
        if len(used) > 1:
            trouble = next((line.trouble for line in used if line.trouble), None)
        return Record(first.number, cells, first.text, trouble), []
    detail = detail or f"{len(cells)} fields instead of {num_cells}"
    return Record(first.number, [], first.text, first.trouble or Trouble("malformed_row", detail)), used[1:]


def _scan_record(scan: _Scan, used: list[Line], take: Callable[[], Line | None], starts_row: StartsRow) -> str | None:
    """Feed lines until the record is complete (None) or can no longer be (why), keeping all of them in `used`."""
    num_chars = 0
    while True:
        line = used[-1]
        scan.feed(line.text)
        if scan.open_cell is None:
            return None
        scan.open_cell.append(line.end)
        num_chars += len(line.text)
        if len(used) >= MAX_RECORD_LINES or num_chars > MAX_RECORD_CHARS:
            return f"a quoted field is not closed within {len(used)} lines"
        following = take()
        if following is None:
            return f"a quoted field is not closed before the file ends; {len(scan.cells)} fields before it"
        used.append(following)
        if starts_row(complete_cells(following.text, delimiter=scan.delimiter)):
            return f"a quoted field is not closed before the next row; {len(scan.cells)} fields before it"
