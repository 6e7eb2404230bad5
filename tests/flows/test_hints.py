"""What a message says to type can be typed: the recipe as it was named, and in quotes what a shell takes apart."""

import re
import shlex
from pathlib import Path

import pytest

from data_catalog.plain_text import command
from flows.cli import main
from flows.cli.jobs import NEXT, Job

RECIPE = """
target_language = "it"
[sources.own]
kind = "pairs"
files = ["rows.tsv"]
caption_column = "caption"
url_column = "url"
lang = "it"
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe of a name with a space, in a folder whose name has an apostrophe; the current folder is above it."""
    monkeypatch.chdir(tmp_path)
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
def test_an_error_names_the_recipe_as_it_was_typed(
    typed: list[str], wanted: list[str], recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("the root").mkdir()
    assert main([*(word.replace("RECIPE FILE", recipe) for word in typed), "--root", "the root"]) == 1
    [hint] = re.findall(r"`(vernaclip [^`]*)`", capsys.readouterr().err)
    words = [word.replace("RECIPE FILE", recipe) for word in wanted]
    assert shlex.split(hint) == ["vernaclip", *words, "--root", "the root"]


@pytest.mark.parametrize("topic", ["train", "evaluate", "verify", "sql"])
def test_what_to_try_next_can_be_typed(topic: str, recipe: str) -> None:
    words = shlex.split(NEXT[topic](Job(recipe=recipe, root=Path("the root"))))
    assert words[:2] == ["vernaclip", topic]
    assert words[-2:] == ["--root", "the root"]
    assert (recipe in words) == (topic in ("train", "evaluate"))


def test_what_needs_no_quotes_has_none() -> None:
    assert command("build", "italian", "--root", Path("italy")) == "vernaclip build italian --root italy"
