import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cleaning.checks.translation_quality import (
    copied_share,
    length_ratio,
    numbers_invented,
    numbers_lost,
    repeated_ngrams,
    translation_measure,
)
from data_catalog.language_pack import LanguagePack
from flows.recipe.language_packs import load_language_pack

TEXT = st.text(max_size=60)


@pytest.mark.parametrize(
    ("source", "target", "ratio"),
    [
        ("a dog", "un cane", 6 / 4),
        ("a small brown dog", "一只棕色的小狗", 21 / 14),
        ("a small brown dog", "작은 갈색 개", 10 / 14),
        ("a dog 123 !!", "un cane", 6 / 4),
        ("a dog", "@@ 12", 0.0),
        ("12", "dodici", None),
        ("🙂", "🙂", None),
        ("", "", None),
    ],
)
def test_length_ratio(source: str, target: str, ratio: float | None) -> None:
    assert length_ratio(source, target) == (ratio if ratio is None else pytest.approx(ratio))


@pytest.mark.parametrize(
    ("source", "target", "share"),
    [
        ("a squirrel nibbles an acorn", "uno scoiattolo nibbles una ghianda", 1 / 3),
        ("a squirrel nibbles an acorn", "uno scoiattolo NIBBLES una ghianda", 1 / 3),
        ("A TODDLER DROOLS", "un TODDLER sbava", 1 / 2),
        ("a dog runs", "a dog runs", 1.0),
        ("a dog in a bar", "un cane in a bar", 0.0),
        ("a cup of tea", "il tè", None),
        # Names, titles, writing, addresses and numbers are no copies; the start of a sentence is no name.
        ("Barack Obama meets Angela Merkel", "Barack Obama incontra Angela Merkel", 0.0),
        ("Toddler on a couch", "Toddler su un divano", 1 / 2),
        ("A dog. Toddler on a couch", "Un cane. Toddler su un divano", 1 / 3),
        ("Stop. Toddler on a couch", "Fermo. Toddler su un divano", 1 / 3),
        ("Boeing 747 at the gate", "Boeing 747 al gate", 1 / 2),
        ("Man Riding Horse", "Man Riding Horse", 0.0),
        ('a sign: "keep off the grass"', 'un cartello: "keep off the grass"', 0.0),
        ("a sign: «keep off the grass»", "ein Schild: „keep off the grass“", 0.0),
        ("see www.example.org/some-page", "vedi www.example.org/some-page", 0.0),
        ("write to info@example.org", "scrivete a info@example.org", 0.0),
        ("harbour #sunset", "porto #sunset", 0.0),
        ("flight ab1234", "volo ab1234", 0.0),
        # Words of scripts without spaces count by their letters, and marks cut none in two.
        ("a kitten on a mat", "一只 kitten 在垫子上面", 1 / 5),
        ("a kitten here", "बिल्ली का kitten", 1 / 2),
        # Nothing is a name for want of small letters, nor an address for its vowel signs.
        ("قطة تنام هنا", "القط تنام هنا", 1 / 2),
        ("बिल्ली घर में", "बिल्ली तालाब में", 1 / 2),
        ("סוּס לָבָן", "סוּס שָׁחוֹר", 1 / 2),
        ("🙂", "🙂", None),
        ("", "", None),
    ],
)
def test_copied_share(source: str, target: str, share: float | None) -> None:
    assert copied_share(source, target) == (share if share is None else pytest.approx(share))


def test_shared_words_are_no_copies() -> None:
    source, target = "a hotel with a jacuzzi", "un hotel con jacuzzi"
    assert copied_share(source, target) == 1.0
    assert copied_share(source, target, {"hotel"}) == 0.5


@pytest.mark.parametrize(
    ("source", "target", "times"),
    [
        ("a dog", "un cane cane cane cane", 4),
        ("a dog", "Un cane, un CANE. Un cane!", 3),
        ("a dog", "un cane di un cane di un cane di", 3),
        ("a dog", "un gruppo di persone intorno a un tavolo " * 2, 2),
        ("a dog", "un cane e un cane e un gatto", 2),
        ("a dog", "un cane e un gatto", 1),
        ("very very nice", "molto molto bello", 1),
        ("very very nice", "molto molto molto bello", 3),
        ("ha ha ha ha ha", "ah ah ah ah ah", 1),
        ("a dog", "狗狗狗狗", 4),
        ("uncle and aunt", "चाचा चाची", 1),
        ("a boy rides on a white horse", "יֶלֶד רוֹכֵב עַל סוּס לָבָן " * 4, 4),
        ("a dog", "a" * 10_000, 1),
        ("a dog", "🙂🙂🙂🙂🙂", 1),
        ("", "", 1),
    ],
)
def test_repeated_ngrams(source: str, target: str, times: int) -> None:
    assert repeated_ngrams(source, target) == times


@pytest.mark.parametrize(
    ("source", "target", "lost"),
    [
        ("bus number 345 in 1999", "autobus in strada", ["345", "1999"]),
        ("345 and 345", "niente", ["345"]),
        ("bus number 345", "autobus numero 345", []),
        ("2 dogs", "due cani", []),
        ("1,000 people", "1.000 persone", []),
        ("1000 people", "1 000 persone", []),
        ("25,000 fans", "25 mila tifosi", []),
        ("25,000 fans", "25 Tausend Fans", []),
        ("25,000 fans", "25 tifosi", ["25000"]),
        ("1000 people", "1 persona", ["1000"]),
        ("25,000 fans", "mille tifosi", ["25000"]),
        ("a car of the 1980s", "un'auto degli anni '80", []),
        ("a car of 1985", "un'auto dell'85", []),
        ("fashion of the 1920s", "la moda degli anni venti", []),
        ("a man in his 30's", "un uomo sulla trentina", []),
        ("the 21st century", "il XXI secolo", []),
        ("the 21st floor", "il piano", ["21"]),
        ("a train at 11:45 pm", "un treno alle 23:45", []),
        ("bus 42", "حافلة ٤٢", []),
        ("bus 42", "一輛公車", ["42"]),
        ("x² and ½", "x² e ½", []),
        ("", "", []),
        ("9" * 10_000, "9" * 10_000, []),
    ],
)
def test_numbers_lost(source: str, target: str, lost: list[str]) -> None:
    assert numbers_lost(source, target) == lost


@pytest.mark.parametrize(
    ("source", "target", "invented"),
    [
        ("bus number 28", "autobus numero 82", ["82"]),
        ("a field of sunflowers", "un campo di 300 girasoli, 300", ["300"]),
        ("100 euros", "1.000 euro", ["1000"]),
        ("1,000 people", "1 000 persone", []),
        ("a car of the 1970s", "un'auto degli anni '50", ["50"]),
        ("a car of the 70s", "ein Auto der 1970er", []),
        # Small numbers may be words of the source, unless one that it writes in digits was replaced.
        ("two dogs", "2 cani", []),
        ("5 dogs", "6 cani", ["6"]),
        ("5 dogs and two cats", "5 cani e 2 gatti", []),
        ("4 cups and 4 plates", "4 tazze e 8 piatti", ["8"]),
        ("three men", "13 uomini", []),
        ("twenty-five people", "25 persone", []),
        ("Ten thousand people", "10.000 persone", []),
        ("a train at 11:45 p.m.", "un treno alle 23:45", []),
        ("a shop opens at 9 am", "un negozio apre alle 9", []),
        ("bus 42", "حافلة ٤٣", ["43"]),
        ("", "", []),
    ],
)
def test_numbers_invented(source: str, target: str, invented: list[str]) -> None:
    assert numbers_invented(source, target) == invented


def test_a_measure_fills_every_column() -> None:
    sources, targets = ["a black cat sleeps", ""], ["un gatto nero dorme sul divano rosso", ""]
    columns = translation_measure(LanguagePack.minimal("it"))(sources, targets)
    assert {name: len(values) for name, values in columns.items()} == dict.fromkeys(columns, 2)


@given(TEXT, TEXT)
@example("1²٣", "٣\u20ac" * 20)
@example("a" * 40, "\u0300 " * 30)
def test_any_texts_have_measures_within_their_bounds(source: str, target: str) -> None:
    ratio, share = length_ratio(source, target), copied_share(source, target)
    assert ratio is None or ratio >= 0
    assert share is None or 0 <= share <= 1
    assert repeated_ngrams(source, target) >= 1
    for found in (numbers_lost(source, target), numbers_invented(source, target)):
        assert len(set(found)) == len(found)
        assert all(number.isascii() and number.isdigit() for number in found)


@given(TEXT)
def test_a_text_has_lost_and_invented_nothing_beside_itself(text: str) -> None:
    assert repeated_ngrams(text, text) == 1
    assert numbers_lost(text, text) == numbers_invented(text, text) == []
    assert length_ratio(text, text) in (None, 1)


@pytest.mark.parametrize(
    ("language", "target", "lost"),
    [
        ("de", "Fünfunddreißig Leute stehen an", []),
        ("de", "FÜNFUNDDREISSIG LEUTE", []),
        ("de", "Fünfunddreissig Leute (Schweiz)", []),
        ("de", "Fünfundvierzig Leute stehen an", ["35"]),
        ("el", "Τριάντα πέντε άνθρωποι περιμένουν", []),
        ("el", "Τριανταπέντε άνθρωποι", []),
        ("el", "ΤΡΙΑΝΤΑ ΠΕΝΤΕ ΑΝΘΡΩΠΟΙ", []),
        ("el", "Σαράντα πέντε άνθρωποι", ["35"]),
    ],
)
def test_tens_are_found_in_any_spelling(language: str, target: str, lost: list[str]) -> None:
    assert numbers_lost("35 people wait", target, load_language_pack(language).tens) == lost


@pytest.mark.parametrize(
    ("source", "target", "lost"),
    [
        ("A flock of 60 geese", "Uno stormo di sessanta oche", []),
        ("A cake with 41 candles", "Una torta con quarantuno candeline", []),
        ("A cake with 41 candles", "Una torta con sessanta candeline", ["41"]),
        ("640 geese", "sessanta oche", ["640"]),
    ],
)
def test_numbers_that_the_target_spells_out_are_not_lost(source: str, target: str, lost: list[str]) -> None:
    tens = ("vent", "trent", "quarant", "cinquant", "sessant", "settant", "ottant", "novant")
    assert numbers_lost(source, target, tens) == lost
