import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleaning.checks.captions import Length
from cleaning.checks.definition import Captions
from cleaning.duplicates.captions import duplicate_captions
from cleaning.text.scripts import count_letters, count_words, exact_key, fold_case, split_tokens
from data_catalog.language_pack import LanguagePack
from data_catalog.stages import Drop
from flows.build.steps import STEPS

REASONS = {name: row.reasons for step in STEPS for name, row in step.rows.items()}

LENGTH = Length(max_words=8, max_chars=60).bind(Captions(pack=LanguagePack.minimal("it")))


@pytest.mark.parametrize(
    ("caption", "verdict"),
    [
        ("un gatto nero", None),
        ("", Drop("caption_empty")),
        (" \u3000", Drop("caption_empty")),
        ("a", Drop("caption_too_short", "1 character")),
        ("gatto", Drop("caption_too_short", "1 word")),
        ("gatto —", Drop("caption_too_short", "1 word")),
        ("猫が座っている", None),
        ("小貓", Drop("caption_too_short", "2 characters")),
        ("แมวนั่งบนโต๊ะ", None),
        ("बिल्ली", Drop("caption_too_short", "1 word")),
        ("काली बिल्ली", None),
        ("קטה שחורה", None),
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
        ("L'albero", 2),
        ("Un'orca.", 2),
        ("l’eau", 2),
        ("dell'acqua", 2),
        ("QUEST'ANNO", 2),
        ("Jusqu'à l'hôtel", 4),
        ("d'água", 2),
        ("don't", 1),
        ("it's o'clock, y'all, ma'am", 4),
        ("the dog's ear", 3),
        ("dell'800", 1),
        ("об'єкт", 1),
        ("l'", 1),
        ("🙂l'🙂 שלום'א", 2),
        ("l'a" * 3_000, 2),
    ],
)
def test_elided_words_are_words(text: str, num_words: int) -> None:
    assert count_words(text) == num_words


def test_counting_is_fair_to_scripts_without_spaces() -> None:
    assert [count_words(text) for text in ("un gatto, nero!", "l'albero", "猫", "東京タワー Tokyo Tower", "แมว")] == [
        3,
        2,
        1,
        5,
        1,
    ]
    assert [count_letters(text) for text in ("abc 12", "猫a", "")] == [3, 4, 0]
    assert split_tokens("Un gatto, 2猫座!") == ["Un", "gatto", "2", "猫", "座"]
    assert split_tokens("चाचा चाची, cafe\u0301s יֶלֶד") == ["चाचा", "चाची", "cafe\u0301s", "יֶלֶד"]


@given(st.text(st.characters(min_codepoint=1, max_codepoint=127)))
def test_exact_key_of_ascii_is_that_of_other_texts(text: str) -> None:
    """A text with "é" in front takes the way of all other characters."""
    key = exact_key("é" + text)
    assert exact_key("e" + text) == "e" + key[1:]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A Dog.", "a  dog"),
        ("STRASSE!", "straße"),
        ("ﬁne", "fine ..."),
        ("cafe\u0301", "CAFÉ"),
        ("東京。", "東京"),
        ("a dog .", "A dog"),
        ("Ένας δρόμος", "ΕΝΑΣ ΔΡΟΜΟΣ"),
        ("ρολόι σε προϊόν, ᾠδή", "ΡΟΛΟΪ ΣΕ ΠΡΟΪΟΝ, ΩΙΔΗ"),
        ("Τι κάνει;", "τι κάνει\u037e"),
        ("Ναι\u0387", "ναι»"),
    ],
)
def test_exact_key_sees_through(one: str, other: str) -> None:
    assert exact_key(one) == exact_key(other)


def test_exact_key_keeps_apart() -> None:
    assert (
        len(
            {
                exact_key(text)
                for text in ("a dog", "a dog!?s", "", "!", "?", "a cat", "perché", "perche", "βιβλίο", "βιβλία")
            }
        )
        == 10
    )


def test_duplicates_are_counted_within_a_sample() -> None:
    verdicts = duplicate_captions(["a", "a", "b", "a"], ["Un cane.", "un cane", "un cane", "un gatto"])
    assert verdicts == [None, Drop("duplicate_caption"), None, None]
    assert verdicts[1] is not None
    assert verdicts[1].reason in REASONS["deduplicate"]


@given(st.text() | st.text(alphabet="αάΑΆςσΣΐϊΪήΉᾳᾠ\u0301\u0308 ßé"))
def test_folded_case_is_folded(text: str) -> None:
    folded = fold_case(text)
    assert fold_case(folded) == folded
    assert fold_case(unicodedata.normalize("NFD", text)) == fold_case(unicodedata.normalize("NFC", text))
