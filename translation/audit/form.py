"""The form on which people rate an audit's pairs: one HTML file that needs no network and runs nothing but its script.

Raters see texts only: no score, no stratum, no weight. Texts of the dataset stand in a block of JSON in which no
character can end the block, and the page's policy lets the browser run this one script and load nothing at all.
"""

import base64
import hashlib
import html
import json
import re
from importlib.resources import files

from translation.audit.draw import Audit
from translation.audit.sheets import RATING_COLUMNS, RISKY_STARTS

_SHOWN = ("row_id", "source_text", "text", "source_lang", "target_lang")


def render_form(audit: Audit) -> str:
    """The form of an audit, as the text of one HTML file in UTF-8."""
    style, script = _part("form.css"), _part("form.js")
    data = {
        "audit_id": audit.audit_id,
        "dataset": audit.dataset,
        "columns": RATING_COLUMNS,
        "risky_starts": RISKY_STARTS,
        "rows": [{name: row[name] for name in _SHOWN} for row in audit.rows],
    }
    parts = {
        "POLICY": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; "
        "form-action 'none'",
        "DATASET": html.escape(audit.dataset),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": _inert_json(data),
    }
    return re.sub("@@([A-Z]+)@@", lambda match: parts[match[1]], _part("form.html"))


def _part(name: str) -> str:
    return (files("translation.audit") / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """How a content security policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _inert_json(value: object) -> str:
    """JSON without a character that means something to HTML: `</script>` and `<!--` are written as escapes."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)
