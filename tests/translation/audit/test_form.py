"""The rating form as a file: nothing in a dataset can become markup or script, and nothing is loaded."""

import base64
import hashlib
import json
from collections.abc import Sequence
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from translation.audit.draw import AUDIT_COLUMNS, Audit, Stratum
from translation.audit.form import plain_cell, render_form, safe_cell


class Page(HTMLParser):
    """What a browser finds: tags with their attributes, and the text of each script and style."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, list[str]] = {}
        self.feed(form)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inline.setdefault(tag, []).append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.inline[self.cdata_elem][-1] += data

    def attributes(self, name: str) -> list[str]:
        return [value or "" for _, attributes in self.tags for key, value in attributes.items() if key == name]


def audit(texts: Sequence[str], dataset: str = "captions") -> Audit:
    rows = [
        {
            **dict.fromkeys(AUDIT_COLUMNS),
            "row_id": f"r{place}",
            "source_text": text,
            "text": text[::-1],
            "source_lang": "en",
            "target_lang": "it",
        }
        for place, text in enumerate(texts)
    ]
    return Audit(
        audit_id="0123456789abcdef",
        dataset=dataset,
        rows=rows,
        strata=[Stratum(name="s", num_pairs=len(rows), num_drawn=len(rows))],
    )


NASTY = (
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>alert(1)</script>",
    "@@DATA@@ @@SCRIPT@@ @@POLICY@@",
    "a\u2028b\u2029c",
    "\\u003c \\n $& ${x}",
    "nul\0",
    "&lt;b&gt; &amp;",
)


@pytest.mark.parametrize("text", NASTY)
def test_no_text_becomes_markup(text: str) -> None:
    plain, page = Page(render_form(audit(["a dog"]))), Page(render_form(audit([text], dataset=text)))
    assert page.tags == plain.tags
    assert page.inline["script"][1:] == plain.inline["script"][1:]
    data = json.loads(page.inline["script"][0])
    assert data["rows"][0]["source_text"] == data["dataset"] == text
    assert data["columns"] == ["audit_id", "row_id", "rating", "comment", "rater"]


def test_the_policy_allows_this_script_and_style_and_nothing_else() -> None:
    page = Page(render_form(audit(NASTY)))
    (policy,) = [
        found["content"] or "" for tag, found in page.tags if found.get("http-equiv") == "Content-Security-Policy"
    ]
    directives = dict(directive.strip().split(" ", 1) for directive in policy.split(";"))
    (_, script), (style,) = page.inline["script"], page.inline["style"]
    hashes = {
        name: f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for name, text in (("script-src", script), ("style-src", style))
    }
    assert directives == {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'", **hashes}


@given(text=st.one_of(st.text(), st.text(alphabet="'=+-@\t\r\n＝x", max_size=4)))
def test_cells_give_their_texts_back(text: str) -> None:
    cell = safe_cell(text)
    assert plain_cell(cell) == text
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))
