"""Measures of a translation against its source, and the thresholds that drop it by them."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cleaning.checks.captions import (
    CopiedThrough,
    CopiedWords,
    LengthRatio,
    NumbersInvented,
    NumbersLost,
    Repetition,
    Repetitive,
    RoundTrip,
    Score,
    Truncated,
)
from cleaning.checks.definition import CaptionCheck, Captions
from cleaning.checks.translation_quality import (
    copied_share,
    length_ratio,
    numbers_invented,
    numbers_lost,
    repeated_ngrams,
    translation_measure,
)
from data_catalog.language_pack import LanguagePack
from data_catalog.schema import CAPTIONS
from data_catalog.stages import Drop
from flows.recipe.language_packs import load_language_pack

TEXT = st.text(max_size=60)
CAPTIONS_OF_A_LANGUAGE = Captions(pack=LanguagePack(code="it", shared_words=("hotel",)))


def verdict_of(check: CaptionCheck, **cells: Any) -> Drop | None:
    rule = check.rule(CAPTIONS_OF_A_LANGUAGE)
    assert rule is not None
    assert rule.translations_only
    table = pa.table({name: pa.array([cells[name]], CAPTIONS.field(name).type) for name in rule.columns})
    (verdict,) = rule.check(table)
    return verdict


@pytest.mark.parametrize(
    ("source", "target", "dropped"),
    [
        ("a dog on the grass", "A dog on the grass.", True),
        ("hot dog", "hot dog", False),
    ],
)
def test_copied_through(source: str, target: str, dropped: bool) -> None:
    verdict = verdict_of(CopiedThrough(), clean_caption=source, caption=target)
    assert verdict == (Drop("copied_through") if dropped else None)


@pytest.mark.parametrize(
    ("check", "column", "value", "verdict"),
    [
        (CopiedWords(max_copied_share=0.15), "copied_share", 0.4285, Drop("copied_words", "share 0.43")),
        (CopiedWords(max_copied_share=0.15), "copied_share", 0.15, None),
        (Repetition(max_repetitions=2), "repeated_ngrams", 3, Drop("repeated_ngrams", "3 times")),
        (Repetition(max_repetitions=2), "repeated_ngrams", 2, None),
        (NumbersLost(), "numbers_lost", ["345", "1999"], Drop("numbers_lost", "lost 345, 1999")),
        (NumbersLost(), "numbers_lost", ["9" * 90], Drop("numbers_lost", "lost " + "9" * 55)),
        (NumbersLost(), "numbers_lost", [], None),
        (NumbersInvented(), "numbers_invented", ["82"], Drop("numbers_invented", "invented 82")),
        (Truncated(), "translation_truncated", True, Drop("translation_truncated")),
        (Repetitive(), "translation_repetitive", True, Drop("translation_repetitive")),
        (Score(min_translation_score=-1.5), "translation_score", -1.81, Drop("low_translation_score", "score -1.81")),
        (Score(min_translation_score=-1.3), "translation_score", -1.3, None),
        (RoundTrip(min_round_trip_chrf=10), "round_trip_chrf", 7.25, Drop("low_round_trip", "chrF 7.2")),
        (RoundTrip(min_round_trip_chrf=10.1), "round_trip_chrf", 10.1, None),
    ],
)
def test_thresholds_are_inclusive_and_what_is_not_known_is_held_against_nobody(
    check: CaptionCheck, column: str, value: object, verdict: Drop | None
) -> None:
    assert verdict_of(check, **{column: value}) == verdict
    assert verdict_of(check, **{column: None}) is None


@pytest.mark.parametrize(
    ("source", "ratio", "detail"),
    [
        ("a" * 100, 0.21, "ratio 0.21"),
        ("a" * 100, 0.5, None),
        ("a" * 100, 2.51, "ratio 2.51"),
        ("a" * 100, 2.5, None),
        ("a" * 10, 4.0, None),
        ("a" * 10, 4.1, "ratio 4.10"),
        ("狗" * 6, 0.0, None),
        ("狗" * 7, 0.0, "ratio 0.00"),
        ("", None, None),
    ],
)
def test_length_ratio_with_slacks(source: str, ratio: float | None, detail: str | None) -> None:
    verdict = verdict_of(LengthRatio(), clean_caption=source, length_ratio=ratio)
    assert verdict == (Drop("length_ratio", detail) if detail else None)


@pytest.mark.parametrize(
    ("source", "target", "ratio"),
    [
        ("a small brown dog", "一只棕色的小狗", 21 / 14),
        ("a small brown dog", "작은 갈색 개", 10 / 14),
    ],
)
def test_length_ratio(source: str, target: str, ratio: float | None) -> None:
    assert length_ratio(source, target) == (ratio if ratio is None else pytest.approx(ratio))


@pytest.mark.parametrize(
    ("source", "target", "share"),
    [
        ("a squirrel nibbles an acorn", "uno scoiattolo NIBBLES una ghianda", 1 / 3),
        ("a dog in a bar", "un cane in a bar", 0.0),
        ("a cup of tea", "il tè", None),
        # Names, titles, writing, addresses and numbers are no copies; the start of a sentence is no name.
        ("Barack Obama meets Angela Merkel", "Barack Obama incontra Angela Merkel", 0.0),
        ("A dog. Toddler on a couch", "Un cane. Toddler su un divano", 1 / 3),
        ('a sign: "keep off the grass"', 'un cartello: "keep off the grass"', 0.0),
        ("a sign: «keep off the grass»", "ein Schild: „keep off the grass“", 0.0),
        # Words of scripts without spaces count by their letters, and marks cut none in two.
        ("a kitten on a mat", "一只 kitten 在垫子上面", 1 / 5),
        # Nothing is a name for want of small letters, nor an address for its vowel signs.
        ("قطة تنام هنا", "القط تنام هنا", 1 / 2),
    ],
)
def test_copied_share(source: str, target: str, share: float | None) -> None:
    assert copied_share(source, target) == (share if share is None else pytest.approx(share))
    # Shared words are no copies.
    assert copied_share("a hotel with a jacuzzi", "un hotel con jacuzzi", {"hotel"}) == 0.5


@pytest.mark.parametrize(
    ("source", "target", "times"),
    [
        ("a dog", "un cane cane cane cane", 4),
        ("a dog", "un cane di un cane di un cane di", 3),
        ("uncle and aunt", "चाचा चाची", 1),
        ("a dog", "a" * 10_000, 1),
    ],
)
def test_repeated_ngrams(source: str, target: str, times: int) -> None:
    assert repeated_ngrams(source, target) == times


@pytest.mark.parametrize(
    ("source", "target", "lost"),
    [
        ("bus number 345 in 1999, 345", "autobus in strada", ["345", "1999"]),
        ("20 dogs", "due cani", []),
        ("25,000 fans", "25 mila tifosi", []),
        ("25,000 fans", "25 tifosi", ["25000"]),
        ("1000 people", "1 persona", ["1000"]),
        ("25,000 fans", "mille tifosi", ["25000"]),
        ("fashion of the 1920s", "la moda degli anni venti", []),
        ("the 21st century", "il XXI secolo", []),
        ("a train at 11:45 pm", "un treno alle 23:45", []),
        ("bus 42", "حافلة ٤٢", []),
    ],
)
def test_numbers_lost(source: str, target: str, lost: list[str]) -> None:
    assert numbers_lost(source, target) == lost


@pytest.mark.parametrize(
    ("language", "source", "target", "lost"),
    [
        ("de", "35 people wait", "Fünfunddreissig Leute (Schweiz)", []),
        ("el", "35 people wait", "ΤΡΙΑΝΤΑ ΠΕΝΤΕ ΑΝΘΡΩΠΟΙ", []),
        ("it", "A flock of 60 geese", "Uno stormo di sessanta oche", []),
        ("it", "A flock of 640 geese", "Uno stormo di sessanta oche", ["640"]),
    ],
)
def test_numbers_that_the_target_spells_out_are_not_lost(
    language: str, source: str, target: str, lost: list[str]
) -> None:
    assert numbers_lost(source, target, load_language_pack(language).tens) == lost


@pytest.mark.parametrize(
    ("source", "target", "invented"),
    [
        ("bus number 28", "autobus numero 82, 82", ["82"]),
        ("100 euros", "1.000 euro", ["1000"]),
        ("a car of the 1970s", "un'auto degli anni '50", ["50"]),
        # Small numbers may be words of the source, unless one that it writes in digits was replaced.
        ("two dogs", "2 cani", []),
        ("4 cups and 4 plates", "4 tazze e 8 piatti", ["8"]),
        ("Ten thousand people", "10.000 persone", []),
        ("a train at 11:45 p.m.", "un treno alle 23:45", []),
    ],
)
def test_numbers_invented(source: str, target: str, invented: list[str]) -> None:
    assert numbers_invented(source, target) == invented


@given(TEXT, TEXT)
@example("1²٣", "٣\u20ac" * 20)
@example("a" * 40, "\u0300 " * 30)
def test_any_texts_have_measures_within_their_bounds(source: str, target: str) -> None:
    measured = translation_measure(LanguagePack.minimal("it"))([source, source], [target, source])
    (ratio, same_ratio), (share, _) = measured["length_ratio"], measured["copied_share"]
    assert ratio is None or ratio >= 0  # type: ignore[operator]
    assert same_ratio in (None, 1)
    assert share is None or 0 <= share <= 1  # type: ignore[operator]
    times, same_times = measured["repeated_ngrams"]
    assert times >= same_times == 1  # type: ignore[operator]
    for numbers, of_the_same in (measured["numbers_lost"], measured["numbers_invented"]):
        assert of_the_same == []
        assert all(number.isascii() and number.isdigit() for number in numbers)  # type: ignore[attr-defined]
        assert len(set(numbers)) == len(numbers)  # type: ignore[call-overload, arg-type]
