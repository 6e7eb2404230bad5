"""From an opened image to RGB pixels: 16 bit, palettes, CMYK, what is transparent, colour profiles, EXIF rotation."""

import io
import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageCms import ImageCmsTransform
    from PIL.ImageFile import ImageFile

    Pixels = NDArray[Any]  # of bytes, shape (height, width, 3)

logger = logging.getLogger(__name__)

_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_PROFILE_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture as it is stored.

    Args:
        pixels: RGB, shape (height, width, 3).
        profile: of these pixels, if they are still to be converted to sRGB.
        orientation: EXIF's, 1 to 8; 1 is upright.
        size: (width, height) of the original as it is stored, in pixels; a JPEG may have been decoded at a fraction.
    """

    pixels: "Pixels"
    profile: bytes | None
    orientation: int
    size: tuple[int, int]

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) of the original after turning."""
        return self.size[::-1] if self.orientation in _SIDEWAYS else self.size


def decode(raw: bytes, image: "ImageFile", matte: tuple[int, int, int], *, fraction: int, profiles: bool) -> Decoded:
    """Decode an image: plain JPEGs by OpenCV, which is quicker, and all others by Pillow, which knows what it does.

    Args:
        raw: the file's bytes.
        image: those, as `open_image` returns them.
        matte: RGB colour behind what is transparent.
        fraction: 2, 4 or 8: a JPEG is decoded at a half, a quarter or an eighth; 1: as it is.
        profiles: whether an embedded colour profile is heeded.
    """
    import numpy as np

    profile = image.info.get("icc_profile") if profiles else None
    if image.format in ("JPEG", "MPO"):
        size = image.size
        pixels = _plain_jpeg(raw, fraction) if image.mode == "RGB" else None
        if pixels is not None:
            return Decoded(pixels, profile, _orientation(image), size)
        if fraction > 1:
            image.draft(None, (size[0] // fraction, size[1] // fraction))
        image.load()
    else:
        image.load()
        size = image.size  # Pillow turns some TIFFs upright while it decodes them
    picture, profile = _rgb(image, matte, profile)
    return Decoded(np.asarray(picture), profile, _orientation(image), size)


def _plain_jpeg(raw: bytes, fraction: int) -> "Pixels | None":
    """None if OpenCV finds anything amiss; Pillow then says what, or makes the best of it."""
    import cv2
    import numpy as np

    reduced = {
        1: 0,
        2: cv2.IMREAD_REDUCED_GRAYSCALE_2,  # a bit of its own: the kind of colour is another's
        4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    }
    flags = reduced[fraction] | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    found: Pixels | None = cv2.imdecode(np.frombuffer(raw, np.uint8), flags)
    return found


def _orientation(image: "ImageFile") -> int:
    """By EXIF or XMP; an unreadable block says nothing."""
    try:
        found = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # part of the boundary around decoders; the picture itself is good
        logger.debug("unreadable EXIF", exc_info=True)
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _rgb(image: "Image", matte: tuple[int, int, int], profile: bytes | None) -> "tuple[Image, bytes | None]":
    """Convert to mode RGB, and return with it the profile that its pixels still have.

    The profile of an RGB picture is left to the caller: after shrinking there is less to convert.
    """
    if image.mode.startswith("I"):
        return _high_bytes(image).convert("RGB"), None
    if image.has_transparency_data:
        return _on_matte(image.convert("RGBA"), matte), profile
    if profile is not None and image.mode in ("L", "CMYK"):
        return to_srgb(image, profile), None
    return image.convert("RGB"), profile


def _high_bytes(image: "Image") -> "Image":
    """16-bit grey as 8-bit grey: Pillow's own conversion clips instead of scaling."""
    import numpy as np
    from PIL import Image

    return Image.fromarray((np.clip(np.asarray(image), 0, 0xFFFF) >> 8).astype(np.uint8))


def _on_matte(image: "Image", matte: tuple[int, int, int]) -> "Image":
    from PIL import Image

    return Image.alpha_composite(Image.new("RGBA", image.size, (*matte, 255)), image).convert("RGB")


def to_srgb(image: "Image", profile: bytes) -> "Image":
    """Mode RGB in sRGB, from mode RGB, L or CMYK; a profile that is broken, or of another mode, is not heeded."""
    from PIL import ImageCms

    try:
        transform = _transform(profile, image.mode)
        converted = None if transform is None else ImageCms.applyTransform(image, transform)
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        logger.debug("unusable colour profile", exc_info=True)
        converted = None
    return image.convert("RGB") if converted is None else converted


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> "ImageCmsTransform | None":
    """None where there is nothing to convert. Building costs more than applying, and most images share a profile."""
    from PIL import ImageCms

    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if opened.profile.xcolor_space.strip() != _PROFILE_SPACES[mode]:
        return None
    if mode == "RGB" and "sRGB" in (opened.profile.profile_description or ""):
        return None
    return ImageCms.buildTransform(
        opened,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def converted(pixels: "Pixels", profile: bytes | None) -> "Pixels":
    """RGB pixels of a profile as sRGB pixels; unchanged without a profile."""
    import numpy as np
    from PIL import Image

    return pixels if profile is None else np.asarray(to_srgb(Image.fromarray(pixels), profile))


def upright(pixels: "Pixels", orientation: int) -> "Pixels":
    """Pixels of shape (height, width, 3), turned and mirrored as EXIF's orientation, 1 to 8, wants it."""
    import numpy as np

    across: Any = pixels.transpose(1, 0, 2) if orientation in _SIDEWAYS else pixels
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(across[::rows, ::columns])
