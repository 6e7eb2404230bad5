"""Lines, CSV and TSV of any length, translated as they stream by; what they hold already stays byte for byte.

A row is written as it was read, with the new cells behind it, so that quotes, line ends within them and the other
columns cannot change.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from gzip import GzipFile
from io import BufferedReader
from itertools import tee
from typing import NamedTuple, Protocol, TextIO

from data_catalog.errors import InputError
from data_catalog.sources.delimited import complete_cells, read_records
from data_catalog.sources.files import BOM, Line, Trouble, lines_of
from translation.engine import Translation
from translation.files.columns import Columns

BinaryFile = BufferedReader | GzipFile
Stream = Callable[[Iterable[str]], Iterator[Translation]]

# What a cell cannot hold without quotes around it. In TSV a quote is mere text unless a cell begins with it.
_NEEDS_QUOTES = {",": re.compile('[",\r\n]'), "\t": re.compile('^"|[\t\r\n]')}


class Row(NamedTuple):
    """One caption, the text of the whole row without its line end, and the line end ("", LF or CRLF)."""

    caption: str
    raw: str
    end: str


class TextTable(Protocol):
    """An open text with one caption a row."""

    @property
    def head(self) -> str:
        """What is written before the rows."""

    def rows(self) -> Iterator[Row]:
        """All rows, once.

        Raises:
            InputError: a row that cannot be read, with its line number.
        """

    @property
    def tail(self) -> str:
        """What is written behind the rows, once all have been read."""

    def written(self, row: Row, translation: Translation) -> str:
        """A translated row, line end included."""


def translate_rows(table: TextTable, out: TextIO, stream: Stream) -> None:
    """Write every row of a table with its translation, in order; held in memory is what `stream` looks ahead.

    Raises:
        PipelineError: as the table or the engine does.
    """
    out.write(table.head)
    rows, ahead = tee(table.rows())
    for row, translation in zip(rows, stream(row.caption for row in ahead), strict=True):
        out.write(table.written(row, translation))
    out.write(table.tail)


class Lines:
    """One caption a line; only LF and CRLF end a line.

    Args:
        file: open for reading, at its start.
        name: what errors call it.
        scores: put each score and a tab before the translation; nothing before the tab where there is none.
    """

    def __init__(self, file: BinaryFile, name: str, *, scores: bool = False) -> None:
        self.head, self.tail = _byte_order_mark(file), ""
        self._lines, self._name, self._scores = lines_of(file), name, scores

    def rows(self) -> Iterator[Row]:
        """See `TextTable`."""
        for line in self._lines:
            _refuse(self._name, line.number, line.trouble)
            yield Row(line.text, line.text, line.end)

    def written(self, row: Row, translation: Translation) -> str:
        """The translation in one line."""
        score = f"{_cell(translation.score)}\t" if self._scores else ""
        return score + " ".join(translation.text.splitlines()) + (row.end or "\n")


class Delimited:
    """CSV or TSV with a header; blank lines are no rows, and stay where they are.

    Args:
        file: open for reading, at its start.
        name: what errors call it.
        delimiter: "," or a tab.
        columns: what is read and written.

    Raises:
        SettingsError: a header without the column, or with one of the new ones.
        InputError: no header.
    """

    def __init__(self, file: BinaryFile, name: str, *, delimiter: str, columns: Columns) -> None:
        mark = _byte_order_mark(file)
        self._lines, self._name, self._delimiter, self._columns = lines_of(file), name, delimiter, columns
        blank, header = _skip_blank(self._lines)
        if header is None:
            raise InputError(f"{name} is empty: expected a first line with the names of its columns")
        _refuse(name, header.number, header.trouble)
        existing = [cell.strip() for cell in complete_cells(header.text, delimiter=delimiter)]
        self._place, self._num_cells = columns.place_among(existing, name), len(existing)
        self._end = header.end or "\n"
        self.head = mark + blank + self._widened(header.text, columns.added) + self._end
        self.tail = ""

    def rows(self) -> Iterator[Row]:
        """See `TextTable`."""
        used: list[Line] = []
        records = read_records(
            _noted(self._lines, used),
            delimiter=self._delimiter,
            num_cells=self._num_cells,
            starts_row=lambda cells: False,
        )
        for record in records:
            _refuse(self._name, record.line, record.trouble)
            # No line is read ahead of a sound record: these are its own, and blank ones before it.
            end = used[-1].end
            raw = "".join(line.text + line.end for line in used).removesuffix(end)
            used.clear()
            yield Row(record.cells[self._place], raw, end)
        self.tail = "".join(line.end for line in used)  # blank ones behind the last record

    def written(self, row: Row, translation: Translation) -> str:
        """The row with the new cells behind it."""
        cells = [_cell(value) for value in self._columns.values(translation)]
        return self._widened(row.raw, cells) + (row.end or self._end)

    def _widened(self, raw: str, cells: Iterable[str]) -> str:
        return self._delimiter.join([raw, *(_quoted(cell, self._delimiter) for cell in cells)])


def _byte_order_mark(file: BinaryFile) -> str:
    """U+FEFF if the file begins with one, which spreadsheets need, else ""; nothing is consumed."""
    return "\ufeff" if file.peek(len(BOM)).startswith(BOM) else ""


def _skip_blank(lines: Iterable[Line]) -> tuple[str, Line | None]:
    """The ends of the blank lines at the beginning, and the first line that is not blank."""
    blank = ""
    for line in lines:
        if line.text:
            return blank, line
        blank += line.end
    return blank, None


def _noted(lines: Iterable[Line], used: list[Line]) -> Iterator[Line]:
    for line in lines:
        used.append(line)
        yield line


def _refuse(name: str, number: int, trouble: Trouble | None) -> None:
    if trouble is not None:
        raise InputError(f"{name}, line {number}: {trouble.detail}; correct that line and run the same command again")


def _cell(value: str | float | bool | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4f}" if isinstance(value, float) else value


def _quoted(cell: str, delimiter: str) -> str:
    if not _NEEDS_QUOTES[delimiter].search(cell):
        return cell
    doubled = cell.replace('"', '""')
    return f'"{doubled}"'
