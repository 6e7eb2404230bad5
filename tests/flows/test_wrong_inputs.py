"""What is wrong with what a user gives: who must act, one sentence, and a command in it that can be typed."""

import gzip
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_catalog.storage.lock import writer_lock
from flows.cli import main
from flows.cli.jobs import NEXT, Job

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


def built_in_place(*words: str) -> tuple[str, ...]:
    return ("report", "scenes", "--root", "{built}", *words)


# By the error: the words, and files that are changed before (None: removed). `{here}` is the test's folder, `{built}`
# a root with a dataset `scenes`. tests/flows/test_recipe.py has more settings.
WRONG: dict[str, tuple[Sequence[str], dict[str, str | bytes | None]]] = {
    r"SettingsError: .*at least one \[sources.NAME\]": (BUILD, {"photos.toml": 'target_language = "en"'}),
    r"InputError: .*captions.csv, which does not exist": (BUILD, {"captions.csv": None}),
    r"InputError: sources\.mine: .*captions\.csv .*text": (BUILD, {"captions.csv": "photo,caption\n1.png,a"}),
    r"InputError: .*captions\.csv": (
        BUILD,
        {"captions.csv": gzip.compress(b"photo,text\n" + b"1.png,a box\n" * 9)[:-9]},
    ),
    r"InputError: .*a\.zip": ((*BUILD, "--set", "sources.mine.images={here}/a.zip"), {"a.zip": "no"}),
    r"SettingsError: .*the engine 'argos' does not use it": ((*BUILD, "--set", "translate.model=x"), {}),
    r"InputError: .*a\.argosmodel": (("mt", "install", "{here}/a.argosmodel"), {"a.argosmodel": "no"}),
    r"SettingsError: .*no language pack 'tlh'": (BUILD, {"photos.toml": RECIPE.replace('e = "en"', 'e = "tlh"')}),
    r"SettingsError: .*'it', but target_language is 'en'": ((*BUILD, "--set", "language_pack=it"), {}),
    r"InputError: .*/captions\.csv": (("catalog", "--root", "{here}/captions.csv"), {}),
    r"InputError: .*holds no dataset: run `vernaclip build": (("catalog", "--root", "{here}"), {}),
    r"InputError: .*has no dataset 'tlh': run": (("report", "tlh", "--root", "{built}"), {}),
    r"SettingsError: .*must be from 0 to 50": (built_in_place("--examples", "51"), {}),
    r"SettingsError: .*a link, a pipe or a device": (built_in_place("--out", "/dev/stdout"), {}),
    r"DiskError: .*/proc": ((*BUILD[:3], "/proc/catalog", *BUILD[4:]), {}),
}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a recipe of one photograph."""
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "1.png")
    (tmp_path / "captions.csv").write_text("photo,text\n1.png,A grey box lies on the table of the garden\n", "utf-8")
    (tmp_path / "photos.toml").write_text(RECIPE, "utf-8")
    return tmp_path


def outcome(words: Sequence[str], here: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit code, and the class of the error with its sentence."""
    code = main([*(word.replace("{here}", str(here)).replace("{built}", str(root)) for word in words), "--debug"])
    said = capsys.readouterr().err
    raised = re.findall(r"^data_catalog\.errors\.(\w+: .*)", said, re.MULTILINE)
    return code, raised[-1] if raised else said


@pytest.mark.parametrize("error", WRONG)
def test_it_is_said_who_must_act(
    error: str, here: Path, built: tuple[Path, object], capsys: pytest.CaptureFixture[str]
) -> None:
    words, changes = WRONG[error]
    for name, content in changes.items():
        (here / name).unlink(missing_ok=True)
        if content is not None:
            (here / name).write_bytes(content.encode() if isinstance(content, str) else content)
    there = sorted(here.iterdir())
    code, said = outcome(words, here, built[0], capsys)
    assert (code, bool(re.match(error, said))) == (1, True), said
    assert sorted(here.iterdir()) == there, "a start that failed leaves nothing"


def test_a_root_that_another_process_writes_to_may_work_later(
    here: Path, built: tuple[Path, object], capsys: pytest.CaptureFixture[str]
) -> None:
    with writer_lock(here / "catalog"):
        code, said = outcome(BUILD, here, built[0], capsys)
    assert (code, said.startswith("BusyError: ")) == (75, True), said


def test_a_damaged_dataset_has_a_remedy(
    here: Path, built: tuple[Path, object], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(built[0], here / "copy")
    manifest = next((here / "copy/datasets/scenes").glob("*/manifest.json"))
    manifest.write_text(manifest.read_text("utf-8").replace("scenes", "scents"), "utf-8")
    code, said = outcome(["catalog", "--root", str(here / "copy")], here, built[0], capsys)
    assert (code, bool(re.match("DamagedError: .*(verify|remove|build)", said))) == (1, True), said


@pytest.fixture
def quoted(here: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe with a space in its name, in a folder whose name has an apostrophe; the current folder is above it."""
    monkeypatch.chdir(here)
    path = Path("anna's recipes") / "my photos.toml"
    path.parent.mkdir()
    path.write_text(f'name = "photos"\n{RECIPE}', "utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (["train", "RECIPE FILE", "--executor", "local"], ["build", "RECIPE FILE"]),
        (["evaluate", "RECIPE FILE", "--executor", "local"], ["train", "RECIPE FILE"]),
        (["export", "photos", "--format", "urls"], ["build", "RECIPE"]),
    ],
)
def test_a_command_in_an_error_can_be_typed_as_it_stands(
    typed: list[str], wanted: list[str], quoted: str, told: Any
) -> None:
    Path("the root").mkdir()
    error = told([*(word.replace("RECIPE FILE", quoted) for word in typed), "--root", "the root"], code=1)
    [hint] = re.findall(r"`(vernaclip [^`]*)`", error)
    words = [word.replace("RECIPE FILE", quoted) for word in wanted]
    assert shlex.split(hint) == ["vernaclip", *words, "--root", "the root"]


@pytest.mark.parametrize("topic", ["train", "evaluate", "verify", "sql"])
def test_what_to_try_next_can_be_typed(topic: str, quoted: str) -> None:
    job = Job(recipe=quoted, root=Path("the root"), overrides=('name="other"', "evaluate.split=val"))
    words = shlex.split(NEXT[topic](job))
    takes_recipe = topic in ("train", "evaluate")
    settings = ["--set", 'name="other"', "--set", "evaluate.split=val"] if takes_recipe else []
    assert words[:2] == ["vernaclip", topic]
    assert words[words.index("--root") :] == ["--root", "the root", *settings]
    assert (quoted in words) == takes_recipe


def test_a_terminal_that_cannot_show_an_answer_says_so(built: tuple[Path, object]) -> None:
    command = [sys.executable, "-m", "flows.cli", "sql", "SELECT 'Ένα' AS x", "--root", str(built[0])]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "set PYTHONIOENCODING=utf-8" in done.stderr
