"""A picture of where a text is in an image: heat over the image, with a scale in cosines."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.shards import write_atomically
from training.encode_files import read_picture
from training.fonts import lettering_for
from training.localize import Localization
from training.pen import BORDER, PAPER, Pen, contained

if TYPE_CHECKING:
    from PIL.Image import Image

    from training.nearest import Floats

_SIDE = 520  # of the image's box, in pixels, as everything here
_MARGIN = 32
_TITLE_HEIGHT = 76
_SCALE_WIDTH, _SCALE_GAP, _NUMBER_WIDTH = 20, 24, 64
_NARROWEST = 380  # of the box, so that the title has room
_STRONGEST = 0.8  # opacity where the text is


def heat_map(found: Localization, out: Path) -> None:
    """Write a localization as a PNG: the hotter, the more the cosine falls when the place is covered.

    Raises:
        ConfigError: the image cannot be read any more.
    """
    from PIL import Image, ImageDraw

    image = contained(read_picture(found.image, _SIDE).image, _SIDE, _SIDE)
    box = max(image.width, _NARROWEST)
    width = 2 * _MARGIN + box + _SCALE_GAP + _SCALE_WIDTH + _NUMBER_WIDTH
    height = 2 * _MARGIN + _TITLE_HEIGHT + max(image.height, 120)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = Pen(ImageDraw.Draw(sheet), lettering_for([found.text]))
    pen.write(_MARGIN, _MARGIN - 6, pen.fitted(found.text, 28, width - 2 * _MARGIN), 28)
    pen.write(_MARGIN, _MARGIN + 36, pen.fitted(_explanation(found), 15, width - 2 * _MARGIN), 15, grey=True)
    x, y = _MARGIN + (box - image.width) // 2, _MARGIN + _TITLE_HEIGHT
    sheet.paste(_heated(image, found), (x, y))
    pen.draw.rectangle((x, y, x + image.width - 1, y + image.height - 1), outline=BORDER)
    _draw_scale(sheet, pen, found, _MARGIN + box + _SCALE_GAP, y)
    write_atomically(out, lambda path: sheet.save(path, "PNG"))


def _explanation(found: Localization) -> str:
    if not found.fall:
        return f"cosine {found.cosine:.3f}, which falls nowhere when a part is covered"
    return f"cosine {found.cosine:.3f}, and by how much it falls when a part is covered"


def _heated(image: "Image", found: Localization) -> "Image":
    """The image under its heat; what has none is paler, so that colours of the image are not taken for heat."""
    import numpy as np
    from PIL import Image

    cells = np.clip(np.array(found.drops, dtype=np.float32), 0, None)
    heat = np.asarray(Image.fromarray(cells).resize(image.size, Image.Resampling.BICUBIC))
    share = np.clip(heat / found.fall, 0, 1) if found.fall else np.zeros_like(heat)
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None] * 0.5 + 255 * 0.5
    pale = 0.5 * np.asarray(image, dtype=np.float32) + 0.5 * grey
    opacity = (_STRONGEST * share**0.8)[..., None]
    return Image.fromarray(np.round((1 - opacity) * pale + opacity * _colours(share)).astype(np.uint8))


def _colours(share: "Floats | Any") -> "Floats | Any":
    """RGB, 0 to 255, for shares of the largest fall."""
    from matplotlib import colormaps

    return colormaps["inferno_r"](0.12 + 0.75 * share)[..., :3] * 255


def _draw_scale(sheet: "Image", pen: Pen, found: Localization, left: int, top: int) -> None:
    import numpy as np
    from PIL import Image

    height = sheet.height - _MARGIN - top
    share = np.linspace(1, 0, height)[:, None]
    opacity = (_STRONGEST * share**0.8)[..., None]
    column = (1 - opacity) * 255 + opacity * _colours(share)
    strip = np.repeat(np.round(column).astype(np.uint8), _SCALE_WIDTH, axis=1)
    sheet.paste(Image.fromarray(strip), (left, top))
    pen.draw.rectangle((left, top, left + _SCALE_WIDTH - 1, top + height - 1), outline=BORDER)
    for part in (0.0, 0.5, 1.0):
        place = top + round((1 - part) * (height - 1))
        pen.write(left + _SCALE_WIDTH + 8, place, f"{part * found.fall:.3f}", 14, grey=True, anchor="lm")
