"""Draw results as PNG images: a contact sheet of a search, bars of a classification, a heat map of a localization.

Captions may be in any language. Each line is drawn in the typeface that has most of its letters.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_catalog.base.errors import InputError
from data_catalog.disk.files import write_atomically
from training.data.images import picture_or_reason, quiet_decoders, read_picture
from training.use.classify import SOFTMAX, Classification
from training.use.localize import METHODS, Localization
from training.use.search import Hit

# Files that Pillow finds in the system's font folders, for letters that matplotlib's own typeface lacks.
SYSTEM_FONTS = (
    *("NotoSansCJK-Regular.ttc", "DroidSansFallbackFull.ttf", "NotoSansDevanagari-Regular.ttf"),
    *("NotoSansThai-Regular.ttf", "NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf", "NotoSans-Regular.ttf"),
    *("FreeSans.ttf", "Arial Unicode.ttf", "Arial.ttf", "arial.ttf"),
)
IN_NO_FONT = "\U0010ffff"  # a font draws its symbol for missing letters in place of this one

PAPER, CARD, BORDER = (243, 244, 246), (255, 255, 255), (214, 217, 222)
INK, GREY, BAR = (24, 28, 36), (110, 116, 128), (46, 111, 187)
MARGIN, GAP, TITLE_HEIGHT = 32, 20, 76  # pixels, as all sizes here

COLUMNS, MOST_IMAGES = 4, 100  # images in a row of a contact sheet, and on one sheet
THUMBNAIL = 224
PADDING, LINE_HEIGHT, TEXT_LINES = 10, 21, 3
CARD_WIDTH = THUMBNAIL + 2 * PADDING
CARD_HEIGHT = CARD_WIDTH + 30 + TEXT_LINES * LINE_HEIGHT

MOST_BARS, BAR_WIDTH, BAR_HEIGHT, BAR_ROW = 20, 500, 18, 54
SIDE = 340  # of the box of an image that is classified or localized
SCALE_WIDTH, NUMBER_WIDTH = 18, 60


def missing_letters(texts: Iterable[str]) -> list[str]:
    """Return the letters of some words for which no typeface is installed that has all letters of the word."""
    return sorted({letter for text in texts for letter in _typeface(text, 20)[1]})


def contact_sheet(hits: Sequence[Hit], out: Path, title: str, image: Path | None = None) -> None:
    """Write the result of a search as a PNG: at most `MOST_IMAGES` images, under the text or image of the query."""
    hits = hits[:MOST_IMAGES]
    rows, columns = max(1, -(-len(hits) // COLUMNS)), min(COLUMNS, max(2, len(hits)))
    query = None if image is None else fit_in_box(read_picture(image, THUMBNAIL).image, THUMBNAIL // 2)
    left, head = MARGIN, TITLE_HEIGHT
    if query is not None:
        left, head = left + query.width + GAP, max(head, query.height + GAP)
    width = 2 * MARGIN + columns * (CARD_WIDTH + GAP) - GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + head + rows * (CARD_HEIGHT + GAP) - GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    if query is not None:
        sheet.paste(query, (MARGIN, MARGIN))
    _write(draw, (left, MARGIN - 6), title, 30, width - left - MARGIN)
    line = f"the {len(hits)} images most similar to the {'text' if image is None else 'image'}, by cosine"
    _write(draw, (left, MARGIN + 36), line if hits else "no images", 16, fill=GREY)
    for number, hit in enumerate(hits):
        row, column = divmod(number, COLUMNS)
        x, y = MARGIN + column * (CARD_WIDTH + GAP), MARGIN + head + row * (CARD_HEIGHT + GAP)
        draw.rounded_rectangle((x, y, x + CARD_WIDTH, y + CARD_HEIGHT), radius=10, fill=CARD, outline=BORDER)
        _paste(sheet, fit_in_box(image_of(hit, THUMBNAIL), THUMBNAIL), (x + PADDING, y + PADDING, THUMBNAIL, THUMBNAIL))
        below = y + CARD_WIDTH
        _write(draw, (x + PADDING, below), str(hit.rank), 18)
        _write(draw, (x + CARD_WIDTH - PADDING, below), f"{hit.cosine:.3f}", 16, fill=GREY, anchor="ra")
        caption = hit.captions[0] if hit.captions else hit.name
        _write(draw, (x + PADDING, below + 28), caption, 15, THUMBNAIL, num_lines=TEXT_LINES)
    _save(sheet, out)


def image_of(hit: Hit, side: int) -> Image.Image:
    """Return the image of a hit, in RGB; a large one may be decoded at a fraction of no less than `side` pixels."""
    if hit.path is not None:
        return read_picture(hit.path, side).image
    with quiet_decoders():
        found = picture_or_reason(hit.image, side)
    if isinstance(found, str):
        raise InputError(f"the image of {hit.name} does not decode ({found}): run `vernaclip verify`")
    return found.image


def fit_in_box(image: Image.Image, side: int) -> Image.Image:
    """Scale an image to fit in a square, with its proportions and with sides of at least one pixel."""
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def bars(found: Classification, out: Path) -> None:
    """Write a classification as a PNG, with at most `MOST_BARS` texts."""
    choices = found.choices[:MOST_BARS]
    height = max(SIDE, TITLE_HEIGHT + BAR_ROW * len(choices))
    sheet = Image.new("RGB", (2 * MARGIN + SIDE + GAP + BAR_WIDTH, 2 * MARGIN + height), PAPER)
    draw = ImageDraw.Draw(sheet)
    _paste(sheet, fit_in_box(read_picture(found.image, SIDE).image, SIDE), (MARGIN, MARGIN, SIDE, height))
    left = MARGIN + SIDE + GAP
    _write(draw, (left, MARGIN), found.image.name, 22, BAR_WIDTH)
    caption = "probabilities among these texts" if found.method == SOFTMAX else "probability of each text on its own"
    if len(choices) < len(found.choices):
        caption = f"{caption}: the {len(choices)} most likely of {len(found.choices)}"
    _write(draw, (left, MARGIN + 30), caption, 15, fill=GREY)
    for number, choice in enumerate(choices):
        top = MARGIN + TITLE_HEIGHT + number * BAR_ROW
        _write(draw, (left, top), choice.text, 17, BAR_WIDTH - NUMBER_WIDTH)
        _write(draw, (left + BAR_WIDTH, top), f"{choice.probability:.1%}", 16, anchor="ra")
        box = (left, top + 25, left + BAR_WIDTH, top + 25 + BAR_HEIGHT)
        draw.rectangle(box, fill=CARD, outline=BORDER)
        if filled := round(choice.probability * BAR_WIDTH):
            draw.rectangle((left, box[1], left + filled, box[3]), fill=BAR)
    _save(sheet, out)


def heat_map(found: Localization, out: Path) -> None:
    """Write a localization as a PNG. Hotter colours mark what the text describes."""
    image = fit_in_box(read_picture(found.image, SIDE).image, SIDE)
    top = MARGIN + TITLE_HEIGHT
    sheet = Image.new("RGB", (2 * (MARGIN + SIDE + GAP) + SCALE_WIDTH + NUMBER_WIDTH, top + SIDE + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (MARGIN, MARGIN - 6), found.text, 28, sheet.width - 2 * MARGIN)
    meaning = METHODS[found.method]
    if not found.changes:
        meaning = "no part of the image changes it"
    elif not found.hottest:
        meaning = "no part of the image fits the text better than the rest"
    _write(draw, (MARGIN, MARGIN + 36), f"cosine {found.cosine:.3f}; {meaning}", 15, fill=GREY)
    for number, panel in enumerate((image, heat_overlay(image, found))):
        _paste(sheet, panel, (MARGIN + number * (SIDE + GAP), top, SIDE, SIDE))
    left = MARGIN + 2 * (SIDE + GAP)
    scale = _blend_heat(np.full((SIDE, SCALE_WIDTH, 1), 255.0), np.linspace(1, 0, SIDE)[:, None])
    _paste(sheet, Image.fromarray(scale), (left, top, SCALE_WIDTH, SIDE))
    for part in (0.0, 0.5, 1.0) if found.hottest else (0.0,):
        place = (left + SCALE_WIDTH + 8, top + round((1 - part) * SIDE) - 8)
        _write(draw, place, f"{part * found.hottest:.3g}", 14, fill=GREY)
    _save(sheet, out)


def heat_overlay(image: Image.Image, found: Localization) -> Image.Image:
    """Return the image in light grey, so that its colours do not look like heat, with the heat map over it."""
    cells = Image.fromarray(np.clip(np.array(found.heat, dtype=np.float32), 0, None))
    heat = np.asarray(cells.resize(image.size, Image.Resampling.BICUBIC), dtype=np.float64)
    share = np.clip(heat / found.hottest, 0, 1) if found.hottest else np.zeros_like(heat)
    grey = 0.55 * np.asarray(image.convert("L"), dtype=np.float64) + 0.45 * 255
    return Image.fromarray(_blend_heat(grey[..., None], share))


def _blend_heat(below: Any, share: Any) -> Any:
    """Blend the heat colours over a background: the hotter, the more opaque. Returns uint8 RGB."""
    from matplotlib import colormaps  # imported here, because sheets and bars do not need it

    colours = colormaps["YlOrRd"](share)[..., :3] * 255
    opacity = (0.85 * np.sqrt(share))[..., None]
    return np.round((1 - opacity) * below + opacity * colours).astype(np.uint8)


def _paste(sheet: Image.Image, image: Image.Image, box: tuple[int, int, int, int]) -> None:
    """Paste an image with a border into the middle of a box: left, top, width, height."""
    left, top, width, height = box
    x, y = left + (width - image.width) // 2, top + (height - image.height) // 2
    sheet.paste(image, (x, y))
    # Around the image, because it may be one pixel wide.
    ImageDraw.Draw(sheet).rectangle((x - 1, y - 1, x + image.width, y + image.height), outline=BORDER)


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    size: int,
    width: int = 1_000_000,
    *,
    num_lines: int = 1,
    fill: tuple[int, int, int] = INK,
    anchor: str = "la",
) -> None:
    """Write a text in at most `num_lines` lines of `width` pixels, the last one shortened with an ellipsis."""
    text = " ".join(text.split())
    font, _ = _typeface(text, size)
    for number in range(num_lines):
        line = text
        if font.getlength(text[:width]) > width:
            end = next(end for end in range(1, len(text) + 1) if font.getlength(text[:end] + "…") > width) - 1
            space = text.rfind(" ", 0, end + 1) if number < num_lines - 1 else -1
            line = text[: max(1, space if space > 0 else end)]
        text = text[len(line) :].strip()
        if text and number == num_lines - 1:
            line = line.rstrip() + "…"
        draw.text((place[0], place[1] + number * LINE_HEIGHT), line, font=font, fill=fill, anchor=anchor)


def _typeface(text: str, size: int) -> tuple[Any, list[str]]:
    """Return the typeface that has most letters of a text, and the letters that it lacks."""
    letters = sorted({letter for letter in text if not letter.isspace()})
    lacking = {name: [letter for letter in letters if not _has(name, letter)] for name in _typefaces()}
    best = min(lacking, key=lambda name: len(lacking[name]))  # the first one if several are equal
    return _font(best, size), lacking[best]


@cache
def _typefaces() -> list[str]:
    import matplotlib

    # DejaVu Sans: Latin, Greek, Cyrillic, Arabic and Hebrew letters.
    names = [str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))]
    for name in SYSTEM_FONTS:
        try:
            _font(name, 20)
        except OSError:
            continue
        names.append(name)
    return names


@cache
def _font(name: str, size: int) -> Any:
    return ImageFont.truetype(name, size)


@cache
def _has(name: str, letter: str) -> bool:
    font = _font(name, 20)
    return bytes(font.getmask(letter)) != bytes(font.getmask(IN_NO_FONT))


def _save(sheet: Image.Image, out: Path) -> None:
    write_atomically(out, lambda path: sheet.save(path, "PNG", compress_level=1))
