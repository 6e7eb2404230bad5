"""Decoding of image files: the header check, the decoders, colour conversion, and the reasons of decoder errors.

Pixels are uint8 arrays of shape (height, width, 3).
"""

import io
import logging
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# Pillow would otherwise import these plugins at the first file of their format.
from PIL import AvifImagePlugin, Image, ImageCms, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401
from PIL.ImageFile import ImageFile

from data_catalog.base.errors import PipelineError, install_hint
from data_catalog.rows.image_formats import HEIF, READ_FORMATS, format_of, is_html

Pixels = NDArray[Any]

logger = logging.getLogger(__name__)

_PACKED = {"gzip": b"\x1f\x8b", "zip": b"PK\3\4", "7z": b"7z\xbc\xaf\x27\x1c", "RAR": b"Rar!"}
# Pillow's names of pixel modes. Modes without an agreed meaning as a picture are missing (floats, 32-bit numbers, Lab).
_ALLOWED_MODES = frozenset(
    ("1", "L", "P", "PA", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "I;16", "I;16L", "I;16B", "I;16N")
)
# Encoders write about ten scans, and libtiff stops at 100.
MAX_SCANS = 100
_SCAN, _END = b"\xff\xda", b"\xd9"
# Markers without a segment are left out: stuffed bytes, restarts, and those that decoders skip within a scan.
_MARKER = re.compile(rb"\xff+([\xc0-\xcf\xd9-\xfe])")
_PIXELS = re.compile(r"\d+ pixels")  # in Pillow's error message
_AVIF_BRAND = re.compile(rb"avi[fs]")


class ImageRejectedError(PipelineError):
    """An image that is rejected: `reason` is a key of `NORMALISE_REASONS`."""

    def __init__(self, reason: str, detail: str | None = None) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def open_image(raw: bytes) -> ImageFile:
    """Read only the header of a file of an allowed format; for errors of decoders, see `rejection_of`."""
    image = _open_heif(raw) if is_heif(raw) else Image.open(io.BytesIO(raw), formats=READ_FORMATS)
    if image.mode not in _ALLOWED_MODES:
        raise ImageRejectedError("format_not_allowed", f"{image.format} of mode {image.mode}")
    if image.format in ("JPEG", "MPO") and not _has_few_scans(raw):
        raise ImageRejectedError("too_many_scans", f"more than {MAX_SCANS}")
    return image


def is_heif(raw: bytes) -> bool:
    """Return whether a file is HEIF, and not AVIF under a brand that both have, which Pillow reads."""
    return format_of(raw) == HEIF and not _AVIF_BRAND.search(raw[: min(256, int.from_bytes(raw[:4]))])


def _open_heif(raw: bytes) -> ImageFile:
    """Open the primary picture of a HEIF file, by a class that is not registered with Pillow.

    A broken file may crash it, so that only decoding processes come here: others call `without_heif`.
    """
    import pi_heif

    pi_heif.options.DECODE_THREADS = 1  # one child per core
    image: ImageFile = pi_heif.HeifImageFile(io.BytesIO(raw))
    return image


def _has_few_scans(jpeg: bytes) -> bool:
    """Return whether a JPEG has at most `MAX_SCANS` scans, by its markers: each scan costs a pass over all pixels."""
    if jpeg.count(_SCAN) <= MAX_SCANS:
        return True  # no need to know which are scans and which are bytes of metadata
    at, num_scans = 2, 0
    while (marker := _MARKER.search(jpeg, at)) and marker[1] != _END:
        at = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
        num_scans += marker[1] == _SCAN[1:]
        if num_scans > MAX_SCANS:
            return False
    return True


def rejection_of(error: Exception, raw: bytes) -> ImageRejectedError:
    """Return the drop reason for a decoder's error."""
    if isinstance(error, Image.DecompressionBombError):
        found = _PIXELS.search(str(error))
        return ImageRejectedError("too_many_pixels", found.group() if found else None)
    known = format_of(raw)
    if isinstance(error, ImportError) and known == HEIF:
        return ImageRejectedError("format_not_allowed", f"{HEIF}: {install_hint('heif')}")
    if isinstance(error, UnidentifiedImageError):
        if known is None:
            return ImageRejectedError("not_an_image", _text_kind(raw))
        if known not in (*READ_FORMATS, HEIF):
            return ImageRejectedError("format_not_allowed", known)
        return ImageRejectedError("decode_error", f"{known} with a broken header")
    is_cut_heif = known == HEIF and "end of file" in str(error)
    if "truncated" in str(error).lower() or isinstance(error, EOFError) or is_cut_heif:
        return ImageRejectedError("truncated", known)
    return ImageRejectedError("decode_error", f"{known}: {type(error).__name__}")


def _text_kind(raw: bytes) -> str:
    """Return the kind of a file that is not an image, such as "HTML", "gzip", "zip", "text" or "unknown bytes"."""
    if is_html(raw):
        return "HTML"
    for name, start in _PACKED.items():
        if raw.startswith(start):
            return name
    is_text = raw and all((byte >= 32 and byte != 127) or byte in b"\t\r\n" for byte in raw[:512])
    return "text" if is_text else "unknown bytes"


_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_PROFILE_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
# OpenCV's flags of size, by the divisor; the colour flag is added.
_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded RGB picture, not yet turned upright."""

    pixels: Pixels
    profile: bytes | None  # ICC profile, if the pixels are still to be converted to sRGB
    orientation: int  # EXIF's, 1 to 8; 1 is upright
    size: tuple[int, int]  # (width, height) of the original as it is stored, also if it was decoded at a fraction

    @property
    def upright_size(self) -> tuple[int, int]:
        """Return (width, height) of the original after turning."""
        return self.size[::-1] if self.orientation in _SIDEWAYS else self.size


def decode(raw: bytes, image: ImageFile, matte: tuple[int, int, int], *, fraction: int, profiles: bool) -> Decoded:
    """Decode a file that `open_image` has opened: plain JPEGs by OpenCV, which is faster, and all others by Pillow.

    `matte` is the RGB colour behind transparent pixels. A JPEG is decoded at 1/`fraction` (1, 1/2, 1/4, 1/8) of its
    size. With `profiles`, an embedded colour profile is returned, so that it can be applied.
    """
    size, is_jpeg = image.size, image.format in ("JPEG", "MPO")
    if is_jpeg and image.mode == "RGB":
        flags = _REDUCED[fraction] | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        pixels: Pixels | None = cv2.imdecode(np.frombuffer(raw, np.uint8), flags)
        if pixels is not None:  # else Pillow decodes it, or says what is wrong
            profile = image.info.get("icc_profile") if profiles else None
            return Decoded(pixels, profile, _orientation(image), size)
    if is_jpeg and fraction > 1:
        image.draft(None, (size[0] // fraction, size[1] // fraction))
    decoded = decode_opened(image, matte, profiles=profiles)
    return replace(decoded, size=size) if is_jpeg else decoded


def decode_opened(image: Image.Image, matte: tuple[int, int, int], *, profiles: bool) -> Decoded:
    """Decode a Pillow image of any mode by Pillow, as `decode` does."""
    image.load()
    picture, profile = _rgb(image, matte, image.info.get("icc_profile") if profiles else None)
    # Pillow turns some TIFFs upright while it decodes them: their size is known only now.
    return Decoded(np.asarray(picture), profile, _orientation(image), image.size)


def _orientation(image: Image.Image) -> int:
    """Return the orientation from EXIF or XMP, 1 to 8; 1 if the metadata has none or is unreadable."""
    if image.format == HEIF:  # its decoder turns it, by properties of the file that stand above EXIF
        return 1
    try:
        found = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # part of the boundary around decoders; the picture itself is good
        logger.debug("unreadable EXIF", exc_info=True)
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _rgb(image: Image.Image, matte: tuple[int, int, int], profile: bytes | None) -> tuple[Image.Image, bytes | None]:
    """Convert a picture to mode RGB. Return it and its profile, if that is better applied after shrinking."""
    if image.mode.startswith("I;16"):  # 16-bit grey, which Pillow's own conversion clips instead of scaling
        grey = np.asarray(image) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB"), None
    if image.has_transparency_data:
        behind = Image.new("RGBA", image.size, (*matte, 255))
        return Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB"), profile
    if profile is not None and image.mode in ("L", "CMYK"):
        return _image_to_srgb(image, profile), None
    return image.convert("RGB"), profile


def to_srgb(pixels: Pixels, profile: bytes | None) -> Pixels:
    """Convert RGB pixels from a colour profile to sRGB; return them unchanged without a profile."""
    return pixels if profile is None else np.asarray(_image_to_srgb(Image.fromarray(pixels), profile))


def _image_to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert mode RGB, L or CMYK to RGB in sRGB; ignore a profile that is broken or of another mode."""
    try:
        if transform := _transform(profile, image.mode):
            return transform.apply(image)
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        logger.debug("unusable colour profile", exc_info=True)
    return image.convert("RGB")


# Building a transform costs more than applying it, and most images share a profile.
@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB, or None if there is nothing to convert."""
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


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn and mirror pixels according to EXIF's orientation, 1 to 8."""
    across: Any = pixels.transpose(1, 0, 2) if orientation in _SIDEWAYS else pixels
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(across[::rows, ::columns])
