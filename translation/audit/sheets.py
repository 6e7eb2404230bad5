"""CSV files of an audit: exact texts that no spreadsheet takes for formulas.

A cell that begins with `=`, `+`, `-`, `@`, a tab, a carriage return or an apostrophe is written with an apostrophe in
front, and read without it: every text comes back as it was. The rating form writes its CSV by the same rule.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data_catalog.shards import write_atomically

AUDIT_FILE, FORM_FILE = "audit.csv", "audit.html"
# What the rating form saves, one row a pair; `rating` is 1 to 4, or empty.
RATING_COLUMNS = ("audit_id", "row_id", "rating", "comment", "rater")

_RISKY = ("=", "+", "-", "@", "\t", "\r", "'")


def safe_cell(text: str) -> str:
    """A text as a cell that a spreadsheet shows and does not compute."""
    return f"'{text}" if text.startswith(_RISKY) else text


def plain_cell(cell: str) -> str:
    """The text that `safe_cell` made a cell of."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_RISKY) else cell


def write_sheet(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write texts as a CSV file in UTF-8, atomically.

    Raises:
        ConfigError: the disk is full.
    """

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows([safe_cell(row[name]) for name in columns] for row in rows)

    write_atomically(path, write)
