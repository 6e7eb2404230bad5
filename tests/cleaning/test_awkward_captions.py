"""What each rule says of captions that are emoji, right to left, full of marks, empty, or very short or long."""

import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pytest

from cleaning.checks import CheckConfig, translation_measure
from cleaning.checks.boilerplate import boilerplate_rule
from cleaning.duplicates.captions import duplicate_captions
from flows.build.steps import STEPS
from flows.recipe.language_packs import load_language_pack

REASONS = {name: row.reasons for step in STEPS for name, row in step.rows.items()}

ITALIAN = load_language_pack("it")
WITH_LETTERS = frozenset(
    {"arabic", "pointed hebrew", "devanagari", "decomposed", "one letter", "10,000 characters"},
)
WITH_WORDS = WITH_LETTERS - {"one letter"}
EVERY = WITH_LETTERS | {"emoji", "empty", "lone mark"}

Change = Callable[[str], str]
Rejects = Callable[..., list[str | None]]


def first_words(text: str) -> str:
    return " ".join(text.split()[:2])


def as_it_is(text: str) -> str:
    return text


def table(awkward: Mapping[str, str], reason: str, dropped: Collection[str]) -> dict[str, str | None]:
    """By caption, the reason, where it is among those dropped."""
    assert set(dropped) <= awkward.keys()
    return {name: reason if name in dropped else None for name in awkward}


def judged(rejects: Rejects, rule: str, sources: Sequence[str], targets: Sequence[str], **columns: Any) -> Any:
    """Reasons by which one rule, with its usual settings, drops translations into Italian."""
    rules = [each for each in CheckConfig().rules(ITALIAN) if each.name == rule]
    assert len(rules) == 1
    measured = translation_measure(ITALIAN)(sources, targets)
    return rejects(rules, targets, sources=sources, **{**measured, **columns})


@pytest.mark.parametrize(
    ("rule", "source", "target", "reason", "dropped"),
    [
        # Three words that come back as they were; case, composition and the last stop aside.
        ("copied_through", as_it_is, lambda text: f"{text}.", "copied_through", WITH_WORDS),
        (
            "copied_through",
            as_it_is,
            lambda text: unicodedata.normalize("NFC", text).upper(),
            "copied_through",
            WITH_WORDS,
        ),
        ("copied_through", first_words, first_words, "copied_through", ()),
        ("copied_through", as_it_is, lambda text: f"{text} e basta", "copied_through", ()),
        # The translation has words of the source, which "sopra" dilutes to less than one in six.
        ("copied_words", as_it_is, as_it_is, "copied_words", WITH_WORDS),
        ("copied_words", as_it_is, lambda text: f"{text} " + "sopra " * 50, "copied_words", {"10,000 characters"}),
        ("copied_words", lambda text: "a dog", as_it_is, "copied_words", ()),
        # Over and over what stands there twice or once, or nothing that repeats.
        ("repetition", first_words, lambda text: f"{first_words(text)} " * 4, "repeated_ngrams", WITH_LETTERS),
        ("repetition", as_it_is, as_it_is, "repeated_ngrams", ()),
        ("repetition", lambda text: "a dog", as_it_is, "repeated_ngrams", {"10,000 characters"}),
        ("repetition", lambda text: "a dog", lambda text: f"{text} {text}", "repeated_ngrams", {"10,000 characters"}),
        # Far longer and far shorter, where there is a letter to compare with and more than the slack is missing.
        ("length_ratio", as_it_is, lambda text: f"{text} {text} {text} " + "sopra " * 10, "length_ratio", WITH_LETTERS),
        ("length_ratio", as_it_is, lambda text: "", "length_ratio", {"arabic", "decomposed", "10,000 characters"}),
        ("length_ratio", as_it_is, as_it_is, "length_ratio", ()),
        ("length_ratio", lambda text: "a dog", as_it_is, "length_ratio", {"10,000 characters"}),
        # The source has a number, which the translation has in other digits, or has not.
        ("numbers_lost", lambda text: f"{text} 345", as_it_is, "numbers_lost", EVERY),
        ("numbers_lost", lambda text: f"{text} 345", lambda text: f"٣٤٥ {text}", "numbers_lost", ()),
        ("numbers_lost", lambda text: f"{text} ३४५", lambda text: f"345 {text}", "numbers_lost", ()),
        ("numbers_lost", as_it_is, as_it_is, "numbers_lost", ()),
        ("numbers_invented", as_it_is, lambda text: f"{text} 345", "numbers_invented", EVERY),
        ("numbers_invented", as_it_is, lambda text: f"{text} ٣٤٥", "numbers_invented", EVERY),
        ("numbers_invented", lambda text: f"345 {text}", lambda text: f"{text} ३४५", "numbers_invented", ()),
        ("numbers_invented", as_it_is, as_it_is, "numbers_invented", ()),
    ],
)
def test_rules_that_compare_a_translation_with_its_source(
    awkward: Mapping[str, str],
    reasons: Rejects,
    rule: str,
    source: Change,
    target: Change,
    reason: str,
    dropped: Collection[str],
) -> None:
    sources, targets = (list(map(change, awkward.values())) for change in (source, target))
    found = judged(reasons, rule, sources, targets)
    assert dict(zip(awkward, found, strict=True)) == table(awkward, reason, dropped)


@pytest.mark.parametrize(
    ("rule", "column", "value", "reason"),
    [
        ("score", "translation_score", -1.25, "low_translation_score"),
        ("score", "translation_score", -0.75, None),
        ("round_trip", "round_trip_chrf", 9.5, "low_round_trip"),
        ("round_trip", "round_trip_chrf", 10.5, None),
        ("truncated", "translation_truncated", True, "translation_truncated"),
        ("truncated", "translation_truncated", False, None),
        ("repetitive", "translation_repetitive", True, "translation_repetitive"),
        ("repetitive", "translation_repetitive", False, None),
    ],
)
def test_rules_that_read_what_the_engine_says_do_not_look_at_texts(
    awkward: Mapping[str, str], reasons: Rejects, rule: str, column: str, value: object, reason: str | None
) -> None:
    texts = list(awkward.values())
    for sources, targets in ((texts, texts), (texts, texts[::-1]), (["a dog"] * len(texts), texts)):
        assert judged(reasons, rule, sources, targets, **{column: [value] * len(texts)}) == [reason] * len(texts)
    # One translation of a shard has another number than its neighbours.
    values = [value, *[None] * (len(texts) - 1)]
    assert judged(reasons, rule, texts, texts, **{column: values}) == [reason, *[None] * (len(texts) - 1)]


@pytest.mark.parametrize(
    ("repeat", "dropped"),
    [
        (as_it_is, EVERY),
        (lambda text: f"  {text.upper()} ", EVERY),
        (lambda text: unicodedata.normalize("NFC", text), EVERY),
        # A stop that is all there is says something else than nothing.
        (lambda text: f"{text}!", EVERY - {"empty"}),
        (lambda text: f"{text} y", ()),
        (lambda text: f"\u200f{text}y", ()),
    ],
)
def test_duplicates_of_an_image(awkward: Mapping[str, str], repeat: Change, dropped: Collection[str]) -> None:
    """All captions of an image, then a repeat of each: of the same image, and of another one."""
    texts = list(awkward.values())
    repeats = list(map(repeat, texts))
    verdicts = duplicate_captions(["a"] * 2 * len(texts), texts + repeats)
    found = [None if verdict is None else verdict.reason for verdict in verdicts]
    assert found[: len(texts)] == [None] * len(texts)
    assert dict(zip(awkward, found[len(texts) :], strict=True)) == table(awkward, "duplicate_caption", dropped)
    others = ["a"] * len(texts) + [f"b{number}" for number in range(len(texts))]
    assert duplicate_captions(others, texts + repeats) == [None] * 2 * len(texts)
    assert "duplicate_caption" in REASONS["deduplicate"]


@pytest.mark.parametrize(
    ("change", "dropped"),
    [
        (as_it_is, {"emoji", "lone mark"}),
        (lambda text: "?" * 10_000 + text, EVERY - WITH_LETTERS),
        (lambda text: f"{text} 250 × 300", EVERY - WITH_LETTERS),
        (lambda text: f"{text}א", ()),
    ],
)
def test_captions_without_letters(awkward: Mapping[str, str], change: Change, dropped: Collection[str]) -> None:
    found = [boilerplate_rule(change(text), ["no_letters"]) for text in awkward.values()]
    assert dict(zip(awkward, found, strict=True)) == table(awkward, "no_letters", dropped)
