"""What mends a caption: encodings, controls, markup, Unicode; and that cleaning passes over nothing."""

import gzip
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleaning.checks import CleanConfig
from cleaning.text.mending import (
    clean_text,
    collapse_whitespace,
    encoding_rewrite,
    normalise_unicode,
    remove_markup,
    straighten_apostrophes,
    strip_controls,
)
from cleaning.text.suffixes import without_suffixes
from data_catalog.stages import Transform

CLEAN = clean_text(CleanConfig())

SCOTLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467"


def one(transform: Transform, text: str) -> str:
    (result,) = transform([text])
    return result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("perchÃ© cosÃ¬ in cittÃ ", "perché così in città "),
        ("â€œciaoâ€\x9d", "“ciao”"),
        ("ﬁne", "fine"),
        ("ÚDOLÍ°", "ÚDOLͰ"),  # ftfy's own mistake
        ("\ud83d\ude00", "😀"),
        ("“quoted” „gut“ «bien»", "“quoted” „gut“ «bien»"),
        ("ＡＢＣ，漢字！", "ＡＢＣ，漢字！"),
        ("plain ASCII &amp; <b>", "plain ASCII &amp; <b>"),
    ],
)
def test_fix_encoding(text: str, expected: str) -> None:
    assert encoding_rewrite()(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Τι κάνει\u037e Τρέχει\u0387 τώρα", "Τι κάνει; Τρέχει\u00b7 τώρα"),
        ("Ε\u0301νας α\u0301ντρας, ι\u0308\u0301", "Ένας άντρας, \u0390"),
        ("εί\xb5αι, \xb5ια", "εί\u03bcαι, \u03bcια"),
        ("5 \xb5m", "5 \xb5m"),
        ("x" + "\u0316" * 31 + "y" + "\u0316" * 31, "x" + "\u0316" * 30 + "y" + "\u0316" * 30),
        ("—" * 40 + "\u0316" * 40 + "🙂" * 40, "—" * 40 + "\u0316" * 30 + "🙂" * 40),
        ("5 \xb5\u2126", "5 \xb5\u03a9"),
    ],
)
def test_normalise_unicode(text: str, expected: str) -> None:
    assert normalise_unicode(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("line\r\nbreak\ttab\u2028x", "line  break tab x"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\ufeffBOM soft\xadhyphen zero\u200bwidth", "BOM softhyphen zerowidth"),
        ("\u202eright-to-left\u202c \u2066isolate\u2069 \u200fשלום", "right-to-left isolate שלום"),
        ("lone \ud800 surrogate", "lone  surrogate"),
        ("نمی\u200cخواهم", "نمی\u200cخواهم"),
        ("क्\u200dष", "क्\u200dष"),
        ("Auf\u200clage a\u200db", "Auflage ab"),
        (FAMILY, FAMILY),
        ("❤\ufe0f\u200d🔥", "❤\ufe0f\u200d🔥"),
        ("🙂\u200d and text", "🙂 and text"),
        (SCOTLAND, SCOTLAND),
        ("hidden\U000e0068\U000e0069", "hidden"),
        ("٣\u0600 é", "٣\u0600 é"),
    ],
)
def test_strip_controls(text: str, expected: str) -> None:
    assert strip_controls(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("&quot;caff&egrave;&quot; &#233; &#xE9;", '"caffè" é é'),
        ("&amp;amp;amp;lt;", "<"),
        ("R&D&notes; AT&T &unknown;", "R&D&notes; AT&T &unknown;"),
        ("H<sub>2</sub>O", "H2O"),
        ("one<br/>two<p class='x'>three</p>", "one two three "),
        ('<a href="https://example.org/?a=1">link</a>', "link"),
        ("x<!-- hidden <b> -->y", "x y"),
        ("<script>alert(1)</script>cat", " cat"),
        ("a < b and c > d", "a < b and c > d"),
        ("a<b and c>d", "a<b and c>d"),
        ("<PERSON> with <3 dogs <unk>", "<PERSON> with <3 dogs <unk>"),
    ],
)
def test_strip_markup(text: str, expected: str) -> None:
    assert remove_markup(text) == expected


def test_the_small_transforms() -> None:
    assert normalise_unicode("e\u0301") == "é"
    assert straighten_apostrophes("l’albero ‘rosso’ dell’800 об’єкт") == "l'albero ‘rosso’ dell’800 об'єкт"
    assert collapse_whitespace("\u3000a\xa0 \n b\u2009") == "a b"


@pytest.mark.parametrize("marks", ["\u0301\u0316", "\u0344\u0316", "\u0f73", "\u0316"])
def test_a_run_of_marks_is_cut_before_it_takes_minutes(marks: str) -> None:
    cleaned = one(CLEAN, "a" + marks * 400_000)
    assert unicodedata.normalize("NFD", cleaned)[0] == "a"
    assert 20 < len(cleaned) <= 31
    assert one(CLEAN, cleaned) == cleaned


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  un gatto\u200b  nero &amp;amp; bianco<br>sull’erba ", "un gatto nero & bianco sull'erba"),
        ("&l\u200bt;b&gt;bold", "bold"),
        ("&lt;i&gt;cittÃ &lt;/i&gt;", "città"),
        ("<b" * 30 + ">" * 30 + " cat", "b" + " b" * 9 + " cat"),
        ("\u0301", "\u0301"),
        ("ab " * 3333 + "c", "ab " * 3333 + "c"),
    ],
)
def test_clean_text(text: str, expected: str) -> None:
    assert one(CLEAN, text) == expected


def test_rules_can_be_switched_off() -> None:
    config = CleanConfig(fix_encoding=False, strip_markup=False, straighten_apostrophes=False)
    assert one(clean_text(config), "perchÃ©  <b>l’arco</b>\x00") == "perchÃ© <b>l’arco</b>"


MARKUP = ["&amp;", "&#8203;", "&l", "t;", "<b>", "</b>", "<b", ">", "<br/>", "<!--", "-->", "<script>", "</script>"]
MOJIBAKE = ["Ã©", "â€œ", "Ã ", "ﬁ", "\x85", "\x93"]
INVISIBLE = ["\u200b", "\u200c", "\u200d", "\ufe0f", "\u202e", "\xad", "\x1b[0m", "\x1b", "\ud83d", "\ude00", "\n"]
LETTERS = ["a", "’", "e\u0301", "\u0301", "\u0646", "\u0915\u094d", "\U0001f469", "\U0001f3f4", "\U000e0067", " "]
FRAGMENTS = st.sampled_from(MARKUP + MOJIBAKE + INVISIBLE + LETTERS)
TEXTS = st.one_of(st.text(), st.lists(FRAGMENTS | st.characters(), max_size=12).map("".join))
# Mostly what is passed over at a glance, with what is not between.
PLAIN = "aeZ 09.,'-:;/#()é ü ß ñ č ł ő Ωάς Жё ם ع 。あアー猫한 "
NEARLY_PLAIN = st.text(st.sampled_from(PLAIN) | st.sampled_from("&<>’ÉÃœµ×\u0301\u3099\u1161\u11a8\u0653\xa0\xad\t\n"))
SUFFIXES = st.sampled_from(["stock photo", "photo by person", "Foto:", "&amp;", "<b>", "cat", "è", "  ", " ", "Ã", "©"])
NEAR_NORMAL = st.lists(SUFFIXES | NEARLY_PLAIN, max_size=8).map("".join)
RULES = [
    encoding_rewrite(),
    strip_controls,
    remove_markup,
    normalise_unicode,
    straighten_apostrophes,
    collapse_whitespace,
    without_suffixes,
]


def by_the_rules(texts: list[str]) -> list[str]:
    """Every rule in turn over every text, until nothing changes."""
    while True:
        before = texts
        for rule in RULES:
            texts = [rule(text) for text in texts]
        if texts == before:
            return texts


@given(st.lists(TEXTS | NEARLY_PLAIN | NEAR_NORMAL, min_size=1, max_size=4))
def test_cleaning_does_what_the_rules_do_twice_is_once_and_nothing_invisible_is_left(texts: list[str]) -> None:
    cleaned = CLEAN(texts)
    assert cleaned == by_the_rules(texts)
    assert CLEAN(cleaned) == cleaned
    for text in cleaned:
        assert unicodedata.is_normalized("NFC", text)
        assert text == " ".join(text.split())
        assert not {unicodedata.category(character) for character in text} & {"Cc", "Cs", "Zl", "Zp"}
        assert not set("\u200b\u200e\u200f\u202a\u202e\u2066\ufeff\xad") & set(text)


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_no_character_is_passed_over_that_a_rule_would_change(step: int) -> None:
    assigned = [chr(code) for code in range(0, 0x30000, step) if unicodedata.category(chr(code))[0] != "C"]
    texts = [f"a{character}b" for character in [*assigned, *map(chr, range(0xA0))]]
    assert CLEAN(texts) == by_the_rules(texts)


@pytest.mark.real_data
def test_real_captions_are_cleaned_by_the_rules(shared_data: Path) -> None:
    captions = gzip.decompress((shared_data / "multi30k" / "val.fr.gz").read_bytes()).decode().splitlines()
    rows = (shared_data / "cc3m" / "Validation_GCC-1.1.0-Validation.first8000.tsv").read_text("utf-8").splitlines()
    captions += [row.split("\t")[0] for row in rows]
    cleaned = CLEAN(captions)
    assert cleaned == by_the_rules(captions)
    assert CLEAN(cleaned) == cleaned


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="<&#()[]|:©?oO")))
def test_plain_ascii_only_loses_spare_spaces(text: str) -> None:
    assert one(CLEAN, text) == " ".join(text.split())
