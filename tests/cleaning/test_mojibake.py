"""`encoding_rewrite` gives what ftfy gives, though it asks ftfy about few texts only."""

import gzip
import re
from pathlib import Path

import ftfy
import ftfy.bad_codecs
import pytest
from ftfy.badness import MOJIBAKE_CATEGORIES
from hypothesis import example, given
from hypothesis import strategies as st

from cleaning.text.mending import encoding_rewrite, ftfy_settings

FIX = encoding_rewrite()
SETTINGS = ftfy_settings()
CODE_PAGES = (
    "latin-1",
    "windows-1252",
    "windows-1251",
    "windows-1250",
    "sloppy-windows-1252",
    "sloppy-windows-1251",
    "sloppy-windows-1250",
    "sloppy-windows-1253",
    "sloppy-windows-1257",
    "macroman",
    "cp437",
    "iso-8859-2",
)
# All characters of which ftfy's pattern speaks, so that generated texts are often bad, or nearly.
SUSPECTS = "".join(
    character
    for character in map(chr, range(0x110000))
    if re.match(f"[{''.join(MOJIBAKE_CATEGORIES.values())}ŒœÂÃðñ×÷ЂĀāꞬ]", character)
)
DENSE = st.text(st.sampled_from(SUSPECTS + "abz AZ.,\n \xa0" * 20))


def ours_and_ftfys(texts: list[str]) -> tuple[list[str], list[str]]:
    return list(map(FIX, texts)), [ftfy.fix_text(text, SETTINGS) for text in texts]


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
def test_generated_texts(text: str) -> None:
    ours, ftfys = ours_and_ftfys([text, f"{text} é", f"perché {text}"])
    assert ours == ftfys


@given(
    st.text(
        st.characters(min_codepoint=0x20, max_codepoint=0x24FF, exclude_categories=["Cs"]) | st.sampled_from("“”’—…")
    ),
    st.lists(st.sampled_from(CODE_PAGES), min_size=1, max_size=2).map(tuple),
    st.sampled_from(["", "Un gatto è ", "Das Straßenfest «", "Ein\n"]),
)
def test_mojibake_of_code_pages_once_and_twice(text: str, pages: tuple[str, ...], before: str) -> None:
    ours, ftfys = ours_and_ftfys([garbled(text, pages), before + garbled(text, pages), garbled(before + text, pages)])
    assert ours == ftfys


@pytest.mark.parametrize("page", CODE_PAGES)
def test_real_words_through_each_code_page(page: str) -> None:
    words = ["perché", "l’été à Nîmes", "Straße über", "Ένα σπίτι", "Красная площадь", "łódź", "“ciao”", "日本", "😀"]
    texts = [garbled(word, pages) for word in words for pages in ((page,), (page, page), (page, "latin-1"))]
    ours, ftfys = ours_and_ftfys(texts)
    assert ours == ftfys


def test_long_texts_are_cut_where_ftfy_cuts_them() -> None:
    texts = ["a" * 999_999 + " Ã b é", "a" * 1_000_000 + "Ã b", "É " * 5_000]
    ours, ftfys = ours_and_ftfys(texts)
    assert ours == ftfys


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "separator"), [("multi30k/train.de.gz", "\n"), ("wit/train-rows.tsv", "\t")])
def test_real_captions(shared_data: Path, name: str, separator: str) -> None:
    content = (shared_data / name).read_bytes()
    text = (gzip.decompress(content) if name.endswith(".gz") else content).decode()
    captions = text.replace("\n", separator).split(separator)
    accented = [caption for caption in captions if not caption.isascii()]
    some = captions[:500] + accented[:2000]
    some += [garbled(caption, (page,)) for page in CODE_PAGES for caption in accented[:60]]
    some += [garbled(caption, (page, "windows-1252")) for page in CODE_PAGES for caption in accented[:20]]
    ours, ftfys = ours_and_ftfys(some)
    assert ours == ftfys
