"""An image file opened by its header, if it is of an allowed format; and what a decoder's error means."""

import io
import re
from typing import TYPE_CHECKING

from data_catalog.errors import PipelineError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_PREFIXES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\2\0", "CUR"),
    (b"icns", "ICNS"),
    (b"8BPS", "PSD"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"gimp xcf", "XCF"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"v/1\1", "OpenEXR"),
    (b"\x8aMNG\r\n\x1a\n", "MNG"),
    (b"AT&TFORM", "DjVu"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"%!PS", "PostScript"),
    (b"%PDF-", "PDF"),
    (b"FWS", "Flash"),
    (b"CWS", "Flash"),
    (b"\x1aE\xdf\xa3", "Matroska video"),
)
_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"),
}
_PACKED = ((b"\x1f\x8b", "gzip"), (b"PK\3\4", "zip"), (b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!", "RAR"))


def format_of(raw: bytes) -> str | None:
    """The name of the image, video or page format that the bytes claim to be, or None."""
    if raw[:4] == b"RIFF":
        return "WEBP" if raw[8:12] == b"WEBP" else "RIFF"
    if raw[4:8] == b"ftyp":
        return _BRANDS.get(raw[8:12], "ISO media")
    for prefix, name in _PREFIXES:
        if raw.startswith(prefix):
            return name
    return "SVG" if b"<svg" in raw[:4096].lower() and not is_html(raw) else None


def is_html(raw: bytes) -> bool:
    """True for bytes that begin like a web page."""
    start = raw[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def text_kind(raw: bytes) -> str:
    """A few words for what is no image: "HTML", "gzip", "zip", "text" or "unknown bytes" among them."""
    if is_html(raw):
        return "HTML"
    for prefix, name in _PACKED:
        if raw.startswith(prefix):
            return name
    start = raw[:512]
    printable = sum(byte >= 32 or byte in b"\t\r\n" for byte in start)
    return "text" if start and printable == len(start) and b"\x7f" not in start else "unknown bytes"


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
