"""The HTML form on which raters rate an audit's pairs, and the CSV files of an audit.

The form is one HTML file that needs no network and runs only its own script. Raters see texts only: no score, no
stratum, no weight. The dataset's texts are in a block of JSON in which no character can end the block. The page's
content security policy allows this one script, and loads nothing.

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
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

from translation.audit.draw import Audit

AUDIT_FILE, FORM_FILE = "audit.csv", "audit.html"
# Columns of the CSV that the form saves, one row for each pair; `rating` is 1 to 4, or empty.
RATING_COLUMNS = ("audit_id", "row_id", "rating", "comment", "rater")

# Starts of a spreadsheet formula, also in full width, and our own mark.
RISKY_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n", "'")
_SHOWN = ("row_id", "source_text", "text", "source_lang", "target_lang")


def render_form(audit: Audit) -> str:
    """Return the form of an audit, as the text of one HTML file in UTF-8."""
    page = files("translation.audit") / "page"
    style, script, form = ((page / f"form.{kind}").read_text(encoding="utf-8") for kind in ("css", "js", "html"))
    data = {
        "audit_id": audit.audit_id,
        "dataset": audit.dataset,
        "columns": RATING_COLUMNS,
        "risky_starts": RISKY_STARTS,
        "rows": [{name: row[name] for name in _SHOWN} for row in audit.rows],
    }
    text = json.dumps(data, ensure_ascii=False)
    parts = {
        "POLICY": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; "
        "form-action 'none'",
        "DATASET": html.escape(audit.dataset),
        "STYLE": style,
        "SCRIPT": script,
        # Characters with a meaning in HTML are escaped, so that `</script>` and `<!--` cannot occur.
        "DATA": re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text),
    }
    return re.sub("@@([A-Z]+)@@", lambda match: parts[match[1]], form)


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
