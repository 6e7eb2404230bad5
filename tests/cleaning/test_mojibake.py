"""`encoding_rewrite` gives what ftfy gives, though it asks ftfy about few texts only."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import ftfy
import ftfy.bad_codecs
import pytest
from ftfy.badness import BADNESS_RE, MOJIBAKE_CATEGORIES
from hypothesis import example, given, settings
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


@settings(max_examples=400, deadline=None)
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


@settings(max_examples=400, deadline=None)
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
    texts = ["a" * 999_999 + " Ã b é", "a" * 1_000_000 + "Ã b", "é" * 1_000_001, "É " * 5_000]
    ours, ftfys = ours_and_ftfys(texts)
    assert ours == ftfys


def _alternatives() -> list[list[tuple[object, object]]]:
    """What ftfy's pattern is an alternation of, each a list of items, as `re` reads it."""
    parser = re._parser  # type: ignore[attr-defined]
    tree = parser.parse(BADNESS_RE.pattern, re.VERBOSE)
    ((_, (_, branches)),) = tree.data
    assert tree.getwidth()[1] <= 7
    return [list(branch.data) for branch in branches]


def _needs_telltale(item: tuple[object, object]) -> bool:
    """Whether the item of a parsed pattern matches telltales and nothing else."""
    from cleaning.text.mending import telltales

    telltale = re.compile(f"[{telltales()}]").fullmatch
    kind, value = str(item[0]), item[1]
    if kind == "LITERAL":
        return telltale(chr(value)) is not None  # type: ignore[arg-type]
    if kind != "IN":
        return False
    characters: list[str] = []
    for part, argument in value:  # type: ignore[attr-defined]
        if str(part) == "LITERAL":
            characters.append(chr(argument))
        elif str(part) == "RANGE":
            characters += map(chr, range(argument[0], argument[1] + 1))
        else:  # a negation or a category such as \w
            return False
    return all(map(telltale, characters))


def test_every_alternative_of_ftfys_pattern_needs_a_telltale() -> None:
    """What the guard rests on; a new ftfy that looks for other sequences fails here."""
    alternatives = _alternatives()
    assert len(alternatives) > 30
    assert [branch for branch in alternatives if not any(map(_needs_telltale, branch))] == []


def _first_column(path: Path, column: int = 0) -> list[str]:
    return [line.split("\t")[column] for line in path.read_text("utf-8").splitlines()]


def _annotations(path: Path) -> list[str]:
    return [row["caption"] for row in json.loads(gzip.decompress(path.read_bytes()))["annotations"]]


def _lines(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


READERS: dict[str, Callable[[Path], list[str]]] = {
    "cc3m/Validation_GCC-1.1.0-Validation.first8000.tsv": _first_column,
    "flickr8k/Flickr8k.token.first5000.txt": lambda path: _first_column(path, 1),
    "mscoco_it/captions_ita_devset_validated.json.gz": _annotations,
    "mscoco_it/captions_ita_devset_unvalidated.json.gz": _annotations,
    "multi30k/val.en.gz": _lines,
    "multi30k/train.fr.gz": _lines,
    "multi30k/train.de.gz": _lines,
    "wit/train-rows.tsv": lambda path: path.read_text("utf-8").replace("\n", "\t").split("\t"),
    "wit/test-rows-unterminated-quote.tsv": lambda path: path.read_text("utf-8").replace("\n", "\t").split("\t"),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", READERS)
def test_real_captions(shared_data: Path, name: str) -> None:
    captions = READERS[name](shared_data / name)
    accented = [caption for caption in captions if not caption.isascii()]
    some = captions[:500] + accented
    some += [garbled(caption, (page,)) for page in CODE_PAGES for caption in accented[:60]]
    some += [garbled(caption, (page, "windows-1252")) for page in CODE_PAGES for caption in accented[:20]]
    ours, ftfys = ours_and_ftfys(some)
    assert ours == ftfys
