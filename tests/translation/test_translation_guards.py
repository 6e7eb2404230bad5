"""What is done to captions and checked in translations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from translation.guards import copies, is_repetitive, is_shouted, prepare, restore


@pytest.mark.parametrize(
    ("caption", "shouted"),
    [
        ("A RED CAR", True),
        ("DER GROẞE FLUẞ", True),
        ("ΔΥΟ ΚΥΚΛΟΙ", True),
        ("2 RED CARS, 1998!", True),
        ("NASA", False),
        ("The NASA", False),
        ("A B", False),
        ("1998", False),
        ("", False),
        ("红色 汽车", False),
    ],
)
def test_shouting(caption: str, shouted: bool) -> None:
    assert is_shouted(caption) is shouted


def test_capitals_come_back() -> None:
    prepared = prepare("A RED CAR")
    assert prepared.text == "a red car"
    assert restore("un'auto rossa", prepared) == "UN'AUTO ROSSA"


@pytest.mark.parametrize(
    ("tokens", "most"),
    [
        ("", 1),
        ("a", 1),
        ("a b c", 1),
        ("a a", 2),
        ("a b a b a b", 3),
        ("x a b a b y", 2),
        ("a a a a a", 5),
        ("a b c d a b c d", 2),
    ],
)
def test_copies(tokens: str, most: int) -> None:
    assert copies(tokens.split()) == most


@pytest.mark.parametrize(
    ("source", "target", "loops"),
    [
        ("a very very very big dog", "un cane molto molto molto grande", False),
        ("a big dog", "un cane molto molto molto grande", True),
        ("a dog", "un cane un cane un cane", True),
        ("a dog", "un cane un cane", False),
    ],
)
def test_loops_are_measured_against_the_source(source: str, target: str, loops: bool) -> None:
    assert is_repetitive(source.split(), target.split()) is loops


@given(st.text())
def test_prepared_text_is_one_line(caption: str) -> None:
    text = prepare(caption).text
    assert text == text.strip()
    assert len(text.splitlines()) <= 1
    assert "_" not in text
