"""The rating form as a file: nothing in a dataset can become markup or script, and nothing is loaded."""

import base64
import hashlib
import json
import re
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


@given(text=st.text())
def test_every_text_reaches_the_form_as_it_is(text: str) -> None:
    found = re.search('id="audit">([^<>&]*)</script>', render_form(audit([text])))
    assert found is not None
    (row,) = json.loads(found[1])["rows"]
    assert (row["source_text"], row["text"]) == (text, text[::-1])


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


def test_nothing_is_loaded_and_no_script_stands_in_an_attribute() -> None:
    form = render_form(audit(["a dog"]))
    page = Page(form)
    for name in ("src", "href", "style", "action", "srcset"):
        assert page.attributes(name) == []
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert "://" not in form
    assert "@import" not in form


def test_all_that_takes_input_has_a_name() -> None:
    page = Page(render_form(audit(["a dog"])))
    labelled = set(page.attributes("for"))
    inputs = [found for tag, found in page.tags if tag in ("input", "textarea") and found.get("type") != "radio"]
    assert len(inputs) == 3
    assert all(found["id"] in labelled or found.get("aria-label") for found in inputs)
    # Radio buttons stand within their labels.
    places = [place for place, (tag, found) in enumerate(page.tags) if found.get("type") == "radio"]
    assert [page.tags[place][1]["value"] for place in places] == ["1", "2", "3", "4"]
    assert all(page.tags[place - 1][0] == "label" for place in places)


@given(text=st.one_of(st.text(), st.text(alphabet="'=+-@\t\r\n＝x", max_size=4)))
def test_cells_give_their_texts_back(text: str) -> None:
    cell = safe_cell(text)
    assert plain_cell(cell) == text
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))
