"""Captions that are nothing but emoji and punctuation."""

import pytest

from cleaning.checks.captions import OnlyEmoji
from cleaning.checks.definition import Captions
from data_catalog.language_pack import LanguagePack

JUDGE = OnlyEmoji().bind(Captions(pack=LanguagePack.minimal("it")))


@pytest.mark.parametrize(
    "caption",
    [
        "🐶",
        "🐶🐶 !!",
        "👩🏽‍🚀",
        "🇮🇹",
        "❤️",
        "1️⃣2️⃣",
        "#️⃣",
        "(🙂)",
        " 🙂 … ",
        "🙂" * 10_000,
        "☀",
        "🏴\U000e0067\U000e007f",
    ],
)
def test_emoji_and_punctuation_are_no_caption(caption: str) -> None:
    drop = JUDGE(caption)
    assert drop is not None
    assert drop.reason == "caption_only_emoji"


@pytest.mark.parametrize(
    "caption",
    [
        "",
        " ",
        "…",
        "?!",
        "un cane 🐶",
        "猫🐱",
        "🐶 ٣",
        "كلب🙂",
        "e\u0301🙂",
        "2 🐶",
        "🐶a",
        "x" * 10_000,
        "© 2010 🙂",
        "ก🙂",
    ],
)
def test_a_letter_or_a_digit_stays_and_so_does_what_has_no_emoji(caption: str) -> None:
    assert JUDGE(caption) is None
