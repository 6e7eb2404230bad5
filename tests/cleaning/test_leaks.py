"""Captions of test sets are found again, however they are punctuated, and others are not."""

import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleaning.leaks import caption_digest, caption_digests, caption_key, leaking_captions


@pytest.mark.parametrize(
    ("text", "copy"),
    [
        ("A dog runs on the beach", "«A dog — runs on the beach!» 🐶"),
        ("Ｃａｆé!", "cafe\u0301"),
        ("İstanbul köprüsü", "istanbul köprüsü"),  # "İ" in small letters is "i" and a dot above
        ("ISPARTA ILICA", "ısparta ılıca"),
        ("مُعَلِّم هٰذا", "معلم هذا"),  # vowel signs, which most people leave out
        ("כֶּלֶב רָץ", "כלב רץ"),
        ("1.5 m", "1,5 m!"),
        ("1,500 dogs.", "1500 dogs"),
        ("In 2010. 5 dogs", "in 2010 5 dogs"),
        ("1.5 m", "15 m"),  # the price: a needless drop costs one caption, a miss the measurement
        ("كلب يركض على الشاطئ.", "\u200fكلب يركض على الشاطئ"),
        ("a\u200b dog\u00ad", "a dog"),
        ("한국어 개", unicodedata.normalize("NFD", "한국어개")),
    ],
)
def test_copies_have_one_key(text: str, copy: str) -> None:
    assert caption_key(text) == caption_key(copy)
    assert caption_digest(text) == caption_digest(copy)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("pesca", "pescà"),
        ("5 dogs", "6 dogs"),
        ("का", "कि"),  # vowel signs are marks, which `re` takes for punctuation
        ("أسد", "اسد"),  # the hamza is no vowel sign
        ("บ้าน", "บาน"),
    ],
)
def test_others_have_not(text: str, other: str) -> None:
    assert caption_key(text) != caption_key(other)


@given(
    st.text(max_size=60),
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from(string.punctuation + " \u200b。؟…"))),
)
def test_punctuation_anywhere_changes_nothing(text: str, insertions: list[tuple[int, str]]) -> None:
    copy = text
    for place, mark in insertions:
        copy = copy[:place] + mark + copy[place:]
    assert caption_key(copy) == caption_key(text)
    assert caption_key(text + "\u2026") == caption_key(text), "ASCII is no special case"


def test_short_captions_are_nobodys() -> None:
    digests = caption_digests(["a cat", "A cat sits on a mat.", "两只狗在沙滩上奔跑", "?!", ""], min_words=4)
    assert len(digests) == 2
    texts = ["A cat!", "acatsitsonamat", "两只狗在沙滩上奔跑！", "a cat sits on the mat", "", "…"]
    assert leaking_captions(texts, digests) == [False, True, True, False, False, False]
    assert caption_digests(["?!", "", "🐶 🐶 🐶"], min_words=0) == frozenset(), "empty keys never count"


def test_digests_stay_the_same() -> None:
    # They may be kept in files: a change of this number is a change of format.
    assert caption_digest("A dog runs on the beach.") == caption_digest("adogrunsonthebeach") < 2**64
    assert caption_digest("A dog runs on the beach.") == 3862603974185542550
