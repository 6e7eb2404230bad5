"""The HTML form on which raters rate an audit's pairs.

Raters see texts only: no score, no stratum, no weight. The form is one HTML file, needs no network and runs only its
own script. Its rows are in a block of JSON in which no character can end the block, and reach the page as text nodes.
"""

import base64
import hashlib
import html
import json
import re
import tomllib
from importlib.resources import files

from data_catalog.report.forms import RISKY_STARTS
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
    words, style, script, whole = (
        (page / name).read_text(encoding="utf-8") for name in ("words.toml", "form.css", "form.js", "form.html")
    )
    texts = tomllib.loads(words)
    texts["title"] = f"{texts['heading']}: {audit.dataset}"
    data = {
        "id": audit.audit_id,
        "dataset": audit.dataset,
        "columns": RATING_COLUMNS,
        "fields": ["rating", "comment"],
        "grades": list(map(str, GRADES)),
        "rows": [{name: row[name] for name in _SHOWN} for row in audit.rows],
        "words": texts,
        "risky_starts": RISKY_STARTS,
    }
    text = json.dumps(data, ensure_ascii=False)
    parts = {
        **{name.upper(): html.escape(word) for name, word in texts.items()},
        "POLICY": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; "
        "form-action 'none'",
        "STYLE": style,
        "SCRIPT": script,
        # Characters with a meaning in HTML are escaped, so that `</script>` and `<!--` cannot occur.
        "DATA": re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text),
    }
    return re.sub("@@([A-Z_]+)@@", lambda match: parts[match[1]], whole)


def _hash(text: str) -> str:
    """Return the source expression of a content security policy that allows an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
