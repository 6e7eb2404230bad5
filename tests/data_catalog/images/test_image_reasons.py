"""The reasons are one closed set: every one that code can give is in it, and every one in it can be given."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import data_catalog.fetch
import data_catalog.images
from data_catalog.fetch.reasons import (
    FETCH_REASONS,
    HTTP_MEANINGS,
    NORMALISE_REASONS,
    RETRYABLE_STATUSES,
    http_reason,
    is_retryable,
)
from data_catalog.tombstones import FORGOTTEN

ROOMS = (data_catalog.fetch, data_catalog.images)
SOURCES = sorted(path for room in ROOMS for path in Path(room.__file__).parent.glob("*.py"))
# Where a reason stands: the first argument of these, or of `_refused` and `_failure` (whichever is a text).
GIVERS = {"FetchError", "ImageRejectedError", "failed", "_failure", "_refused"}


def given_reasons() -> Iterator[str]:
    """The reasons that stand in the code as texts."""
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _name_of(node.func) in GIVERS:
                texts = [
                    part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)
                ]
                yield from texts[:1]


def _name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_every_reason_that_is_given_is_in_the_set_and_the_other_way_round() -> None:
    by_status = {http_reason(status) for status in range(100, 1000)}
    given = {*given_reasons(), *by_status, FORGOTTEN}  # which take-downs give
    assert given == FETCH_REASONS.keys() | NORMALISE_REASONS.keys()


def test_a_reason_belongs_to_one_step() -> None:
    assert not FETCH_REASONS.keys() & NORMALISE_REASONS.keys()


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (204, "http_2xx"),
        (304, "http_3xx"),
        (404, "http_404"),
        (418, "http_4xx"),
        (520, "http_5xx"),
        (999, "http_other"),
    ],
)
def test_reasons_of_answers(status: int, reason: str) -> None:
    assert http_reason(status) == reason


def test_what_may_pass_is_tried_again_and_nothing_else() -> None:
    assert {status for status in HTTP_MEANINGS if is_retryable(http_reason(status))} == RETRYABLE_STATUSES
    assert [is_retryable(reason) for reason in ("dns", "timeout", "fetch_lost", "http_5xx")] == [True] * 4
    final = ("http_404", "robots_txt", "private_address", "tls", "decode_error", "no such reason", None)
    assert [is_retryable(reason) for reason in final] == [False] * 7
