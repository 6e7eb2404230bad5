"""docs/cleaning.md says of checks and reasons what the code says; run as a program, this writes them."""

import dataclasses
import re
from pathlib import Path

import pytest

from cleaning.checks import CHECK_REASONS, CLEAN_REASONS, CheckConfig, CleanConfig
from cleaning.checks.boilerplate import BOILERPLATE_RULES, boilerplate_rule
from cleaning.checks.definition import TEXT, Section
from cleaning.text.mending import clean_text
from data_catalog.sources.registry import SOURCE_KINDS
from flows.build.steps import STEPS
from flows.recipe.recipe import SECTIONS

REASONS = {name: row.reasons for step in STEPS for name, row in step.rows.items()}

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "cleaning.md").read_text(encoding="utf-8")
IMAGES = (DOCS / "images.md").read_text(encoding="utf-8")


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


# Settings that have no check, and stand with their examples in a table of their own.
MENDING = sorted(CleanConfig.__annotations__.keys() - {"section", "columns"})
REASONS_BY_STEP = {
    "clean": CLEAN_REASONS,
    "screen": REASONS["screen"],
    "translate": REASONS["translate"],
    "check": REASONS["check"],
    "deduplicate": REASONS["deduplicate"],
}


def checks_of(config: type[Section]) -> str:
    """A table of a section's checks; docs/recipes.md has their settings."""
    lines = ["", "| check | switch | drops | reads | reason |", "|---|---|---|---|---|"]
    for check in config.check_types():
        switch, drops = f"`{config.section}.{check.switch()}`", check.drops().removeprefix("Drop ").removesuffix(".")
        reads = ", ".join("the caption" if name == TEXT else f"`{name}`" for name in check.reads)
        reasons = ", ".join(f"`{name}`" for name in check.reasons)
        lines.append(f"| `{check.name}` | {switch} | {drops} | {reads} | {reasons} |")
    return "\n".join([*lines, "", ""])


def reasons_by_step() -> str:
    rows = [
        f"| `{name}` | {step} | {reason.meaning} | {', '.join(f'`{path}`' for path in reason.settings)} |".replace(
            "|  |", "| |"
        )
        for step, found in REASONS_BY_STEP.items()
        for name, reason in found.items()
    ]
    return "\n".join(["", "| reason | step | meaning | decided by |", "|---|---|---|---|", *rows, "", ""])


def rewritten(page: str) -> str:
    """The page with what stands between the marks as the code has it."""
    for start, end, text in (
        ("checks of [clean]: written from cleaning/checks", "end of checks of [clean]", checks_of(CleanConfig)),
        ("checks of [check]: written from cleaning/checks", "end of checks of [check]", checks_of(CheckConfig)),
        ("reasons: written from the checks and steps", "end of reasons", reasons_by_step()),
    ):
        assert page.count(f"<!-- {start} -->") == page.count(f"<!-- {end} -->") == 1
        before, _, rest = page.partition(f"<!-- {start} -->")
        page = f"{before}<!-- {start} -->\n{text}<!-- {end} -->{rest.partition(f'<!-- {end} -->')[2]}"
    return page


def test_checks_and_reasons_stand_there_as_the_code_has_them() -> None:
    """Where they do not, run this file as a program."""
    assert rewritten(PAGE) == PAGE
    assert set(CHECK_REASONS) < set(REASONS["check"])


def test_what_decides_a_reason_is_a_setting_of_recipes() -> None:
    sections = {name: {field.name for field in dataclasses.fields(config)} for name, config in SECTIONS.items()}
    named = {path for found in REASONS.values() for reason in found.values() for path in reason.settings}
    kinds = {field.name for kind in SOURCE_KINDS.values() for field in dataclasses.fields(kind.config_type)}
    paths = {f"{section}.{name}" for section, names in sections.items() for name in names}
    assert named - paths - {f"sources.*.{name}" for name in kinds} == {"target_language", "source_language"}


@pytest.mark.parametrize("name", MENDING)
def test_what_mends_is_on_by_default_and_has_its_row(name: str) -> None:
    assert getattr(CleanConfig(), name) is True
    assert [f"`clean.{name}`", "`true`"] in [row[:2] for row in rows(section("## What is mended"))]


@pytest.mark.parametrize("name", sorted(REASONS["deduplicate"].keys() - {"duplicate_caption"}))
def test_the_page_about_images_has_what_drops_them(name: str) -> None:
    assert [f"`{name}`", "deduplicate", "", REASONS["deduplicate"][name].meaning] in rows(IMAGES)


def test_rules_of_boilerplate_are_listed_in_their_order() -> None:
    assert [row[0].strip("`") for row in rows(section("### Boilerplate"))[2:]] == list(BOILERPLATE_RULES)


@pytest.mark.parametrize(
    ("rule", "text"),
    [(row[0].strip("`"), text) for row in rows(section("### Boilerplate"))[2:] for text in examples(row[1])],
)
def test_rules_of_boilerplate_drop_their_examples(rule: str, text: str) -> None:
    assert boilerplate_rule(text, [rule]) == rule


def test_what_says_what_is_seen_is_no_boilerplate() -> None:
    kept = ["Panorama di Roma.jpg", "photo of a cat by the sea", "In 1998 the bridge was closed"]
    assert all(text in PAGE for text in kept)
    assert [text for text in kept if boilerplate_rule(text)] == []


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


if __name__ == "__main__":
    (DOCS / "cleaning.md").write_text(rewritten(PAGE), encoding="utf-8")
