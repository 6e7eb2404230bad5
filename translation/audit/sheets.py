"""CSV files of an audit: exact texts that no spreadsheet takes for formulas.

A text that begins with `=`, `+`, `-`, `@`, a tab, a line end or an apostrophe is written with an apostrophe in front,
and read without it: every text comes back as it was. Numbers stay numbers. The rating form writes by the same rule.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence

AUDIT_FILE, FORM_FILE = "audit.csv", "audit.html"
# What the rating form saves, one row a pair; `rating` is 1 to 4, or empty.
RATING_COLUMNS = ("audit_id", "row_id", "rating", "comment", "rater")

# What makes a spreadsheet compute, in full width as well, and our own mark.
RISKY_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n", "'")


def safe_cell(text: str) -> str:
    """A text as a cell that a spreadsheet shows and does not compute."""
    return f"'{text}" if text.startswith(RISKY_STARTS) else text


def plain_cell(cell: str) -> str:
    """The text that `safe_cell` made a cell of."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(RISKY_STARTS) else cell


def sheet_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """A CSV file's text, with CRLF as the format has it: None is empty, booleans and lists are JSON."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows([_cell(row[name]) for name in columns] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str):
        return safe_cell(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | list) else value
