"""A picture of a classification: the image, and beside it a bar for each text."""

from pathlib import Path

from data_catalog.storage.shards import write_atomically
from training.classify import SOFTMAX, Choice, Classification
from training.encode_files import read_picture
from training.fonts import lettering_for
from training.pen import BAR, BORDER, CARD, PAPER, Pen, contained

MOST_BARS = 20
_SIDE = 320  # of the image's box, in pixels, as everything here
_MARGIN = 32
_GAP = 28
_ROW = 54
_BAR_WIDTH, _BAR_HEIGHT = 420, 18
_NUMBER_WIDTH = 76
_HEAD = 64


def bars(found: Classification, out: Path) -> None:
    """Write a classification as a PNG, with `MOST_BARS` texts at most.

    Raises:
        InputError: the image cannot be read any more.
    """
    from PIL import Image, ImageDraw

    choices = found.choices[:MOST_BARS]
    image = contained(read_picture(found.image, _SIDE).image, _SIDE, _SIDE)
    width = 2 * _MARGIN + _SIDE + _GAP + _BAR_WIDTH + _NUMBER_WIDTH
    height = 2 * _MARGIN + max(_SIDE, _HEAD + _ROW * len(choices))
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = Pen(ImageDraw.Draw(sheet), lettering_for([found.image.name, *(choice.text for choice in choices)]))
    x, y = _MARGIN + (_SIDE - image.width) // 2, (height - image.height) // 2
    sheet.paste(image, (x, y))
    pen.draw.rectangle((x, y, x + image.width - 1, y + image.height - 1), outline=BORDER)
    left = _MARGIN + _SIDE + _GAP
    top = max(_MARGIN, (height - _HEAD - _ROW * len(choices)) // 2)
    pen.write(left, top, pen.fitted(found.image.name, 22, _BAR_WIDTH + _NUMBER_WIDTH), 22)
    pen.write(left, top + 30, _explanation(found), 15, grey=True)
    for number, choice in enumerate(choices):
        _draw_bar(pen, choice, left, top + _HEAD + number * _ROW)
    write_atomically(out, lambda path: sheet.save(path, "PNG"))


def _explanation(found: Classification) -> str:
    if found.method == SOFTMAX:
        shown = f"the {MOST_BARS} likeliest of {len(found.choices)} texts" if len(found.choices) > MOST_BARS else ""
        return shown or "probabilities among these texts only"
    return "how likely each text fits, by itself"


def _draw_bar(pen: Pen, choice: Choice, left: int, top: int) -> None:
    pen.write(left, top, pen.fitted(choice.text, 17, _BAR_WIDTH + _NUMBER_WIDTH), 17)
    bar = top + 25
    pen.draw.rectangle((left, bar, left + _BAR_WIDTH, bar + _BAR_HEIGHT), fill=CARD, outline=BORDER)
    filled = round(choice.probability * _BAR_WIDTH)
    if filled:
        pen.draw.rectangle((left, bar, left + filled, bar + _BAR_HEIGHT), fill=BAR)
    pen.write(left + _BAR_WIDTH + _NUMBER_WIDTH, bar - 1, f"{choice.probability:.1%}", 16, anchor="ra")
