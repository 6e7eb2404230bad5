"""The Apertium engine, over the real programs and pairs where they are installed."""

import os
import re
import shutil
import subprocess

import pytest

from data_catalog.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engines.apertium import MAX_CHARACTERS, ApertiumTranslator, open_engine

real_apertium = pytest.mark.skipif(shutil.which("apertium") is None, reason="Apertium is not installed")

EN, CA, IT = (LanguagePack(code=code, iso639_3=long) for code, long in (("en", "eng"), ("ca", "cat"), ("it", "ita")))
ENGINES = {"eng-cat": (EN, CA), "cat-ita": (CA, IT)}
ENVIRONMENT = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
CONFIG = TranslateConfig(engine="apertium", inter_threads=2)

# The first and the third hold words with tags that the tagger was not trained on; the others come out otherwise once
# those have confused it.
CATALAN = [
    "Quatre xicots tres duent barrets un no està saltant dalt de tot d'una escala.",
    "Un noi corredís baix un portaobjectes a un grup amb tubs acolorits.",
    "Un nen en salts vermells en un objecte vermell mentre altres riuen.",
    "Una noia amb vermell tenyit-el cabell que duu la roba ratllada parlar en un telèfon mòbil.",
]
NASTY = [
    "",
    "   ",
    "a red house",
    "a red\nhouse\r\n and a dog",
    "a red house\0 and a dog",
    "a dog \uffff in a house",
    "[a red] {house} ^dog/*dog$ \\ @ <man> * # ~ / $1",
    "[0] [1] .[2] [[t:b:1]]house[[/]]",
    "a *starred* dog and a footnote*",
    "a xyzzyblorp in the house",
    "a dog 😀🐕 runs",
    "👩‍👩‍👧",
    "שלום the house مرحبا",
    "A DOG IN THE HOUSE",
    "the man looks at http://example.org/[a]?b=*c#d and at @someone",
    "A man. Two dogs! Is it a house? Mr. Smith.",
    "20,000 leagues: 3.5 % of $40 & 1/2",
    "soft\u00adhyphen zero\u200bwidth \u202eright-to-left\u202c",
    ". .",
    "a red house .[5]",
]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ApertiumTranslator]:
    return {
        name: open_engine(CONFIG, source, target, tmp_path_factory.mktemp("cache"))
        for name, (source, target) in ENGINES.items()
    }


def texts(engine: ApertiumTranslator, captions: list[str]) -> list[str]:
    return [translation.text for translation in engine.translate(captions)]


@real_apertium
def test_a_word_that_confuses_the_tagger_confuses_no_other_caption(engines: dict[str, ApertiumTranslator]) -> None:
    engine = engines["cat-ita"]
    alone = {caption: texts(engine, [caption])[0] for caption in CATALAN}
    assert texts(engine, CATALAN) == [alone[caption] for caption in CATALAN]


@real_apertium
def test_one_caption_is_translated_as_the_command_does(engines: dict[str, ApertiumTranslator]) -> None:
    caption = "Two men, sitting! A man is enjoying the day"
    command = subprocess.run(
        ["apertium", "-u", "eng-cat"], input=caption, env=ENVIRONMENT, capture_output=True, check=True, text=True
    )
    assert texts(engines["eng-cat"], [caption]) == [" ".join(command.stdout.split())]


@real_apertium
@pytest.mark.parametrize("name", ["eng-cat", pytest.param("cat-ita", marks=pytest.mark.slow)])
def test_nasty_captions_neither_get_lost_nor_shift_others(name: str, engines: dict[str, ApertiumTranslator]) -> None:
    found = texts(engines[name], NASTY)
    assert texts(engines[name], NASTY[::-1]) == found[::-1]
    for caption, text in zip(NASTY, found, strict=True):
        for kept in re.findall(r"[\[\]{}^$\\@<>*#~😀🐕]|שלום|مرحبا|xyzzyblorp|http\S+|@someone|\d+", caption):
            assert text.count(kept) == caption.count(kept), (caption, text)


@real_apertium
def test_what_comes_out(engines: dict[str, ApertiumTranslator]) -> None:
    captions = ["a red house", "", "A RED HOUSE", "a xyzzyblorp*", "the dog 😀", "a red\nhouse", "café and Zoë's house"]
    found = engines["eng-cat"].translate(captions)
    assert [translation.text for translation in found[:6]] == [
        "una casa vermella",
        "",
        "UNA CASA VERMELLA",
        "un xyzzyblorp*",
        "el gos 😀",
        "una casa vermella",
    ]
    assert "Zoë" in found[6].text
    assert {translation.score for translation in found} == {None}
    assert not any(translation.truncated or translation.repetitive for translation in found)


@real_apertium
def test_a_very_long_caption_is_cut_and_says_so(engines: dict[str, ApertiumTranslator]) -> None:
    long = "a red house and " * (2 * MAX_CHARACTERS // 16)
    cut, short = engines["eng-cat"].translate([long, "a dog"])
    assert (cut.truncated, short.truncated) == (True, False)
    assert MAX_CHARACTERS / 2 < len(cut.text) < len(long)
