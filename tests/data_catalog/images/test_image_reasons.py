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
# Whose first argument is a reason.
GIVERS = {"FetchError", "ImageRejectedError", "failed"}


def nodes() -> Iterator[ast.AST]:
    """All of the code that fetches and normalises, but for the table of reasons."""
    for source in SOURCES:
        if source.name != "reasons.py":
            yield from ast.walk(ast.parse(source.read_text(encoding="utf-8")))


def _name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_every_reason_that_is_given_is_in_the_set_and_the_other_way_round() -> None:
    known = FETCH_REASONS.keys() | NORMALISE_REASONS.keys()
    given = {
        node.args[0].value
        for node in nodes()
        if isinstance(node, ast.Call)
        and _name_of(node.func) in GIVERS
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }
    assert given - {None} <= known
    texts = {node.value for node in nodes() if isinstance(node, ast.Constant)}
    by_status = {http_reason(status) for status in range(100, 1000)}
    assert known <= texts | by_status | {FORGOTTEN}  # which take-downs give


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
