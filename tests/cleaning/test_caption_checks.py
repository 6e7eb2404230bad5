"""Checks of captions in any script and of translations against their sources, and the sections that they stand in."""

import logging
import unicodedata
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cleaning.checks import CheckConfig, CleanConfig, translation_measure
from cleaning.checks.captions import (
    CopiedThrough,
    CopiedWords,
    Length,
    LengthRatio,
    NumbersInvented,
    NumbersLost,
    OnlyEmoji,
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
)
from cleaning.text.scripts import count_letters, count_words, exact_key, split_tokens
from data_catalog.base.errors import SettingsError
from data_catalog.base.language_pack import LanguagePack
from data_catalog.base.settings import json_values
from data_catalog.rows.caption_keys import fold_case
from data_catalog.rows.schema import CAPTIONS
from data_catalog.rows.stages import Drop
from flows.recipe.language_packs import load_language_pack
from flows.recipe.settings import read

TEXT = st.text(max_size=60)
CAPTIONS_OF_A_LANGUAGE = Captions(pack=LanguagePack(code="it", shared_words=("hotel",)))


def verdict_of(check: CaptionCheck, **cells: Any) -> Drop | None:
    rule = check.rule(CAPTIONS_OF_A_LANGUAGE)
    assert rule is not None
    assert rule.translations_only == (rule.columns != ("caption",)), "what reads captions alone judges native ones, too"
    table = pa.table({name: pa.array([cells[name]], CAPTIONS.field(name).type) for name in rule.columns})
    (verdict,) = rule.check(table)
    return verdict


def test_what_is_copied_whole_is_dropped_but_for_short_names_and_lengths_count_letters_of_all_scripts() -> None:
    copied = verdict_of(CopiedThrough(), clean_caption="a dog on the grass", caption="A dog on the grass.")
    assert copied == Drop("copied_through")
    assert verdict_of(CopiedThrough(), clean_caption="hot dog", caption="hot dog") is None
    assert length_ratio("a small brown dog", "一只棕色的小狗") == pytest.approx(21 / 14)
    assert length_ratio("a small brown dog", "작은 갈색 개") == pytest.approx(10 / 14)


def test_thresholds_are_inclusive_and_what_is_not_known_is_held_against_nobody() -> None:
    for check, column, value, verdict in (
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
    ):
        assert verdict_of(check, **{column: value}) == verdict
        assert verdict_of(check, **{column: None}) is None


def test_length_ratio_with_slacks() -> None:
    for source, ratio, detail in (
        ("a" * 100, 0.21, "ratio 0.21"),
        ("a" * 100, 0.5, None),
        ("a" * 100, 2.51, "ratio 2.51"),
        ("a" * 100, 2.5, None),
        ("a" * 10, 4.0, None),
        ("a" * 10, 4.1, "ratio 4.10"),
        ("狗" * 6, 0.0, None),
        ("狗" * 7, 0.0, "ratio 0.00"),
        ("", None, None),
    ):
        verdict = verdict_of(LengthRatio(), clean_caption=source, length_ratio=ratio)
        assert verdict == (Drop("length_ratio", detail) if detail else None)


def test_copied_share() -> None:
    for source, target, share in (
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
    ):
        assert copied_share(source, target) == (share if share is None else pytest.approx(share))
        # Shared words are no copies.
        assert copied_share("a hotel with a jacuzzi", "un hotel con jacuzzi", {"hotel"}) == 0.5


def test_repeated_ngrams_are_counted_up_to_phrases_of_several_words() -> None:
    assert repeated_ngrams("a dog", "un cane cane cane cane") == 4
    assert repeated_ngrams("a dog", "un cane di un cane di un cane di") == 3
    assert repeated_ngrams("uncle and aunt", "चाचा चाची") == repeated_ngrams("a dog", "a" * 10_000) == 1
    for billion in ("1.000.000.000", "1 000 000 000", "1,00,00,00,000", "١٬٠٠٠٬٠٠٠٬٠٠٠"):
        assert repeated_ngrams("a billion stars", f"{billion} di stelle") == 1
    assert repeated_ngrams("a bus", "autobus 200 200 200 0,0,0,0") == 4


def test_numbers_lost() -> None:
    for source, target, lost in (
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
        *(("30,000 fans", target, []) for target in ("30mila tifosi", "30tys. kibiców", "30тыс. фанатов", "30 हजार")),
        *(("30,000 fans", target, []) for target in ("3万人", "3만 명", "3 หมื่นคน", "٣٠٬٠٠٠ مشجع", "٣٠٫٠٠٠ مشجع")),
        ("10,000 fans", "一萬人", []),
        ("30,000 fans", "13万人", ["30000"]),
        ("100,000 fans", "1,00,000 प्रशंसक", []),
        ("1,000 people", "tausend Leute", []),
        ("a plane to 1,000 places in Milan", "un aereo a Milano", ["1000"]),
    ):
        assert numbers_lost(source, target) == lost


def test_numbers_that_the_target_spells_out_are_not_lost() -> None:
    for language, source, target, lost in (
        ("de", "35 people wait", "Fünfunddreissig Leute (Schweiz)", []),
        ("el", "35 people wait", "ΤΡΙΑΝΤΑ ΠΕΝΤΕ ΑΝΘΡΩΠΟΙ", []),
        ("it", "A flock of 60 geese", "Uno stormo di sessanta oche", []),
        ("it", "A flock of 640 geese", "Uno stormo di sessanta oche", ["640"]),
    ):
        assert numbers_lost(source, target, load_language_pack(language).tens) == lost


def test_numbers_invented() -> None:
    for source, target, invented in (
        ("bus number 28", "autobus numero 82, 82", ["82"]),
        ("100 euros", "1.000 euro", ["1000"]),
        ("a car of the 1970s", "un'auto degli anni '50", ["50"]),
        # Small numbers may be words of the source, unless one that it writes in digits was replaced.
        ("two dogs", "2 cani", []),
        ("4 cups and 4 plates", "4 tazze e 8 piatti", ["8"]),
        ("Ten thousand people", "10.000 persone", []),
        ("two dozen eggs", "24 uova", []),
        ("a train at 11:45 p.m.", "un treno alle 23:45", []),
    ):
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


def test_caption_length() -> None:
    for caption, verdict in (
        ("un gatto nero", None),
        ("", Drop("caption_empty")),
        ("a", Drop("caption_too_short", "1 character")),
        ("gatto", Drop("caption_too_short", "1 word")),
        ("小貓", Drop("caption_too_short", "2 characters")),
        ("🙂🙂🙂 🙂", Drop("caption_too_short", "0 words")),
        ("uno due tre quattro cinque sei sette otto nove", Drop("caption_too_long", "9 words")),
        ("很" * 17, Drop("caption_too_long", "9 words")),
        ("x" * 10_000, Drop("caption_too_long", "10000 characters")),
    ):
        assert verdict_of(Length(max_words=8, max_chars=60), caption=caption) == verdict


def test_letters_and_words_of_all_scripts_are_counted_and_elided_words_are_words() -> None:
    texts = ("un gatto, nero!", "l'albero", "猫", "東京タワー Tokyo Tower", "แมว", "ཁྱི་ནག་པོ་ཞིག་རྒྱུག་བཞིན་འདུག།")
    assert list(map(count_words, texts)) == [3, 2, 1, 5, 1, 7]
    assert [count_words(text) for text in ("Un'orca.", "l’eau", "Jusqu'à l'hôtel", "🙂l'🙂 שלום'א")] == [2, 2, 4, 2]
    assert [count_letters(text) for text in ("abc 12", "猫a", "")] == [3, 4, 0]
    assert split_tokens("Un gatto, 2猫座!") == ["Un", "gatto", "2", "猫", "座"]
    assert split_tokens("चाचा चाची, cafe\u0301s יֶלֶד") == ["चाचा", "चाची", "cafe\u0301s", "יֶלֶד"]


def test_exact_keys_see_through_case_and_keep_others_apart() -> None:
    same = [("A Dog.", "a  dog"), ("Ένας δρόμος", "ΕΝΑΣ ΔΡΟΜΟΣ"), ("ρολόι σε προϊόν, ᾠδή", "ΡΟΛΟΪ ΣΕ ΠΡΟΪΟΝ, ΩΙΔΗ")]
    assert [exact_key(one) for one, _ in same] == [exact_key(other) for _, other in same]
    texts = ("a dog", "a dog!?s", "", "!", "?", "perché", "perche", "βιβλίο", "βιβλία")
    assert len(set(map(exact_key, texts))) == len(texts)


@given(st.text() | st.text(alphabet="αάΑΆςσΣΐϊΪήΉᾳᾠ\u0301\u0308 ßé"))
def test_folded_case_is_folded(text: str) -> None:
    folded = fold_case(text)
    assert fold_case(folded) == folded
    assert fold_case(unicodedata.normalize("NFD", text)) == fold_case(unicodedata.normalize("NFC", text))


def test_emoji_and_punctuation_are_no_caption_and_a_letter_a_digit_or_no_emoji_is_one() -> None:
    for text in ("🐶🐶 !!", "👩🏽‍🚀", "🇮🇹", "❤️", "1️⃣2️⃣", "#️⃣", "(🙂)", "🙂" * 10_000, "🏴\U000e0067\U000e007f"):
        assert verdict_of(OnlyEmoji(), caption=text) == Drop("caption_only_emoji")
    for text in ("", "?!", "—…", "猫🐱", "🐶 ٣", "كلب🙂", "e\u0301🙂", "2 🐶", "x" * 10_000, "© 2010 🙂"):
        assert verdict_of(OnlyEmoji(), caption=text) is None


ITALIAN = load_language_pack("it")
GERMAN_CAPTION = "eine schwarze Katze schläft auf dem Sofa"

Reasons = Callable[..., list[str | None]]


def test_checks_can_be_switched_off_and_reasons_know_the_settings_that_decide_them() -> None:
    for section in (CleanConfig, CheckConfig):
        checks = section.check_types()
        assert section(**dict.fromkeys((check.switch() for check in checks), False)).rules(ITALIAN) == []
        assert [rule.name for rule in section().rules(ITALIAN)] == [check.name for check in checks]
        assert read(section, json_values(section(order=("length",))), section.section).order == ("length",)
    reasons = CleanConfig.all_reasons()
    assert reasons["caption_too_short"].settings == ("clean.min_words", "clean.min_chars")
    assert reasons["caption_empty"].settings == ("clean.length_check",), "nothing else can be set"


def test_rules_of_both_sections_and_their_order_and_choice(reasons: Reasons) -> None:
    captions = ["un gatto nero dorme sul divano rosso", "DSC_0001.JPG", GERMAN_CAPTION]
    assert reasons(CleanConfig().rules(ITALIAN), captions) == [None, "caption_boilerplate", "wrong_language"]
    of_check = ["Anna Maria Mozzoni", GERMAN_CAPTION, "ok"]
    expected = ["mostly_proper_nouns", "wrong_language", "caption_too_short"]
    assert reasons(CheckConfig().rules(ITALIAN), of_check) == expected
    length_first = CleanConfig(order=("length",)).rules(ITALIAN)
    usual = [check.name for check in CleanConfig.check_types()]
    assert [rule.name for rule in length_first] == ["length", *(name for name in usual if name != "length")]
    assert reasons(length_first, ["DSC_0001.JPG"]) == ["caption_too_short"]
    only_urls = CleanConfig(boilerplate_rules=("url",), min_words=1).rules(ITALIAN)
    assert reasons(only_urls, ["www.example.org", "DSC_0001.JPG"]) == ["caption_boilerplate", None]


def test_translations_are_judged_beside_their_sources_and_native_captions_are_not(reasons: Reasons) -> None:
    rules = CheckConfig(language_check=False).rules(ITALIAN)
    assert reasons(rules, ["A dog on the grass"], sources=["a dog on the grass"]) == ["copied_through"]
    assert reasons(rules, ["A dog on the grass"]) == [None]


@pytest.mark.parametrize(
    ("source", "target", "with_list", "without"),
    [
        ("the hotel bartender pours coffee slowly", "il bartender hotel versa lentamente caffè", "copied_words", None),
        ("the hotel has a piano", "il hotel ha un piano", None, "copied_words"),
    ],
)
def test_a_pack_that_lists_shared_words_allows_fewer_others(
    reasons: Reasons, source: str, target: str, with_list: str | None, without: str | None
) -> None:
    for pack, reason in ((ITALIAN, with_list), (LanguagePack.minimal("it"), without)):
        rules = CheckConfig(language_check=False).rules(pack)
        measured = translation_measure(pack)([source], [target])
        assert reasons(rules, [target], sources=[source], **measured) == [reason]


def test_checks_that_a_language_cannot_have_are_left_out_and_said_once(
    reasons: Reasons, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = LanguagePack.minimal("qqq")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            names = [rule.name for rule in CheckConfig().rules(unknown)]
            assert {"proper_nouns", "language"}.isdisjoint(names)
    assert len(caplog.records) == 2
    assert all("'qqq'" in record.message for record in caplog.records)
    assert reasons(CleanConfig().rules(LanguagePack.minimal("es")), [GERMAN_CAPTION]) == ["wrong_language"]


def test_settings_of_checks_that_do_not_fit_are_named() -> None:
    with pytest.raises(SettingsError, match=r"^clean\.max_chars 4 is below clean\.min_chars 5: change one of them$"):
        CleanConfig(min_chars=5, max_chars=4)
    with pytest.raises(SettingsError, match=r"^clean\.order must name some of only_emoji, .*, got 'score'$"):
        CleanConfig(order=("score",))
