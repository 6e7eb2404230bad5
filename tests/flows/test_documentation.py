"""The pages of docs/: the site's navigation has them all, they stay short, and what refers to them finds them."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

HOME = Path(__file__).parents[2]
PAGES = sorted((HOME / "docs").glob("*.md"))
PACKAGES = ("vernaclip", "flows", "translation", "cleaning", "training", "data_catalog")
MAX_PAGES, MAX_WORDS = 12, 15_000
FOLDERS = (*PACKAGES, "tests", "benchmarks", "docs")
TEXTS = [
    *HOME.glob("*.md"),
    *(path for name in FOLDERS for suffix in ("py", "toml", "md") for path in (HOME / name).rglob(f"*.{suffix}")),
]


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
    assert sorted(places(site["nav"])) == [path.name for path in PAGES]


def test_the_pages_are_few_and_short() -> None:
    assert len(PAGES) <= MAX_PAGES
    assert sum(len(path.read_text(encoding="utf-8").split()) for path in PAGES) <= MAX_WORDS


def test_a_page_that_is_named_anywhere_exists_and_has_the_heading() -> None:
    named = [
        (path.relative_to(HOME), page, anchor)
        for path in TEXTS
        for page, anchor in re.findall(r"\bdocs/([\w-]+\.md)(?:#([\w-]+))?", path.read_text(encoding="utf-8"))
    ]
    assert len(named) > 20
    known = {path.name: anchors(path) for path in PAGES}
    assert [(path, page) for path, page, anchor in named if anchor not in {*known.get(page, ()), ""}] == []
    assert [(path, page) for path, page, _ in named if page not in known] == []


def test_source_and_test_files_that_the_pages_name_exist() -> None:
    pattern = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w/.-]+)`")
    texts = [*PAGES, HOME / "README.md", HOME / "CONTRIBUTING.md"]
    named = [(path.name, place) for path in texts for place in pattern.findall(path.read_text(encoding="utf-8"))]
    assert named
    assert [(page, place) for page, place in named if not (HOME / place).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_what_the_pages_import_from_us_exists(path: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PACKAGES:
                module = import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
