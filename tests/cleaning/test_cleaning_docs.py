"""The page about cleaning has every check, setting and reason as the code has them, and its examples hold."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from cleaning.boilerplate import BOILERPLATE_RULES, boilerplate
from cleaning.config import CHECK_CHECKS, CLEAN_CHECKS, CheckConfig, CleanConfig
from cleaning.reasons import REASONS
from cleaning.selection_config import DuplicatesConfig, LeaksConfig, RepeatsConfig
from cleaning.text import clean_text
from data_catalog.publish import SplitConfig

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "cleaning.md").read_text(encoding="utf-8")
TEST_SETS = (DOCS / "test-sets.md").read_text(encoding="utf-8")
IMAGES = (DOCS / "images.md").read_text(encoding="utf-8")

SETTINGS: list[tuple[str, str, Any]] = [
    (page, f"{section}.{field.name}", getattr(config, field.name))
    for page, section, config in (
        (PAGE, "clean", CleanConfig()),
        (PAGE, "check", CheckConfig()),
        (PAGE, "repeats", RepeatsConfig()),
        (PAGE, "duplicates", DuplicatesConfig()),
        (PAGE, "split", SplitConfig()),
        (TEST_SETS, "leaks", LeaksConfig()),
    )
    for field in dataclasses.fields(config)
]


def rows(page: str) -> list[list[str]]:
    """Cells of all rows of all tables of a page."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def section(heading: str) -> str:
    """What stands below a heading, up to the next of its kind."""
    found = re.search(rf"^{re.escape(heading)}.*?$(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found.group(1)


def examples(cell: str) -> list[str]:
    return [text.replace("\\|", "|") for text in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize(
    ("step", "name"), [(step, name) for step, reasons in REASONS.items() for name in reasons], ids=str
)
def test_every_reason_has_its_row(step: str, name: str) -> None:
    assert [f"`{name}`", step, REASONS[step][name]] in rows(section("## Reasons"))


@pytest.mark.parametrize("name", sorted(REASONS["deduplicate"].keys() - {"duplicate_caption"}))
def test_the_page_about_images_has_what_drops_them(name: str) -> None:
    assert [f"`{name}`", "deduplicate", "", REASONS["deduplicate"][name]] in rows(IMAGES)


@pytest.mark.parametrize(
    ("heading", "checks"),
    [("## Before translation: `[clean]`", CLEAN_CHECKS), ("## After translation: `[check]`", CHECK_CHECKS)],
)
def test_checks_are_listed_in_their_usual_order(heading: str, checks: tuple[str, ...]) -> None:
    listed = [row[0].strip("`") for row in rows(section(heading)) if len(row) > 3 and row[0].startswith("`")]
    assert listed == list(checks)


@pytest.mark.parametrize(("page", "path", "default"), SETTINGS, ids=[path for _, path, _ in SETTINGS])
def test_every_setting_has_its_row_and_default(page: str, path: str, default: Any) -> None:
    told = next((row[1] for row in rows(page) if row[0] == f"`{path}`"), None)
    words = {"clean.boilerplate_rules": "all", "clean.order": "none", "check.order": "none", "split.by": "none"}
    assert told == words.get(path, f"`{json.dumps(default)}`")


def test_rules_of_boilerplate_are_listed_in_their_order() -> None:
    assert [row[0].strip("`") for row in rows(section("### Boilerplate"))[2:]] == list(BOILERPLATE_RULES)


@pytest.mark.parametrize(
    ("rule", "text"),
    [(row[0].strip("`"), text) for row in rows(section("### Boilerplate"))[2:] for text in examples(row[1])],
)
def test_rules_of_boilerplate_drop_their_examples(rule: str, text: str) -> None:
    (drop,) = boilerplate((rule,))([text])
    assert drop is not None
    assert drop.detail == rule


def test_what_says_what_is_seen_is_no_boilerplate() -> None:
    kept = ["Panorama di Roma.jpg", "photo of a cat by the sea", "In 1998 the bridge was closed"]
    assert all(text in PAGE for text in kept)
    assert boilerplate()(kept) == [None] * len(kept)


@pytest.mark.parametrize(
    ("before", "after"),
    [(row[2], row[3]) for row in rows(section("## What is mended"))[2:]],
    ids=lambda cell: str(cell),
)
def test_texts_are_mended_as_shown(before: str, after: str) -> None:
    assert clean_text(CleanConfig())(examples(before)) == examples(after)


def test_what_is_left_alone_is() -> None:
    kept = ["a < b", "<PERSON>", "a stock photograph of a tie and cuff links", "„quotes“"]
    assert all(text in PAGE for text in kept)
    assert clean_text(CleanConfig())(kept) == kept
