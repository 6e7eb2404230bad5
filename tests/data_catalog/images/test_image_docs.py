"""Reasons for which images are dropped in docs/images.md, generated from the code; run this file to write them."""

from collections.abc import Mapping
from pathlib import Path

from data_catalog.fetch.reasons import FETCH_REASONS, NORMALISE_REASONS
from data_catalog.stages import Reason
from flows.build.steps import STEPS

PAGE = Path(__file__).parents[3] / "docs" / "images.md"
BEGIN, END = "<!-- reasons: written from the code by `make docs` -->", "<!-- end of reasons -->"
DUPLICATES = {
    name: reason
    for step in STEPS
    for name, reason in getattr(step.rows.get("deduplicate"), "reasons", {}).items()
    if name != "duplicate_caption"
}


def rewritten(page: str) -> str:
    """Return the page with its reasons as the code has them."""
    assert page.count(BEGIN) == page.count(END) == 1
    lines = [BEGIN, "", "|reason|step|retried|meaning|", "|---|---|---|---|"]
    steps: Mapping[str, Mapping[str, Reason]] = {
        "fetch": FETCH_REASONS,
        "normalise": NORMALISE_REASONS,
        "deduplicate": DUPLICATES,
    }
    for step, reasons in steps.items():
        for name, reason in reasons.items():
            retried = "yes" if getattr(reason, "retryable", False) else ""
            meaning = reason.meaning.removeprefix(f"HTTP {name.removeprefix('http_')}: ")
            lines.append(f"|`{name}`|{step}|{retried}|{meaning}|")
    before, _, rest = page.partition(BEGIN)
    return before + "\n".join([*lines, "", END]) + rest.partition(END)[2]


def test_the_page_lists_every_reason_as_the_code_has_it() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert DUPLICATES
    assert rewritten(page) == page


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
