"""What a file is by its first bytes, for files that no allowed decoder recognises."""

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
