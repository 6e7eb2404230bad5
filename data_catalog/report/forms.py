"""CSV files that people fill in: exact texts that spreadsheets do not treat as formulas.

A text that begins with `=`, `+`, `-`, `@`, a tab, a line end or an apostrophe is written with an apostrophe in front,
which is removed on reading: every text is read as it was written. Numbers stay numbers. The script of an audit's form
writes by the same rule.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError

# Starts of a spreadsheet formula, also in full width, and our own mark.
RISKY_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n", "'")
_DELIMITERS = ",;\t"  # spreadsheets of many countries save CSV with semicolons


def safe_cell(text: str) -> str:
    """Return a text as a cell that a spreadsheet shows and does not compute."""
    return f"'{text}" if text.startswith(RISKY_STARTS) else text


def plain_cell(cell: str) -> str:
    """Return the text from which `safe_cell` made a cell."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(RISKY_STARTS) else cell


def sheet_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Return the text of a CSV file with CRLF line ends: None is an empty cell, booleans and lists are JSON."""

    def cell(value: object) -> object:
        if isinstance(value, str):
            return safe_cell(value)
        return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | list) else value

    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows([cell(row[name]) for name in columns] for row in rows)
    return out.getvalue()


def sheet_rows(path: Path, required: Sequence[str], *, expected: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (file and line, cells) of the rows of a CSV, delimited by comma, semicolon or tab, without empty rows.

    Where the file is damaged, an `InputError` follows the rows before. `expected` says what the file should be.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file: give {expected}")
    is_empty = True
    with (
        about(path, remedy="save the sheet as CSV in UTF-8 again"),
        path.open(encoding="utf-8-sig", newline="") as file,
    ):
        header = file.readline()
        file.seek(0)
        reader = csv.DictReader(file, delimiter=max(_DELIMITERS, key=header.count), strict=True)
        columns = list(reader.fieldnames or ())
        for name in required:
            if columns.count(name) != 1:
                raise ValueError(f"it has {columns.count(name)} columns {name}, and needs {', '.join(required)}")
        for cells in reader:
            if None in cells or None in cells.values():
                raise ValueError(f"line {reader.line_num} has not {len(columns)} cells")
            if any(map(str.strip, cells.values())):
                is_empty = False
                plain = {name: plain_cell(cell) for name, cell in cells.items()}
                yield f"{path}, line {reader.line_num}", plain
        if is_empty:
            raise ValueError("it has no rows")


def single_value(path: Path, sheet: Sequence[tuple[str, dict[str, str]]], column: str) -> str:
    """Return the value that a column has in all rows."""
    values = {cells[column].strip(): None for _, cells in sheet}
    if len(values) != 1 or "" in values:
        raise InputError(f"{path} must have one {column} in all rows, but has {', '.join(map(repr, values))}")
    return next(iter(values))
