"""The Apertium engine, over the real programs and pairs where they are installed."""

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_catalog.errors import InputError
from data_catalog.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engines.apertium import (
    MAX_CHARACTERS,
    ApertiumTranslator,
    open_engine,
)

real_apertium = pytest.mark.skipif(shutil.which("apertium") is None, reason="Apertium is not installed")

EN, CA, IT = (LanguagePack(code=code, iso639_3=long) for code, long in (("en", "eng"), ("ca", "cat"), ("it", "ita")))
ENGINES = {"eng-cat": (EN, CA), "cat-ita": (CA, IT)}
ENVIRONMENT = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
CONFIG = TranslateConfig(engine="apertium", inter_threads=2)

# Words of several kinds: known, ambiguous, unknown, inflected, marks.
WORDS = {
    "eng-cat": "a|the man|dog|two|red house|is running|down|with|xyzzy|.|,|U.S.|No|3|and|his|sitting|waves",
    "cat-ita": "un no està|el gos|casa vermella|altres riuen|corredís baix|parlar|un fust|.|,|U.S.|i|seu|3",
}
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
@pytest.mark.parametrize("name", ENGINES)
def test_captions_together_are_translated_as_one_by_one(name: str, engines: dict[str, ApertiumTranslator]) -> None:
    caption = st.lists(st.sampled_from(WORDS[name].split("|")), min_size=2, max_size=9).map(" ".join)

    @settings(max_examples=2, deadline=None, database=None)
    @given(st.lists(caption, min_size=3, max_size=3, unique=True))
    def check(captions: list[str]) -> None:
        alone = [texts(engines[name], [caption])[0] for caption in captions]
        assert texts(engines[name], captions) == alone

    check()


@real_apertium
def test_a_word_that_confuses_the_tagger_confuses_no_other_caption(engines: dict[str, ApertiumTranslator]) -> None:
    engine = engines["cat-ita"]
    alone = {caption: texts(engine, [caption])[0] for caption in CATALAN}
    for captions in (CATALAN, CATALAN[::-1]):
        assert texts(engine, captions) == [alone[caption] for caption in captions]


@real_apertium
@pytest.mark.parametrize("caption", ["A dog runs", "The red house.", "A man is enjoying the day", "Two men, sitting!"])
def test_one_caption_is_translated_as_the_command_does(caption: str, engines: dict[str, ApertiumTranslator]) -> None:
    command = subprocess.run(
        ["apertium", "-u", "eng-cat"], input=caption, env=ENVIRONMENT, capture_output=True, check=True, text=True
    )
    assert texts(engines["eng-cat"], [caption]) == [" ".join(command.stdout.split())]


@real_apertium
@pytest.mark.parametrize("name", ENGINES)
def test_nasty_captions_neither_get_lost_nor_shift_others(name: str, engines: dict[str, ApertiumTranslator]) -> None:
    order = list(range(len(NASTY)))
    random.Random(3).shuffle(order)
    found = texts(engines[name], NASTY)
    assert len(found) == len(NASTY)
    assert texts(engines[name], [NASTY[index] for index in order]) == [found[index] for index in order]
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
    for engine in engines.values():
        cut, short = engine.translate([long, "un gos"])
        assert cut.truncated
        assert not short.truncated
        assert MAX_CHARACTERS / 2 < len(cut.text) < len(long)


@real_apertium
def test_another_locale_changes_nothing(
    engines: dict[str, ApertiumTranslator], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (("LC_ALL", "C"), ("LANG", "C"), ("LC_CTYPE", "POSIX"), ("AP_SETVAR", "x=y")):
        monkeypatch.setenv(name, value)
    engine = open_engine(CONFIG, CA, IT, tmp_path)
    assert engine.fingerprint == engines["cat-ita"].fingerprint
    assert texts(engine, ["està més a prop"]) == texts(engines["cat-ita"], ["està més a prop"])


@real_apertium
def test_fingerprints_are_stable_and_readable(engines: dict[str, ApertiumTranslator], tmp_path: Path) -> None:
    for name, (source, target) in ENGINES.items():
        assert re.fullmatch(rf"apertium:{source.code}-{target.code}:[0-9a-f]{{12}}", engines[name].fingerprint)
        assert open_engine(CONFIG, source, target, tmp_path).fingerprint == engines[name].fingerprint
    assert (engines["eng-cat"].from_code, engines["eng-cat"].to_code) == ("en", "ca")


@real_apertium
def test_another_program_is_another_engine(
    engines: dict[str, ApertiumTranslator], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "apertium").symlink_to(str(shutil.which("apertium")))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    assert open_engine(CONFIG, EN, CA, tmp_path).fingerprint == engines["eng-cat"].fingerprint
    wrapper = folder / "lt-proc"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("lt-proc")} "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    engine = open_engine(CONFIG, EN, CA, tmp_path)
    assert engine.fingerprint != engines["eng-cat"].fingerprint
    assert texts(engine, ["a red house"]) == ["una casa vermella"]


@real_apertium
def test_a_mode_that_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no mode eng-ita; from en there are eng-cat.*translate\.pivot"):
        open_engine(CONFIG, EN, IT, tmp_path)


@real_apertium
@pytest.mark.slow
@pytest.mark.real_data
def test_real_captions_in_any_order(shared_data: Path, engines: dict[str, ApertiumTranslator]) -> None:
    unzipped = subprocess.run(
        ["gzip", "-dc", shared_data / "multi30k" / "val.en.gz"], capture_output=True, check=True, text=True
    )
    captions = unzipped.stdout.splitlines()
    for engine in engines.values():
        found = dict(zip(captions, texts(engine, captions), strict=True))
        mixed = random.Random(5).sample(captions, len(captions))
        assert texts(engine, mixed) == [found[caption] for caption in mixed]
        captions = list(found.values())
