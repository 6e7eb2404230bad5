"""Fonts for captions in any language: one typeface a sheet, of Pillow's own and the system's, and others beside it."""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import ImageFont

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
    "DroidSansFallbackFull.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansArabic-Regular.ttf",
    "NotoSansThai-Regular.ttf",
)
PILLOWS_OWN = ""  # plain Latin letters only, but there on every machine
_PROBE_SIZE = 20
_IN_NO_FONT = "\U0010ffff"  # what is drawn for it is the font's sign for a missing letter


@dataclass(frozen=True, slots=True)
class Lettering:
    """What a sheet is written in: a typeface by its file's name, and those that have the letters which it lacks."""

    names: tuple[str, ...]

    def font(self, size: int) -> Any:
        """Return Pillow's font object of the sheet's typeface for a size in pixels."""
        return _font(self.names[0], size)

    def has(self, character: str) -> bool:
        """Tell if a character can be drawn."""
        return any(_has(name, character) for name in self.names)

    def legible(self, text: str) -> str:
        """Return the text with letters that no typeface has replaced by their base letters, as "e" for "è"."""
        return "".join(c if c.isspace() or self.has(c) else _base_letter(c) for c in text)

    def runs(self, text: str, size: int) -> Iterator[tuple[str, Any]]:
        """Yield the parts of a legible text from left to right, each with the font that has its letters."""
        parts: list[list[str]] = []
        for character in self.legible(text):
            name = next((name for name in self.names if _has(name, character)), self.names[0])
            if parts and (name == parts[-1][0] or _goes_with_others(character)):
                parts[-1][1] += character
            else:
                parts.append([name, character])
        # Within a part Pillow sees to the direction.
        strong = next((way for way in map(unicodedata.bidirectional, text) if way in ("L", "R", "AL")), "L")
        for name, part in parts if strong == "L" else reversed(parts):
            yield part, _font(name, size)


def lettering_for(texts: Iterable[str]) -> Lettering:
    """Return what to write all texts of a sheet in; the same for the same letters, on one machine.

    The sheet's typeface is the first of those that lack fewest letters; then those that have most of what is left.
    """
    letters = sorted({character for text in texts for character in text if not character.isspace()})
    names = [PILLOWS_OWN, *(name for name in _SYSTEM_FONTS if _is_there(name))]
    chosen: list[str] = []
    while not chosen or letters:
        left = {name: [letter for letter in letters if not _has(name, letter)] for name in names}
        best = min(names, key=lambda name: len(left[name]))  # the first of equals
        if chosen and len(left[best]) == len(letters):
            break
        chosen.append(best)
        letters = left[best]
    return Lettering(tuple(chosen))


def _goes_with_others(character: str) -> bool:
    """Tell if a character, such as a space or an accent, is drawn with what stands before it."""
    return character.isspace() or unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf")


def _base_letter(character: str) -> str:
    plain = unicodedata.normalize("NFD", character)
    is_accented = all(map(unicodedata.combining, plain[1:]))  # the first letter of a Korean syllable is another text
    return plain[0] if is_accented else character


@cache
def _is_there(name: str) -> bool:
    try:
        ImageFont.truetype(name, _PROBE_SIZE)
    except OSError:
        return False
    return True


@cache
def _font(name: str, size: int) -> Any:
    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size=size)


@cache
def _has(name: str, character: str) -> bool:
    font = _font(name, _PROBE_SIZE)
    return bytes(font.getmask(character)) != bytes(font.getmask(_IN_NO_FONT))
