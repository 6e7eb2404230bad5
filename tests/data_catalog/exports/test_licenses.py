"""Licenses as upstream spells them, and what is no license."""

import pytest

from data_catalog.exports.rights import FORBIDDEN, FREE, NONCOMMERCIAL, read_license

COCO = "http://creativecommons.org/licenses"


@pytest.mark.parametrize(
    ("text", "name", "passing_on"),
    [
        ("CC0-1.0", "CC0", FREE),
        ("cc0", "CC0", FREE),
        ("CC0 1.0 Universal", "CC0", FREE),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0", FREE),
        ("Public domain", "public domain", FREE),
        ("No known copyright restrictions (http://flickr.com/commons/usage/)", "public domain", FREE),
        ("United States Government Work (http://www.usa.gov/copyright.shtml)", "public domain", FREE),
        (f"Attribution License ({COCO}/by/2.0/)", "CC-BY", FREE),
        ("Attribution License", "CC-BY", FREE),
        ("Attribution-NonCommercial-NoDerivs License", "CC-BY-NC-ND", FORBIDDEN),
        ("Creative Commons Attribution 4.0", "CC-BY", FREE),
        (f"CC BY 2.0 ({COCO}/by/2.0/)", "CC-BY", FREE),
        (f"Attribution-ShareAlike License ({COCO}/by-sa/2.0/)", "CC-BY-SA", FREE),
        ("CC BY-SA 4.0", "CC-BY-SA", FREE),
        ("CC-BY-SA-3.0", "CC-BY-SA", FREE),
        ("  CC BY 2.5 it ", "CC-BY", FREE),
        ("Creative Commons Attribution-Share Alike 4.0 International", "CC-BY-SA", FREE),
        ("https://creativecommons.org/licenses/by/4.0/deed.it", "CC-BY", FREE),
        (f"Attribution-NonCommercial License ({COCO}/by-nc/2.0/)", "CC-BY-NC", NONCOMMERCIAL),
        (f"Attribution-NonCommercial-ShareAlike License ({COCO}/by-nc-sa/2.0/)", "CC-BY-NC-SA", NONCOMMERCIAL),
        ("CC BY-NC-SA 4.0", "CC-BY-NC-SA", NONCOMMERCIAL),
        (f"Attribution-NoDerivs License ({COCO}/by-nd/2.0/)", "CC-BY-ND", FORBIDDEN),
        (f"Attribution-NonCommercial-NoDerivs License ({COCO}/by-nc-nd/2.0/)", "CC-BY-NC-ND", FORBIDDEN),
        ("All rights reserved", "all rights reserved", FORBIDDEN),
    ],
)
def test_licenses_are_told_by_name_and_address(text: str, name: str, passing_on: str) -> None:
    found = read_license(text)
    assert found is not None
    assert (found.name, found.passing_on) == (name, passing_on)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "by",
        "by-sa",
        "Attribution",
        "attribution 4.0",
        "Attribution-ShareAlike",
        "Attribution (https://photos.example/terms)",
        "not CC0",
        "CC0? ask me",
        "CC BY 4.0, except for the pictures",
        "CC BY\u202e 4.0",
        "CC BY 4.0 NC",
        "CC-BY-2.0-ND",
        "CC BY 4.0 SA",
        "https://creativecommons.org/licenses/by/nd",
        "https://creativecommons.org/licenses/by/4.0/nc/",
        "https://creativecommons.example/licenses/by/4.0/",
        "https://evil.example/creativecommons.org/licenses/by/4.0/",
        "https://creativecommons.org/licenses/by/4.0/?but=not",
        f"Attribution License ({COCO}/by-nd/2.0/)",
        "Attribution License (https://evil.example/)",
        "© A. Bianchi",
    ],
)
def test_whatever_else_stands_there_is_no_license(text: str | None) -> None:
    assert read_license(text) is None


def test_only_some_licenses_ask_for_credit() -> None:
    asks = {text: license.credit for text in ("CC0", "CC BY 4.0", "public domain") if (license := read_license(text))}
    assert asks == {"CC0": False, "CC BY 4.0": True, "public domain": False}
