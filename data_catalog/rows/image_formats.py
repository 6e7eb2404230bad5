"""The table of image formats: names, the bytes at the start of their files, suffixes, and which formats are read."""

import re
from importlib.util import find_spec
from typing import NamedTuple


class ImageFormat(NamedTuple):
    """A format of images, or of files that are mistaken for images."""

    name: str  # as in details of drop reasons; Pillow's name, if the format is read
    starts: tuple[bytes, ...]  # bytes at the start of its files; a question mark matches any byte
    suffixes: tuple[str, ...] = ()  # lower-case suffixes of files that count as images by their name
    is_read: bool = False  # builds, training and search decode it


HEIF = "HEIF"
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# The first match counts. Pillow tries the formats that are read in this order.
IMAGE_FORMATS = (
    # MPO, several JPEGs in one file (stereo cameras), opens as JPEG: the first picture is used.
    ImageFormat("JPEG", (b"\xff\xd8\xff",), (".jpg", ".jpeg", ".jpe", ".jfif"), is_read=True),
    ImageFormat("PNG", (b"\x89PNG\r\n\x1a\n",), (".png",), is_read=True),
    ImageFormat("WEBP", (b"RIFF????WEBP",), (".webp",), is_read=True),
    ImageFormat("RIFF", (b"RIFF",)),
    ImageFormat("GIF", (b"GIF87a", b"GIF89a"), (".gif",), is_read=True),
    ImageFormat("BMP", (b"BM",), (".bmp",), is_read=True),
    # The starts with a plus are BigTIFF.
    ImageFormat("TIFF", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), (".tif", ".tiff"), is_read=True),
    ImageFormat("AVIF", (b"????ftypavif", b"????ftypavis"), (".avif",), is_read=True),
    # Phones write HEIF, which is read if the extra `heif` is installed. Pillow does not read it.
    ImageFormat(HEIF, tuple(b"????ftyp" + brand for brand in _HEIF_BRANDS), (".heic", ".heif")),
    ImageFormat("ISO media", (b"????ftyp",)),
    ImageFormat("ICO", (b"\0\0\1\0",)),
    ImageFormat("CUR", (b"\0\0\2\0",)),
    ImageFormat("ICNS", (b"icns",)),
    ImageFormat("PSD", (b"8BPS",)),
    ImageFormat("JPEG 2000", (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
    ImageFormat("JPEG XL", (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    ImageFormat("XCF", (b"gimp xcf",)),
    ImageFormat("QOI", (b"qoif",)),
    ImageFormat("DDS", (b"DDS ",)),
    ImageFormat("OpenEXR", (b"v/1\1",)),
    ImageFormat("MNG", (b"\x8aMNG\r\n\x1a\n",)),
    ImageFormat("DjVu", (b"AT&TFORM",)),
    ImageFormat("WMF", (b"\xd7\xcd\xc6\x9a",)),
    ImageFormat("EPS", (b"\xc5\xd0\xd3\xc6",)),
    ImageFormat("PostScript", (b"%!PS",)),
    ImageFormat("PDF", (b"%PDF-",)),
    ImageFormat("Flash", (b"FWS", b"CWS")),
    ImageFormat("Matroska video", (b"\x1aE\xdf\xa3",)),
)
MAX_IMAGE_BYTES = 2**30  # encoded; the most that `fetch.max_bytes` may allow
READ_FORMATS = tuple(each.name for each in IMAGE_FORMATS if each.is_read)
IMAGE_SUFFIXES = tuple(sorted(suffix for each in IMAGE_FORMATS for suffix in each.suffixes))
_STARTS = [
    (each.name, re.compile(b"|".join(re.escape(start).replace(rb"\?", b".") for start in each.starts), re.DOTALL))
    for each in IMAGE_FORMATS
]
_WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<body")


def reads_heif() -> bool:
    """Return whether the extra `heif` is installed."""
    return find_spec("pi_heif") is not None


def format_of(raw: bytes) -> str | None:
    """Return the name of the image, video or page format that a file's first bytes match, or None."""
    for name, starts in _STARTS:
        if starts.match(raw):
            return name
    return "SVG" if b"<svg" in raw[:4096].lower() and not is_html(raw) else None


def is_html(raw: bytes) -> bool:
    """Return whether a file starts as a web page does."""
    return raw[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_WEB_PAGE)


def is_image_name(text: str) -> bool:
    """Return whether a text ends with the suffix of an image file."""
    return text.lower().endswith(IMAGE_SUFFIXES)
