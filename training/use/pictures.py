"""Draw what abilities find: a contact sheet of a search, bars of a classification, a heat map of a place.

Captions may be in any language: one typeface a sheet, of Pillow's own and the system's, and others beside it.
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

from data_catalog.storage.shards import write_atomically
from training.data.images import read_picture
from training.use.classify import SOFTMAX, Classification
from training.use.localize import METHODS, Localization
from training.use.search import Hit

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


Colours = np.ndarray[Any, np.dtype[np.float64]]

PAPER, CARD, BORDER = (243, 244, 246), (255, 255, 255), (214, 217, 222)
INK, GREY = (24, 28, 36), (110, 116, 128)
BAR = (46, 111, 187)
_MARGIN = 32  # pixels, as everything here
_TITLE_HEIGHT = 76


@dataclass(frozen=True, slots=True)
class Pen:
    """What writes on a picture."""

    draw: ImageDraw.ImageDraw
    lettering: Lettering

    def write(
        self, x: int, y: int, text: str, size: int, *, grey: bool = False, anchor: Literal["la", "ra", "lm"] = "la"
    ) -> None:
        """Write one line; `anchor` is Pillow's: left ("l") or right ("r"), and top ("a") or middle ("m")."""
        left = x - self.width(text, size) if anchor == "ra" else x
        ascent, descent = self.lettering.font(size).getmetrics()
        baseline = y + (ascent if anchor.endswith("a") else (ascent - descent) / 2)
        for part, font in self.lettering.runs(text, size):
            self.draw.text((left, baseline), part, font=font, fill=GREY if grey else INK, anchor="ls")
            left += self.draw.textlength(part, font=font)

    def width(self, text: str, size: int) -> float:
        """Pixels that a line takes."""
        return sum(self.draw.textlength(part, font=font) for part, font in self.lettering.runs(text, size))

    def fitted(self, text: str, size: int, width: int) -> str:
        """Return the text, or as much of its start as fits into `width` pixels with an ellipsis."""
        text = " ".join(text.split())  # on one line
        if len(text) <= width and self.width(text, size) <= width:
            return text
        return text[: self._longest(text, size, width, "…")].rstrip() + "…"

    def wrapped(self, text: str, size: int, width: int, num_lines: int) -> list[str]:
        """Return the text in at most `num_lines` lines of at most `width` pixels, and an ellipsis for what is left."""
        lines: list[str] = []
        words = text.split()
        while words and len(lines) < num_lines - 1:
            if self.width(words[0], size) > width:  # a path, perhaps
                end = max(1, self._longest(words[0], size, width, ""))
                words[:1] = [words[0][:end], words[0][end:]]
            count = 1
            while count < len(words) and self.width(" ".join(words[: count + 1]), size) <= width:
                count += 1
            lines.append(" ".join(words[:count]))
            words = words[count:]
        return [*lines, self.fitted(" ".join(words), size, width)] if words else lines

    def _longest(self, text: str, size: int, width: int, end: str) -> int:
        """Return how many letters of a text fit with `end` behind them: by halves, since a text may be a book."""
        fits, beyond = 0, min(len(text), width) + 1  # no letter that is seen is narrower than a pixel
        while beyond - fits > 1:
            middle = (fits + beyond) // 2
            if self.width(text[:middle] + end, size) <= width:
                fits = middle
            else:
                beyond = middle
        return fits


def contained(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return an image inside a box, as large as it can be with its own proportions; no side has less than one pixel."""
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


COLUMNS = 4
MOST_IMAGES = 100  # of one sheet
THUMBNAIL = 224
_GAP = 20
_PADDING = 10  # between a card's border and what is on it
_TEXT_LINES = 3
_LINE_HEIGHT = 21
_CARD_WIDTH = THUMBNAIL + 2 * _PADDING
_CARD_HEIGHT = THUMBNAIL + 2 * _PADDING + 30 + _TEXT_LINES * _LINE_HEIGHT


def contact_sheet(hits: Sequence[Hit], out: Path, title: str) -> None:
    """Write the result of a search as a PNG, `COLUMNS` images a row, `MOST_IMAGES` at most.

    Raises:
        InputError: a file that was found cannot be read any more.
        OSError: an image of a shard does not decode, or the sheet cannot be written.
    """
    hits = hits[:MOST_IMAGES]
    rows = max(1, -(-len(hits) // COLUMNS))
    columns = min(COLUMNS, max(2, len(hits)))
    width = 2 * _MARGIN + columns * _CARD_WIDTH + (columns - 1) * _GAP
    height = _MARGIN + _TITLE_HEIGHT + rows * (_CARD_HEIGHT + _GAP) - _GAP + _MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = Pen(ImageDraw.Draw(sheet), lettering_for([title, *map(_text, hits)]))
    pen.write(_MARGIN, _MARGIN - 6, pen.fitted(title, 30, width - 2 * _MARGIN), 30)
    line = f"the {len(hits)} images most like the text, by cosine" if hits else "no images"
    pen.write(_MARGIN, _MARGIN + 36, line, 16, grey=True)
    for index, hit in enumerate(hits):
        left = _MARGIN + index % columns * (_CARD_WIDTH + _GAP)
        top = _MARGIN + _TITLE_HEIGHT + index // columns * (_CARD_HEIGHT + _GAP)
        _draw_card(sheet, pen, hit, left, top)
    write_atomically(out, lambda path: sheet.save(path, "PNG"))


def _draw_card(sheet: Image.Image, pen: Pen, hit: Hit, left: int, top: int) -> None:
    box = (left, top, left + _CARD_WIDTH, top + _CARD_HEIGHT)
    pen.draw.rounded_rectangle(box, radius=10, fill=CARD, outline=BORDER)
    if hit.path is not None:
        whole = read_picture(hit.path, THUMBNAIL).image
    else:
        with Image.open(io.BytesIO(hit.image)) as opened:
            whole = opened.convert("RGB")
    thumbnail = contained(whole, THUMBNAIL, THUMBNAIL)
    x = left + _PADDING + (THUMBNAIL - thumbnail.width) // 2
    y = top + _PADDING + (THUMBNAIL - thumbnail.height) // 2
    sheet.paste(thumbnail, (x, y))
    # Around it: pictures may be a pixel wide.
    pen.draw.rectangle((x - 1, y - 1, x + thumbnail.width, y + thumbnail.height), outline=BORDER)
    below = top + _PADDING + THUMBNAIL + 8
    pen.write(left + _PADDING, below, f"{hit.rank}", 18)
    pen.write(left + _CARD_WIDTH - _PADDING, below, f"{hit.cosine:.3f}", 16, grey=True, anchor="ra")
    for number, line in enumerate(pen.wrapped(_text(hit), 15, THUMBNAIL, _TEXT_LINES)):
        pen.write(left + _PADDING, below + 28 + number * _LINE_HEIGHT, line, 15)


def _text(hit: Hit) -> str:
    return hit.captions[0] if hit.captions else hit.name


MOST_BARS = 20
_BARS_SIDE = 320  # of the image's box
_BARS_GAP = 28
_ROW = 54
_BAR_WIDTH, _BAR_HEIGHT = 420, 18
_SHARE_WIDTH = 76
_HEAD = 64


def bars(found: Classification, out: Path) -> None:
    """Write a classification as a PNG, with `MOST_BARS` texts at most.

    Raises:
        InputError: the image cannot be read any more.
    """
    choices = found.choices[:MOST_BARS]
    image = contained(read_picture(found.image, _BARS_SIDE).image, _BARS_SIDE, _BARS_SIDE)
    width = 2 * _MARGIN + _BARS_SIDE + _BARS_GAP + _BAR_WIDTH + _SHARE_WIDTH
    height = 2 * _MARGIN + max(_BARS_SIDE, _HEAD + _ROW * len(choices))
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = Pen(ImageDraw.Draw(sheet), lettering_for([found.image.name, *(choice.text for choice in choices)]))
    x, y = _MARGIN + (_BARS_SIDE - image.width) // 2, (height - image.height) // 2
    sheet.paste(image, (x, y))
    pen.draw.rectangle((x, y, x + image.width - 1, y + image.height - 1), outline=BORDER)
    left = _MARGIN + _BARS_SIDE + _BARS_GAP
    top = max(_MARGIN, (height - _HEAD - _ROW * len(choices)) // 2)
    pen.write(left, top, pen.fitted(found.image.name, 22, _BAR_WIDTH + _SHARE_WIDTH), 22)
    told = "how likely each text fits, by itself"
    if found.method == SOFTMAX:
        is_part = len(found.choices) > MOST_BARS
        told = (
            f"the {MOST_BARS} likeliest of {len(found.choices)} texts"
            if is_part
            else "probabilities among these texts only"
        )
    pen.write(left, top + 30, told, 15, grey=True)
    for number, choice in enumerate(choices):
        above = top + _HEAD + number * _ROW
        pen.write(left, above, pen.fitted(choice.text, 17, _BAR_WIDTH + _SHARE_WIDTH), 17)
        bar = above + 25
        pen.draw.rectangle((left, bar, left + _BAR_WIDTH, bar + _BAR_HEIGHT), fill=CARD, outline=BORDER)
        if filled := round(choice.probability * _BAR_WIDTH):
            pen.draw.rectangle((left, bar, left + filled, bar + _BAR_HEIGHT), fill=BAR)
        pen.write(left + _BAR_WIDTH + _SHARE_WIDTH, bar - 1, f"{choice.probability:.1%}", 16, anchor="ra")
    write_atomically(out, lambda path: sheet.save(path, "PNG"))


_MAP_SIDE = 360  # of an image's box
_NARROWEST = 160  # of the box: so that the title has room
_SHORTEST = 120  # of the scale
_SCALE_WIDTH, _NUMBER_WIDTH = 18, 60


def heat_map(found: Localization, out: Path) -> None:
    """Write a localization as a PNG: the hotter, the more the text speaks of the place.

    Raises:
        InputError: the image cannot be read any more.
    """
    image = contained(read_picture(found.image, _MAP_SIDE).image, _MAP_SIDE, _MAP_SIDE)
    box, tall = max(image.width, _NARROWEST), max(image.height, _SHORTEST)
    width = 2 * (_MARGIN + box + _GAP) + _SCALE_WIDTH + _NUMBER_WIDTH
    sheet = Image.new("RGB", (width, 2 * _MARGIN + _TITLE_HEIGHT + tall), PAPER)
    pen = Pen(ImageDraw.Draw(sheet), lettering_for([found.text]))
    pen.write(_MARGIN, _MARGIN - 6, pen.fitted(found.text, 28, width - 2 * _MARGIN), 28)
    line = f"cosine {found.cosine:.3f}; {METHODS[found.method]}"
    if not found.changes:
        line = f"cosine {found.cosine:.3f}, which no part of the image changes"
    elif not found.hottest:
        line = f"cosine {found.cosine:.3f}; no part of the image fits the text better than the rest"
    pen.write(_MARGIN, _MARGIN + 36, pen.fitted(line, 15, width - 2 * _MARGIN), 15, grey=True)
    top = _MARGIN + _TITLE_HEIGHT
    for number, panel in enumerate((image, _heated(image, found))):
        left = _MARGIN + number * (box + _GAP) + (box - panel.width) // 2
        sheet.paste(panel, (left, top))
        pen.draw.rectangle((left, top, left + panel.width - 1, top + panel.height - 1), outline=BORDER)
    _draw_scale(sheet, pen, found.hottest, (_MARGIN + 2 * (box + _GAP), top, tall))
    write_atomically(out, lambda path: sheet.save(path, "PNG"))


def _heated(image: Image.Image, found: Localization) -> Image.Image:
    """Return the image in pale grey, so that its colours are not taken for heat, under its heat."""
    cells = Image.fromarray(np.clip(np.array(found.heat, dtype=np.float32), 0, None))
    heat = np.asarray(cells.resize(image.size, Image.Resampling.BICUBIC), dtype=np.float64)
    share = np.clip(heat / found.hottest, 0, 1) if found.hottest else np.zeros_like(heat)
    grey = 0.55 * np.asarray(image.convert("L"), dtype=np.float64) + 0.45 * 255
    return Image.fromarray(_over(grey[..., None], share))


def _draw_scale(sheet: Image.Image, pen: Pen, hottest: float, place: tuple[int, int, int]) -> None:
    left, top, height = place
    column = _over(np.full((height, 1, 1), 255.0), np.linspace(1, 0, height)[:, None])
    sheet.paste(Image.fromarray(np.repeat(column, _SCALE_WIDTH, axis=1)), (left, top))
    pen.draw.rectangle((left, top, left + _SCALE_WIDTH - 1, top + height - 1), outline=BORDER)
    for part in (0.0, 0.5, 1.0) if hottest else (0.0,):
        middle = top + round((1 - part) * (height - 1))
        pen.write(left + _SCALE_WIDTH + 8, middle, f"{part * hottest:.3g}", 14, grey=True, anchor="lm")


def _over(below: Colours, share: Colours) -> Any:
    """Return the colour of a share of the largest heat, the more opaque the larger, over what is below: uint8 RGB."""
    from matplotlib import colormaps  # which a sheet and bars do not need

    colours = colormaps["YlOrRd"](share)[..., :3] * 255
    opacity = (0.85 * np.sqrt(share))[..., None]
    return np.round((1 - opacity) * below + opacity * colours).astype(np.uint8)
