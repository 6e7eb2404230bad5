"""What the documentation gives to paste is read by the program as it stands: recipes, queries, command lines."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from data_catalog.database.catalog import query, rebuild
from data_catalog.settings import json_values
from flows.cli.app import parse
from flows.recipe.recipe import SECTIONS, load_recipe

HOME = Path(__file__).parents[2]
PAGES = [HOME / "README.md", *sorted((HOME / "docs").glob("*.md"))]
PACKAGES = ("vernaclip", "flows", "translation", "cleaning", "training", "data_catalog")
TEXTS = [path for name in PACKAGES for path in (HOME / name).rglob("*") if path.suffix not in (".pyc", ".argosmodel")]


def blocks(path: Path, language: str) -> list[str]:
    """Contents of the fenced blocks of a page that are in a language; "" is none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def commands(path: Path) -> list[str]:
    """Command lines of vernaclip, without what follows as a comment; continued lines are one."""
    lines = "\n".join(blocks(path, "")).replace("\\\n", " ").splitlines()
    return [line for line in lines if re.match(r"(\.venv/bin/)?vernaclip ", line)]


RECIPES = [
    pytest.param(text, id=f"{path.stem} {number}")
    for path in PAGES
    for number, text in enumerate(blocks(path, "toml"))
    if text.lstrip().startswith("[")
]
COMMANDS = [pytest.param(line, id=f"{path.stem}: {line[:60]}") for path in PAGES for line in commands(path)]
QUERIES = [
    pytest.param(words[words.index("sql") + 1], id=f"{path.stem} {number}")
    for path in PAGES
    for number, words in enumerate(shlex.split(line, comments=True) for line in commands(path))
    if words[1] == "sql"
]


def test_the_pages_give_something_to_paste() -> None:
    assert min(len(RECIPES), len(COMMANDS), len(QUERIES)) >= 5


def has_all(settings: Any, written: Any) -> bool:
    """Whether all that is written, tables within tables too, is in the settings."""
    if not isinstance(written, dict):
        return bool(settings == written)
    return all(name in settings and has_all(settings[name], value) for name, value in written.items())


@pytest.mark.parametrize("text", RECIPES)
def test_parts_of_recipes_are_taken_as_they_stand(tmp_path: Path, text: str) -> None:
    path = tmp_path / "documented.toml"
    path.write_text(f'target_language = "it"\n[sources.mscoco]\nfiles = ["captions.json"]\n{text}', encoding="utf-8")
    recipe = load_recipe(str(path), root=tmp_path)
    for section, written in tomllib.loads(text.replace("{recipe}", str(tmp_path))).items():
        if section in SECTIONS:
            assert has_all(json_values(getattr(recipe, section)), written)
        else:
            assert written.keys() <= {table.name for table in getattr(recipe, section)}


@pytest.mark.parametrize("line", COMMANDS)
def test_command_lines_are_understood(line: str) -> None:
    assert parse(shlex.split(line, comments=True)[1:]).is_command


@pytest.fixture(scope="module")
def empty_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("empty")
    rebuild(root)
    return root


@pytest.mark.parametrize("text", QUERIES)
def test_queries_name_views_and_columns_that_there_are(empty_root: Path, text: str) -> None:
    assert query(empty_root, text).num_rows <= 1 or "duckdb_columns()" in text  # the root is empty, its views are not


def test_nobody_is_told_to_install_vernaclip_from_where_it_is_not() -> None:
    """No package of that name is published: extras are installed from a checkout."""
    pages = {path: path.read_bytes().decode(errors="replace") for path in [*TEXTS, *PAGES] if path.is_file()}
    asked = re.compile(r"vernaclip\[|\b(?:pip3?|pipx|uv) (?:[^\n`&;]* )?(?:install|add) [^\n`&;]*\bvernaclip\b")
    assert [path.relative_to(HOME) for path, text in pages.items() if asked.search(text)] == []
    extras = tomllib.loads((HOME / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = {name for text in pages.values() for name in re.findall(r"'\.\[(\w+)\]'", text)}
    assert {"dask", "deepl", "onnx"} <= named <= extras.keys()
