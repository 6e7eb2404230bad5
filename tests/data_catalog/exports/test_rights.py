"""Who may be passed on: rows, sources and the user's word, in that order of trust."""

from typing import Any

import pytest

from data_catalog.exports import rights
from data_catalog.exports.rights import Policy, SourceRights


def row(license: str | None = None, *, attribution: str | None = None, page_url: str | None = None) -> dict[str, Any]:
    return {"source": "photos", "license": license, "attribution": attribution, "page_url": page_url}


def withheld_reason(pixels: str, asked: dict[str, Any], said: SourceRights | None = None, *allowed: str) -> str | None:
    sources = {} if said is None else {"photos": said}
    return Policy(pixels=pixels, sources=sources, allowed=frozenset(allowed)).withheld_reason(asked)


@pytest.mark.parametrize(
    ("asked", "licensed", "noncommercial"),
    [
        (row("CC0"), None, None),
        (row("CC BY 4.0", attribution="A. Bianchi"), None, None),
        (row("CC BY 4.0", page_url="https://photos.example/1"), None, None),
        (row("CC BY 4.0"), rights.NO_CREDIT, rights.NO_CREDIT),
        (row("CC BY 4.0", attribution=" ", page_url="\t"), rights.NO_CREDIT, rights.NO_CREDIT),
        (row("  "), rights.NO_LICENSE, rights.NO_LICENSE),
        (row("CC BY-NC 4.0", attribution="A. Bianchi"), rights.TRADE_FORBIDDEN, None),
        (row("CC BY-NC 4.0"), rights.TRADE_FORBIDDEN, rights.NO_CREDIT),
        (row("CC BY-ND 4.0", attribution="A. Bianchi"), rights.COPIES_FORBIDDEN, rights.COPIES_FORBIDDEN),
        (row("mine"), rights.UNKNOWN_LICENSE, rights.UNKNOWN_LICENSE),
        (row(), rights.NO_LICENSE, rights.NO_LICENSE),
    ],
)
def test_licenses_decide_where_nobody_says_more(
    asked: dict[str, Any], licensed: str | None, noncommercial: str | None
) -> None:
    assert withheld_reason("licensed", asked) == licensed
    assert withheld_reason("noncommercial", asked) == noncommercial
    assert withheld_reason("all", asked) is None
    assert withheld_reason("none", asked) == rights.WITHOUT_PIXELS


def test_a_recipes_license_holds_where_the_row_states_none() -> None:
    free = SourceRights(license="CC-BY-4.0")
    assert withheld_reason("licensed", row(), free) is None, "whoever states it is who is credited"
    assert withheld_reason("licensed", row(" "), free) is None
    assert withheld_reason("licensed", row("All rights reserved"), free) == rights.COPIES_FORBIDDEN
    assert withheld_reason("licensed", row(), SourceRights(license="ours")) == rights.UNKNOWN_LICENSE


def test_a_recipe_may_let_all_images_of_a_source_go_or_none() -> None:
    assert withheld_reason("licensed", row("CC BY-NC 4.0"), SourceRights(redistribution=True)) is None
    for pixels in ("licensed", "noncommercial", "all"):
        assert withheld_reason(pixels, row("CC0"), SourceRights(redistribution=False)) == rights.SOURCE_FORBIDS


def test_the_user_may_vouch_for_a_source_but_not_against_the_recipe() -> None:
    assert withheld_reason("licensed", row(), None, "photos") is None
    assert withheld_reason("licensed", row(), None, "others") == rights.NO_LICENSE
    assert withheld_reason("licensed", row(), SourceRights(redistribution=False), "photos") == rights.SOURCE_FORBIDS
