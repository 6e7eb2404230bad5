"""Tables of checks and reasons in docs/captions.md, generated from the code; run this file to write them."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

from cleaning.checks import CHECK_REASONS, CLEAN_REASONS, CheckConfig, CleanConfig
from cleaning.checks.boilerplate import BOILERPLATE_RULES, boilerplate_rule
from cleaning.checks.definition import TEXT, Section
from cleaning.text.mending import clean_text
from data_catalog.sources.registry import SOURCE_KINDS
from flows.build.steps import STEPS
from flows.recipe.recipe import SECTIONS

REASONS = {name: row.reasons for step in STEPS for name, row in step.rows.items()}

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "captions.md").read_text(encoding="utf-8")


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
REASONS_BY_STEP = {name: REASONS[name] for name in ("clean", "screen", "translate", "check", "fit", "deduplicate")}
REASONS_BY_STEP["clean"] = CLEAN_REASONS


def table(*lines: tuple[str, ...]) -> str:
    """Return a Markdown table; the first line is its header."""
    head, *rest = ["|" + "|".join(line) + "|" for line in lines]
    return "\n".join(["", head, "|" + "---|" * len(lines[0]), *rest, "", ""])


def settings_of(paths: Iterable[str], config: str = "") -> str:
    """Return setting paths as code; those of the section itself without its name."""
    return ", ".join(f"`{path.removeprefix(f'{config}.') if config else path}`" for path in paths)


def checks_of(config: type[Section]) -> str:
    """Return the table of a section's checks, with the settings that decide their reasons."""
    lines: list[tuple[str, ...]] = [("check", "drops", "reads", "reasons", "settings")]
    for check in config.check_types():
        found = [REASONS[config.section][name] for name in check.reasons]
        decided = dict.fromkeys(path for reason in found for path in reason.settings)
        settings = {f"{config.section}.{check.switch()}": None} | decided
        drops = check.drops().removeprefix("Drop ").removesuffix(".")
        reads = ", ".join("caption" if name == TEXT else f"`{name}`" for name in check.reads)
        reasons = ", ".join(f"`{name}`" for name in check.reasons)
        lines.append((f"`{check.name}`", drops, reads, reasons, settings_of(settings, config.section)))
    return table(*lines)


def other_reasons() -> str:
    """Return the table of the reasons of captions that no check gives."""
    of_checks = {"clean": CLEAN_REASONS.keys(), "check": CHECK_REASONS.keys()}
    lines = [
        (f"`{name}`", step, reason.meaning, settings_of(reason.settings))
        for step, found in REASONS_BY_STEP.items()
        for name, reason in found.items()
        if name not in of_checks.get(step, ()) and not (step == "deduplicate" and name != "duplicate_caption")
    ]
    return table(("reason", "step", "meaning", "settings"), *lines)


def rewritten(page: str) -> str:
    """Return a page with its tables as the code has them."""
    for start, end, text in (
        ("checks of [clean]: written from cleaning/checks", "end of checks of [clean]", checks_of(CleanConfig)),
        ("checks of [check]: written from cleaning/checks", "end of checks of [check]", checks_of(CheckConfig)),
        ("other reasons: written from the steps", "end of other reasons", other_reasons()),
    ):
        assert page.count(f"<!-- {start} -->") == page.count(f"<!-- {end} -->") == 1
        before, _, rest = page.partition(f"<!-- {start} -->")
        page = f"{before}<!-- {start} -->\n{text}<!-- {end} -->{rest.partition(f'<!-- {end} -->')[2]}"
    return page


def test_tables_of_checks_and_reasons_match_the_code() -> None:
    assert rewritten(PAGE) == PAGE
    assert set(CHECK_REASONS) < set(REASONS["check"])


def test_what_decides_a_reason_is_a_setting_of_recipes() -> None:
    sections = {name: {field.name for field in dataclasses.fields(config)} for name, config in SECTIONS.items()}
    named = {path for found in REASONS.values() for reason in found.values() for path in reason.settings}
    kinds = {field.name for kind in SOURCE_KINDS.values() for field in dataclasses.fields(kind.config_type)}
    paths = {f"{section}.{name}" for section, names in sections.items() for name in names}
    assert named - paths - {f"sources.*.{name}" for name in kinds} == {"target_language", "source_language"}


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


if __name__ == "__main__":
    (DOCS / "captions.md").write_text(rewritten(PAGE), encoding="utf-8")
