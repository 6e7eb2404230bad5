"""Capitals and small letters by the rules of a language."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from translation.guards import lower_case, upper_case


# The examples with more than one word are those of ICU's own tests of this rule.
@pytest.mark.parametrize(
    ("small", "capitals"),
    [
        ("Πατάτα, Αέρας, Μυστήριο", "ΠΑΤΑΤΑ, ΑΕΡΑΣ, ΜΥΣΤΗΡΙΟ"),
        ("Μαΐου, Πόρος, Ρύθμιση", "ΜΑΪΟΥ, ΠΟΡΟΣ, ΡΥΘΜΙΣΗ"),
        ("Το ένα ή το άλλο.", "ΤΟ ΕΝΑ Ή ΤΟ ΑΛΛΟ."),
        ("ή", "Ή"),
        ("η", "Η"),
        ("«ή»; ήρθε", "«Ή»; ΗΡΘΕ"),
        ("ρολόι", "ΡΟΛΟΪ"),
        ("άυλος", "ΑΫΛΟΣ"),
        ("κορόιδο, γάιδαρος", "ΚΟΡΟΪΔΟ, ΓΑΪΔΑΡΟΣ"),
        ("προϊόν, πραΰς", "ΠΡΟΪΟΝ, ΠΡΑΫΣ"),
        ("είναι, αεί, ουρανός", "ΕΙΝΑΙ, ΑΕΙ, ΟΥΡΑΝΟΣ"),
        ("ᾠδή, ἄνθρωπος", "ΩΙΔΗ, ΑΝΘΡΩΠΟΣ"),
        ("ένα café 24", "ΕΝΑ CAFÉ 24"),
    ],
)
def test_greek_capitals_have_no_accents(small: str, capitals: str) -> None:
    assert upper_case(small, "el") == capitals
    assert upper_case(unicodedata.normalize("NFD", small), "el") == capitals


@given(st.text(alphabet="αάεέηήιίϊΐοόυύϋΰωώσςνΆΉ ;.«»"))
def test_greek_capitals_are_capitals_and_stay_as_they_are(text: str) -> None:
    capitals = upper_case(text, "el")
    assert capitals == capitals.upper() == upper_case(capitals, "el")
    assert len(capitals) == len(text)
    assert not {*"ΆΈΊΌΎΏ"} & {*capitals}


def test_other_languages() -> None:
    assert upper_case("ένα", "en") == "ΈΝΑ"
    assert upper_case("straße", "de") == "STRASSE"
    assert (lower_case("DİKEN I", "tr"), upper_case("diken ı", "tr")) == ("diken ı", "DİKEN I")
    assert upper_case("ორი", "ka") == "ორი"


def test_small_letters_end_words_in_their_own_sigma() -> None:
    assert lower_case("ΕΝΑΣ ΣΚΥΛΟΣ, «ΜΑΣ»", "el") == "ενας σκυλος, «μας»"
