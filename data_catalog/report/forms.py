"""Forms on which people answer offline, each one HTML file, and the CSV files that such a form saves.

A form needs no network and runs only its own script. Its rows are in a block of JSON in which no character can end the
block, and reach the page as text nodes. Its content security policy allows this one script, and loads nothing.

CSV files contain exact texts that spreadsheets do not treat as formulas. A text that begins with `=`, `+`, `-`, `@`, a
tab, a line end or an apostrophe is written with an apostrophe in front, which is removed on reading: every text is read
as it was written. Numbers stay numbers. The form's script writes by the same rule.
"""

import base64
import csv
import hashlib
import html
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError

# Starts of a spreadsheet formula, also in full width, and our own mark.
RISKY_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n", "'")
_DELIMITERS = ",;\t"  # spreadsheets of many countries save CSV with semicolons
_BETWEEN = "<!-- help -->"  # between the two parts of a form's own HTML


def render_form(page: Traversable, words: Mapping[str, Any], data: Mapping[str, Any], *, pictures: bool = False) -> str:
    """Return the text of a form, an HTML file in UTF-8.

    Args:
        page: folder with the parts of this form: `form.html` (what is answered, then the help), `form.css`, `form.js`.
        words: texts of the page; those in capitals in the HTML, the others for the script.
        data: `kind`, `id`, `columns` of the CSV with `id_column` and `person_column`, `fields` that are answered,
            `choices` of some, and `rows` with their `row_id`; the form's own script may need more.
        pictures: allow pictures inside the file.
    """
    frame = files("data_catalog.report") / "templates"
    (style, own_style), (script, own_script), (whole, body) = (
        [(place / f"form.{kind}").read_text(encoding="utf-8") for place in (frame, page)]
        for kind in ("css", "js", "html")
    )
    style, script = f"{style}\n{own_style}", f"{script}\n{own_script}"
    answered, _, help_text = body.partition(_BETWEEN)
    whole = whole.replace("@@BODY@@", answered.strip()).replace("@@HELP@@", help_text.strip())
    text = json.dumps({**data, "words": words, "risky_starts": RISKY_STARTS}, ensure_ascii=False)
    parts = {
        **{name.upper(): html.escape(word) for name, word in words.items() if isinstance(word, str)},
        "POLICY": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; "
        f"form-action 'none'{'; img-src data:' if pictures else ''}",
        "STYLE": style,
        "SCRIPT": script,
        # Characters with a meaning in HTML are escaped, so that `</script>` and `<!--` cannot occur.
        "DATA": re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text),
    }
    return re.sub("@@([A-Z_]+)@@", lambda match: parts[match[1]], whole)


def _hash(text: str) -> str:
    """Return the source expression of a content security policy that allows an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


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


def sheet_rows(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), *, expected: str
) -> Iterator[tuple[str, dict[str, str]]]:
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
        for name in (*required, *optional):
            if columns.count(name) > 1 or (name in required and name not in columns):
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
