"""What is done to captions and checked in translations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from translation.guards import Prepared, count_repeats, is_all_capitals, is_repetitive, prepare, restore


@pytest.mark.parametrize(
    ("caption", "all_capitals"),
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
        ("صورة من NASA", False),
        ("एक तस्वीर ISRO", False),
        ("현대 SUV 자동차", False),
    ],
)
def test_shouting(caption: str, all_capitals: bool) -> None:
    assert is_all_capitals(caption) is all_capitals


def test_capitals_come_back() -> None:
    prepared = prepare("A RED CAR")
    assert prepared.sentences == ("a red car",)
    assert restore(["un'auto rossa"], prepared) == "UN'AUTO ROSSA"


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
    assert count_repeats(tokens.split()) == most


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


ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?'-")


@pytest.mark.parametrize(
    ("caption", "sentences", "around"),
    [
        ("", (), ("",)),
        ("a dog", ("a dog",), ("", "")),
        ("a_red\n car", ("a red car",), ("", "")),
        ("A dog. A cat.", ("A dog.", "A cat."), ("", " ", "")),
        ('He said "Stop!" Then he left.', ('He said "Stop!"', "Then he left."), ("", " ", "")),
        ("Mr. Smith and Dr. Jones met at St. Paul's.", ("Mr. Smith and Dr. Jones met at St. Paul's.",), ("", "")),
        ("J. R. Smith in the U.S. Army", ("J. R. Smith in the U.S. Army",), ("", "")),
        ("wait... what", ("wait... what",), ("", "")),
        ("Is it red? 3 cats say no", ("Is it red?", "cats say no"), ("", " 3 ", "")),
        ("see https://a.org/x_y?z=1, it is red", ("see", "it is red"), ("", " https://a.org/x_y?z=1, ", "")),
        ("mail me@example.org", ("mail",), ("", " me@example.org")),
        ("a dog 😀🎉 and a cat", ("a dog", "and a cat"), ("", " 😀🎉 ", "")),
        ("a dog😀", ("a dog",), ("", "😀")),
        ("a dog (😀!)", ("a dog",), ("", " (😀!)")),
        ("a dog (www.a.org) runs", ("a dog", "runs"), ("", " (www.a.org) ", "")),
        ("👨‍👩‍👧", (), ("👨‍👩‍👧",)),
        ("a sign that says שלום עליכם", ("a sign that says",), ("", " שלום עליכם")),
        ("#sunset by @anna", ("by",), ("#sunset ", " @anna")),
        ("A #dog runs on the #beach today #sea, #sun", ("A #dog runs on the #beach today",), ("", " #sea, #sun")),
        ("!!!", (), ("!!!",)),
        ("A dog 🐶 .", ("A dog",), ("", " 🐶 .")),
        ("Photo by Sen. John McCain at Ft. Worth.", ("Photo by Sen. John McCain at Ft. Worth.",), ("", "")),
        ("top 5\ufe0f\u20e3 dogs", ("top", "dogs"), ("", " 5\ufe0f\u20e3 ", "")),
        ("1998", (), ("1998",)),
    ],
)
def test_what_a_model_cannot_translate_is_kept(
    caption: str, sentences: tuple[str, ...], around: tuple[str, ...]
) -> None:
    assert prepare(caption, ALPHABET) == Prepared(sentences, around)


@pytest.mark.parametrize(
    ("caption", "sentences", "around"),
    [
        ("两只猫。一只狗。", ("两只猫。", "一只狗。"), ("", "", "")),
        ("好！！！狗", ("好！！！", "狗"), ("", "", "")),
        ("「你好。」他说", ("「你好。」", "他说"), ("", "", "")),
        ("Am 24. Dezember im Jahr 2010. Ein Hund", ("Am 24. Dezember im Jahr 2010.", "Ein Hund"), ("", " ", "")),
        ("एक कुत्ता। दो बिल्ली", ("एक कुत्ता।", "दो बिल्ली"), ("", " ", "")),
        ("ශ්\u200dරී ලංකා", ("ශ්\u200dරී ලංකා",), ("", "")),
    ],
)
def test_sentences_end_as_their_script_has_it(
    caption: str, sentences: tuple[str, ...], around: tuple[str, ...]
) -> None:
    assert prepare(caption) == Prepared(sentences, around)


@pytest.mark.parametrize(
    ("caption", "sentences"),
    [
        ("Τι κάνει ο άντρας; Περπατά.", ("Τι κάνει ο άντρας;", "Περπατά.")),
        ("Τι κάνει\u037e Περπατά.", ("Τι κάνει\u037e", "Περπατά.")),
        ("«Πού είναι;» Στον δρόμο.", ("«Πού είναι;»", "Στον δρόμο.")),
        ("Ποιος; αυτός", ("Ποιος; αυτός",)),
        ("Στον Αγ. Νικόλαο, οδ. Ερμού", ("Στον Αγ. Νικόλαο, οδ. Ερμού",)),
        ("Ο κ. Νίκος και ο Δρ. Παππάς", ("Ο κ. Νίκος και ο Δρ. Παππάς",)),
    ],
)
def test_greek_sentences(caption: str, sentences: tuple[str, ...]) -> None:
    assert prepare(caption, language="el").sentences == sentences


def test_a_semicolon_ends_no_sentence_elsewhere() -> None:
    assert prepare("A dog; Rex", language="en").sentences == ("A dog; Rex",)


def test_greek_capitals_come_back() -> None:
    prepared = prepare("A HOUSE OR A CLOCK IN MAY", language="en")
    assert restore(["ένα σπίτι ή ένα ρολόι τον Μάιο"], prepared, language="el") == "ΕΝΑ ΣΠΙΤΙ Ή ΕΝΑ ΡΟΛΟΪ ΤΟΝ ΜΑΪΟ"
    assert prepare("ΕΝΑΣ ΣΚΥΛΟΣ", language="el").sentences == ("ενας σκυλος",)


def test_all_that_the_model_can_spell_goes_to_it() -> None:
    assert prepare("3 cats in 1998 say שלום").sentences == ("3 cats in 1998 say שלום",)
    assert prepare("a café", ALPHABET).sentences == ("a café",)


def test_capitals_follow_the_language() -> None:
    prepared = prepare("KIRMIZI DİKEN", language="tr")
    assert prepared.sentences == ("kırmızı diken",)
    assert restore(["kırmızı diken"], prepared, language="tr") == "KIRMIZI DİKEN"
    assert restore(["ორი წრე"], prepared, language="ka") == "ორი წრე"


def test_what_is_kept_is_not_put_in_capitals() -> None:
    assert prepare("THE DOG http://t.co/x RUNS").sentences == ("the dog", "runs")


def test_sentences_get_the_space_that_the_target_wants() -> None:
    prepared = prepare("狗在跑。猫坐着。")
    assert restore(["A dog runs.", "A cat sits."], prepared) == "A dog runs. A cat sits."
    assert restore(["犬が走る。", "猫が座る。"], prepared) == "犬が走る。猫が座る。"


@given(st.text())
def test_nothing_of_a_caption_is_lost(caption: str) -> None:
    prepared = prepare(caption, ALPHABET)
    whole = restore(prepared.sentences, prepared)
    expected = caption.lower() if prepared.all_capitals else caption
    same = whole.lower() if prepared.all_capitals else whole
    assert "".join(same.replace("_", " ").split()) == "".join(expected.replace("_", " ").split())


@given(st.text())
def test_prepared_text_is_one_line(caption: str) -> None:
    for sentence in prepare(caption).sentences:
        assert sentence
        assert sentence == sentence.strip()
        assert len(sentence.splitlines()) == 1
