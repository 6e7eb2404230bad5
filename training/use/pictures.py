"""Draw results as PNG images: a contact sheet of a search, bars of a classification, a heat map of a localization.

Captions may be in any language. Each sheet uses one typeface of Pillow or the system, and others for letters that it
lacks.
"""

import io
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_catalog.disk.files import write_atomically
from data_catalog.rows.image_formats import READ_FORMATS
from training.data.images import read_picture
from training.use.classify import SOFTMAX, Classification
from training.use.localize import METHODS, Localization
from training.use.search import Hit

# Font files that Pillow finds in the system's font folders. The first ones have Latin, Greek and Cyrillic letters.
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
PILLOWS_OWN = ""  # basic Latin letters only, but available on every machine
_PROBE_SIZE = 20
_IN_NO_FONT = "\U0010ffff"  # a font draws its symbol for missing letters in place of this one


@dataclass(frozen=True, slots=True)
class Typefaces:
    """The typefaces of a sheet: the main one, by file name, and others for letters that it lacks."""

    names: tuple[str, ...]

    def font(self, size: int) -> Any:
        """Return Pillow's font object of the main typeface, for a size in pixels."""
        return _font(self.names[0], size)

    def has(self, character: str) -> bool:
        """Return whether a typeface can draw a character."""
        return any(_has(name, character) for name in self.names)

    def legible(self, text: str) -> str:
        """Replace letters that no typeface can draw by their base letters, as "e" for "è"."""
        return "".join(c if c.isspace() or self.has(c) else _base_letter(c) for c in text)

    def runs(self, text: str, size: int) -> Iterator[tuple[str, Any]]:
        """Yield the parts of a legible text from left to right, each with a font that can draw it."""
        parts: list[list[str]] = []
        for character in self.legible(text):
            name = next((name for name in self.names if _has(name, character)), self.names[0])
            if parts and (name == parts[-1][0] or _goes_with_others(character)):
                parts[-1][1] += character
            else:
                parts.append([name, character])
        # Pillow sets the direction within a part.
        strong = next((way for way in map(unicodedata.bidirectional, text) if way in ("L", "R", "AL")), "L")
        for name, part in parts if strong == "L" else reversed(parts):
            yield part, _font(name, size)


def choose_typefaces(texts: Iterable[str]) -> Typefaces:
    """Return the typefaces for all texts of a sheet. Equal letters give equal typefaces on the same machine.

    The main typeface is the first one that lacks the fewest letters. Others follow in order of how many of the
    remaining letters they can draw.
    """
    letters = sorted({character for text in texts for character in text if not character.isspace()})
    names = [PILLOWS_OWN, *(name for name in _SYSTEM_FONTS if _is_there(name))]
    chosen: list[str] = []
    while not chosen or letters:
        left = {name: [letter for letter in letters if not _has(name, letter)] for name in names}
        best = min(names, key=lambda name: len(left[name]))  # the first one if several are equal
        if chosen and len(left[best]) == len(letters):
            break
        chosen.append(best)
        letters = left[best]
    return Typefaces(tuple(chosen))


def _goes_with_others(character: str) -> bool:
    """Return whether a character, such as a space or an accent, is drawn with the character before it."""
    return character.isspace() or unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf")


def _base_letter(character: str) -> str:
    plain = unicodedata.normalize("NFD", character)
    is_accented = all(map(unicodedata.combining, plain[1:]))  # not so for a decomposed Korean syllable
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


Colours = np.ndarray[Any, np.dtype[np.float64]]

PAPER, CARD, BORDER = (243, 244, 246), (255, 255, 255), (214, 217, 222)
INK, GREY = (24, 28, 36), (110, 116, 128)
BAR = (46, 111, 187)
_MARGIN = 32  # pixels, as all sizes here
_TITLE_HEIGHT = 76


@dataclass(frozen=True, slots=True)
class Pen:
    """A drawing tool for text."""

    draw: ImageDraw.ImageDraw
    lettering: Typefaces

    def write(
        self, x: int, y: int, text: str, size: int, *, grey: bool = False, anchor: Literal["la", "ra", "lm"] = "la"
    ) -> None:
        """Write one line. `anchor` is Pillow's: left ("l") or right ("r"), and top ("a") or middle ("m")."""
        left = x - self.width(text, size) if anchor == "ra" else x
        ascent, descent = self.lettering.font(size).getmetrics()
        baseline = y + (ascent if anchor.endswith("a") else (ascent - descent) / 2)
        for part, font in self.lettering.runs(text, size):
            self.draw.text((left, baseline), part, font=font, fill=GREY if grey else INK, anchor="ls")
            left += self.draw.textlength(part, font=font)

    def width(self, text: str, size: int) -> float:
        """Return the width of a line in pixels."""
        return sum(self.draw.textlength(part, font=font) for part, font in self.lettering.runs(text, size))

    def fitted(self, text: str, size: int, width: int) -> str:
        """Return the text, shortened with an ellipsis if it is wider than `width` pixels."""
        text = " ".join(text.split())  # on one line
        if len(text) <= width and self.width(text, size) <= width:
            return text
        return text[: self._longest(text, size, width, "…")].rstrip() + "…"

    def wrapped(self, text: str, size: int, width: int, num_lines: int) -> list[str]:
        """Wrap the text to at most `num_lines` lines of `width` pixels, the last one shortened with an ellipsis."""
        lines: list[str] = []
        words = text.split()
        while words and len(lines) < num_lines - 1:
            if self.width(words[0], size) > width:  # for example a path
                end = max(1, self._longest(words[0], size, width, ""))
                words[:1] = [words[0][:end], words[0][end:]]
            count = 1
            while count < len(words) and self.width(" ".join(words[: count + 1]), size) <= width:
                count += 1
            lines.append(" ".join(words[:count]))
            words = words[count:]
        return [*lines, self.fitted(" ".join(words), size, width)] if words else lines

    def _longest(self, text: str, size: int, width: int, end: str) -> int:
        """Return how many letters of a text fit before `end`, by binary search because texts may be long."""
        fits, beyond = 0, min(len(text), width) + 1  # no visible letter is narrower than a pixel
        while beyond - fits > 1:
            middle = (fits + beyond) // 2
            if self.width(text[:middle] + end, size) <= width:
                fits = middle
            else:
                beyond = middle
        return fits


def fit_in_box(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scale an image to fit in a box, with its proportions and with sides of at least one pixel."""
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


COLUMNS = 4
MOST_IMAGES = 100  # maximum on one sheet
THUMBNAIL = 224
_GAP = 20
_QUERY_SIDE = THUMBNAIL // 2  # side of the box of the query image
_PADDING = 10  # between a card's border and its content
_TEXT_LINES = 3
_LINE_HEIGHT = 21
_CARD_WIDTH = THUMBNAIL + 2 * _PADDING
_CARD_HEIGHT = THUMBNAIL + 2 * _PADDING + 30 + _TEXT_LINES * _LINE_HEIGHT


def contact_sheet(hits: Sequence[Hit], out: Path, title: str, image: Path | None = None) -> None:
    """Write the result of a search as a PNG, with `COLUMNS` images per row and at most `MOST_IMAGES` images.

    Args:
        hits: the found images.
        out: path of the PNG.
        title: the text that was searched, or the name of the image.
        image: the image that was searched, if it was one. It is drawn beside the title.

    Raises:
        InputError: a found file or the image can no longer be read.
        OSError: an image of a shard does not decode, or the sheet cannot be written.
    """
    hits = hits[:MOST_IMAGES]
    rows = max(1, -(-len(hits) // COLUMNS))
    columns = min(COLUMNS, max(2, len(hits)))
    left, head = _MARGIN, _TITLE_HEIGHT
    if image is not None:
        query = fit_in_box(read_picture(image, THUMBNAIL).image, _QUERY_SIDE, _QUERY_SIDE)
        left, head = left + query.width + _GAP, max(head, query.height + _GAP)
    width = 2 * _MARGIN + columns * _CARD_WIDTH + (columns - 1) * _GAP
    height = _MARGIN + head + rows * (_CARD_HEIGHT + _GAP) - _GAP + _MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = Pen(ImageDraw.Draw(sheet), choose_typefaces([title, *map(_text, hits)]))
    if image is not None:
        sheet.paste(query, (_MARGIN, _MARGIN))
    pen.write(left, _MARGIN - 6, pen.fitted(title, 30, width - left - _MARGIN), 30)
    line = f"the {len(hits)} images most similar to the {'text' if image is None else 'image'}, by cosine"
    pen.write(left, _MARGIN + 36, line if hits else "no images", 16, grey=True)
    for index, hit in enumerate(hits):
        x = _MARGIN + index % columns * (_CARD_WIDTH + _GAP)
        y = _MARGIN + head + index // columns * (_CARD_HEIGHT + _GAP)
        _draw_card(sheet, pen, hit, x, y)
    write_atomically(out, lambda path: sheet.save(path, "PNG", compress_level=1))


def _draw_card(sheet: Image.Image, pen: Pen, hit: Hit, left: int, top: int) -> None:
    box = (left, top, left + _CARD_WIDTH, top + _CARD_HEIGHT)
    pen.draw.rounded_rectangle(box, radius=10, fill=CARD, outline=BORDER)
    thumbnail = thumbnail_of(hit)
    x = left + _PADDING + (THUMBNAIL - thumbnail.width) // 2
    y = top + _PADDING + (THUMBNAIL - thumbnail.height) // 2
    sheet.paste(thumbnail, (x, y))
    # Draw the border around the thumbnail, because it may be one pixel wide.
    pen.draw.rectangle((x - 1, y - 1, x + thumbnail.width, y + thumbnail.height), outline=BORDER)
    below = top + _PADDING + THUMBNAIL + 8
    pen.write(left + _PADDING, below, f"{hit.rank}", 18)
    pen.write(left + _CARD_WIDTH - _PADDING, below, f"{hit.cosine:.3f}", 16, grey=True, anchor="ra")
    for number, line in enumerate(pen.wrapped(_text(hit), 15, THUMBNAIL, _TEXT_LINES)):
        pen.write(left + _PADDING, below + 28 + number * _LINE_HEIGHT, line, 15)


def thumbnail_of(hit: Hit) -> Image.Image:
    """Return the image of a hit, in RGB, to fit in a square of `THUMBNAIL` pixels.

    Raises:
        InputError: the file can no longer be read.
        OSError: the image of a shard does not decode.
    """
    if hit.path is not None:
        return fit_in_box(read_picture(hit.path, THUMBNAIL).image, THUMBNAIL, THUMBNAIL)
    with Image.open(io.BytesIO(hit.image), formats=READ_FORMATS) as opened:
        return fit_in_box(opened.convert("RGB"), THUMBNAIL, THUMBNAIL)


def _text(hit: Hit) -> str:
    return hit.captions[0] if hit.captions else hit.name


MOST_BARS = 20
_BARS_SIDE = 320  # side of the image's box
_BARS_GAP = 28
_ROW = 54
_BAR_WIDTH, _BAR_HEIGHT = 420, 18
_SHARE_WIDTH = 76
_HEAD = 64


def bars(found: Classification, out: Path) -> None:
    """Write a classification as a PNG, with at most `MOST_BARS` texts.

    Raises:
        InputError: the image can no longer be read.
    """
    choices = found.choices[:MOST_BARS]
    image = fit_in_box(read_picture(found.image, _BARS_SIDE).image, _BARS_SIDE, _BARS_SIDE)
    width = 2 * _MARGIN + _BARS_SIDE + _BARS_GAP + _BAR_WIDTH + _SHARE_WIDTH
    height = 2 * _MARGIN + max(_BARS_SIDE, _HEAD + _ROW * len(choices))
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = Pen(ImageDraw.Draw(sheet), choose_typefaces([found.image.name, *(choice.text for choice in choices)]))
    x, y = _MARGIN + (_BARS_SIDE - image.width) // 2, (height - image.height) // 2
    sheet.paste(image, (x, y))
    pen.draw.rectangle((x, y, x + image.width - 1, y + image.height - 1), outline=BORDER)
    left = _MARGIN + _BARS_SIDE + _BARS_GAP
    top = max(_MARGIN, (height - _HEAD - _ROW * len(choices)) // 2)
    pen.write(left, top, pen.fitted(found.image.name, 22, _BAR_WIDTH + _SHARE_WIDTH), 22)
    caption = "probability of each text on its own"
    if found.method == SOFTMAX:
        is_part = len(found.choices) > MOST_BARS
        caption = (
            f"the {MOST_BARS} most likely of {len(found.choices)} texts"
            if is_part
            else "probabilities among these texts"
        )
    pen.write(left, top + 30, caption, 15, grey=True)
    for number, choice in enumerate(choices):
        above = top + _HEAD + number * _ROW
        pen.write(left, above, pen.fitted(choice.text, 17, _BAR_WIDTH + _SHARE_WIDTH), 17)
        bar = above + 25
        pen.draw.rectangle((left, bar, left + _BAR_WIDTH, bar + _BAR_HEIGHT), fill=CARD, outline=BORDER)
        if filled := round(choice.probability * _BAR_WIDTH):
            pen.draw.rectangle((left, bar, left + filled, bar + _BAR_HEIGHT), fill=BAR)
        pen.write(left + _BAR_WIDTH + _SHARE_WIDTH, bar - 1, f"{choice.probability:.1%}", 16, anchor="ra")
    write_atomically(out, lambda path: sheet.save(path, "PNG", compress_level=1))


_MAP_SIDE = 360  # side of an image's box
_NARROWEST = 160  # minimum width of the box, to fit the title
_SHORTEST = 120  # minimum height of the scale
_SCALE_WIDTH, _NUMBER_WIDTH = 18, 60


def heat_map(found: Localization, out: Path) -> None:
    """Write a localization as a PNG. Hotter colours mark what the text describes.

    Raises:
        InputError: the image can no longer be read.
    """
    image = fit_in_box(read_picture(found.image, _MAP_SIDE).image, _MAP_SIDE, _MAP_SIDE)
    box, tall = max(image.width, _NARROWEST), max(image.height, _SHORTEST)
    width = 2 * (_MARGIN + box + _GAP) + _SCALE_WIDTH + _NUMBER_WIDTH
    sheet = Image.new("RGB", (width, 2 * _MARGIN + _TITLE_HEIGHT + tall), PAPER)
    pen = Pen(ImageDraw.Draw(sheet), choose_typefaces([found.text]))
    pen.write(_MARGIN, _MARGIN - 6, pen.fitted(found.text, 28, width - 2 * _MARGIN), 28)
    line = f"cosine {found.cosine:.3f}; {METHODS[found.method]}"
    if not found.changes:
        line = f"cosine {found.cosine:.3f}; no part of the image changes it"
    elif not found.hottest:
        line = f"cosine {found.cosine:.3f}; no part of the image fits the text better than the rest"
    pen.write(_MARGIN, _MARGIN + 36, pen.fitted(line, 15, width - 2 * _MARGIN), 15, grey=True)
    top = _MARGIN + _TITLE_HEIGHT
    for number, panel in enumerate((image, heat_overlay(image, found))):
        left = _MARGIN + number * (box + _GAP) + (box - panel.width) // 2
        sheet.paste(panel, (left, top))
        pen.draw.rectangle((left, top, left + panel.width - 1, top + panel.height - 1), outline=BORDER)
    _draw_scale(sheet, pen, found.hottest, (_MARGIN + 2 * (box + _GAP), top, tall))
    write_atomically(out, lambda path: sheet.save(path, "PNG", compress_level=1))


def heat_overlay(image: Image.Image, found: Localization) -> Image.Image:
    """Return the image in light grey, so that its colours do not look like heat, with the heat map over it."""
    cells = Image.fromarray(np.clip(np.array(found.heat, dtype=np.float32), 0, None))
    heat = np.asarray(cells.resize(image.size, Image.Resampling.BICUBIC), dtype=np.float64)
    share = np.clip(heat / found.hottest, 0, 1) if found.hottest else np.zeros_like(heat)
    grey = 0.55 * np.asarray(image.convert("L"), dtype=np.float64) + 0.45 * 255
    return Image.fromarray(_blend_heat(grey[..., None], share))


def _draw_scale(sheet: Image.Image, pen: Pen, hottest: float, place: tuple[int, int, int]) -> None:
    left, top, height = place
    column = _blend_heat(np.full((height, 1, 1), 255.0), np.linspace(1, 0, height)[:, None])
    sheet.paste(Image.fromarray(np.repeat(column, _SCALE_WIDTH, axis=1)), (left, top))
    pen.draw.rectangle((left, top, left + _SCALE_WIDTH - 1, top + height - 1), outline=BORDER)
    for part in (0.0, 0.5, 1.0) if hottest else (0.0,):
        middle = top + round((1 - part) * (height - 1))
        pen.write(left + _SCALE_WIDTH + 8, middle, f"{part * hottest:.3g}", 14, grey=True, anchor="lm")


def _blend_heat(below: Colours, share: Colours) -> Any:
    """Blend the heat colours over a background: the hotter, the more opaque. Returns uint8 RGB."""
    from matplotlib import colormaps  # imported here, because sheets and bars do not need it

    colours = colormaps["YlOrRd"](share)[..., :3] * 255
    opacity = (0.85 * np.sqrt(share))[..., None]
    return np.round((1 - opacity) * below + opacity * colours).astype(np.uint8)
