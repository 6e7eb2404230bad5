"""A picture of a query's result: thumbnails in a grid, each with its rank, its cosine and its caption."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.shards import write_atomically
from training.search import Hit

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

COLUMNS = 4
THUMBNAIL = 224  # pixels, as everything here
_GAP = 20
_MARGIN = 32
_PADDING = 10  # between a card's border and what is on it
_TITLE_HEIGHT = 76
_TEXT_LINES = 3
_LINE_HEIGHT = 21
_CARD_WIDTH = THUMBNAIL + 2 * _PADDING
_CARD_HEIGHT = THUMBNAIL + 2 * _PADDING + 30 + _TEXT_LINES * _LINE_HEIGHT
_PAPER, _CARD, _BORDER = (243, 244, 246), (255, 255, 255), (214, 217, 222)
_INK, _GREY = (24, 28, 36), (110, 116, 128)


def contact_sheet(hits: Sequence[Hit], out: Path, title: str) -> None:
    """Write the result of a search as a PNG, `COLUMNS` images a row.

    Raises:
        OSError: an image does not decode, or the file cannot be written.
    """
    from PIL import Image, ImageDraw

    rows = max(1, -(-len(hits) // COLUMNS))
    columns = min(COLUMNS, max(2, len(hits)))
    width = 2 * _MARGIN + columns * _CARD_WIDTH + (columns - 1) * _GAP
    height = _MARGIN + _TITLE_HEIGHT + rows * (_CARD_HEIGHT + _GAP) - _GAP + _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_title(draw, title, len(hits), width - 2 * _MARGIN)
    for index, hit in enumerate(hits):
        left = _MARGIN + index % columns * (_CARD_WIDTH + _GAP)
        top = _MARGIN + _TITLE_HEIGHT + index // columns * (_CARD_HEIGHT + _GAP)
        _draw_card(sheet, draw, hit, left, top)
    write_atomically(out, lambda path: sheet.save(path, "PNG"))


def _draw_title(draw: "ImageDraw", title: str, num_hits: int, width: int) -> None:
    font = _font(30)
    draw.text((_MARGIN, _MARGIN - 4), _fitted(draw, title, font, width), font=font, fill=_INK)
    line = f"the {num_hits} images most like the text, by cosine" if num_hits else "no images"
    draw.text((_MARGIN, _MARGIN + 36), line, font=_font(16), fill=_GREY)


def _draw_card(sheet: "Image", draw: "ImageDraw", hit: Hit, left: int, top: int) -> None:
    box = (left, top, left + _CARD_WIDTH, top + _CARD_HEIGHT)
    draw.rounded_rectangle(box, radius=10, fill=_CARD, outline=_BORDER)
    thumbnail = _thumbnail(hit.image)
    x = left + _PADDING + (THUMBNAIL - thumbnail.width) // 2
    y = top + _PADDING + (THUMBNAIL - thumbnail.height) // 2
    sheet.paste(thumbnail, (x, y))
    draw.rectangle((x, y, x + thumbnail.width - 1, y + thumbnail.height - 1), outline=_BORDER)
    baseline = top + _PADDING + THUMBNAIL + 8
    draw.text((left + _PADDING, baseline), f"{hit.rank}", font=_font(18), fill=_INK)
    draw.text((left + _CARD_WIDTH - _PADDING, baseline), f"{hit.score:.3f}", font=_font(16), fill=_GREY, anchor="ra")
    for number, line in enumerate(_wrapped(draw, hit.captions[0], _font(16), THUMBNAIL)):
        y = baseline + 28 + number * _LINE_HEIGHT
        draw.text((left + _PADDING, y), line, font=_font(16), fill=_INK)


def _thumbnail(data: bytes) -> "Image":
    """The image inside a square of `THUMBNAIL` pixels, with its own proportions."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data)) as image:
        return ImageOps.contain(image.convert("RGB"), (THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)


def _wrapped(draw: "ImageDraw", text: str, font: Any, width: int) -> list[str]:
    """The text in at most `_TEXT_LINES` lines of at most `width` pixels; an ellipsis stands for what does not fit."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < _TEXT_LINES - 1:
        count = 1
        while count < len(words) and draw.textlength(" ".join(words[: count + 1]), font=font) <= width:
            count += 1
        lines.append(_fitted(draw, " ".join(words[:count]), font, width))
        words = words[count:]
    return [*lines, _fitted(draw, " ".join(words), font, width)] if words else lines


def _fitted(draw: "ImageDraw", text: str, font: Any, width: int) -> str:
    """The text, or as much of its start as fits into `width` pixels with an ellipsis."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _font(size: int) -> Any:
    """Pillow's own font, which comes with it and has the accents of European languages."""
    from PIL import ImageFont

    return ImageFont.load_default(size=size)
