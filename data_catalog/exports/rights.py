"""Which images an export may hold: by the row's licence, the recipe's word on its source, and the user's."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from data_catalog.exports.licences import FORBIDDEN, FREE, NONCOMMERCIAL, Licence, read_licence

# What the user asks for. LICENSED is free licences only; WITH_NONCOMMERCIAL those too that forbid trade.
LICENSED, WITH_NONCOMMERCIAL, ALL, NONE = "licensed", "noncommercial", "all", "none"
POLICIES = (LICENSED, WITH_NONCOMMERCIAL, ALL, NONE)

# Why the pixels of a row stay away.
NOT_ASKED = "the export was asked for without pixels"
SOURCE_FORBIDS = "the recipe says that the source's images are not passed on"
NO_LICENCE = "no licence is stated"
UNKNOWN_LICENCE = "the licence is none that we know"
TRADE_FORBIDDEN = "the licence forbids commercial use"
COPIES_FORBIDDEN = "the licence forbids resized copies"
NO_CREDIT = "the licence asks for credit, and the row names neither author nor page"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRights:
    """What a recipe says of the images of a source.

    Args:
        licence: of the images whose rows state none, such as "CC-BY-4.0".
        redistribution: true: all its images may be passed on; false: none may; left out: their licences decide.
    """

    licence: str | None = None
    redistribution: bool | None = None

    def stated(self) -> dict[str, Any]:
        """What is said, for the manifest; empty where nothing is."""
        values = {"licence": self.licence, "redistribution": self.redistribution}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What decides on each row.

    Args:
        pixels: one of `POLICIES`.
        sources: what the recipe says, by source.
        allowed: sources of which the user says that their images may be passed on.
    """

    pixels: str
    sources: Mapping[str, SourceRights]
    allowed: frozenset[str] = frozenset()

    def licence(self, row: Mapping[str, Any]) -> str | None:
        """The words of the licence that holds for a row's image: its own, or the recipe's for the source."""
        own: str | None = row["license"] if _says_something(row["license"]) else None
        return own or self._rights(row).licence

    def why_not(self, row: Mapping[str, Any]) -> str | None:
        """Why the pixels of a row stay away, or None if they go along.

        Args:
            row: with "source", "license", "attribution" and "page_url".
        """
        rights = self._rights(row)
        if self.pixels == NONE:
            return NOT_ASKED
        if rights.redistribution is False:
            return SOURCE_FORBIDS
        if self.pixels == ALL or rights.redistribution or row["source"] in self.allowed:
            return None
        if not self.licence(row):
            return NO_LICENCE
        # Whoever states one licence for a whole source is who is credited, by the source's name.
        names_somebody = _says_something(row["attribution"]) or _says_something(row["page_url"])
        credited = names_somebody or not _says_something(row["license"])
        return self._forbidden_by(_known_licence(self.licence(row)), credited=credited)

    def _rights(self, row: Mapping[str, Any]) -> SourceRights:
        return self.sources.get(row["source"], _NOTHING_SAID)

    def _forbidden_by(self, licence: Licence | None, *, credited: bool) -> str | None:
        if licence is None:
            return UNKNOWN_LICENCE
        if licence.passing_on == FORBIDDEN:
            return COPIES_FORBIDDEN
        if licence.passing_on == NONCOMMERCIAL and self.pixels != WITH_NONCOMMERCIAL:
            return TRADE_FORBIDDEN
        assert licence.passing_on in (FREE, NONCOMMERCIAL)
        return NO_CREDIT if licence.credit and not credited else None


def switch_for(reason: str, source: str) -> str:
    """Name what lets images go along that stay away for a reason."""
    if reason == SOURCE_FORBIDS:
        return f"take redistribution = false out of [sources.{source}] and build again, if you have the right"
    if reason == TRADE_FORBIDDEN:
        return f"--pixels {WITH_NONCOMMERCIAL} lets them go along"
    return f"--allow {source} lets them go along, if you have the right to pass them on"


def _says_something(text: str | None) -> bool:
    """Whether there is more to a cell than blanks."""
    return bool(text and text.strip())


_NOTHING_SAID = SourceRights()
_known_licence = lru_cache(maxsize=4096)(read_licence)


def policy_of(manifest: Mapping[str, Any], pixels: str, allowed: frozenset[str] = frozenset()) -> Policy:
    """The policy for a snapshot, by its manifest and what the user asks for."""
    stated = {name: SourceRights(**entry.get("rights", {})) for name, entry in manifest["sources"].items()}
    return Policy(pixels=pixels, sources=stated, allowed=allowed)
