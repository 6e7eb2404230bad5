"""An image file opened by its header, if it is of an allowed format; and what a decoder's error means."""

import io
import re

# The plugins are those that Pillow would else import at the first such file.
from PIL import AvifImagePlugin, Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401
from PIL.ImageFile import ImageFile

from data_catalog.errors import PipelineError

# How files begin, by the names of their formats.
_STARTS: dict[str, tuple[bytes, ...]] = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),  # those with a plus are BigTIFF
    "ICO": (b"\0\0\1\0",),
    "CUR": (b"\0\0\2\0",),
    "ICNS": (b"icns",),
    "PSD": (b"8BPS",),
    "JPEG 2000": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    "JPEG XL": (b"\xff\x0a", b"\0\0\0\x0cJXL "),
    "XCF": (b"gimp xcf",),
    "QOI": (b"qoif",),
    "DDS": (b"DDS ",),
    "OpenEXR": (b"v/1\1",),
    "MNG": (b"\x8aMNG\r\n\x1a\n",),
    "DjVu": (b"AT&TFORM",),
    "WMF": (b"\xd7\xcd\xc6\x9a",),
    "EPS": (b"\xc5\xd0\xd3\xc6",),
    "PostScript": (b"%!PS",),
    "PDF": (b"%PDF-",),
    "Flash": (b"FWS", b"CWS"),
    "Matroska video": (b"\x1aE\xdf\xa3",),
}
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
_PACKED = {"gzip": b"\x1f\x8b", "zip": b"PK\3\4", "7z": b"7z\xbc\xaf\x27\x1c", "RAR": b"Rar!"}
_WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<body")


def format_of(raw: bytes) -> str | None:
    """Return the name of the image, video or page format that the bytes claim to be, or None."""
    if raw[:4] == b"RIFF":
        return "WEBP" if raw[8:12] == b"WEBP" else "RIFF"
    if raw[4:8] == b"ftyp":
        brand = raw[8:12]
        return "AVIF" if brand in (b"avif", b"avis") else "HEIF" if brand in _HEIF_BRANDS else "ISO media"
    for name, starts in _STARTS.items():
        if raw.startswith(starts):
            return name
    return "SVG" if b"<svg" in raw[:4096].lower() and not _is_html(raw) else None


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


def open_image(raw: bytes) -> ImageFile:
    """Read the header of a file of an allowed format, and nothing else of it.

    Raises:
        ImageRejectedError: its kind of pixels is not wanted, or it is a JPEG of too many scans.
        Exception: whatever a decoder raises; see `rejection_of`.
    """
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
    """Return the reason for which a decoder refused a file."""
    if isinstance(error, Image.DecompressionBombError):
        found = _PIXELS.search(str(error))
        return ImageRejectedError("too_many_pixels", found.group() if found else None)
    known = format_of(raw)
    if isinstance(error, UnidentifiedImageError):
        if known is None:
            return ImageRejectedError("not_an_image", _text_kind(raw))
        if known not in ALLOWED_FORMATS:
            return ImageRejectedError("format_not_allowed", known)
        return ImageRejectedError("decode_error", f"{known} with a broken header")
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return ImageRejectedError("truncated", known)
    return ImageRejectedError("decode_error", f"{known}: {type(error).__name__}")


def _is_html(raw: bytes) -> bool:
    """Return whether bytes begin like a web page."""
    return raw[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_WEB_PAGE)


def _text_kind(raw: bytes) -> str:
    """Return a few words for what is no image: "HTML", "gzip", "zip", "text" or "unknown bytes" among them."""
    if _is_html(raw):
        return "HTML"
    for name, start in _PACKED.items():
        if raw.startswith(start):
            return name
    is_text = raw and all((byte >= 32 and byte != 127) or byte in b"\t\r\n" for byte in raw[:512])
    return "text" if is_text else "unknown bytes"
