"""The HTML form on which raters rate an audit's pairs.

Raters see texts only: no score, no stratum, no weight.
"""

import tomllib
from importlib.resources import files

from data_catalog.report.forms import render_form
from translation.audit.draw import Audit

AUDIT_FILE, FORM_FILE = "audit.csv", "audit.html"
# Columns of the CSV that the form saves, one row for each pair; `rating` is 1 to 4, or empty.
RATING_COLUMNS = ("audit_id", "row_id", "rating", "comment", "rater")
# 1: the meaning is lost; 2: the idea is there, but something is wrong; 3: good, with flaws; 4: good.
GRADES = (1, 2, 3, 4)

_SHOWN = ("row_id", "source_text", "text", "source_lang", "target_lang")


def render_audit(audit: Audit) -> str:
    """Return the form of an audit, as the text of one HTML file in UTF-8."""
    page = files("translation.audit") / "page"
    words = tomllib.loads((page / "words.toml").read_text(encoding="utf-8"))
    data = {
        "kind": "audit",
        "id": audit.audit_id,
        "dataset": audit.dataset,
        "columns": RATING_COLUMNS,
        "id_column": "audit_id",
        "person_column": "rater",
        "fields": ["rating", "comment"],
        "choices": {"rating": list(map(str, GRADES))},
        "rows": [{name: row[name] for name in _SHOWN} for row in audit.rows],
    }
    return render_form(page, {**words, "title": f"{words['heading']}: {audit.dataset}"}, data)
