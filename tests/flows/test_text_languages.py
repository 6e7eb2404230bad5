"""Which language a scored set's texts are in."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

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
Score = Callable[..., tuple[str, dict[str, Any]]]


@pytest.fixture
def score(random_clip: Any, tmp_path: Path, told: Any) -> Score:
    """`score(*words)`: what `vernaclip scoreboard` prints of a set, and the facts on it in its JSON."""
    options = ["--model", "random", f"folder={random_clip(ITALIAN)}", "--out", str(tmp_path / "out")]

    def called(*words: str) -> tuple[str, dict[str, Any]]:
        out = told(["scoreboard", *words, *options, "--set", "evaluate.bootstrap_rounds=10"])
        (facts,) = json.loads((tmp_path / "out" / "scoreboard.json").read_text())["sets"]
        return out, facts

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


def test_files_with_several_languages_state_it_by_the_choice(score: Any, tmp_path: Path) -> None:
    words = (*ASKED, *xtd10_set(tmp_path))
    out, _ = score(*words)
    assert "are stated to be in" not in out
    out, facts = score(*words, 'languages=["en"]')
    assert "the captions are stated to be in en, not in it" in out
    assert facts["language"]["stated"] == "en"
    out, facts = score(*words, 'languages=["en", "it"]')
    assert "only those in it are scored" in out
    assert (facts["num_texts"], facts["language"]["stated"]) == (5, "it")


RECIPE = """
target_language = "it"
[sources.own]
kind = "pairs"
files = ["gone.tsv"]
caption_column = "caption"
url_column = "url"
lang = "it"
"""


def recipe_of_set(folder: Path, *said: str, more: str = "") -> list[str]:
    """The words for a recipe that says something of a test set."""
    held = [
        f"{key} = {json.dumps(value)}" for key, value in (w.split("=", 1) for w in karpathy_set(folder, ENGLISH)[2:])
    ]
    (folder / "own.toml").write_text("\n".join([RECIPE, more, "[test_sets.held]", *held, *said]), "utf-8")
    return [str(folder / "own.toml"), "--root", str(folder / "root"), "--no-split"]


def test_a_recipe_says_of_a_test_set_what_the_command_does(score: Any, tmp_path: Path) -> None:
    _, _, *held = karpathy_set(tmp_path, ENGLISH)
    command = (*ASKED, "--test-set", "held", *held)
    _, unsaid = score(*command)
    assert unsaid["language"] == {"asked": "it", "stated": None}
    _, by_command = score(*command, "captions_in=en", "captions_by=machine")
    out, by_recipe = score(*recipe_of_set(tmp_path, 'captions_in = "en"', 'captions_by = "machine"'))
    assert "all captions are translated by a machine" in out
    assert "the captions are stated to be in en, not in it" in out
    assert by_recipe == by_command
    assert by_recipe["language"] == {"asked": "it", "stated": "en"}


PROGRAM = f"""
import pathlib, sys
known = dict(zip({ENGLISH}, {ITALIAN}))
for caption in sys.stdin:
    with pathlib.Path("asked").open("a") as log:
        log.write("x")
    print(known[caption.strip()], flush=True)
"""
ENGINE = f'[translate]\nengine = "command"\ncommand = ["{sys.executable}", "{{recipe}}/translate.py"]'
STATED, TRANSLATE = 'captions_in = "en"', "translate = true"


def test_a_test_set_in_another_language_is_translated_once_where_that_is_asked_for(
    score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("translate.py").write_text(PROGRAM, "utf-8")
    for _ in range(2):
        out, facts = score(*recipe_of_set(tmp_path, STATED, TRANSLATE, more=ENGINE))
        note = next(note for note in facts["notes"] if "machine" in note)
        assert "translated by a machine (machine_translation) from en by command:" in note
        assert out.count(note) == 1
        assert facts["language"] == {"asked": "it", "stated": None}
    assert Path("asked").read_text() == "xxxxx", "the root keeps translations"


ENGLISH_RECIPE = ("--set", "target_language=en", "--set", "sources.own.lang=en")


@pytest.mark.parametrize(
    ("said", "more", "error"),
    [
        ([TRANSLATE], (), r"held\.translate: .* translates from en, .* set captions_in"),
        (['captions_in = "es"', TRANSLATE], (), r"held\.translate: .* translates from en, "),
        (['translate = "yes"'], (), r"held\.translate must be true or false"),
        ([STATED, TRANSLATE], ENGLISH_RECIPE, "the recipe translates nothing, as source_language is also en"),
        (['captions_by = "bot"'], (), r"test_sets\.held\.captions_by must be 'human' or 'machine', got 'bot'"),
        (['captions_in = "Italian"'], (), r"captions_in Italian is not a language code"),
        (['captions_bye = "human"'], (), r"unknown key test_sets\.held\.captions_bye: .*captions_by"),
        (
            ['[test_sets.xtd10]\nfiles = ["gone.txt"]\ncaptions_in = "en"'],
            (),
            r"xtd10\.captions_in: the files state the languages",
        ),
    ],
)
def test_what_is_wrongly_said_of_captions_is_refused_before_any_work(
    said: Sequence[str], more: Sequence[str], error: str, tmp_path: Path, told: Any
) -> None:
    words = [*recipe_of_set(tmp_path, *said, more=ENGINE), *more, "--model", "x", "folder=gone"]
    assert re.search(error, told(["scoreboard", *words], code=1))
    assert not (tmp_path / "root").exists()
