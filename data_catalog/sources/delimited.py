"""Parser of quoted CSV and TSV that recovers from a broken record at the next line.

Python's csv module cannot do this: after an unterminated quote it takes every row up to the next quote as one field, it
rejects NULs and long fields, and it does not report on which line a record starts.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from data_catalog.sources.files import Line, Trouble

# Limits of the search for a closing quote. Wikipedia sections have up to a few hundred lines.
MAX_RECORD_LINES = 5_000
MAX_RECORD_CHARS = 8 * 2**20

StartsRow = Callable[[list[str]], bool]


class Record(NamedTuple):
    """A record: its first line number, its cells (none if they could not be parsed), its text, and its trouble."""

    line: int
    cells: list[str]
    text: str
    trouble: Trouble | None


class _BrokenQuoteError(ValueError):
    """A closing quote that is not followed by a delimiter or the end of the line."""


@dataclass(slots=True)
class _Scan:
    """Parser state of one record; `open_cell` contains the parts of a quoted cell that continues on the next line."""

    delimiter: str
    cells: list[str] = field(default_factory=list)
    open_cell: list[str] | None = None

    def feed(self, text: str) -> None:
        """Parse one more physical line, without its end; `open_cell` is None afterwards if the record is complete."""
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
    """Return the cells of one physical line parsed alone, up to the first that is broken or not closed."""
    scan = _Scan(delimiter)
    try:
        scan.feed(text)
    except _BrokenQuoteError:
        return scan.cells
    return scan.cells


def read_records(lines: Iterable[Line], *, delimiter: str, num_cells: int, starts_row: StartsRow) -> Iterator[Record]:
    """Yield every record; blank lines between records are skipped.

    A quoted field may contain delimiters, doubled quotes and line ends. A record is malformed if:
      its closing quote is missing; the search ends at a line that starts a row, at a limit, or at the end of the file
      its quote is closed in the middle of a text
      its number of cells is not `num_cells`

    Reading resumes at the line after the first line of a malformed record. No row is lost, but each further line of a
    broken record becomes a malformed record too. A line whose quotes are only text (`"Hi" he said`) is split without
    quoting if that gives the right number of cells.

    Args:
        lines: physical lines, without the header.
        delimiter: one character.
        num_cells: number of cells of a well-formed record.
        starts_row: takes the complete cells of a line parsed alone; True if they can only be the start of a row.
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
    """Read one record from its first line on; also return the lines that were read but do not belong to it."""
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
    """Feed lines, and append them to `used`, until the record is complete or malformed.

    Returns:
        None for a complete record, else the detail of a malformed one.
    """
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
