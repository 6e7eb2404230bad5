"""Fonts for captions in any language: of Pillow's own and the system's, the first that lacks fewest of the letters."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

# Names that Pillow finds in the system's font folders; the first ones have the Latin, Greek and Cyrillic letters.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "FreeSans.ttf",
    "Arial.ttf",
    "arial.ttf",
    "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansArabic-Regular.ttf",
    "NotoSansThai-Regular.ttf",
)
PILLOWS_OWN = ""  # plain Latin letters only, but there on every machine
_PROBE_SIZE = 20
_IN_NO_FONT = "\U0010ffff"  # what is drawn for it is the font's sign for a missing letter


@dataclass(frozen=True, slots=True)
class Lettering:
    """A typeface by its file's name, at any size."""

    name: str

    def font(self, size: int) -> Any:
        """Pillow's font object for a size in pixels."""
        return _font(self.name, size)

    def has(self, character: str) -> bool:
        """Whether the typeface can draw a character."""
        return _has(self.name, character)

    def legible(self, text: str) -> str:
        """The text with letters that the typeface lacks replaced by their base letters, as "e" for "è"."""
        return "".join(c if c.isspace() or self.has(c) else _base_letter(c) for c in text)


def lettering_for(texts: Iterable[str]) -> Lettering:
    """The typeface to write these texts in; the same on every sheet with the same letters, on one machine."""
    letters = sorted({character for text in texts for character in text if not character.isspace()})
    names = [PILLOWS_OWN, *(name for name in _SYSTEM_FONTS if _is_there(name))]
    lacking = {name: sum(not _has(name, letter) for letter in letters) for name in names}
    return Lettering(min(names, key=lambda name: lacking[name]))  # the first of equals


def _base_letter(character: str) -> str:
    return unicodedata.normalize("NFD", character)[0]


@cache
def _is_there(name: str) -> bool:
    from PIL import ImageFont

    try:
        ImageFont.truetype(name, _PROBE_SIZE)
    except OSError:
        return False
    return True


@cache
def _font(name: str, size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size=size)


@cache
def _has(name: str, character: str) -> bool:
    font = _font(name, _PROBE_SIZE)
    return bytes(font.getmask(character)) != bytes(font.getmask(_IN_NO_FONT))
