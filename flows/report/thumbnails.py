"""Published images made small enough to lie inside a page."""

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SIDE = 160
_QUALITY = 60
# What images are published as; nothing else is given to a decoder.
_FORMATS = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture as a `data:` address, and its size in pixels."""

    address: str
    width: int
    height: int


def thumbnail(data: bytes | None) -> Thumbnail | None:
    """A published image, at most `SIDE` pixels wide and high; None if it cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data or b""), formats=_FORMATS) as image:
            image.thumbnail((SIDE, SIDE))
            return _encoded(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # as Pillow tells of broken files
        return None


def miniature(pixels: bytes | None) -> Thumbnail | None:
    """The 8 x 8 pixels that are kept of an image that is not published, drawn large; None if there are none."""
    from PIL import Image

    if pixels is None or len(pixels) != 192:
        return None
    small = Image.frombytes("RGB", (8, 8), pixels)
    return _encoded(small.resize((SIDE // 2, SIDE // 2), Image.Resampling.BICUBIC))


def _encoded(image: "Picture") -> Thumbnail:
    file = io.BytesIO()
    image.save(file, format="WEBP", quality=_QUALITY, method=4)
    address = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return Thumbnail(address, image.width, image.height)
