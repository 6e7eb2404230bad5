"""Rows as text: aligned in a terminal, harmless in a browser."""

import html
import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from data_catalog.base.plain_text import cell_text, escaped_json, markdown_safe, plain_table, visible_text
from data_catalog.exports.markdown import markdown_text


def test_numbers_stand_right_and_texts_left() -> None:
    assert plain_table([]) == "(no rows)"
    table = plain_table([{"step": "ingest", "read": 1234567}, {"step": "è", "read": 5}])
    assert table == "step         read\n------  ---------\ningest  1,234,567\nè               5"


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_every_row_stays_on_one_line(texts: list[str]) -> None:
    assert len(plain_table([{"text": text} for text in texts]).split("\n")) == len(texts) + 2


@given(st.text())
def test_no_text_can_open_a_tag_a_link_or_code_and_a_browser_shows_it(text: str) -> None:
    safe = str(markdown_safe(text))
    assert not set("<>\\[]()|`") & set(safe)
    assert "&" not in safe.replace("&#", "")
    assert html.unescape(str(markdown_safe("<b>[x](a) | `a` & \\ perché"))) == "<b>[x](a) | `a` & \\ perché"
    assert (markdown_safe(3), markdown_safe(None)) == (3, None)


def test_a_card_escapes_what_means_something_to_markdown_and_no_other_underscore() -> None:
    assert markdown_text("caption_ids of wit_2_a") == "caption_ids of wit_2_a"
    for text in ("_a_", "a _b", "a_ b", "__init__", "a__b", "_", "<i>_</i>"):
        assert "_" not in markdown_text(text), text
        assert html.unescape(markdown_text(text)) == text


def test_what_steers_a_terminal_is_seen() -> None:
    for text, seen in (
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("user\u202egnp.exe", r"user\u202egnp.exe"),
        ("\u2066a\u2069\u200bb\u2028c", r"\u2066a\u2069\u200bb\u2028c"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("نمی\u200cخواهم 👩\u200d🚀 perché", "نمی\u200cخواهم 👩\u200d🚀 perché"),
    ):
        assert visible_text(text) == seen
        assert cell_text(text) == seen
        assert plain_table([{text: 1}]).splitlines()[0].strip() == seen.strip()


@given(st.text())
def test_escaped_json_reads_back_and_steers_nothing(text: str) -> None:
    written = escaped_json(json.dumps([text], ensure_ascii=False))
    assert json.loads(written) == [text]
    assert not {char for char in written if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
