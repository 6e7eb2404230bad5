"""Examples of docs/captions.md are dropped, mended or left alone as the page says."""

import re
from pathlib import Path

from cleaning.checks import CleanConfig
from cleaning.checks.boilerplate import BOILERPLATE_RULES, boilerplate_rule
from cleaning.checks.mending import clean_text

PAGE = (Path(__file__).parents[2] / "docs" / "captions.md").read_text(encoding="utf-8")


def rows(page: str) -> list[list[str]]:
    """Return the cells of all rows of all tables of a page."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def section(heading: str) -> str:
    """Return the text below a heading, up to the next heading."""
    found = re.search(rf"^{re.escape(heading)}.*?$(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found.group(1)


def examples(cell: str) -> list[str]:
    return [text.replace("\\|", "|") for text in re.findall(r"`([^`]+)`", cell)]


# Settings that have no check; the page has their examples in a table of their own.
MENDING = sorted(CleanConfig.__annotations__.keys() - {"section", "columns"})


def test_examples_of_the_page_are_dropped_mended_and_left_alone_as_it_says() -> None:
    boilerplate = rows(section("### Boilerplate"))[2:]
    assert [row[0].strip("`") for row in boilerplate] == list(BOILERPLATE_RULES)
    for rule, dropped in boilerplate:
        for text in examples(dropped):
            assert boilerplate_rule(text, [rule.strip("`")]), text
    mending = rows(section("## Mending"))[2:]
    on = {f"`clean.{name}`" for name in MENDING if getattr(CleanConfig(), name) is True}
    assert {row[0] for row in mending if row[0]} == on == {f"`clean.{name}`" for name in MENDING}
    for _, _, before, after in mending:
        assert clean_text(CleanConfig())(examples(before)) == examples(after)
    captions = ["Panorama di Roma.jpg", "photo of a cat by the sea", "In 1998 the bridge was closed"]
    assert [text for text in captions if boilerplate_rule(text)] == []
    kept = ["a < b", "<PERSON>", "a stock photograph of a tie and cuff links", "„quotes“"]
    assert clean_text(CleanConfig())(kept) == kept
    assert all(text in PAGE for text in captions + kept)
