"""An image file opened by its header, if it is of an allowed format; and what a decoder's error means."""

import io
import re
from typing import TYPE_CHECKING

from data_catalog.errors import PipelineError
from data_catalog.images.magic import format_of, text_kind

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

# What Pillow may open. MPO, a JPEG followed by others (stereo cameras), opens as JPEG: its first picture is taken.
ALLOWED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# Pillow's names of pixels; what is left out has no agreed meaning as a picture (floats, 32-bit numbers, Lab).
_ALLOWED_MODES = frozenset(
    ("1", "L", "P", "PA", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "I;16", "I;16L", "I;16B", "I;16N")
)
# Encoders write ten, and libtiff stops at as many.
MAX_SCANS = 100
_SCAN, _END = b"\xff\xda", b"\xd9"
# What no segment follows is left out: stuffed bytes, restarts, and what decoders step over within a scan.
_MARKER = re.compile(rb"\xff+([\xc0-\xcf\xd9-\xfe])")
_PIXELS = re.compile(r"\d+ pixels")  # in Pillow's own refusal


class ImageRejectedError(PipelineError):
    """An image is not wanted or not usable: `reason` is a key of `NORMALISE_REASONS`."""

    def __init__(self, reason: str, detail: str | None = None) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def open_image(raw: bytes) -> "ImageFile":
    """Read the header of a file of an allowed format, and nothing else of it.

    Raises:
        ImageRejectedError: its kind of pixels is not wanted, or it is a JPEG of too many scans.
        Exception: whatever a decoder raises; see `rejection_of`.
    """
    # Plugins that Pillow imports on demand only: here, once, instead of at the first such file.
    from PIL import AvifImagePlugin, Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401

    image = Image.open(io.BytesIO(raw), formats=ALLOWED_FORMATS)
    if image.mode not in _ALLOWED_MODES and (image.mode, image.format) != ("I", "PNG"):
        raise ImageRejectedError("format_not_allowed", f"{image.format} of mode {image.mode}")
    if image.format in ("JPEG", "MPO") and not _has_few_scans(raw):
        raise ImageRejectedError("too_many_scans", f"more than {MAX_SCANS}")
    return image


def _has_few_scans(jpeg: bytes) -> bool:
    """Return whether a JPEG has at most `MAX_SCANS` scans, by its markers: a decoder goes over all pixels for each."""
    if jpeg.count(_SCAN) <= MAX_SCANS:
        return True  # be they scans, or in metadata
    at, num_scans = 2, 0
    while (marker := _MARKER.search(jpeg, at)) and marker[1] != _END:
        at = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
        num_scans += marker[1] == _SCAN[1:]
        if num_scans > MAX_SCANS:
            return False
    return True


def rejection_of(error: Exception, raw: bytes) -> ImageRejectedError:
    """The reason for which a decoder refused a file."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, Image.DecompressionBombError):
        found = _PIXELS.search(str(error))
        return ImageRejectedError("too_many_pixels", found.group() if found else None)
    known = format_of(raw)
    if isinstance(error, UnidentifiedImageError):
        if known is None:
            return ImageRejectedError("not_an_image", text_kind(raw))
        if known not in ALLOWED_FORMATS:
            return ImageRejectedError("format_not_allowed", known)
        return ImageRejectedError("decode_error", f"{known} with a broken header")
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return ImageRejectedError("truncated", known)
    return ImageRejectedError("decode_error", f"{known}: {type(error).__name__}")
