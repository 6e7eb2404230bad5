"""A picture of a query's result: thumbnails in a grid, each with its rank, its cosine and its caption."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_catalog.shards import write_atomically
from training.fonts import Lettering, lettering_for
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
    pen = _Pen(ImageDraw.Draw(sheet), lettering_for([title, *(hit.captions[0] for hit in hits)]))
    _draw_title(pen, title, len(hits), width - 2 * _MARGIN)
    for index, hit in enumerate(hits):
        left = _MARGIN + index % columns * (_CARD_WIDTH + _GAP)
        top = _MARGIN + _TITLE_HEIGHT + index // columns * (_CARD_HEIGHT + _GAP)
        _draw_card(sheet, pen, hit, left, top)
    write_atomically(out, lambda path: sheet.save(path, "PNG"))


@dataclass(frozen=True, slots=True)
class _Pen:
    """What writes on a sheet."""

    draw: "ImageDraw"
    lettering: Lettering

    def write(self, x: int, y: int, text: str, size: int, *, grey: bool = False, anchor: str = "la") -> None:
        """Write one line; `anchor` is Pillow's: "la" is left and top, "ra" right and top."""
        font, fill = self.lettering.font(size), _GREY if grey else _INK
        self.draw.text((x, y), self.lettering.legible(text), font=font, fill=fill, anchor=anchor)

    def width(self, text: str, size: int) -> float:
        """Pixels that a line takes."""
        return self.draw.textlength(self.lettering.legible(text), font=self.lettering.font(size))

    def fitted(self, text: str, size: int, width: int) -> str:
        """The text, or as much of its start as fits into `width` pixels with an ellipsis."""
        if self.width(text, size) <= width:
            return text
        while text and self.width(text + "…", size) > width:
            text = text[:-1]
        return text.rstrip() + "…"

    def wrapped(self, text: str, size: int, width: int) -> list[str]:
        """The text in at most `_TEXT_LINES` lines of at most `width` pixels; an ellipsis stands for what is left."""
        lines: list[str] = []
        words = text.split()
        while words and len(lines) < _TEXT_LINES - 1:
            count = 1
            while count < len(words) and self.width(" ".join(words[: count + 1]), size) <= width:
                count += 1
            lines.append(self.fitted(" ".join(words[:count]), size, width))
            words = words[count:]
        return [*lines, self.fitted(" ".join(words), size, width)] if words else lines


def _draw_title(pen: _Pen, title: str, num_hits: int, width: int) -> None:
    pen.write(_MARGIN, _MARGIN - 6, pen.fitted(title, 30, width), 30)
    line = f"the {num_hits} images most like the text, by cosine" if num_hits else "no images"
    pen.write(_MARGIN, _MARGIN + 36, line, 16, grey=True)


def _draw_card(sheet: "Image", pen: _Pen, hit: Hit, left: int, top: int) -> None:
    box = (left, top, left + _CARD_WIDTH, top + _CARD_HEIGHT)
    pen.draw.rounded_rectangle(box, radius=10, fill=_CARD, outline=_BORDER)
    thumbnail = _thumbnail(hit.image)
    x = left + _PADDING + (THUMBNAIL - thumbnail.width) // 2
    y = top + _PADDING + (THUMBNAIL - thumbnail.height) // 2
    sheet.paste(thumbnail, (x, y))
    pen.draw.rectangle((x, y, x + thumbnail.width - 1, y + thumbnail.height - 1), outline=_BORDER)
    below = top + _PADDING + THUMBNAIL + 8
    pen.write(left + _PADDING, below, f"{hit.rank}", 18)
    pen.write(left + _CARD_WIDTH - _PADDING, below, f"{hit.score:.3f}", 16, grey=True, anchor="ra")
    for number, line in enumerate(pen.wrapped(hit.captions[0], 15, THUMBNAIL)):
        pen.write(left + _PADDING, below + 28 + number * _LINE_HEIGHT, line, 15)


def _thumbnail(data: bytes) -> "Image":
    """The image inside a square of `THUMBNAIL` pixels, with its own proportions."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data)) as image:
        return ImageOps.contain(image.convert("RGB"), (THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
