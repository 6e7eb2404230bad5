import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from cleaning.language import caption_language, detectable_languages, language_probabilities
from data_catalog.errors import ConfigError

ITALIAN = "un uomo in bicicletta attraversa la strada davanti al mercato"
GERMAN = "ein Mann fährt mit dem Fahrrad über die Straße vor dem Markt"

SAMPLES = [
    ITALIAN,
    GERMAN,
    "un perro corre por la playa con una pelota",
    "une femme lit un livre dans le parc",
    "a dog",
    "piccola barca a molo",
    "TRENO VECCHIO E ARRUGGINITO NELLA STAZIONE",
    "東京の夜景と人々が歩いている",
    "мужчина едет на велосипеде",
]


@pytest.mark.parametrize(
    ("expected", "caption", "other"),
    [
        ("it", ITALIAN, None),
        ("it", GERMAN, "de"),
        ("it", GERMAN.upper(), "de"),
        ("de", ITALIAN, "it"),
        ("en", "une femme lit un livre assise sur un banc dans le parc", "fr"),
        ("it", "женщина читает книгу в городском парке", "ru"),
        ("it", "إمرأة تقرأ كتابا في الحديقة العامة", "ar"),
        ("it", "אישה קוראת ספר בגן הציבורי הגדול", "he"),
        ("it", "人々が東京の夜の街を歩いている", "ja"),
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
        ("it", "ᚠᚢᚦᚨᚱᚲ ᚠᚢᚦᚨᚱᚲ ᚠᚢᚦᚨᚱᚲ ᚠᚢᚦᚨᚱᚲ", None),
        ("it", "\u0301", None),
        ("it", "e", None),
        ("it", "", None),
        ("it", (ITALIAN + " ") * 160, None),
    ],
)
def test_caption_language(expected: str, caption: str, other: str | None) -> None:
    (verdict,) = caption_language(expected)([caption])
    if other is None:
        assert verdict is None
    else:
        assert verdict is not None
        assert (verdict.reason, (verdict.detail or "").split(" ")[0]) == ("wrong_language", other)


def test_likely_confusions_need_more_letters() -> None:
    caption = "un hombre y un perro negro"
    assert caption_language("it")([caption])[0] is not None
    assert caption_language("it", confusions=["es"])([caption]) == [None]


def test_the_verdict_depends_on_nothing_but_the_text() -> None:
    alone = {text: dict(language_probabilities(text)) for text in SAMPLES}
    shuffled = SAMPLES * 3
    random.Random(1).shuffle(shuffled)
    language_probabilities.cache_clear()
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda text: (text, dict(language_probabilities(text))), shuffled))
    assert all(alone[text] == probabilities for text, probabilities in together)


def test_another_process_gives_the_same_digits() -> None:
    program = (
        "import json, sys; from cleaning.language import language_probabilities as of; import langdetect; "
        "langdetect.DetectorFactory.seed = 7; langdetect.detect('seven'); "
        "print(json.dumps([dict(of(text)) for text in json.load(sys.stdin)]))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(SAMPLES), capture_output=True, text=True, check=True
    )
    assert json.loads(answer.stdout) == [dict(language_probabilities(text)) for text in SAMPLES]


def test_an_unknown_language_is_refused() -> None:
    assert {"it", "en", "de", "zh-cn"} <= set(detectable_languages())
    with pytest.raises(ConfigError, match=r"langdetect does not know .*'eu'"):
        caption_language("eu")
