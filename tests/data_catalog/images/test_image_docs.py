"""Reasons for which images are dropped in docs/images.md, generated from the code; run this file to write them."""

import re
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
        http: dict[str, list[str]] = {}  # reasons that are an HTTP status and nothing else, by whether they are retried
        for name, reason in reasons.items():
            retried = "yes" if getattr(reason, "retryable", False) else ""
            if re.fullmatch(r"http_\d{3}", name):
                http.setdefault(retried, []).append(name)
            else:
                lines.append(f"|`{name}`|{step}|{retried}|{reason.meaning}|")
        for retried, names in http.items():
            lines.append(
                f"|{', '.join(f'`{name}`' for name in names)}|{step}|{retried}|the answer has this HTTP status|"
            )
    before, _, rest = page.partition(BEGIN)
    return before + "\n".join([*lines, "", END]) + rest.partition(END)[2]


def test_the_page_lists_every_reason_as_the_code_has_it() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert DUPLICATES
    assert rewritten(page) == page


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
