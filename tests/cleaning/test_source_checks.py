"""Lengths, emoji, words and keys of captions in any script."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleaning.checks.captions import Length, OnlyEmoji
from cleaning.checks.definition import Captions
from cleaning.text.scripts import count_letters, count_words, exact_key, fold_case, split_tokens
from data_catalog.language_pack import LanguagePack
from data_catalog.stages import Drop

CAPTIONS = Captions(pack=LanguagePack.minimal("it"))
LENGTH = Length(max_words=8, max_chars=60).bind(CAPTIONS)
ONLY_EMOJI = OnlyEmoji().bind(CAPTIONS)


@pytest.mark.parametrize(
    ("caption", "verdict"),
    [
        ("un gatto nero", None),
        ("", Drop("caption_empty")),
        ("a", Drop("caption_too_short", "1 character")),
        ("gatto", Drop("caption_too_short", "1 word")),
        ("小貓", Drop("caption_too_short", "2 characters")),
        ("🙂🙂🙂 🙂", Drop("caption_too_short", "0 words")),
        ("uno due tre quattro cinque sei sette otto nove", Drop("caption_too_long", "9 words")),
        ("很" * 17, Drop("caption_too_long", "9 words")),
        ("x" * 10_000, Drop("caption_too_long", "10000 characters")),
    ],
)
def test_caption_length(caption: str, verdict: Drop | None) -> None:
    assert LENGTH(caption) == verdict


@pytest.mark.parametrize(
    ("text", "num_words"),
    [
        ("Un'orca.", 2),
        ("l’eau", 2),
        ("Jusqu'à l'hôtel", 4),
        ("🙂l'🙂 שלום'א", 2),
    ],
)
def test_elided_words_are_words(text: str, num_words: int) -> None:
    assert count_words(text) == num_words


def test_letters_and_words_of_scripts_without_spaces_are_counted() -> None:
    texts = ("un gatto, nero!", "l'albero", "猫", "東京タワー Tokyo Tower", "แมว")
    assert list(map(count_words, texts)) == [3, 2, 1, 5, 1]
    assert [count_letters(text) for text in ("abc 12", "猫a", "")] == [3, 4, 0]
    assert split_tokens("Un gatto, 2猫座!") == ["Un", "gatto", "2", "猫", "座"]
    assert split_tokens("चाचा चाची, cafe\u0301s יֶלֶד") == ["चाचा", "चाची", "cafe\u0301s", "יֶלֶד"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A Dog.", "a  dog"),
        ("Ένας δρόμος", "ΕΝΑΣ ΔΡΟΜΟΣ"),
        ("ρολόι σε προϊόν, ᾠδή", "ΡΟΛΟΪ ΣΕ ΠΡΟΪΟΝ, ΩΙΔΗ"),
    ],
)
def test_exact_key_sees_through(one: str, other: str) -> None:
    assert exact_key(one) == exact_key(other)


def test_exact_key_keeps_apart() -> None:
    texts = ("a dog", "a dog!?s", "", "!", "?", "perché", "perche", "βιβλίο", "βιβλία")
    assert len(set(map(exact_key, texts))) == len(texts)


@given(st.text() | st.text(alphabet="αάΑΆςσΣΐϊΪήΉᾳᾠ\u0301\u0308 ßé"))
def test_folded_case_is_folded(text: str) -> None:
    folded = fold_case(text)
    assert fold_case(folded) == folded
    assert fold_case(unicodedata.normalize("NFD", text)) == fold_case(unicodedata.normalize("NFC", text))


@pytest.mark.parametrize(
    "caption", ["🐶🐶 !!", "👩🏽‍🚀", "🇮🇹", "❤️", "1️⃣2️⃣", "#️⃣", "(🙂)", "🙂" * 10_000, "🏴\U000e0067\U000e007f"]
)
def test_emoji_and_punctuation_are_no_caption(caption: str) -> None:
    assert ONLY_EMOJI(caption) == Drop("caption_only_emoji")


@pytest.mark.parametrize("caption", ["", "?!", "猫🐱", "🐶 ٣", "كلب🙂", "e\u0301🙂", "2 🐶", "x" * 10_000, "© 2010 🙂"])
def test_a_letter_or_a_digit_stays_and_so_does_what_has_no_emoji(caption: str) -> None:
    assert ONLY_EMOJI(caption) is None
