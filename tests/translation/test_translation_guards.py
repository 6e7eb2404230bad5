"""What is done to captions and checked in translations, and capitals by the rules of a language."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from translation.guards import (
    Prepared,
    count_repeats,
    is_all_capitals,
    is_repetitive,
    lower_case,
    prepare,
    restore,
    upper_case,
)


def test_captions_in_capitals_are_told_from_names_and_scripts_without_case() -> None:
    assert all(map(is_all_capitals, ("A RED CAR", "DER GROẞE FLUẞ", "ΔΥΟ ΚΥΚΛΟΙ", "2 RED CARS, 1998!")))
    assert not any(map(is_all_capitals, ("NASA", "A B", "", "红色 汽车", "صورة من NASA")))


@pytest.mark.parametrize(
    ("tokens", "most"),
    [("", 1), ("a b c", 1), ("a b a b a b", 3), ("x a b a b y", 2), ("a a a a a", 5), ("a b c d a b c d", 2)],
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
        ("A dog. A cat.", ("A dog.", "A cat."), ("", " ", "")),
        ('He said "Stop!" Then he left.', ('He said "Stop!"', "Then he left."), ("", " ", "")),
        ("Mr. Smith and Dr. Jones met at St. Paul's.", ("Mr. Smith and Dr. Jones met at St. Paul's.",), ("", "")),
        ("Is it red? 3 cats say no", ("Is it red?", "cats say no"), ("", " 3 ", "")),
        ("see https://a.org/x_y?z=1, it is red", ("see", "it is red"), ("", " https://a.org/x_y?z=1, ", "")),
        ("a dog 😀🎉 and a cat", ("a dog", "and a cat"), ("", " 😀🎉 ", "")),
        ("a sign that says שלום עליכם", ("a sign that says",), ("", " שלום עליכם")),
        ("A #dog runs on the #beach today #sea, #sun", ("A #dog runs on the #beach today",), ("", " #sea, #sun")),
        ("!!!", (), ("!!!",)),
        ("A dog 🐶 .", ("A dog",), ("", " 🐶 .")),
        ("top 5\ufe0f\u20e3 dogs", ("top", "dogs"), ("", " 5\ufe0f\u20e3 ", "")),
        ("a café", ("a café",), ("", "")),
        ("see (www.a.com/b?c=é), a dog", ("see", "a dog"), ("", " (www.a.com/b?c=é), ", "")),
        (
            "mail -a.b+c@d.co.uk or a_b.c.jpg: a_dog",
            ("mail", "or", "a dog"),
            ("", " -a.b+c@d.co.uk ", " a_b.c.jpg: ", ""),
        ),
        ("a dog: ..wow.com", ("a dog:",), ("", " ..wow.com")),
        ("a.company and a-b.", ("a.company and a-b.",), ("", "")),
    ],
)
def test_what_a_model_cannot_translate_is_kept(
    caption: str, sentences: tuple[str, ...], around: tuple[str, ...]
) -> None:
    assert prepare(caption, ALPHABET) == Prepared(sentences, around)


@pytest.mark.parametrize(
    ("caption", "sentences", "language"),
    [
        ("3 cats in 1998 say שלום", ("3 cats in 1998 say שלום",), "en"),  # all that the model can spell goes to it
        ("两只猫。一只狗。", ("两只猫。", "一只狗。"), "zh"),
        ("好！！！狗", ("好！！！", "狗"), "zh"),
        ("「你好。」他说", ("「你好。」", "他说"), "zh"),
        ("Am 24. Dezember im Jahr 2010. Ein Hund", ("Am 24. Dezember im Jahr 2010.", "Ein Hund"), "de"),
        ("एक कुत्ता। दो बिल्ली", ("एक कुत्ता।", "दो बिल्ली"), "hi"),
        ("ශ්\u200dරී ලංකා", ("ශ්\u200dරී ලංකා",), "si"),
        ("A dog; Rex", ("A dog; Rex",), "en"),
        ("Τι κάνει ο άντρας; Περπατά.", ("Τι κάνει ο άντρας;", "Περπατά."), "el"),
        ("Τι κάνει\u037e Περπατά.", ("Τι κάνει\u037e", "Περπατά."), "el"),
        ("«Πού είναι;» Στον δρόμο.", ("«Πού είναι;»", "Στον δρόμο."), "el"),
        ("Στον Αγ. Νικόλαο, οδ. Ερμού", ("Στον Αγ. Νικόλαο, οδ. Ερμού",), "el"),
    ],
)
def test_sentences_end_as_their_script_has_it(caption: str, sentences: tuple[str, ...], language: str) -> None:
    prepared = prepare(caption, language=language)
    assert prepared.sentences == sentences
    assert set("".join(prepared.around)) <= {" "}


def test_sentences_get_the_space_that_the_target_wants() -> None:
    prepared = prepare("狗在跑。猫坐着。")
    assert restore(["A dog runs.", "A cat sits."], prepared) == "A dog runs. A cat sits."
    assert restore(["犬が走る。", "猫が座る。"], prepared) == "犬が走る。猫が座る。"


@pytest.mark.parametrize("address", ["www.example.com", "https://example.com/a?b", "a@example.com", "example.com"])
def test_text_beside_an_address_is_translated_in_scripts_without_spaces(address: str) -> None:
    assert prepare(f"一个人在{address}的沙滩上骑马，{address}。") == Prepared(
        ("一个人在", "的沙滩上骑马，"), ("", address, f"{address}。")
    )
    assert prepare(f"ดู{address}ที่นี่").sentences == ("ดู", "ที่นี่")


@given(st.text())
def test_nothing_of_a_caption_is_lost(caption: str) -> None:
    prepared = prepare(caption, ALPHABET)
    whole = restore(prepared.sentences, prepared)
    expected = caption.lower() if prepared.all_capitals else caption
    same = whole.lower() if prepared.all_capitals else whole
    assert "".join(same.replace("_", " ").split()) == "".join(expected.replace("_", " ").split())


# The examples with more than one word are those of ICU's own tests of this rule.
@pytest.mark.parametrize(
    ("small", "capitals"),
    [
        ("Πατάτα, Αέρας, Μυστήριο", "ΠΑΤΑΤΑ, ΑΕΡΑΣ, ΜΥΣΤΗΡΙΟ"),
        ("Το ένα ή το άλλο.", "ΤΟ ΕΝΑ Ή ΤΟ ΑΛΛΟ."),
        ("«ή»; ήρθε", "«Ή»; ΗΡΘΕ"),
        ("ρολόι", "ΡΟΛΟΪ"),
        ("κορόιδο, γάιδαρος", "ΚΟΡΟΪΔΟ, ΓΑΪΔΑΡΟΣ"),
        ("προϊόν, πραΰς", "ΠΡΟΪΟΝ, ΠΡΑΫΣ"),
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
    assert lower_case("ΕΝΑΣ ΣΚΥΛΟΣ, «ΜΑΣ»", "el") == "ενας σκυλος, «μας»"
