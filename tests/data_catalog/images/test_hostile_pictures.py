"""The golden table of hostile files: each is served properly, and ends with this reason after normalising."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.reasons import NORMALISE_REASONS

GOOD = (None, None)
MEMORY_MB = 600

# Files that `pictures` has.
KNOWN = {
    "plain.jpg": GOOD,
    "commented.jpg": GOOD,
    "upright.jpg": GOOD,
    "cmyk.jpg": GOOD,
    "progressive.jpg": GOOD,
    "grey.png": GOOD,
    "palette.png": GOOD,
    "bilevel.png": GOOD,
    "plain.webp": GOOD,
    "plain.bmp": GOOD,
    "plain.tif": GOOD,
    "still.gif": GOOD,
    "stereo.mpo": GOOD,
    "deep.png": ("one_colour", "#9c9c9c"),
    "clear.png": ("one_colour", "#ffffff"),
    "animated.gif": ("animated", "GIF"),
    "pages.tif": ("animated", "TIFF"),
    "float.tif": ("format_not_allowed", "TIFF of mode F"),
    "icon.ico": ("format_not_allowed", "ICO"),
    "drawing.svg": ("format_not_allowed", "SVG"),
    "cut.jpg": ("truncated", "JPEG"),
    "cut.png": ("truncated", "PNG"),
    "header.jpg": ("truncated", "JPEG"),
    "header.png": ("decode_error", "PNG with a broken header"),
    "bomb.png": ("too_many_pixels", "400000000 pixels"),
    "dot.png": ("too_small", "1x1"),
    "line.png": ("aspect", "5000x3"),
    "page.html": ("not_an_image", "HTML"),
    "noise": ("not_an_image", "unknown bytes"),
}


def part(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def claim_png(width: int, height: int) -> bytes:
    """A PNG that says how large it is, with the pixels of its first rows at best."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", data) + part(b"IEND", b"")


def jpeg(width: int = 120, height: int = 80) -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((width, height)).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def resized_header(width: int, height: int) -> bytes:
    """A JPEG whose frame header claims another size than its data have."""
    whole = jpeg()
    at = whole.index(b"\xff\xc0") + 5
    return whole[:at] + struct.pack(">HH", height, width) + whole[at + 4 :]


def zipped_behind(start: bytes) -> bytes:
    """An image that is a zip archive, too."""
    buffer = io.BytesIO(start)
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("evil.py", "print()")
    return buffer.getvalue()


def text_bomb_png() -> bytes:
    """A small PNG whose compressed text is a hundred megabytes long."""
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((64, 64)).save(buffer, "PNG")
    whole = buffer.getvalue()
    bomb = part(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9))
    return whole[:33] + bomb + whole[33:]


MADE: dict[str, tuple[bytes, tuple[str | None, str | None]]] = {
    "claims-60000": (claim_png(60_000, 60_000), ("too_many_pixels", "3600000000 pixels")),
    "claims-2-billion": (claim_png(2**31 - 1, 2**31 - 1), ("too_many_pixels", "4611686014132420609 pixels")),
    "claims-8000": (claim_png(8000, 8000), ("truncated", "PNG")),
    "jpeg-claims-65000": (resized_header(65_000, 65_000), ("too_many_pixels", "4225000000 pixels")),
    "jpeg-claims-nothing": (resized_header(0, 0), ("decode_error", "JPEG with a broken header")),
    "jpeg-and-zip": (zipped_behind(jpeg()), GOOD),
    "jpeg-and-page": (jpeg() + b"<!DOCTYPE html><script>alert(1)</script>", GOOD),
    "page-and-jpeg": (b"<!DOCTYPE html><script>alert(1)</script>" + jpeg(), ("not_an_image", "HTML")),
    "gif-and-script": (b"GIF89a/*" + bytes(8) + b"*/=1;alert(1)", ("decode_error", "GIF with a broken header")),
    "zip": (zipped_behind(b""), ("not_an_image", "zip")),
    "pdf": (b"%PDF-1.7\n" + jpeg(), ("format_not_allowed", "PDF")),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ("format_not_allowed", "PostScript")),
    "jpeg-twice": (jpeg() + jpeg(), GOOD),
    "png-with-text-bomb": (text_bomb_png(), ("decode_error", "PNG: ValueError")),
    "mp4": (b"\0\0\0\x18ftypisom" + bytes(100), ("format_not_allowed", "ISO media")),
    "one-byte": (b"\x01", ("not_an_image", "unknown bytes")),
    "text": (b"404: no such picture", ("not_an_image", "text")),
}
TABLE = {name: outcome for name, (_, outcome) in MADE.items()} | KNOWN


@pytest.fixture(scope="module")
def run(server: Any, pictures: dict[str, bytes], quick: FetchConfig, run_apart: Callable[..., Any]) -> Any:
    bodies = {name: pictures[name] for name in KNOWN} | {name: body for name, (body, _) in MADE.items()}
    server.files.update({f"/files/{name}": body for name, body in bodies.items()})
    return run_apart("hostile files", [server.url(f"/files/{name}") for name in TABLE], quick)


def test_the_largest_claim_is_two_kilobytes() -> None:
    assert len(MADE["claims-60000"][0]) < 2048


def test_all_files_come(run: Any, server: Any) -> None:
    assert {row["drop_reason"] for row in run.raw.values()} == {None}
    assert all(run.raw[server.url(f"/files/{name}")]["bytes"] == body for name, (body, _) in MADE.items())


def test_outcomes(run: Any, server: Any) -> None:
    rows = {name: run.images[server.url(f"/files/{name}")] for name in TABLE}
    found = {name: (row["drop_reason"], row["detail"]) for name, row in rows.items()}
    assert {name: (found[name], TABLE[name]) for name in TABLE if found[name] != TABLE[name]} == {}
    assert {reason for reason, _ in found.values() if reason} <= NORMALISE_REASONS.keys()


def test_memory(run: Any) -> None:
    assert 0 < run.one_peak_mb < MEMORY_MB
    assert 0 < run.all_peak_mb < MEMORY_MB
