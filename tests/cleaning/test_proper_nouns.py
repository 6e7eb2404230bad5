from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from cleaning.checks.proper_nouns import proper_noun_share, tagged_proper_nouns, tagged_share
from flows.recipe.language_packs import load_language_packs

PACKS = load_language_packs()


@pytest.mark.parametrize(
    ("lang", "caption", "detail"),
    [
        # The paper's examples.
        ("it", "Dora Riparia", "2 of 2 words"),
        ("it", "Anna Maria Mozzoni", "3 of 3 words"),
        ("it", "Joey Ramone Place", "3 of 3 words"),
        ("it", "Kim Rhodes", "2 of 2 words"),
        ("it", "Ralph George Hawtrey", "3 of 3 words"),
        ("it", "Kim Rhodes nel 2010", "2 of 2 words"),
        ("it", "La Torre di Pisa", "2 of 2 words"),
        ("it", "Enzo Ferrari con la Ferrari nel 1960", "3 of 3 words"),
        ("it", "G. H. Hardy", "3 of 3 words"),
        ("it", "La Dora Riparia", "2 of 2 words"),
        ("it", "Émile Zola", "2 of 2 words"),
        ("it", "Лев Толстой", "2 of 2 words"),
        ("en", "Times Square in New York", "4 of 4 words"),
        ("el", "Ο Νίκος Παπαδόπουλος", "2 of 2 words"),
        ("el", "Μελίνα Μερκούρη", "2 of 2 words"),
        ("el", "Η Πλάκα, Αθήνα", "2 of 2 words"),
        ("el", "Γ. Σεφέρης στην Αθήνα", "3 of 3 words"),
        ("el", "Εκκλησία στη Θεσσαλονίκη", None),
        ("el", "Ένας Άντρας Και Ο Σκύλος Του", None),
        ("el", "ΑΚΡΟΠΟΛΗ ΤΗΣ ΑΘΗΝΑΣ", None),
        ("el", "Τι κάνει; Ο Νίκος τρέχει", None),
        ("it", "una chiesa a Roma", None),
        ("it", "Gatto nero", None),
        ("it", "Gatto", None),
        ("it", "Chiesa di San Marco", None),
        ("it", "Un uomo. Una donna a Roma", None),
        ("it", "VISTA DI ROMA", None),
        ("it", "A MAN HOLDING A CAKE To EAT", None),
        ("en", "A Man And His Dog", None),
        ("en", "a man and his dog", None),
        ("it", "東京タワーの夜景", None),
        ("it", "מגדל אייפל", None),
        ("it", "برج إيفل", None),
        ("it", "🙂 123", None),
        ("it", "\u0301", None),
        ("it", "A", None),
        ("it", "", None),
        ("it", "Parola " + "parola " * 1400, None),
        ("it", "Parola" * 1700, None),
        ("it", "Roma " * 2000, "2000 of 2000 words"),
        ("it", "Marie\u0301 Curi\u0307e", "2 of 2 words"),
        ("it", "👩🏽\u200d🚀 Samantha Cristoforetti 🚀", "2 of 2 words"),
        ("it", "\u200fDora Riparia\u200f", "2 of 2 words"),
    ],
)
def test_proper_nouns(lang: str, caption: str, detail: str | None) -> None:
    (verdict,) = proper_noun_share(function_words=PACKS[lang].function_words)([caption])
    assert (verdict.detail if verdict else None) == detail
    assert verdict is None or verdict.reason == "mostly_proper_nouns"


@pytest.mark.parametrize(
    ("caption", "detail"),
    [
        ("Piazza Garibaldi", None),
        ("Chiesa Santa Lucia", "2 of 3 words"),
        ("Giuseppe Garibaldi", "2 of 2 words"),
        ("Joey Ramone Piazza", "3 of 3 words"),  # within a caption a capital is a name's
        ("La Piazza Garibaldi", "2 of 2 words"),
        ("Un uomo. Piazza Garibaldi", None),
    ],
)
def test_a_common_noun_at_the_start_is_no_name(caption: str, detail: str | None) -> None:
    words, nouns = PACKS["it"].function_words, {"piazza", "chiesa"}
    (verdict,) = proper_noun_share(function_words=words, common_nouns=nouns, max_share=0.6)([caption])
    assert (verdict.detail if verdict else None) == detail


def test_the_share_is_an_option() -> None:
    assert proper_noun_share(function_words=(), max_share=0.5)(["una Roma"])[0] is not None


@dataclass(frozen=True)
class GivenShares:
    """A tagger that has its shares from its maker."""

    shares: dict[str, float | None]
    name: str = "given"

    def share(self, texts: Sequence[str]) -> list[float | None]:
        return [self.shares[text] for text in texts]


def test_a_tagger_s_shares_are_held_against_the_limit() -> None:
    tagger = GivenShares({"all": 1.0, "four of five": 4 / 5, "seven of nine": 7 / 9, "no word": None, "none": 0.0})
    verdicts = tagged_proper_nouns(tagger)(list(tagger.shares))
    assert [verdict and verdict.detail for verdict in verdicts] == [
        "100 % of the tokens",
        "80 % of the tokens",
        None,
        None,
        None,
    ]
    assert {verdict.reason for verdict in verdicts if verdict} == {"mostly_proper_nouns"}
    assert all(tagged_proper_nouns(tagger, max_share=0.75)(["all", "seven of nine"]))
    assert tagged_proper_nouns(tagger)([]) == []


@pytest.mark.parametrize(
    ("tokens", "share"),
    [
        ([("Kim", True), ("Rhodes", True)], 1.0),
        ([("Kim", True), ("Rhodes", True), ("nel", False), ("2010", False)], 0.5),  # words and numbers count
        ([("«", True), ("Roma", True), ("»", False), (".", False), (" ", False)], 1.0),  # signs do not
        ([("🙂", True), ("gatto", False)], 0.0),
        ([("\u0301", True), ("!", False)], None),
        ([("برج", False), ("إيفل", True)], 0.5),
        ([("東京", True)], 1.0),
        ([], None),
    ],
)
def test_tokens_with_a_letter_or_digit_count(tokens: list[tuple[str, bool]], share: float | None) -> None:
    assert tagged_share(tokens) == share
