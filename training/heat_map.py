"""A picture of where a text is in an image: the image, and beside it the same in grey under heat, with a scale."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.storage.shards import write_atomically
from training.encode_files import read_picture
from training.fonts import lettering_for
from training.localize import METHODS, Localization
from training.pen import BORDER, PAPER, Pen, contained

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    Colours = np.ndarray[Any, np.dtype[np.float64]]

_SIDE = 360  # of an image's box, in pixels, as everything here
_NARROWEST = 160  # of the box: so that the title has room
_SHORTEST = 120  # of the scale
_MARGIN = 32
_GAP = 20
_TITLE_HEIGHT = 76
_SCALE_WIDTH, _NUMBER_WIDTH = 18, 60


def heat_map(found: Localization, out: Path) -> None:
    """Write a localization as a PNG: the hotter, the more the text speaks of the place.

    Raises:
        InputError: the image cannot be read any more.
    """
    from PIL import Image, ImageDraw

    image = contained(read_picture(found.image, _SIDE).image, _SIDE, _SIDE)
    box, tall = max(image.width, _NARROWEST), max(image.height, _SHORTEST)
    width = 2 * (_MARGIN + box + _GAP) + _SCALE_WIDTH + _NUMBER_WIDTH
    sheet = Image.new("RGB", (width, 2 * _MARGIN + _TITLE_HEIGHT + tall), PAPER)
    pen = Pen(ImageDraw.Draw(sheet), lettering_for([found.text]))
    pen.write(_MARGIN, _MARGIN - 6, pen.fitted(found.text, 28, width - 2 * _MARGIN), 28)
    pen.write(_MARGIN, _MARGIN + 36, pen.fitted(_explanation(found), 15, width - 2 * _MARGIN), 15, grey=True)
    top = _MARGIN + _TITLE_HEIGHT
    for number, panel in enumerate((image, _heated(image, found))):
        left = _MARGIN + number * (box + _GAP) + (box - panel.width) // 2
        sheet.paste(panel, (left, top))
        pen.draw.rectangle((left, top, left + panel.width - 1, top + panel.height - 1), outline=BORDER)
    _draw_scale(sheet, pen, found.hottest, (_MARGIN + 2 * (box + _GAP), top, tall))
    write_atomically(out, lambda path: sheet.save(path, "PNG"))


def _explanation(found: Localization) -> str:
    if not found.changes:
        return f"cosine {found.cosine:.3f}, which no part of the image changes"
    if not found.hottest:
        return f"cosine {found.cosine:.3f}; no part of the image fits the text better than the rest"
    return f"cosine {found.cosine:.3f}; {METHODS[found.method]}"


def _heated(image: "Image", found: Localization) -> "Image":
    """The image in pale grey, so that its colours are not taken for heat, under its heat."""
    import numpy as np
    from PIL import Image

    cells = Image.fromarray(np.clip(np.array(found.heat, dtype=np.float32), 0, None))
    heat = np.asarray(cells.resize(image.size, Image.Resampling.BICUBIC), dtype=np.float64)
    share = np.clip(heat / found.hottest, 0, 1) if found.hottest else np.zeros_like(heat)
    grey = 0.55 * np.asarray(image.convert("L"), dtype=np.float64) + 0.45 * 255
    return Image.fromarray(_over(grey[..., None], share))


def _draw_scale(sheet: "Image", pen: Pen, hottest: float, place: tuple[int, int, int]) -> None:
    import numpy as np
    from PIL import Image

    left, top, height = place
    column = _over(np.full((height, 1, 1), 255.0), np.linspace(1, 0, height)[:, None])
    sheet.paste(Image.fromarray(np.repeat(column, _SCALE_WIDTH, axis=1)), (left, top))
    pen.draw.rectangle((left, top, left + _SCALE_WIDTH - 1, top + height - 1), outline=BORDER)
    for part in (0.0, 0.5, 1.0) if hottest else (0.0,):
        middle = top + round((1 - part) * (height - 1))
        pen.write(left + _SCALE_WIDTH + 8, middle, f"{part * hottest:.3g}", 14, grey=True, anchor="lm")


def _over(below: "Colours", share: "Colours") -> Any:
    """The colour of a share of the largest heat, the more opaque the larger, over what is below: uint8 RGB."""
    import numpy as np
    from matplotlib import colormaps

    colours = colormaps["YlOrRd"](share)[..., :3] * 255
    opacity = (0.85 * np.sqrt(share))[..., None]
    return np.round((1 - opacity) * below + opacity * colours).astype(np.uint8)
