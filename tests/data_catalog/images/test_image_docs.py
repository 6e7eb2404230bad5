"""The page about images says all that it must: every reason, as the code has it."""

from pathlib import Path

import pytest

from data_catalog.fetch.reasons import FETCH_REASONS, NORMALISE_REASONS

PAGE = (Path(__file__).parents[3] / "docs" / "images.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("step", "name"),
    [*(("fetch", name) for name in FETCH_REASONS), *(("normalise", name) for name in NORMALISE_REASONS)],
)
def test_every_reason_has_its_row(step: str, name: str) -> None:
    reason = {**FETCH_REASONS, **NORMALISE_REASONS}[name]
    assert f"| `{name}` | {step} | {'yes' if reason.retryable else ''} | {reason.meaning} |" in PAGE
