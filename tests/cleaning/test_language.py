import numpy as np
import pytest

from cleaning.languages.identification import (
    ENGINES,
    LanguageVerdict,
    caption_language,
    detectable_languages,
    language_identifier,
    wrong_language,
)
from data_catalog.errors import SettingsError
from data_catalog.stages import Drop

ITALIAN = "un uomo in bicicletta attraversa la strada davanti al mercato"
GERMAN = "ein Mann fährt mit dem Fahrrad über die Straße vor dem Markt"
CONFUSIONS = ("es", "pt", "ca", "fr", "ro")


@pytest.mark.parametrize("engine", ["cascade", "langdetect"])
@pytest.mark.parametrize(
    ("expected", "caption", "other"),
    [
        ("it", ITALIAN, None),
        ("it", GERMAN, "de"),
        ("it", GERMAN.upper(), "de"),
        ("it", ITALIAN.upper(), None),
        ("de", ITALIAN, "it"),
        ("en", "une femme lit un livre assise sur un banc dans le parc", "fr"),
        ("it", "женщина читает книгу в городском парке", "ru"),
        ("it", "إمرأة تقرأ كتابا في الحديقة العامة", "ar"),
        ("it", "אישה קוראת ספר בגן הציבורי הגדול", "he"),
        ("it", "人々が東京の夜の街を歩いている", "ja"),
        ("it", "人们在东京的夜晚街道上行走，灯火辉煌", "zh"),
        ("zh", "人们在东京的夜晚街道上行走，灯火辉煌", None),
        ("zh-cn", "人们在东京的夜晚街道上行走，灯火辉煌", None),
        ("zh-tw", GERMAN, "de"),
        ("no", "en mann sykler over gaten foran torget", None),
        ("ja", "人々が東京の夜の街を歩いている", None),
        ("el", "Ένας άντρας με ποδήλατο περνάει τον δρόμο", None),
        ("el", "ΕΝΑΣ ΑΝΤΡΑΣ ΜΕ ΠΟΔΗΛΑΤΟ ΠΕΡΝΑΕΙ ΤΟΝ ΔΡΟΜΟ", None),
        ("el", "Ένας skateboarder κάνει άλμα με skateboard", None),
        ("el", "ένας γάτος", None),
        ("el", GERMAN, "de"),
        ("el", "женщина читает книгу в городском парке", "ru"),
        ("it", "Ένας άντρας με ποδήλατο περνάει τον δρόμο", "el"),
        ("it", "ein Hund", None),
        ("it", "123 456 789 — !!! 🙂", None),
        ("it", "🐕🐕🐕 🌊🌊🌊", None),
        ("it", "ᚠᚢᚦᚨᚱᚲ ᚠᚢᚦᚨᚱᚲ ᚠᚢᚦᚨᚱᚲ ᚠᚢᚦᚨᚱᚲ", None),
        ("it", "u\u0300n ca\u0300ne co\u0301rre su\u0300lla spia\u0300ggia", None),
        ("it", "\u0301", None),
        ("it", "\x00\n\t\u200b", None),
        ("it", "e", None),
        ("it", "", None),
        ("it", (ITALIAN + " ") * 160, None),
        ("it", (GERMAN + "\n") * 160, "de"),
    ],
)
def test_caption_language(expected: str, caption: str, other: str | None, engine: str) -> None:
    (verdict,) = caption_language(expected, engine=engine)([caption])
    if other is None:
        assert verdict is None
    else:
        assert verdict is not None
        assert (verdict.reason, (verdict.detail or "").split(" ")[0]) == ("wrong_language", other)


@pytest.mark.parametrize(
    "caption",
    [
        "Una torre rotonda con una bandiera rosa.",  # langdetect: Spanish, 0.99
        "Una rana.",
        "Un pavone bianco femmina.",
        "un cane nero corre",
        "Tux e ragno: due amici.",
    ],
)
def test_short_native_captions_are_told(caption: str) -> None:
    (verdict,) = language_identifier("it", candidates=CONFUSIONS)([caption])
    assert verdict.language == "it"
    assert verdict.margin is not None
    assert verdict.margin > 0


def test_a_language_that_nobody_expects_is_told_all_the_same() -> None:
    basque = "gizon bat bizikletan doa kaletik merkatu aurrean eta txakur beltz bat korrika dabil haren atzetik"
    (verdict,) = language_identifier("it", candidates=CONFUSIONS)([basque])
    assert verdict.language == "eu"
    georgian = "ბიჭი დარბის პარკში და ძაღლი მისდევს"
    assert caption_language("it")([georgian]) == [Drop("wrong_language", "ka 0.99")]


def test_languages_that_only_one_engine_knows() -> None:
    galician = "unha muller le un libro no xardín mentres os nenos xogan cunha pelota"
    (verdict,) = language_identifier("gl", candidates=["pt", "es"])([galician])  # lingua has it not
    assert verdict.language == "gl"
    (verdict,) = language_identifier("st", candidates=["en"])(["monna o kgannela baesekele seterateng"])  # lingua alone
    assert verdict.language is not None


def test_ten_thousand_letters_of_no_language() -> None:
    assert caption_language("it")(["a" * 10_000]) == [None]


def test_where_nothing_is_found() -> None:
    nothing = LanguageVerdict(None, None, None)
    texts = ["", "12:30", "— !!! 🙂", "\u0301", ITALIAN]
    for engine in ENGINES:
        verdicts = language_identifier("it", engine=engine)(texts)
        assert verdicts[:4] == [nothing] * 4
        assert verdicts[4].language == "it"
    assert wrong_language([nothing], ["12:30"]) == [None]
    assert language_identifier("it", engine="lingua")(["ბიჭი დარბის პარკში"]) == [nothing]


@pytest.mark.parametrize("engine", ENGINES)
def test_probability_and_margin_are_of_the_same_distribution(engine: str) -> None:
    texts = [ITALIAN, GERMAN, "un perro", "a dog", "piccola barca a molo", "東京の夜景"]
    verdicts = language_identifier("it", candidates=CONFUSIONS, engine=engine)(texts)
    assert [verdicts[at].language for at in (0, 1, 5)] == ["it", "de", "ja"] or engine == "langdetect"
    for verdict in verdicts:
        assert verdict.probability is not None
        assert verdict.margin is not None
        assert 0 < verdict.probability <= 1
        if verdict.language == "it":
            assert 0 <= verdict.margin <= verdict.probability
        else:
            assert -verdict.probability <= verdict.margin <= 0


# Of the verdicts: other language, its probability, that of the expected one.
@pytest.mark.parametrize(
    ("other", "probability", "expected_probability", "letters", "dropped"),
    [
        ("de", 0.9, 0.09, 15, True),
        ("de", 0.5, 0.09, 15, True),
        ("de", 0.49, 0.09, 15, False),
        ("de", 0.9, 0.1, 15, False),
        ("de", 0.9, 0.09, 14, False),
        ("es", 0.9, 0.09, 18, False),
        ("es", 0.9, 0.09, 19, True),
        ("no", 0.9, 0.09, 18, False),  # the confusion is named "nb"
    ],
)
def test_what_it_takes_to_be_dropped(
    other: str, probability: float, expected_probability: float, letters: int, dropped: bool
) -> None:
    verdict = LanguageVerdict(other, probability, round(expected_probability - probability, 4))
    (drop,) = wrong_language([verdict], ["x" * letters + " 12"], confusions=["es", "nb"])
    assert drop == (Drop("wrong_language", f"{other} {probability:.2f}") if dropped else None)


@pytest.mark.parametrize("probability", [0.9, 0.57, 0.29])
def test_a_verdict_that_comes_out_of_a_column_says_the_same(probability: float) -> None:
    stored = LanguageVerdict("de", float(np.float32(probability)), float(np.float32(-probability)))
    fresh = LanguageVerdict("de", probability, -probability)
    for verdict in (stored, fresh):
        drops = wrong_language([verdict], [GERMAN], min_other_probability=probability)
        assert drops == [Drop("wrong_language", f"de {probability:.2f}")]


def test_the_expected_language_is_never_dropped_and_certainty_is_not_claimed() -> None:
    assert wrong_language([LanguageVerdict("it", 1.0, 1.0)], [ITALIAN], min_probability=1) == [None]
    assert wrong_language([LanguageVerdict("de", 1.0, -1.0)], [GERMAN]) == [Drop("wrong_language", "de 0.99")]
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        wrong_language([LanguageVerdict("de", 1.0, -1.0)], [])


def test_likely_confusions_need_more_letters() -> None:
    caption = "los niños jugando"
    assert caption_language("it")([caption])[0] is not None
    assert caption_language("it", confusions=["es"])([caption]) == [None]


def test_unknown_names_are_refused() -> None:
    assert {"it", "en", "de", "zh", "zh-cn", "no", "nb", "eu", "gl"} <= set(detectable_languages())
    assert "gl" not in detectable_languages("lingua")
    assert {"zh-cn", "zh-tw"} <= set(detectable_languages("langdetect"))
    with pytest.raises(SettingsError, match=r"no engine 'cld3' .* cascade, fast, lingua, langdetect"):
        language_identifier("it", engine="cld3")
    with pytest.raises(SettingsError, match=r"'lingua' does not know the language 'gl': use cascade or fast"):
        language_identifier("gl", engine="lingua")
    with pytest.raises(SettingsError, match=r"does not know the language 'xx': no engine does"):
        caption_language("xx")
    with pytest.raises(SettingsError, match=r"no engine knows the language 'xx': known are .*it"):
        language_identifier("it", candidates=["xx"])
