"""Rights in images: whether an export may include an image, by its row's license, the recipe and the user's options."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final

from data_catalog.catalog.export_formats import Pixels
from data_catalog.catalog.manifest import Manifest

FREE, NONCOMMERCIAL, FORBIDDEN = "free", "noncommercial", "forbidden"


@dataclass(frozen=True, slots=True, kw_only=True)
class License:
    """Permissions of a license: its SPDX name without the version, and the right to pass on resized copies."""

    name: str
    passing_on: str
    credit: bool = True  # copies must name the author, or link to a page that does


_PUBLIC_DOMAIN = License(name="public domain", passing_on=FREE, credit=False)
_CC0 = License(name="CC0", passing_on=FREE, credit=False)
# Some courts regard resizing as an adaptation, so "no derivatives" forbids resized copies here.
_CREATIVE_COMMONS = {
    code: License(
        name=f"CC-{code.upper()}",
        passing_on=FORBIDDEN if "nd" in code else NONCOMMERCIAL if "nc" in code else FREE,
    )
    for code in ("by", "by-sa", "by-nc", "by-nc-sa", "by-nd", "by-nc-nd")
}
_NAMES = {
    **dict.fromkeys(("cc0", "creative commons zero", "cc0 universal", "creative commons cc0"), _CC0),
    **dict.fromkeys(("public domain", "public domain mark", "pdm"), _PUBLIC_DOMAIN),
    **dict.fromkeys(("no known copyright restrictions", "united states government work"), _PUBLIC_DOMAIN),
    "mit": License(name="MIT", passing_on=FREE),
    "apache": License(name="Apache-2.0", passing_on=FREE),
    "all rights reserved": License(name="all rights reserved", passing_on=FORBIDDEN),
}
_PUBLIC_PAGES = ("flickr.com/commons/usage", "usa.gov/copyright.shtml")
_URLS = {
    "creativecommons.org/publicdomain/zero": _CC0,
    "creativecommons.org/publicdomain/mark": _PUBLIC_DOMAIN,
    **{f"{start}{page}": _PUBLIC_DOMAIN for page in _PUBLIC_PAGES for start in ("", "www.")},
    **{f"creativecommons.org/licenses/{kind}": license for kind, license in _CREATIVE_COMMONS.items()},
}
# Two letters after a version are the country that it was adapted to, unless they are a misplaced term of the license.
_COUNTRY = r"(?!nc|nd|sa)[a-z]{2}"
_WITH_URL = re.compile(r"(?P<name>[^()]+)\((?P<url>https?://[^()\s]+)\)")
_URL = re.compile(
    rf"https?://(?P<place>[^?#\s]+?)(/[1-4]\.[05](/igo|/{_COUNTRY})?)?(/(deed|legalcode)(\.[a-z_]{{2,5}})?)?/?"
)
_VERSION = re.compile(rf"\s+(v\s?)?[1-4](\.[0-9])?(\s+(unported|generic|international|universal|{_COUNTRY}))?$")
_WORDS = {"attribution": "by", "sharealike": "sa", "noncommercial": "nc", "noderivs": "nd", "noderivatives": "nd"}


@lru_cache(maxsize=4096)
def read_license(text: str | None) -> License | None:
    """Return the license that a text names; None if it names none that is known.

    In "NAME (URL)", the form of MSCOCO's rows, both parts must name the same license.
    """
    plain = " ".join((text or "").split()).casefold()
    both = _WITH_URL.fullmatch(plain)
    if both is None:
        return _by_url(plain) or _by_name(plain)
    by_name, by_url = _by_name(both["name"].strip()), _by_url(both["url"])
    return by_name if by_name == by_url else None


def strictness(text: str | None) -> tuple[int, bool, bool]:
    """Return a sort key that orders the licenses stated for one image, the strictest first.

    A row without a license sorts between free and non-free ones: it does not lift a ban that another row states.
    """
    license = read_license(text)
    if license is None:
        return (1 if text and text.strip() else 3, False, False)
    place = {FORBIDDEN: 0, NONCOMMERCIAL: 2, FREE: 4}[license.passing_on]
    return (place, not license.credit, not license.name.endswith("SA"))


def _by_url(url: str) -> License | None:
    found = _URL.fullmatch(url)
    return _URLS.get(found["place"]) if found else None


def _by_name(name: str) -> License | None:
    plain = re.sub(r"[\s_-]+", " ", name)
    plain = _VERSION.sub("", plain).replace(" licence", " license")
    return _NAMES.get(plain.removesuffix(" license")) or _creative_commons(plain)


def _creative_commons(name: str) -> License | None:
    """Return the license of "cc by sa", "creative commons attribution share alike" or "attribution license"."""
    spelled = name.removeprefix("creative commons ").removeprefix("cc ")
    if spelled == name and not name.endswith(" license"):  # "Attribution" alone may be any license that asks for credit
        return None
    spelled = spelled.removesuffix(" license")
    for words, word in (("share alike", "sharealike"), ("non commercial", "noncommercial"), ("no derivs", "noderivs")):
        spelled = spelled.replace(words, word)
    parts = [_WORDS.get(word, word) for word in spelled.replace("no derivatives", "noderivatives").split()]
    return _CREATIVE_COMMONS.get("-".join(parts))


# Values of --pixels. LICENSED includes free licenses only; WITH_NONCOMMERCIAL also those that forbid commercial use.
LICENSED: Final = "licensed"
WITH_NONCOMMERCIAL: Final = "noncommercial"
ALL: Final = "all"
NONE: Final = "none"

# Reasons to withhold the pixels of a row.
WITHOUT_PIXELS = "the export was made without pixels"
SOURCE_FORBIDS = "the recipe forbids passing on the source's images"
NO_LICENSE = "no license is stated"
UNKNOWN_LICENSE = "the license is not recognised"
TRADE_FORBIDDEN = "the license forbids commercial use"
COPIES_FORBIDDEN = "the license forbids resized copies"
NO_CREDIT = "the license requires credit, and the row names neither author nor page"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRights:
    """Rights in the images of a source, as the recipe states them."""

    license: str | None = None
    """License of the images whose rows state none, such as "CC-BY-4.0"."""
    redistribution: bool | None = None
    """Whether exports may contain the images: true for all, false for none. By default their licenses decide."""

    def stated(self) -> dict[str, Any]:
        """Return the rights that the recipe states, for the manifest; empty if it states none."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Rules that decide whether the pixels of a row are exported."""

    pixels: str  # one of `Pixels`
    sources: Mapping[str, SourceRights]  # rights that the recipe states
    allowed: frozenset[str] = frozenset()  # sources whose images may be passed on, as the user states

    def license(self, row: Mapping[str, Any]) -> str | None:
        """Return the text of the license that applies to a row's image: its own, or the recipe's for the source."""
        own: str | None = row["license"]
        return own if _has_text(own) else self._rights(row).license

    def withheld_reason(self, row: Mapping[str, Any]) -> str | None:
        """Return the reason to withhold the pixels of a row; None if they may be exported."""
        rights, text = self._rights(row), self.license(row)
        if self.pixels == NONE:
            return WITHOUT_PIXELS
        if rights.redistribution is False:
            return SOURCE_FORBIDS
        if self.pixels == ALL or rights.redistribution or row["source"] in self.allowed:
            return None
        if not text:
            return NO_LICENSE
        license = read_license(text)
        if license is None:
            return UNKNOWN_LICENSE
        if license.passing_on == FORBIDDEN:
            return COPIES_FORBIDDEN
        if license.passing_on == NONCOMMERCIAL and self.pixels != WITH_NONCOMMERCIAL:
            return TRADE_FORBIDDEN
        # A license that the recipe states for a whole source credits the source by its name.
        names_somebody = _has_text(row["attribution"]) or _has_text(row["page_url"])
        credited = names_somebody or not _has_text(row["license"])
        return NO_CREDIT if license.credit and not credited else None

    def _rights(self, row: Mapping[str, Any]) -> SourceRights:
        return self.sources.get(row["source"], SourceRights())


def _has_text(text: str | None) -> bool:
    return bool(text and text.strip())


def policy_of(manifest: Manifest, pixels: Pixels, allowed: frozenset[str] = frozenset()) -> Policy:
    """Return the policy for a snapshot, from its manifest and the user's options."""
    stated = {name: SourceRights(**entry.get("rights", {})) for name, entry in manifest["sources"].items()}
    return Policy(pixels=pixels, sources=stated, allowed=allowed)
