"""Reasons for which images are dropped in docs/images.md, generated from the code; run this file to write them."""

import re
from collections.abc import Mapping
from pathlib import Path

from data_catalog.fetch.reasons import FETCH_REASONS, NORMALISE_REASONS
from data_catalog.stages import Reason
from flows.build.steps import STEPS

PAGE = Path(__file__).parents[3] / "docs" / "images.md"
BEGIN, END = "<!-- reasons: written from the code by `make docs` -->", "<!-- end of reasons -->"
_OF_DUPLICATES = [getattr(step.rows.get("deduplicate"), "reasons", {}) for step in STEPS]
REASONS: Mapping[str, Mapping[str, Reason]] = {
    "fetch": FETCH_REASONS,
    "normalise": NORMALISE_REASONS,
    "deduplicate": {name: why for some in _OF_DUPLICATES for name, why in some.items() if name != "duplicate_caption"},
}


def rewritten(page: str) -> str:
    """Return the page with its reasons as the code has them."""
    lines = [BEGIN, "", "|reason|step|retried|meaning|", "|---|---|---|---|"]
    for step, reasons in REASONS.items():
        http: dict[str, list[str]] = {}  # reasons that are an HTTP status and nothing else, by whether they are retried
        for name, reason in reasons.items():
            retried = "yes" if getattr(reason, "retryable", False) else ""
            if re.fullmatch(r"http_\d{3}", name):
                http.setdefault(retried, []).append(f"`{name}`")
            else:
                lines.append(f"|`{name}`|{step}|{retried}|{reason.meaning}|")
        lines += [f"|{', '.join(http[kind])}|{step}|{kind}|the answer has this HTTP status|" for kind in http]
    before, _, rest = page.partition(BEGIN)
    return before + "\n".join([*lines, "", END]) + rest.partition(END)[2]


def test_the_page_lists_every_reason_as_the_code_has_it() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    assert all(REASONS.values())
    assert rewritten(page) == page


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
