"""What is wrong with what a user gives: each with the class of who must act, an exit code, and one sentence."""

import gzip
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from data_catalog.errors import DiskError, InputError, PipelineError, SettingsError
from data_catalog.storage.lock import writer_lock
from flows.cli import main

FAILED, LATER = 1, 75
RECIPE = """
target_language = "en"
[sources.mine]
kind = "pairs"
files = ["captions.csv"]
path_column = "photo"
caption_column = "text"
lang = "en"
"""
BUILD = ("build", "{here}/photos.toml", "--root", "{here}/catalog", "--executor", "local")


class Wrong(NamedTuple):
    """One wrong input, and what is said of it."""

    words: Sequence[str]  # `{here}` is the test's folder, `{built}` a root with a dataset `scenes`
    error: type[PipelineError]
    sentence: str
    before: Callable[[Path], object] = lambda _: None


def setting(text: str, error: type[PipelineError], sentence: str) -> Wrong:
    """A build of one's own photographs with one setting that is wrong."""
    return Wrong((*BUILD, "--set", text), error, sentence)


def recipe(old: str, new: str) -> Callable[[Path], object]:
    def change(here: Path) -> None:
        text = (here / "photos.toml").read_text("utf-8")
        assert old in text
        (here / "photos.toml").write_text(text.replace(old, new), "utf-8")

    return change


def file(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda here: (here / name).write_bytes(content.encode() if isinstance(content, str) else content)


WRONG = {
    # Settings; tests/flows/test_recipe.py has more of them.
    "an unknown key": setting(
        "clean.min_wrods=3", SettingsError, r"unknown key clean\.min_wrods: did you mean min_words"
    ),
    "half a worker": setting("build.workers=1.5", SettingsError, r"build\.workers must be a whole number, got 1\.5"),
    "a port that is none": setting("fetch.ports=[70000]", SettingsError, r"fetch\.ports must be between 1 and 65535"),
    # Files.
    "a recipe without sources": Wrong(
        BUILD, SettingsError, r"at least one \[sources.NAME\]", file("photos.toml", 'target_language = "en"')
    ),
    "no captions": Wrong(
        BUILD,
        InputError,
        "captions.csv, which does not exist: correct the path",
        lambda here: (here / "captions.csv").unlink(),
    ),
    "captions without the column": Wrong(
        BUILD, InputError, r"sources\.mine: .*captions\.csv .*text", file("captions.csv", "photo,caption\n1.png,a")
    ),
    "half a gzip": Wrong(
        BUILD,
        InputError,
        r"captions\.csv\.gz",
        lambda here: (
            (here / "captions.csv.gz").write_bytes(gzip.compress(b"photo,text\n" + b"1.png,a red box\n" * 9)[:-9]),
            recipe("captions.csv", "captions.csv.gz")(here),
        ),
    ),
    "a zip of images that is none": Wrong(
        (*BUILD, "--set", "sources.mine.images={here}/a.zip"), InputError, r"a\.zip", file("a.zip", "no")
    ),
    # Packages and engines.
    "no such engine": setting(
        "translate.engine=babelfish", SettingsError, r"translate\.engine must be one of argos, .*got 'babelfish'"
    ),
    "a setting of another engine": setting("translate.model=x", SettingsError, "the engine 'argos' does not use it"),
    "a package that is none": Wrong(
        ("mt", "install", "{here}/a.argosmodel"), InputError, r"a\.argosmodel", file("a.argosmodel", "no")
    ),
    # Languages.
    "a language without a pack": Wrong(
        BUILD, SettingsError, "no language pack 'tlh'", recipe('target_language = "en"', 'target_language = "tlh"')
    ),
    "a pack of another language": setting("language_pack=it", SettingsError, "'it', but target_language is 'en'"),
    # Roots, datasets, models.
    "a root that is a file": Wrong(("catalog", "--root", "{here}/captions.csv"), InputError, r"captions\.csv"),
    "a root without datasets": Wrong(
        ("catalog", "--root", "{here}"), InputError, "holds no dataset: run `vernaclip build"
    ),
    "no such dataset": Wrong(("report", "tlh", "--root", "{built}"), InputError, "has no dataset 'tlh': run"),
    # Options.
    "too many examples": Wrong(
        ("report", "scenes", "--root", "{built}", "--examples", "51"), SettingsError, "must be from 0 to 50"
    ),
    "a page that is a device": Wrong(
        ("report", "scenes", "--root", "{built}", "--out", "/dev/stdout"), SettingsError, "a link, a pipe or a device"
    ),
    # Disks.
    "a disk that takes nothing": Wrong((*BUILD[:3], "/proc/catalog", *BUILD[4:]), DiskError, "/proc"),
}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a recipe of one photograph."""
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "1.png")
    (tmp_path / "captions.csv").write_text("photo,text\n1.png,A grey box lies on the table of the garden\n", "utf-8")
    (tmp_path / "photos.toml").write_text(RECIPE, "utf-8")
    return tmp_path


def outcome(words: Sequence[str], here: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Return the exit code, the class of the error, and the sentence."""
    code = main([*(word.replace("{here}", str(here)).replace("{built}", str(root)) for word in words), "--debug"])
    said = capsys.readouterr().err
    raised = re.findall(r"^data_catalog\.errors\.(\w+): ", said, re.MULTILINE)
    return code, raised[-1] if raised else said, said.rpartition("vernaclip: ")[2]


@pytest.mark.parametrize("name", WRONG)
def test_it_is_said_who_must_act(
    name: str, here: Path, built: tuple[Path, object], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = WRONG[name]
    wrong.before(here)
    there = sorted(here.iterdir())
    code, raised, sentence = outcome(wrong.words, here, built[0], capsys)
    assert (code, raised) == (FAILED, wrong.error.__name__), sentence
    assert re.search(wrong.sentence, sentence), sentence
    assert "Traceback" not in sentence
    assert sorted(here.iterdir()) == there, "a start that failed leaves nothing"


def test_a_root_that_another_process_writes_to_may_work_later(
    here: Path, built: tuple[Path, object], capsys: pytest.CaptureFixture[str]
) -> None:
    with writer_lock(here / "catalog"):
        assert outcome(BUILD, here, built[0], capsys)[:2] == (LATER, "BusyError")


def test_a_damaged_dataset_has_a_remedy(
    here: Path, built: tuple[Path, object], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(built[0], here / "copy")
    manifest = next((here / "copy/datasets/scenes").glob("*/manifest.json"))
    manifest.write_text(manifest.read_text("utf-8").replace("scenes", "scents"), "utf-8")
    code, raised, sentence = outcome(["catalog", "--root", str(here / "copy")], here, built[0], capsys)
    assert (code, raised) == (FAILED, "DamagedError"), sentence
    assert re.search("verify|remove|build", sentence), "what to do"
