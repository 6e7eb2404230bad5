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
SPANISH = [
    "Un perro corre por la playa con un palo en la boca",
    "Dos gatos negros duermen en el sofá de la cocina",
    "Una mujer con sombrero lee un libro en el parque",
    "Tres barcos de vela en el puerto de una ciudad pequeña",
]
JAPANESE = ["犬が砂浜を走っています", "二匹の黒い猫がソファで寝ている", "帽子をかぶった女性が公園で本を読んでいる"]
NOUNS = ["dog", "cat", "house", "tree", "car", "child", "sea", "sun", "bread", "book", "chair", "window", "street"]
NOMI = ["cane", "gatto", "casa", "albero", "macchina", "bambino", "mare", "sole", "pane", "libro", "sedia", "finestra"]


Score = Callable[..., tuple[str, dict[str, Any]]]


@pytest.fixture
def score(random_clip: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Score:
    """`score(language, *words)`: what `vernaclip scoreboard` prints of a set, and its JSON."""
    model = random_clip(ITALIAN)

    def called(language: str, *words: str) -> tuple[str, dict[str, Any]]:
        call = ["scoreboard", "--language", language, "--model", "random", f"folder={model}"]
        call += ["--out", str(tmp_path / "out"), "--set", "evaluate.bootstrap_rounds=10"]
        capsys.readouterr()
        assert main([*call, *words]) == 0
        return capsys.readouterr().out, json.loads((tmp_path / "out" / "scoreboard.json").read_text())

    return called


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
        (SPANISH, "it", "es"),
        (ITALIAN, "en", "it"),
        (JAPANESE, "it", "ja"),
        ([text.upper() for text in ENGLISH], "it", "en"),
        (NOUNS, "it", "en"),
        (NOMI, "en", "it"),
        (["A man rides a wave on top of a surfboard"] * 5000, "it", "en"),
        ([*ENGLISH * 20, *["😀 12:30", "2019", "..."] * 20], "it", "en"),
    ],
)
def test_texts_in_another_language(
    texts: Sequence[str], asked: str, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        language, notes = judged(texts, asked)
    assert next(iter(language.looks_like)) == other
    assert language.looks_like[other] > 0.7
    assert f"seem to be in another language than {asked} ({other} " in notes[0]
    assert notes[0].endswith(f"The scores say little about {asked}")
    assert notes[0] in caplog.text


@pytest.mark.parametrize(
    ("texts", "asked"),
    [
        (ITALIAN, "it"),
        (NOMI, "it"),
        (NOUNS, "en"),
        (JAPANESE, "ja"),
        (SPANISH, "es"),
        ([*ITALIAN * 19, *ENGLISH], "it"),  # a twentieth
    ],
)
def test_texts_as_they_should_be(texts: Sequence[str], asked: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        language, notes = judged(texts, asked)
    assert sum(language.looks_like.values()) <= 0.05
    assert language.num_judged
    assert (notes, caplog.text) == ([], "")


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


@pytest.mark.parametrize("texts", [["cane"], ["1", "2", "😀"], ["Roma", "ok"]])
def test_too_little_to_tell(texts: Sequence[str]) -> None:
    language, notes = judged(texts, "it")
    assert (language.looks_like, language.num_judged) == ({}, 0)
    assert notes == ["the language of the captions was not checked: they have too few letters"]


def test_a_language_that_no_identifier_knows() -> None:
    found = with_language(gallery(ITALIAN), "xx", LanguagePack.minimal("xx"))
    assert found.language == TextLanguage(asked="xx", stated=None, looks_like={}, num_judged=None)
    assert found.notes[1:] == ("the language of the captions was not checked: no engine knows xx",)


def test_a_language_that_is_stated() -> None:
    language, notes = judged(ENGLISH, "it", "en")
    assert (language.stated, language.looks_like) == ("en", {})
    assert notes == ["the captions are stated to be in en, not in it"]
    language, notes = judged(SPANISH, "it", "en")
    assert notes[0] == "the captions are stated to be in en, not in it"
    assert "seem to be in another language than en (es 100 %)" in notes[1]
    assert judged(ITALIAN, "it", "it")[1] == []


def test_class_names_in_another_language() -> None:
    found = with_language(
        LabelledImages(name="pets", images=["a"], read=lambda _: b"", labels=[0], class_names=NOUNS),
        "it",
        language_pack("it"),
    )
    assert "checked class names seem to be in another language than it (en 100 %)" in found.notes[0]


def test_the_same_sample_each_time() -> None:
    texts = [*ITALIAN, *ENGLISH] * 1000
    Random(5).shuffle(texts)
    assert judged(texts, "it") == judged(texts, "it")


def test_the_command_tells_of_captions_in_another_language(score: Score, tmp_path: Path) -> None:
    out, board = score("it", *karpathy_set(tmp_path, ENGLISH))
    assert "seem to be in another language than it (en 100 %). The scores say little about it" in out
    assert "The scores say little about it" in (tmp_path / "out" / "scoreboard.md").read_text()
    (facts,) = board["sets"]
    assert facts["language"] == {"asked": "it", "stated": None, "looks_like": {"en": 1.0}, "num_judged": 5}
    out, _ = score("it", *karpathy_set(tmp_path, ITALIAN))
    assert "another language" not in out


def test_files_with_several_languages_state_it_by_the_choice(score: Score, tmp_path: Path) -> None:
    words = xtd10_set(tmp_path)
    out, _ = score("it", *words)
    assert "another language" not in out
    assert "stated to be" not in out
    out, board = score("it", *words, 'languages=["en"]')
    assert "the captions are stated to be in en, not in it" in out
    assert "another language" not in out
    assert board["sets"][0]["language"]["stated"] == "en"


def test_of_several_languages_that_are_guarded_the_one_that_is_asked_counts(score: Score, tmp_path: Path) -> None:
    out, board = score("it", *xtd10_set(tmp_path), 'languages=["en", "it"]')
    assert "of captions in en, it those in it count" in out
    (facts,) = board["sets"]
    assert (facts["num_texts"], facts["language"]["stated"], facts["language"]["looks_like"]) == (5, "it", {})


def test_whoever_names_a_set_says_its_language(score: Score, tmp_path: Path) -> None:
    out, board = score("it", *karpathy_set(tmp_path, ENGLISH), "captions_in=en")
    assert "the captions are stated to be in en, not in it" in out
    assert "another language" not in out
    assert board["sets"][0]["language"] == {"asked": "it", "stated": "en", "looks_like": {}, "num_judged": 5}


RECIPE = """
target_language = "it"
[sources.own]
kind = "pairs"
files = ["gone.tsv"]
caption_column = "caption"
url_column = "url"
lang = "it"
"""


def test_a_recipe_says_of_a_test_set_what_the_command_does(
    score: Score, random_clip: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, kind, file, images = karpathy_set(tmp_path, ENGLISH)
    _, by_command = score("it", "--test-set", "held", kind, file, images, "captions_in=en", "captions_by=machine")
    said = {"captions_in": "en", "captions_by": "machine"} | dict(word.split("=", 1) for word in (kind, file, images))
    lines = [f'{key} = "{value}"' for key, value in said.items()]
    recipe = tmp_path / "own.toml"
    recipe.write_text("\n".join([RECIPE, "[test_sets.held]", *lines]), "utf-8")
    call = ["scoreboard", str(recipe), "--root", str(tmp_path / "root"), "--no-split"]
    call += ["--model", "random", f"folder={random_clip(ITALIAN)}", "--set", "evaluate.bootstrap_rounds=10"]
    capsys.readouterr()
    assert main(call) == 0
    out = capsys.readouterr().out
    assert "all captions are translated by a machine" in out
    assert "the captions are stated to be in en, not in it" in out
    by_recipe = json.loads((tmp_path / "root" / "scoreboards" / "own" / "scoreboard.json").read_text())
    assert by_recipe["sets"] == by_command["sets"]


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


def translating_recipe(folder: Path, *said: str) -> list[str]:
    """The call of `scoreboard` for a recipe whose engine, a program, knows five captions."""
    program = folder / "translate.py"
    program.write_text(f"{ENGLISH = }\n{ITALIAN = }\n{PROGRAM}", "utf-8")
    engine = ["[translate]", 'engine = "command"', f"command = {json.dumps([sys.executable, str(program)])}"]
    _, _, kind, file, images = karpathy_set(folder, ENGLISH)
    held = [f"{key} = {json.dumps(value)}" for key, value in (word.split("=", 1) for word in (kind, file, images))]
    recipe = folder / "own.toml"
    recipe.write_text("\n".join([RECIPE, *engine, "[test_sets.held]", *held, *said]), "utf-8")
    return ["scoreboard", str(recipe), "--root", str(folder / "root"), "--no-split"]


def test_a_test_set_in_another_language_is_translated_where_that_is_asked_for(
    random_clip: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    call = translating_recipe(tmp_path, 'captions_in = "en"', "translate = true")
    call += ["--model", "random", f"folder={random_clip(ITALIAN)}", "--set", "evaluate.bootstrap_rounds=10"]
    for _ in range(2):
        capsys.readouterr()
        assert main(call) == 0
        out = capsys.readouterr().out
        (facts,) = json.loads((tmp_path / "root" / "scoreboards" / "own" / "scoreboard.json").read_text())["sets"]
        note = next(note for note in facts["notes"] if "machine" in note)
        assert "all captions are translated by a machine (machine_translation) from en by command:" in note
        assert "original captions: all captions are native, or written or validated by people" in note
        assert out.count(note) == 1
        assert facts["language"] == {"asked": "it", "stated": None, "looks_like": {}, "num_judged": 5}
        assert "another language" not in out
    assert Path("asked").read_text() == "xxxxx", "the root keeps translations"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (("translate = true",), r"test_sets\.held\.translate: .* translates from en, .*: set captions_in"),
        (('captions_in = "es"', "translate = true"), r"test_sets\.held\.translate: .* translates from en, "),
        (('translate = "yes"',), r"test_sets\.held\.translate must be true or false"),
    ],
)
def test_what_no_engine_translates_is_refused_before_any_work(
    said: Sequence[str], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*translating_recipe(tmp_path, *said), "--model", "x", "folder=gone"]) == 1
    assert re.search(error, capsys.readouterr().err)
    assert not (tmp_path / "root").exists()


def test_captions_are_not_translated_where_nothing_is(
    random_clip: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = translating_recipe(tmp_path, 'captions_in = "en"', "translate = true")
    assert main([*call, "--set", "target_language=en", "--set", "sources.own.lang=en"]) == 1
    assert "the recipe translates nothing, as source_language is also en" in capsys.readouterr().err
    words = [*karpathy_set(tmp_path, ENGLISH), "captions_in=en", "translate=true"]
    assert main(["scoreboard", "--language", "it", "--model", "x", f"folder={random_clip(ITALIAN)}", *words]) == 1
    assert "translate=true needs the engine of a recipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ('captions_by = "bot"', r"test_sets\.karpathy: captions_by must be human or machine, got 'bot'"),
        ("captions_by = 3", r"test_sets\.karpathy\.captions_by must be"),
        ('captions_by = ["human"]', r"test_sets\.karpathy\.captions_by must be"),
        ('captions_in = "Italian"', r"captions_in Italian is not a language code"),
        ("captions_in = true", r"test_sets\.karpathy\.captions_in must be"),
        ('captions_bye = "human"', r"unknown key test_sets\.karpathy\.captions_bye: .*captions_by, captions_in"),
    ],
)
def test_what_a_recipe_says_wrong_of_captions(said: str, error: str, tmp_path: Path) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text(f'{RECIPE}[test_sets.karpathy]\nfiles = ["gone.json"]\n{said}', "utf-8")
    with pytest.raises(SettingsError, match=error):
        load_recipe(str(recipe), root=tmp_path)


def test_files_that_tell_their_languages_need_nobody_to_state_one(tmp_path: Path) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text(f'{RECIPE}[test_sets.xtd10]\nfiles = ["gone.txt"]\ncaptions_in = "en"', "utf-8")
    with pytest.raises(SettingsError, match=r"test_sets\.xtd10\.captions_in: the files state the languages"):
        load_recipe(str(recipe), root=tmp_path)
    (held,) = load_recipe(str(recipe), root=tmp_path, overrides=["test_sets.xtd10.captions_in="]).test_sets
    assert held.captions.captions_in is None
