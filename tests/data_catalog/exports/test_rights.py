"""Who may be passed on: licenses as upstream spells them, rows, sources and the user's word, in that order of trust."""

from typing import Any

import pytest

from data_catalog.exports import rights
from data_catalog.exports.rights import FORBIDDEN, FREE, NONCOMMERCIAL, Policy, SourceRights, read_license, strictness

COCO = "http://creativecommons.org/licenses"


LICENSES = {
    "CC0 1.0 Universal": ("CC0", FREE),
    "https://creativecommons.org/publicdomain/zero/1.0/": ("CC0", FREE),
    "Public domain": ("public domain", FREE),
    "No known copyright restrictions (http://flickr.com/commons/usage/)": ("public domain", FREE),
    "United States Government Work (http://www.usa.gov/copyright.shtml)": ("public domain", FREE),
    "Attribution-NonCommercial-NoDerivs License": ("CC-BY-NC-ND", FORBIDDEN),
    f"CC BY 2.0 ({COCO}/by/2.0/)": ("CC-BY", FREE),
    "  CC BY 2.5 it ": ("CC-BY", FREE),
    "Creative Commons Attribution-Share Alike 4.0 International": ("CC-BY-SA", FREE),
    "https://creativecommons.org/licenses/by/4.0/deed.it": ("CC-BY", FREE),
    f"Attribution-NonCommercial License ({COCO}/by-nc/2.0/)": ("CC-BY-NC", NONCOMMERCIAL),
    f"Attribution-NonCommercial-ShareAlike License ({COCO}/by-nc-sa/2.0/)": ("CC-BY-NC-SA", NONCOMMERCIAL),
    "CC BY-NC-SA 4.0": ("CC-BY-NC-SA", NONCOMMERCIAL),
    f"Attribution-NoDerivs License ({COCO}/by-nd/2.0/)": ("CC-BY-ND", FORBIDDEN),
    "All rights reserved": ("all rights reserved", FORBIDDEN),
}


def test_licenses_are_told_by_name_and_address() -> None:
    for text, told in LICENSES.items():
        found = read_license(text)
        assert found is not None, text
        assert (found.name, found.passing_on) == told


NONE = [
    *(None, "", "by", "Attribution", "Attribution-ShareAlike", "not CC0", "CC BY 4.0, except for the pictures"),
    *("CC BY\u202e 4.0", "CC BY 4.0 NC", "CC-BY-2.0-ND", f"Attribution License ({COCO}/by-nd/2.0/)", "© A. Bianchi"),
    *(f"https://creativecommons.org/licenses/by/4.0/{more}" for more in ("nc/", "?but=not")),
    "https://evil.example/creativecommons.org/licenses/by/4.0/",
]


def test_whatever_else_stands_there_is_no_license() -> None:
    assert [text for text in NONE if read_license(text) is not None] == []


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


def test_a_recipe_and_the_user_may_let_all_images_of_a_source_go_and_the_recipe_none() -> None:
    assert withheld_reason("licensed", row("CC BY-NC 4.0"), SourceRights(redistribution=True)) is None
    assert withheld_reason("licensed", row(), None, "photos") is None
    assert withheld_reason("licensed", row(), None, "others") == rights.NO_LICENSE
    for pixels in ("licensed", "all"):
        forbidden = withheld_reason(pixels, row("CC0"), SourceRights(redistribution=False), "photos")
        assert forbidden == rights.SOURCE_FORBIDS


def test_the_strictest_of_the_licenses_of_one_image_comes_first_and_none_is_stricter_than_a_free_one() -> None:
    licenses = ["CC BY-ND 4.0", "a license of ours", "CC BY-NC 4.0", None, "CC BY-SA 4.0", "CC BY 4.0", "CC0"]
    keys = [strictness(license) for license in licenses]
    assert keys == sorted(set(keys))
