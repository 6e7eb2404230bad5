"""What mends a caption: encodings as ftfy does, controls, markup, Unicode, suffixes; nothing is passed over."""

import gzip
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import ftfy
import ftfy.bad_codecs
import pytest
from ftfy.badness import MOJIBAKE_CATEGORIES
from hypothesis import example, given
from hypothesis import strategies as st

from cleaning.checks import CleanConfig
from cleaning.checks.mending import (
    clean_text,
    collapse_whitespace,
    encoding_rewrite,
    ftfy_settings,
    normalise_unicode,
    remove_markup,
    straighten_apostrophes,
    strip_controls,
)
from cleaning.text.suffixes import without_suffixes
from data_catalog.rows.stages import Transform

CLEAN = clean_text(CleanConfig())
FIX, FTFY = encoding_rewrite(), ftfy_settings()

SCOTLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
RULES = {
    FIX: [
        ("perchÃ© cosÃ¬ in cittÃ ", "perché così in città "),
        ("â€œciaoâ€\x9d", "“ciao”"),
        ("ﬁne", "fine"),
        ("ÚDOLÍ°", "ÚDOLͰ"),  # ftfy's own mistake
        ("\ud83d\ude00", "😀"),
        ("“quoted” ＡＢＣ，漢字！ &amp; <b>", "“quoted” ＡＢＣ，漢字！ &amp; <b>"),
    ],
    strip_controls: [
        ("line\r\nbreak\ttab\u2028x", "line  break tab x"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\ufeffBOM soft\xadhyphen zero\u200bwidth", "BOM softhyphen zerowidth"),
        ("\u202eright-to-left\u202c \u2066isolate\u2069 \u200fשלום", "right-to-left isolate שלום"),
        ("lone \ud800 surrogate", "lone  surrogate"),
        ("نمی\u200cخواهم क्\u200dष", "نمی\u200cخواهم क्\u200dष"),
        ("Auf\u200clage a\u200db", "Auflage ab"),
        (f"{FAMILY} ❤\ufe0f\u200d🔥", f"{FAMILY} ❤\ufe0f\u200d🔥"),
        ("🙂\u200d and text", "🙂 and text"),
        (f"{SCOTLAND} hidden\U000e0068\U000e0069", f"{SCOTLAND} hidden"),
        ("٣\u0600 é", "٣\u0600 é"),
    ],
    remove_markup: [
        ("&quot;caff&egrave;&quot; &#233; &#xE9;", '"caffè" é é'),
        ("&amp;amp;amp;lt;", "<"),
        ("R&D&notes; AT&T &unknown;", "R&D&notes; AT&T &unknown;"),
        ("H<sub>2</sub>O one<br/>two<p class='x'>three</p>", "H2O one two three "),
        ('<a href="https://example.org/?a=1">link</a>', "link"),
        ("x<!-- hidden <b> -->y", "x y"),
        ("<script>alert(1)</script>cat", " cat"),
        ("a < b and c>d, a<b and c > d", "a < b and c>d, a<b and c > d"),
        ("<PERSON> with <3 dogs <unk>", "<PERSON> with <3 dogs <unk>"),
    ],
    normalise_unicode: [
        ("e\u0301", "é"),
        ("Τι κάνει\u037e Τρέχει\u0387 τώρα", "Τι κάνει; Τρέχει\u00b7 τώρα"),
        ("Ε\u0301νας α\u0301ντρας, ι\u0308\u0301", "Ένας άντρας, \u0390"),
        ("εί\xb5αι, \xb5ια", "εί\u03bcαι, \u03bcια"),
        ("5 \xb5m", "5 \xb5m"),
        ("x" + "\u0316" * 31 + "y" + "\u0316" * 31, "x" + "\u0316" * 30 + "y" + "\u0316" * 30),
        ("—" * 40 + "\u0316" * 40 + "🙂" * 40, "—" * 40 + "\u0316" * 30 + "🙂" * 40),
        ("5 \xb5\u2126", "5 \xb5\u03a9"),
    ],
    straighten_apostrophes: [("l’albero ‘rosso’ dell’800 об’єкт", "l'albero ‘rosso’ dell’800 об'єкт")],
    collapse_whitespace: [("\u3000a\xa0 \n b\u2009", "a b")],
    without_suffixes: [],
}


def one(transform: Transform, text: str) -> str:
    (result,) = transform([text])
    return result


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_mends_what_it_is_for_and_leaves_the_rest(rule: Callable[[str], str]) -> None:
    assert [(text, rule(text)) for text, _ in RULES[rule]] == RULES[rule]


def test_a_run_of_marks_is_cut_before_it_takes_minutes() -> None:
    for marks in ("\u0301\u0316", "\u0344\u0316", "\u0f73", "\u0316"):
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
def test_all_rules_mend_a_caption_and_each_can_be_switched_off(text: str, expected: str) -> None:
    assert one(CLEAN, text) == expected
    config = CleanConfig(fix_encoding=False, strip_markup=False, straighten_apostrophes=False, strip_suffixes=False)
    kept = "perchÃ© <b>l’arco</b> - stock photo"
    assert one(clean_text(config), f"{kept}  \x00") == kept


MARKUP = ["&amp;", "&#8203;", "&l", "t;", "<b>", "</b>", "<b", ">", "<br/>", "<!--", "-->", "<script>", "</script>"]
MOJIBAKE = ["Ã©", "â€œ", "Ã ", "ﬁ", "\x85", "\x93"]
INVISIBLE = ["\u200b", "\u200c", "\u200d", "\ufe0f", "\u202e", "\xad", "\x1b[0m", "\x1b", "\ud83d", "\ude00", "\n"]
LETTERS = ["a", "’", "e\u0301", "\u0301", "\u0646", "\u0915\u094d", "\U0001f469", "\U0001f3f4", "\U000e0067", " "]
FRAGMENTS = st.sampled_from(MARKUP + MOJIBAKE + INVISIBLE + LETTERS)
TEXTS = st.one_of(st.text(), st.lists(FRAGMENTS | st.characters(), max_size=12).map("".join))
# Mostly what is passed over at a glance, with what is not between.
PLAIN = "aeZ 09.,'-:;/#()é ü ß ñ č ł ő Ωάς Жё ם ع 。あアー猫한 "
NEARLY_PLAIN = st.text(st.sampled_from(PLAIN) | st.sampled_from("&<>’ÉÃœµ×\u0301\u3099\u1161\u11a8\u0653\xa0\xad\t\n"))
SUFFIXES = st.sampled_from(
    ["stock photo", "photo by person", "Foto:", "Getty Images", "|", "(", ")", ": ", "#12", "cat", "è", "©"]
)
NEAR_NORMAL = st.lists(SUFFIXES | NEARLY_PLAIN, max_size=8).map("".join)


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


CODE_PAGES = ("latin-1", "windows-1252", "windows-1251", "windows-1250", "macroman", "cp437", "iso-8859-2")
CODE_PAGES += tuple(f"sloppy-windows-{number}" for number in (1252, 1251, 1250, 1253, 1257))
# All characters of which ftfy's pattern speaks, so that generated texts are often bad, or nearly.
SUSPECTS = "".join(
    re.findall(f"[{''.join(MOJIBAKE_CATEGORIES.values())}ŒœÂÃðñ×÷ЂĀāꞬ]", "".join(map(chr, range(0x110000))))
)
DENSE = st.text(st.sampled_from(SUSPECTS + "abz AZ.,\n \xa0" * 20))


def check_that_ftfy_says_the_same(texts: list[str]) -> None:
    assert list(map(FIX, texts)) == [ftfy.fix_text(text, FTFY) for text in texts]


def garbled(text: str, pages: tuple[str, ...]) -> str:
    for page in pages:
        text = text.encode("utf-8", "surrogatepass").decode(page, "replace")
    return text


@given(st.text() | DENSE | st.text(st.characters(max_codepoint=0x2FF)))
@example("a\nÃ b")
@example("\nÂ x")
@example("ГўВЂВ«a")
@example("œ")
@example("cœ")
@example("\ud83d\ude00 ﬁ")
def test_encodings_are_repaired_as_ftfy_does(text: str) -> None:
    check_that_ftfy_says_the_same([text, f"{text} é", f"perché {text}"])


@given(
    st.text(
        st.characters(min_codepoint=0x20, max_codepoint=0x24FF, exclude_categories=["Cs"]) | st.sampled_from("“”’—…")
    ),
    st.lists(st.sampled_from(CODE_PAGES), min_size=1, max_size=2).map(tuple),
    st.sampled_from(["", "Un gatto è ", "Das Straßenfest «", "Ein\n"]),
)
def test_mojibake_of_code_pages_is_repaired_as_ftfy_does(text: str, pages: tuple[str, ...], before: str) -> None:
    check_that_ftfy_says_the_same([garbled(text, pages), before + garbled(text, pages), garbled(before + text, pages)])


def test_long_texts_are_cut_where_ftfy_cuts_them() -> None:
    check_that_ftfy_says_the_same(["a" * 999_999 + " Ã b é", "a" * 1_000_000 + "Ã b", "É " * 5_000])


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "separator"), [("multi30k/train.de.gz", "\n"), ("wit/train-rows.tsv", "\t")])
def test_real_captions_are_repaired_as_ftfy_does(shared_data: Path, name: str, separator: str) -> None:
    content = (shared_data / name).read_bytes()
    text = (gzip.decompress(content) if name.endswith(".gz") else content).decode()
    captions = text.replace("\n", separator).split(separator)
    accented = [caption for caption in captions if not caption.isascii()]
    some = captions[:500] + accented[:2000]
    some += [garbled(caption, (page,)) for page in CODE_PAGES for caption in accented[:60]]
    some += [garbled(caption, (page, "windows-1252")) for page in CODE_PAGES for caption in accented[:20]]
    check_that_ftfy_says_the_same(some)


def test_labels_and_credits_are_taken_off() -> None:
    for text, expected in (
        ("a red ornament on white : free stock photo ?", "a red ornament on white"),
        ("after a truck knocked it over photo by person", "after a truck knocked it over"),
        ("Game enthusiasts in Los Angeles. (Photo by Jack Taylor/Getty Images)", "Game enthusiasts in Los Angeles."),
        ("Ein Hund im Park. Foto: dpa", "Ein Hund im Park."),
        ("Two dogs run, Source: Wikimedia Commons", "Two dogs run"),
        ("Two dogs run (AP Photo/Ann Lee)", "Two dogs run"),
        ("Two dogs run. Getty Images", "Two dogs run."),
        ("Il Colosseo di notte - Wikipedia", "Il Colosseo di notte"),
        ("CANE NERO - FOTO STOCK #1234", "CANE NERO"),
        ("stock photo : " * 50 + "a cat" + ", Alamy Stock Photo" * 50, "a cat"),
    ):
        assert without_suffixes(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cigars in a row , may be used as a stock photo",
        "(a) Rome, " + "a long caption " * 20 + "(b) Pisa, (c) 1998 Siena",
        "Jimmy Wales (founder of Wikipedia)",
        "Two ships (AP photo of the harbour)",
        "Ein Schloss. Foto: Schloss Neuschwanstein",
        "all our pictures stay royalty - free",
        "stock photo",
        "(" * 10_000,
        " - " * 3_333,
    ],
)
def test_what_belongs_to_the_sentence_or_is_all_there_is_stays(text: str) -> None:
    assert without_suffixes(text) == text


def test_many_labels_take_linear_time() -> None:
    """In quadratic time they would take minutes."""
    for before in ("a big cat", "? " * 1_000_000 + "a cat"):
        assert without_suffixes(before + " | Getty Images" * 5_000) == before
