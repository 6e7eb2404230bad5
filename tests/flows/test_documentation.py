"""Pages: what they give to paste is read by the program as it stands, they stay short, and links find them."""

import ast
import re
import shlex
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_catalog.base.settings import json_values
from data_catalog.catalog.duckdb_file import rebuild
from data_catalog.catalog.query import query
from data_catalog.sample.samples import COCO, coco_id, plan
from flows.cli.app import parse
from flows.recipe.recipe import SECTIONS, load_recipe

HOME = Path(__file__).parents[2]
DOCS = sorted((HOME / "docs").glob("*.md"))
PAGES = [HOME / "README.md", *DOCS]
MEASURED = HOME / "docs/benchmarks.md"  # a table that `make bench-full` writes: nobody reads it through
MAX_PAGES, MAX_WORDS = 13, 19_100  # without that table
PACKAGES = ("vernaclip", "flows", "translation", "cleaning", "training", "data_catalog")
FOLDERS = (*PACKAGES, "tests", "benchmarks", "docs")
TEXTS = [
    *HOME.glob("*.md"),
    *(path for name in FOLDERS for suffix in ("py", "toml", "md") for path in (HOME / name).rglob(f"*.{suffix}")),
]


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


def test_the_demo_has_the_samples_that_the_pages_ask_about() -> None:
    recipe = load_recipe("scenes", root=Path("demo-catalog"))
    assert recipe.scenes is not None
    samples = plan(recipe.scenes.seed, recipe.scenes.num_images)
    known = {f"mscoco:{coco_id(sample.index)}" for sample in samples if sample.source == COCO}
    lines = [shlex.split(line, comments=True) for path in PAGES for line in commands(path)]
    asked = {words[2] for words in lines if words[1] == "why" and "demo-catalog" in words}
    assert asked
    assert asked <= known


def test_nobody_is_told_to_install_vernaclip_from_where_it_is_not() -> None:
    """No package of that name is published: a checkout, a wheel's file or the libraries of an extra are installed."""
    pages = {path: path.read_text(encoding="utf-8") for path in TEXTS if "tests" not in path.parts}
    asked = re.compile(r"vernaclip\[|\b(?:pip3?|pipx|uv) (?:[^\n`&;]* )?(?:install|add) [^\n`&;]*\bvernaclip\b(?!-)")
    assert [path.relative_to(HOME) for path, text in pages.items() if asked.search(text)] == []
    extras = tomllib.loads((HOME / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = {name for text in pages.values() for name in re.findall(r"'\.\[(\w+)\]'", text)}
    assert {"onnx"} <= named <= extras.keys()


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as mkdocs makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def places(navigation: object) -> list[str]:
    """Return the pages of a navigation, in order."""
    if isinstance(navigation, str):
        return [navigation]
    items = navigation.values() if isinstance(navigation, dict) else navigation
    return [page for item in items for page in places(item)]  # type: ignore[attr-defined]


def test_the_navigation_has_every_page_once() -> None:
    site = yaml.safe_load((HOME / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(places(site["nav"])) == [path.name for path in DOCS]


def test_the_pages_are_few_and_short() -> None:
    written = [path for path in DOCS if path != MEASURED]
    assert len(written) <= MAX_PAGES
    assert sum(len(path.read_text(encoding="utf-8").split()) for path in written) <= MAX_WORDS


def test_a_page_that_is_named_anywhere_exists_and_has_the_heading() -> None:
    named = [
        (path.relative_to(HOME), page, anchor)
        for path in TEXTS
        for page, anchor in re.findall(r"\bdocs/([\w-]+\.md)(?:#([\w-]+))?", path.read_text(encoding="utf-8"))
    ]
    assert len(named) > 20
    known = {path.name: anchors(path) for path in DOCS}
    assert [(path, page) for path, page, anchor in named if anchor not in {*known.get(page, ()), ""}] == []
    assert [(path, page) for path, page, _ in named if page not in known] == []


def test_source_and_test_files_that_the_pages_name_exist() -> None:
    pattern = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w/.-]+)`")
    texts = [*DOCS, HOME / "README.md", HOME / "CONTRIBUTING.md"]
    named = [(path.name, place) for path in texts for place in pattern.findall(path.read_text(encoding="utf-8"))]
    assert named
    assert [(page, place) for page, place in named if not (HOME / place).exists()] == []


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_what_the_pages_import_from_us_exists(path: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PACKAGES:
                module = import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
