"""The Apertium engine: the real programs and pairs where they are installed, and programs that misbehave."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.base.errors import InputError
from data_catalog.base.language_pack import LanguagePack
from translation.config import TranslateConfig
from translation.engine import Translator
from translation.engines.answers import CheckedTranslator
from translation.engines.apertium import MAX_CHARACTERS, ApertiumEngine, from_stream, open_engine, to_stream

real_apertium = pytest.mark.skipif(shutil.which("apertium") is None, reason="Apertium is not installed")

EN, CA, IT = (LanguagePack(code=code, iso639_3=long) for code, long in (("en", "eng"), ("ca", "cat"), ("it", "ita")))
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
    "a red\nhouse\r\n and a dog",
    "a red house\0 and a dog",
    "a dog \uffff in a house",
    "[a red] {house} ^dog/*dog$ \\ @ <man> * # ~ / $1",
    "[0] [1] .[2] [[t:b:1]]house[[/]]",
    "a xyzzyblorp in the house",
    "a dog 😀🐕 runs",
    "שלום the house مرحبا",
    "the man looks at http://example.org/[a]?b=*c#d and at @someone",
    "A man. Two dogs! 20,000 leagues: 3.5 % of $40 & 1/2",
    "soft\u00adhyphen zero\u200bwidth \u202eright-to-left\u202c",
    ". .",
]


def real(name: str) -> Translator:
    source, target = {"eng-cat": (EN, CA), "cat-ita": (CA, IT)}[name]
    return open_engine(CONFIG, source, target, Path("unused"))


def texts(engine: Translator, captions: list[str]) -> list[str]:
    return [translation.text for translation in engine.translate(captions)]


@real_apertium
def test_a_word_that_confuses_the_tagger_confuses_no_other_caption() -> None:
    engine = real("cat-ita")
    assert texts(engine, CATALAN) == [texts(engine, [caption])[0] for caption in CATALAN]


@real_apertium
@pytest.mark.parametrize("name", ["eng-cat", pytest.param("cat-ita", marks=pytest.mark.slow)])
def test_nasty_captions_neither_get_lost_nor_shift_others(name: str) -> None:
    engine = real(name)
    found = texts(engine, NASTY)
    assert texts(engine, NASTY[::-1]) == found[::-1]
    for caption, text in zip(NASTY, found, strict=True):
        for kept in re.findall(r"[\[\]{}^$\\@<>*#~😀🐕]|שלום|مرحبا|xyzzyblorp|http\S+|@someone|\d+", caption):
            assert text.count(kept) == caption.count(kept), (caption, text)


@real_apertium
def test_captions_are_translated_as_the_command_does_and_a_very_long_one_is_cut() -> None:
    caption, long = "Two men, sitting! A man is enjoying the day", "a red house and " * (2 * MAX_CHARACTERS // 16)
    command = ["apertium", "-u", "eng-cat"]
    told = subprocess.run(command, input=caption, env=ENVIRONMENT, capture_output=True, check=True, text=True)
    captions = ["a red house", "", "A RED HOUSE", "a xyzzyblorp*", "the dog 😀", "a red\nhouse", caption, long]
    *found, cut = real("eng-cat").translate(captions)
    assert [translation.text for translation in found] == [
        *("una casa vermella", "", "UNA CASA VERMELLA", "un xyzzyblorp*", "el gos 😀", "una casa vermella"),
        " ".join(told.stdout.split()),
    ]
    assert {(each.score, each.truncated, each.repetitive) for each in found} == {(None, False, False)}
    assert cut.truncated
    assert MAX_CHARACTERS / 2 < len(cut.text) < len(long)


def program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{script}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, **modes: str) -> None:
    """Put an installation that has these modes on the path; the name of a mode has "_" for "-"."""
    program(folder / "bin" / "apertium", "echo Apertium 1.0")
    program(folder / "bin" / "apertium-wblank-mode", 'cat "$2"')
    (folder / "share" / "apertium" / "modes").mkdir(parents=True)
    for name, script in modes.items():
        path = folder / "share" / "apertium" / "modes" / f"{name.replace('_', '-')}.mode"
        path.write_text(script, encoding="utf-8")
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{ENVIRONMENT['PATH']}")


def engine_of(script: str, folder: Path, tagger: str = "", timeout_s: float = 60.0) -> Translator:
    """An engine over this pipeline, in which apertium-tagger is this script."""
    program(folder / "apertium-tagger", tagger)
    environment = ENVIRONMENT | {"PATH": f"{folder}{os.pathsep}{ENVIRONMENT['PATH']}"}
    options: dict[str, Any] = {"from_code": "en", "to_code": "ca", "num_workers": 2, "timeout_s": timeout_s}
    return CheckedTranslator(ApertiumEngine(script, environment, "1", **options), "en", "ca", name="Apertium")


@given(st.text(), st.integers(min_value=0, max_value=10_000))
def test_any_text_survives_the_stream_format(text: str, number: int) -> None:
    record = to_stream(text, number)
    assert from_stream(record, number) == text
    assert not re.search(r"(?<!\\)[\^$/@<>{}]", record.replace("\\\\", ""))
    with pytest.raises(InputError, match="mixed up"):
        from_stream(record, number + 1)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("cat | bash -c 'cat >/dev/null; echo first >&2; echo the last >&2; exit 3' | cat", "code 3 .*the last$"),
        (r"sed 's/\x00/\x00\x00/g'", "wrote more answers"),
        (r"sed -z 's/\[1\]/[2]/'", "mixed up its texts: text 2"),
        ("cat | apertium-tagger -g $2 x.prob | cat", "code 4 .*: broken model$"),
        ("cat | bash -c 'kill -KILL $BASHPID' | cat", "code 137"),  # by a system without memory: no fault of a caption
        ("sleep 1000 | cat", "within 1 s"),
    ],
)
def test_programs_that_fail(script: str, message: str, tmp_path: Path) -> None:
    tagger = "read -r -d '' text; echo broken model >&2; exit 4"
    engine = engine_of(script, tmp_path, tagger, timeout_s=1.0 if "sleep" in script else 60.0)
    with pytest.raises(InputError, match=message):
        engine.translate(["a", "b", "c"])


@pytest.mark.parametrize("stage", ["bash -c '{crash}'", "apertium-tagger -g $2 x.prob"])
def test_a_caption_that_crashes_a_program_has_no_translation_and_stops_no_other(stage: str, tmp_path: Path) -> None:
    """Debian's eng-cat ends with a segmentation fault at "A white blond a dock in an orange"."""
    answer = 'case $text in *dock*) kill -SEGV $BASHPID;; esac; printf "%s\\0" "$text"'
    crash = f'while IFS= read -r -d "" text; do {answer}; done'
    engine = engine_of(f"cat | {stage.format(crash=crash)} | cat", tmp_path, crash)
    captions = ["a dog", "A dock. A red house.", "a cat", "A man", "in a dock"]
    assert texts(engine, captions) == ["a dog", "", "a cat", "A man", ""]


TAGGER = """
state=clean
while IFS= read -r -d '' text; do
  case $text in *new*) echo 'A new ambiguity class was found' >&2; state=spoilt;; esac
  printf '%s %s\\0' "$state" "$text"
done
"""


@pytest.mark.parametrize("options", ["-z -g $2", "--tagger"])
def test_a_tagger_is_replaced_once_it_has_complained(options: str, tmp_path: Path) -> None:
    engine = engine_of(f"cat | apertium-tagger {options} 'x y.prob' | cat", tmp_path, TAGGER)
    captions = ["old", "new", "older", "newer", "newest", "oldest"]
    assert texts(engine, captions) == [f"{'spoilt' if 'new' in caption else 'clean'} {caption}" for caption in captions]


def test_which_mode_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    modes = ("eng_cat", "en_ca", "es_ca", "oc_ca")
    installed(tmp_path, monkeypatch, **{name: f"sed -z s/^/{name}=/" for name in modes})
    spanish, short = LanguagePack(code="es", iso639_3="spa"), [LanguagePack(code=code) for code in ("oc", "ca")]
    # Where both are there, the long codes win.
    for source, target, mode in ((EN, CA, "eng_cat"), (spanish, CA, "es_ca"), (*short, "oc_ca")):
        assert texts(open_engine(CONFIG, source, target, tmp_path), ["x"]) == [f"{mode}=x"]
    with pytest.raises(InputError, match=r"set iso639_3.* --language-pack de\.toml"):
        open_engine(CONFIG, LanguagePack(code="de"), CA, tmp_path)


def test_fingerprint_follows_data_options_and_programs_not_the_place(monkeypatch: Any, tmp_path: Path) -> None:
    found, others = [], [("2", "", "cat"), ("1", "-x", "cat"), ("1", "", "tr")]
    for data, options, script in [("1", "", "cat"), ("1", "", "cat"), *others]:
        folder = tmp_path / str(len(found))
        program(folder / "bin" / "lt-proc", script)
        (folder / "x.bin").write_text(data, encoding="utf-8")
        installed(folder, monkeypatch, eng_cat=f"lt-proc {options} '{folder}/x.bin' | cat")
        found.append(open_engine(CONFIG, EN, CA, tmp_path).fingerprint)
    assert found[0] == found[1]
    assert len(set(found)) == 4


def test_a_damaged_installation_and_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(message: str) -> None:
        with pytest.raises(InputError, match=message):
            open_engine(CONFIG, EN, CA, tmp_path)

    installed(tmp_path, monkeypatch, eng_cat="cat '/no/such.bin'")
    refuse(r"such\.bin")
    program(tmp_path / "bin" / "apertium-wblank-mode", "echo \"cat | cg-none 'x' | lrx-none | cat\"")
    refuse("cg-none, lrx-none")
    monkeypatch.setenv("PATH", str(tmp_path))
    refuse("apertium-eng-cat")
