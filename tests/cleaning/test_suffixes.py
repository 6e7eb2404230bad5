"""What stock sites and agencies hang on captions, on real rows; and that nothing else is touched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleaning.checks import CleanConfig
from cleaning.text.mending import clean_text
from cleaning.text.suffixes import without_suffixes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red ornament on white : free stock photo ?", "a red ornament on white"),
        ("old man with a heart attack royalty - free", "old man with a heart attack"),
        ("water boils in a glass teapot stock footage video", "water boils in a glass teapot"),
        ("stock photo : happy birthday balloons in the sky", "happy birthday balloons in the sky"),
        ("after a truck knocked it over photo by person", "after a truck knocked it over"),
        ("after the storm © person", "after the storm"),
        ("Game enthusiasts in Los Angeles. (Photo by Jack Taylor/Getty Images)", "Game enthusiasts in Los Angeles."),
        ("Two dogs run. Photo by José Núñez", "Two dogs run."),
        ("Ein Hund im Park. Foto: dpa", "Ein Hund im Park."),
        ("Two dogs run, Source: Wikimedia Commons", "Two dogs run"),
        ("Two dogs run. (c) 2010 Ann Lee", "Two dogs run."),
        ("Two dogs run (Ann Lee via Getty Images)", "Two dogs run"),
        ("Two dogs run (AP Photo/Ann Lee)", "Two dogs run"),
        ("Two dogs run. Getty Images", "Two dogs run."),
        ("A cat on a roof: Shutterstock", "A cat on a roof"),
        ("Ein Haus. Foto: Bundesarchiv, Bild 183-1990", "Ein Haus."),
        ("Il Colosseo di notte - Wikipedia", "Il Colosseo di notte"),
        ("CANE NERO - FOTO STOCK #1234", "CANE NERO"),
        ("東京タワー | Shutterstock", "東京タワー"),
        ("stock photo : " * 50 + "a cat" + ", Alamy Stock Photo" * 50, "a cat"),
    ],
)
def test_labels_and_credits_are_taken_off(text: str, expected: str) -> None:
    assert without_suffixes(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cigars in a row , may be used as a stock photo",
        "On the left photo: the cat",
        "(a) Rome, " + "a long caption " * 20 + "(b) Pisa, (c) 1998 Siena",
        "Leaf, (c) Root",
        "The logo: Wikipedia",
        "Jimmy Wales (founder of Wikipedia)",
        "Two ships (AP photo of the harbour)",
        "Vases (source: Attica)",
        "Ein Schloss. Foto: Schloss Neuschwanstein",
        "犬. Photo by 犬が公園で走る",
        "all our pictures stay royalty - free",
        "a large collection of beautiful stock photos",
        "stock photo",
        "Photo by John Smith",
        "Image source: Getty Images",
        "(" * 10_000,
        " - " * 3_333,
        "photo by " * 1_111 + "a cat",
    ],
)
def test_what_belongs_to_the_sentence_or_is_all_there_is_stays(text: str) -> None:
    assert without_suffixes(text) == text


@pytest.mark.parametrize("before", ["a big cat", "? " * 1_000_000 + "a cat"])
def test_many_labels_take_linear_time(before: str) -> None:
    """In quadratic time they would take minutes."""
    assert without_suffixes(before + " | Getty Images" * 5_000) == before


WORDS = ["a cat on the roof", "dog", "person", "John Smith", "by", "of", "source", "İ", "ſtock", "pHoTo"]
LABELS = ["stock photo", "Stock", "photo", "#", "#123", "?", "©", "Foto:", "Photo by", "royalty free", "Getty Images"]
PARTS = st.sampled_from([*WORDS, *LABELS, "Wikipedia", "(", ")", "|", " - ", " -- ", ": ", ", ", ". ", "\\"])


@given(st.lists(PARTS, max_size=10).map(" ".join) | st.lists(PARTS, max_size=10).map("".join))
def test_twice_is_once_and_cleaning_sees_every_suffix(text: str) -> None:
    """`clean_text` looks closely only at texts with marks of a suffix; what it passes over has none."""
    (cleaned,) = clean_text(CleanConfig())([text])
    assert without_suffixes(cleaned) == cleaned
    stripped = without_suffixes(text)
    assert without_suffixes(stripped) == stripped
    assert stripped in text or not text
