"""Which language a scored set's texts are in: other languages, short texts, mixed sets, none that is known."""

import json
import logging
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from data_catalog.errors import SettingsError
from data_catalog.language_pack import LanguagePack
from flows.cli import main
from flows.recipe.language_packs import language_pack
from flows.recipe.recipe import load_recipe
from flows.scoreboard import with_language
from training.scores.galleries import Gallery, LabelledImages, TextLanguage

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ITALIAN = [
    "Un cane corre sulla spiaggia con un bastone in bocca",
    "Due gatti neri dormono sul divano della cucina",
    "Una donna con il cappello legge un libro nel parco",
    "Tre barche a vela nel porto di una piccola città",
    "Un uomo in bicicletta attraversa la strada",
]
ENGLISH = [
    "A dog runs along the beach with a stick in its mouth",
    "Two black cats are sleeping on the kitchen sofa",
    "A woman with a hat reads a book in the park",
    "Three sailing boats in the harbour of a small town",
    "A man on a bicycle crosses the street",
]
JAPANESE = ["犬が砂浜を走っています", "二匹の黒い猫がソファで寝ている", "帽子をかぶった女性が公園で本を読んでいる"]
NOUNS = ["dog", "cat", "house", "tree", "car", "child", "sea", "sun", "bread", "book", "chair", "window", "street"]
Score = Callable[..., tuple[str, dict[str, Any]]]


@pytest.fixture
def score(random_clip: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Score:
    """`score(*words)`: what `vernaclip scoreboard` prints of a set, and the facts on it in its JSON."""
    model = random_clip(ITALIAN)

    def called(*words: str) -> tuple[str, dict[str, Any]]:
        capsys.readouterr()
        options = ["--model", "random", f"folder={model}", "--out", str(tmp_path / "out")]
        assert main(["scoreboard", *words, *options, "--set", "evaluate.bootstrap_rounds=10"]) == 0
        (facts,) = json.loads((tmp_path / "out" / "scoreboard.json").read_text())["sets"]
        return capsys.readouterr().out, facts

    return called


ASKED = ("--language", "it")


def pictures(folder: Path, names: Sequence[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for place, name in enumerate(names):
        Image.new("RGB", (32, 32), (40 * place, 10, 90)).save(folder / name)
    return folder


def karpathy_set(folder: Path, captions: Sequence[str]) -> list[str]:
    """Options for a file of Karpathy's with a picture a caption."""
    names = [f"{place}.jpg" for place in range(len(captions))]
    images = [
        {"filename": name, "imgid": place, "split": "test", "sentences": [{"raw": text}]}
        for place, (name, text) in enumerate(zip(names, captions, strict=True))
    ]
    file = folder / "dataset_flickr8k.json"
    file.write_text(json.dumps({"dataset": "flickr8k", "images": images}), "utf-8")
    return ["--test-set", "flickr", "kind=karpathy", f"files={file}", f"images={pictures(folder / 'jpg', names)}"]


def xtd10_set(folder: Path) -> list[str]:
    """Options for files in the form of XTD10's, with captions in Italian and English."""
    names = [f"COCO_val2014_{place:012}.jpg" for place in range(5)]
    lists = folder / "lists"
    lists.mkdir()
    for name, lines in {"image_names": names, "1kcaptions_it": ITALIAN, "1kcaptions_en": ENGLISH}.items():
        (lists / f"test_{name}.txt").write_text("\n".join(lines), "utf-8")
    words = ["kind=xtd10", f'files=["{lists}/*.txt"]', "num_images=5"]
    return ["--test-set", "xtd", *words, f"images={pictures(folder / 'jpg', names)}"]


def gallery(captions: Sequence[str]) -> Gallery:
    return Gallery(
        name="set",
        images=["a"],
        read=lambda _: b"",
        captions=captions,
        owners=[0] * len(captions),
        made_by=["human"] * len(captions),
        notes=("first",),
    )


def judged(captions: Sequence[str], asked: str, stated: str | None = None) -> tuple[TextLanguage, list[str]]:
    """What is found, and the notes on it."""
    found = with_language(gallery(captions), asked, language_pack(stated or asked), stated)
    assert found.language is not None
    assert found.notes[0] == "first"
    return found.language, list(found.notes[1:])


@pytest.mark.parametrize(
    ("texts", "asked", "other"),
    [
        (ENGLISH, "it", "en"),
        (JAPANESE, "it", "ja"),
        ([text.upper() for text in ENGLISH], "it", "en"),
        (NOUNS, "it", "en"),
        (["A man rides a wave on top of a surfboard"] * 5000, "it", "en"),
        ([*ENGLISH * 20, *["😀 12:30", "2019", "..."] * 20], "it", "en"),
        (ITALIAN, "it", None),
        (NOUNS, "en", None),
        (JAPANESE, "ja", None),
        ([*ITALIAN * 19, *ENGLISH], "it", None),  # a twentieth
    ],
)
def test_texts_in_another_language_are_told(
    texts: Sequence[str], asked: str, other: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        language, notes = judged(texts, asked)
    if other is None:
        assert sum(language.looks_like.values()) <= 0.05
        assert language.num_judged
        assert (notes, caplog.text) == ([], "")
    else:
        assert next(iter(language.looks_like)) == other
        assert language.looks_like[other] > 0.7
        assert f"seem to be in another language than {asked} ({other} " in notes[0]
        assert notes[0].endswith(f"The scores say little about {asked}")
        assert notes[0] in caplog.text


def test_a_set_that_is_mixed_is_told_and_not_called_another_language(caplog: pytest.LogCaptureFixture) -> None:
    """By turns, so that looking at every second caption would find one language alone."""
    mixed = [text for pair in zip(ITALIAN, ENGLISH, strict=True) for text in pair] * 400
    with caplog.at_level(logging.WARNING):
        language, (note,) = judged([*mixed, *ITALIAN * 200], "it")
    assert language.looks_like.keys() == {"en"}
    assert 0.35 < language.looks_like["en"] < 0.45
    assert "seem to be in another language than it (en " in note
    assert "say little" not in note
    assert not caplog.text


def test_too_little_to_tell() -> None:
    language, notes = judged(["Roma", "ok", "1", "😀"], "it")
    assert (language.looks_like, language.num_judged) == ({}, 0)
    assert notes == ["the language of the captions was not checked: they have too few letters"]
    found = with_language(gallery(ITALIAN), "xx", LanguagePack.minimal("xx"))
    assert found.language == TextLanguage(asked="xx", stated=None, looks_like={}, num_judged=None)
    assert found.notes[1:] == ("the language of the captions was not checked: no engine knows xx",)


def test_a_language_that_is_stated() -> None:
    language, notes = judged(ENGLISH, "it", "en")
    assert (language.stated, language.looks_like) == ("en", {})
    assert notes == ["the captions are stated to be in en, not in it"]
    language, notes = judged(JAPANESE, "it", "en")
    assert notes[0] == "the captions are stated to be in en, not in it"
    assert "seem to be in another language than en (ja 100 %)" in notes[1]
    assert judged(ITALIAN, "it", "it")[1] == []


def test_class_names_in_another_language() -> None:
    pets = LabelledImages(name="pets", images=["a"], read=lambda _: b"", labels=[0], class_names=NOUNS)
    found = with_language(pets, "it", language_pack("it"))
    assert "checked class names seem to be in another language than it (en 100 %)" in found.notes[0]


def test_the_same_sample_each_time() -> None:
    texts = [*ITALIAN, *ENGLISH] * 1000
    Random(5).shuffle(texts)
    assert judged(texts, "it") == judged(texts, "it")


def test_the_command_tells_of_captions_in_another_language(score: Score, tmp_path: Path) -> None:
    out, facts = score(*ASKED, *karpathy_set(tmp_path, ENGLISH))
    assert "seem to be in another language than it (en 100 %). The scores say little about it" in out
    assert "The scores say little about it" in (tmp_path / "out" / "scoreboard.md").read_text()
    assert facts["language"] == {"asked": "it", "stated": None, "looks_like": {"en": 1.0}, "num_judged": 5}
    out, _ = score(*ASKED, *karpathy_set(tmp_path, ITALIAN))
    assert "another language" not in out


def test_files_with_several_languages_state_it_by_the_choice(score: Score, tmp_path: Path) -> None:
    words = (*ASKED, *xtd10_set(tmp_path))
    out, _ = score(*words)
    assert "another language" not in out
    assert "stated to be" not in out
    out, facts = score(*words, 'languages=["en"]')
    assert "the captions are stated to be in en, not in it" in out
    assert "another language" not in out
    assert facts["language"]["stated"] == "en"
    out, facts = score(*words, 'languages=["en", "it"]')
    assert "only those in it are scored" in out
    assert (facts["num_texts"], facts["language"]["stated"], facts["language"]["looks_like"]) == (5, "it", {})


RECIPE = """
target_language = "it"
[sources.own]
kind = "pairs"
files = ["gone.tsv"]
caption_column = "caption"
url_column = "url"
lang = "it"
"""


def recipe_of_set(folder: Path, *said: str, more: str = "") -> tuple[str, ...]:
    """The words for a recipe that says something of a test set."""
    held = [
        f"{key} = {json.dumps(value)}" for key, value in (w.split("=", 1) for w in karpathy_set(folder, ENGLISH)[2:])
    ]
    (folder / "own.toml").write_text("\n".join([RECIPE, more, "[test_sets.held]", *held, *said]), "utf-8")
    return (str(folder / "own.toml"), "--root", str(folder / "root"), "--no-split")


def test_a_recipe_says_of_a_test_set_what_the_command_does(score: Score, tmp_path: Path) -> None:
    _, _, *held = karpathy_set(tmp_path, ENGLISH)
    _, by_command = score(*ASKED, "--test-set", "held", *held, "captions_in=en", "captions_by=machine")
    out, by_recipe = score(*recipe_of_set(tmp_path, 'captions_in = "en"', 'captions_by = "machine"'))
    assert "all captions are translated by a machine" in out
    assert "the captions are stated to be in en, not in it" in out
    assert by_recipe == by_command
    assert by_recipe["language"] == {"asked": "it", "stated": "en", "looks_like": {}, "num_judged": 5}


def test_stated_captions_are_not_translated_from_another_language(
    random_clip: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which("apertium") is None:
        pytest.skip("Apertium is not installed")
    english = ["--english", f"open_clip={random_clip(ITALIAN)}", "engine=apertium", "pivot=ca"]
    call = ["scoreboard", "--language", "it", "--out", str(tmp_path / "out"), *english]
    assert main([*call, *karpathy_set(tmp_path, ENGLISH), "captions_in=en"]) == 1
    error = capsys.readouterr().err
    assert "flickr are stated to be in en, but texts for the model english-translated are translated from it" in error


PROGRAM = """
import pathlib, sys
known = dict(zip(ENGLISH, ITALIAN))
for caption in sys.stdin:
    with pathlib.Path("asked").open("a") as log:
        log.write("x")
    print(known[caption.strip()], flush=True)
"""


def translating_recipe(folder: Path, *said: str) -> tuple[str, ...]:
    """The words for a recipe whose engine, a program, knows five captions."""
    program = folder / "translate.py"
    program.write_text(f"{ENGLISH = }\n{ITALIAN = }\n{PROGRAM}", "utf-8")
    engine = f'[translate]\nengine = "command"\ncommand = {json.dumps([sys.executable, str(program)])}'
    return recipe_of_set(folder, *said, more=engine)


def test_a_test_set_in_another_language_is_translated_where_that_is_asked_for(
    score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = translating_recipe(tmp_path, 'captions_in = "en"', "translate = true")
    for _ in range(2):
        out, facts = score(*words)
        note = next(note for note in facts["notes"] if "machine" in note)
        assert "all captions are translated by a machine (machine_translation) from en by command:" in note
        assert "original captions: all captions are native, or written or validated by people" in note
        assert out.count(note) == 1
        assert facts["language"] == {"asked": "it", "stated": None, "looks_like": {}, "num_judged": 5}
        assert "another language" not in out
    assert Path("asked").read_text() == "xxxxx", "the root keeps translations"


TRANSLATED = ('captions_in = "en"', "translate = true")
ENGLISH_RECIPE = ("--set", "target_language=en", "--set", "sources.own.lang=en")


@pytest.mark.parametrize(
    ("said", "more", "error"),
    [
        (TRANSLATED[1:], (), r"test_sets\.held\.translate: .* translates from en, .* set captions_in"),
        (('captions_in = "es"', "translate = true"), (), r"test_sets\.held\.translate: .* translates from en, "),
        (('translate = "yes"',), (), r"test_sets\.held\.translate must be true or false"),
        (TRANSLATED, ENGLISH_RECIPE, "the recipe translates nothing, as source_language is also en"),
    ],
)
def test_what_no_engine_translates_is_refused_before_any_work(
    said: Sequence[str], more: Sequence[str], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*translating_recipe(tmp_path, *said), *more, "--model", "x", "folder=gone"]
    assert main(["scoreboard", *words]) == 1
    assert re.search(error, capsys.readouterr().err)
    assert not (tmp_path / "root").exists()


def test_without_a_recipe_no_set_is_translated(
    random_clip: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = [*karpathy_set(tmp_path, ENGLISH), "captions_in=en", "translate=true"]
    assert main(["scoreboard", *ASKED, "--model", "x", f"folder={random_clip(ITALIAN)}", *held]) == 1
    assert "translate=true needs the engine of a recipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "said", "error"),
    [
        ("karpathy", 'captions_by = "bot"', r"test_sets\.karpathy: captions_by must be human or machine, got 'bot'"),
        ("karpathy", "captions_by = 3", r"test_sets\.karpathy\.captions_by must be"),
        ("karpathy", 'captions_in = "Italian"', r"captions_in Italian is not a language code"),
        ("karpathy", 'captions_bye = "human"', r"unknown key test_sets\.karpathy\.captions_bye: .*captions_by"),
        ("xtd10", 'captions_in = "en"', r"test_sets\.xtd10\.captions_in: the files state the languages"),
    ],
)
def test_what_a_recipe_says_wrong_of_captions(kind: str, said: str, error: str, tmp_path: Path) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text(f'{RECIPE}[test_sets.{kind}]\nfiles = ["gone.json"]\n{said}', "utf-8")
    with pytest.raises(SettingsError, match=error):
        load_recipe(str(recipe), root=tmp_path)
