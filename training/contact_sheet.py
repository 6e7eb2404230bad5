"""A picture of a query's result: thumbnails in a grid, each with its rank, its cosine and its caption."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_catalog.storage.shards import write_atomically
from training.encode_files import read_picture
from training.fonts import lettering_for
from training.pen import BORDER, CARD, PAPER, Pen, contained
from training.search import Hit

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 4
MOST_IMAGES = 100  # of one sheet
THUMBNAIL = 224  # pixels, as everything here
_GAP = 20
_MARGIN = 32
_PADDING = 10  # between a card's border and what is on it
_TITLE_HEIGHT = 76
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
    from PIL import Image, ImageDraw

    hits = hits[:MOST_IMAGES]
    rows = max(1, -(-len(hits) // COLUMNS))
    columns = min(COLUMNS, max(2, len(hits)))
    width = 2 * _MARGIN + columns * _CARD_WIDTH + (columns - 1) * _GAP
    height = _MARGIN + _TITLE_HEIGHT + rows * (_CARD_HEIGHT + _GAP) - _GAP + _MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = Pen(ImageDraw.Draw(sheet), lettering_for([title, *map(_text, hits)]))
    _draw_title(pen, title, len(hits), width - 2 * _MARGIN)
    for index, hit in enumerate(hits):
        left = _MARGIN + index % columns * (_CARD_WIDTH + _GAP)
        top = _MARGIN + _TITLE_HEIGHT + index // columns * (_CARD_HEIGHT + _GAP)
        _draw_card(sheet, pen, hit, left, top)
    write_atomically(out, lambda path: sheet.save(path, "PNG"))


def _draw_title(pen: Pen, title: str, num_hits: int, width: int) -> None:
    pen.write(_MARGIN, _MARGIN - 6, pen.fitted(title, 30, width), 30)
    line = f"the {num_hits} images most like the text, by cosine" if num_hits else "no images"
    pen.write(_MARGIN, _MARGIN + 36, line, 16, grey=True)


def _draw_card(sheet: "Image", pen: Pen, hit: Hit, left: int, top: int) -> None:
    box = (left, top, left + _CARD_WIDTH, top + _CARD_HEIGHT)
    pen.draw.rounded_rectangle(box, radius=10, fill=CARD, outline=BORDER)
    thumbnail = _thumbnail(hit)
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


def _thumbnail(hit: Hit) -> "Image":
    """The image inside a square of `THUMBNAIL` pixels, with its own proportions."""
    from PIL import Image

    if hit.path is not None:
        whole = read_picture(hit.path, THUMBNAIL).image
    else:
        with Image.open(io.BytesIO(hit.image)) as opened:
            whole = opened.convert("RGB")
    return contained(whole, THUMBNAIL, THUMBNAIL)
