"""Files made to do harm, through the decoding child: a golden outcome for each, and a child that stays small."""

import gzip
import io
import struct
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_catalog.images.decoders import Decoders
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.rows.fetch_reasons import NORMALISE_REASONS

CONFIG = NormaliseConfig(image_size=64, memory_bytes=256 * 1024**2, timeout_s=20)
MAX_PEAK_BYTES = 250_000_000  # the decoders' libraries take most of it


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *extra: bytes, rows: bytes = b"") -> bytes:
    """A PNG by hand: grey, 8 bits; `extra` chunks come before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + data + chunk(b"IEND", b"")


def bmp(width: int, height: int, pixels: bytes) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(pixels), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + header + pixels


def tiff(*entries: tuple[int, int, int, int], next_ifd: int = 0, data: bytes = b"") -> bytes:
    """A TIFF by hand, pixels at the end; entries are (tag, type, count, value)."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries) + struct.pack("<I", next_ifd)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + data


def grey_tiff(*more: tuple[int, int, int, int], next_ifd: int = 0) -> bytes:
    """Of 64 x 64 pixels, with more entries."""
    start = 8 + 2 + 12 * (8 + len(more)) + 4
    entries = [
        *((256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)),
        *((273, 4, 1, start), (278, 4, 1, 64), (279, 4, 1, 64 * 64)),
    ]
    return tiff(*sorted([*entries, *more]), next_ifd=next_ifd, data=bytes(index % 251 for index in range(64 * 64)))


def with_height(jpeg: bytes, height: int) -> bytes:
    """The JPEG with another height in its frame header."""
    start = next(at for at in range(len(jpeg)) if jpeg[at : at + 2] in (b"\xff\xc0", b"\xff\xc2"))
    return jpeg[: start + 5] + struct.pack(">H", height) + jpeg[start + 7 :]


def with_segment(jpeg: bytes, marker: int, data: bytes) -> bytes:
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data + jpeg[2:]


def with_scans(progressive: bytes, num: int) -> bytes:
    """A progressive JPEG with its last scan repeated, until there are `num` of them."""
    start = progressive.rindex(b"\xff\xda")
    return progressive[:start] + progressive[start:-2] * (num - progressive.count(b"\xff\xda") + 1) + b"\xff\xd9"


def with_hidden_scans(jpeg: bytes, marker: int) -> bytes:
    """The JPEG with an odd marker in its first scan, whose length, if it had one, would hide all scans behind it.

    Where restarts are announced, a decoder steps over such a marker, and over nothing behind it.
    """
    start = jpeg.index(b"\xff\xda")
    header = jpeg[start : start + 2 + struct.unpack(">H", jpeg[start + 2 : start + 4])[0]]
    odd = b"\xff\xdd\0\4\0\1" + header + b"\0\0\xff" + bytes([marker]) + b"\xff\xff"
    return jpeg[:start] + odd + b"\xff\xdd\0\4\0\0" + jpeg[start:-2] + b"\xff\xd9" + bytes(70_000)


def zipped() -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.writestr("payload.sh", "#!/bin/sh\necho harm\n")
    return buffer.getvalue()


Outcome = tuple[str | None, str | None]
GOOD: Outcome = (None, None)
TOO_MANY_SCANS: Outcome = ("too_many_scans", "more than 100")
BAD_PNG: Outcome = ("decode_error", "PNG: ValueError")
ROWS_64 = b"".join(b"\0" + bytes(range(y, y + 64)) for y in range(64))
SCAN = b"\xff\xda"

# Files that `pictures` has.
KNOWN: dict[str, Outcome] = {
    **dict.fromkeys(("plain.jpg", "commented.jpg", "upright.jpg", "cmyk.jpg", "progressive.jpg", "stereo.mpo"), GOOD),
    **dict.fromkeys(("grey.png", "palette.png", "bilevel.png", "plain.webp", "plain.bmp", "plain.tif"), GOOD),
    **dict.fromkeys(("still.gif", "plain.avif"), GOOD),
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
    "dot.png": ("too_small", "1x1"),
    "line.png": ("aspect", "5000x3"),
    "page.html": ("not_an_image", "HTML"),
    "noise": ("not_an_image", "unknown bytes"),
}


def cases(files: dict[str, bytes]) -> dict[str, tuple[bytes, Outcome]]:
    """The table: files by name, and what becomes of them."""
    plain, gif, webp, avif = (files[name] for name in ("plain.jpg", "still.gif", "plain.webp", "plain.avif"))
    grey, bomb = png(64, 64, rows=ROWS_64), zlib.compress(bytes(80_000_000), 9)
    progressive = files["progressive.jpg"]
    many_scans = with_scans(progressive, 400)
    too_wide = webp[:26] + b"\xff\x3f\xff\x3f" + webp[30:]
    return {
        **{name: (files[name], outcome) for name, outcome in KNOWN.items()},
        "jpeg and zip": (plain + zipped(), GOOD),
        "zip and jpeg": (zipped() + plain, ("not_an_image", "zip")),
        "png and html": (grey + b"<html><script>alert(1)</script></html>", GOOD),
        "gif and javascript": (b"GIF89a/*" + gif[8:] + b"*/=1;alert(1);//", ("aspect", "10799x48")),
        "html and jpeg": (b"<html>" + plain, ("not_an_image", "HTML")),
        "pdf and jpeg": (b"%PDF-1.4\n" + plain, ("format_not_allowed", "PDF")),
        "png of 60,000 x 60,000": (png(60_000, 60_000), ("too_many_pixels", "3600000000 pixels")),
        "png of 2^31-1": (png(2**31 - 1, 2**31 - 1), ("too_many_pixels", "4611686014132420609 pixels")),
        "png without pixels": (png(64, 64), ("truncated", "PNG")),
        "png with too many pixels' worth of data": (png(64, 64, rows=ROWS_64 + bytes(50_000_000)), GOOD),
        "png zTXt bomb": (png(64, 64, chunk(b"zTXt", b"k\0\0" + bomb), rows=ROWS_64), BAD_PNG),
        "png iCCP bomb": (png(64, 64, chunk(b"iCCP", b"k\0\0" + bomb), rows=ROWS_64), BAD_PNG),
        "bmp upside down": (bmp(64, -64, bytes(i % 251 for i in range(64 * 64 * 3))), GOOD),
        "jpeg of height 0": (with_height(plain, 0), ("decode_error", "JPEG with a broken header")),
        "jpeg of height 65,500": (with_height(plain, 65_500), ("aspect", "120x65500")),
        "jpeg taller than its data": (with_height(plain, 300), GOOD),
        "jpeg without end": (plain[:-2], ("truncated", "JPEG")),
        "jpeg, broken exif": (with_segment(plain, 0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"), GOOD),
        "jpeg, broken profile": (with_segment(plain, 0xE2, b"ICC_PROFILE\0\1\1" + bytes(range(200))), GOOD),
        "jpeg of 100 scans": (with_scans(progressive, 100), GOOD),
        "jpeg of 101 scans": (with_scans(progressive, 101), TOO_MANY_SCANS),
        "jpeg of 400 scans behind a comment": (with_segment(many_scans, 0xFE, b"\xff\xd9" * 9), TOO_MANY_SCANS),
        "jpeg of 400 scans behind marker 02": (with_hidden_scans(many_scans, 0x02), TOO_MANY_SCANS),
        "jpeg with what looks like scans in a comment": (with_segment(plain, 0xFE, SCAN + b"\0\2" * 500), GOOD),
        "jpeg with what looks like scans behind it": (plain + many_scans, GOOD),
        "jpeg with a segment of no length": (plain[:-2] + (SCAN + b"\0\0") * 500, TOO_MANY_SCANS),
        "tiff, endless directories": (grey_tiff(next_ifd=8), GOOD),
        "tiff, huge tag": (grey_tiff((270, 2, 2**32 - 1, 8)), ("decode_error", "TIFF with a broken header")),
        "webp of 16,383 x 16,383": (too_wide, ("decode_error", "WEBP: OSError")),
        "avif with a broken picture": (avif[:-300] + bytes(300), ("decode_error", "AVIF: RuntimeError")),
        "gzip bomb": (gzip.compress(bytes(10_000_000), mtime=0), ("not_an_image", "gzip")),
    }


@dataclass(frozen=True)
class Run:
    """The table, its bodies, the rows by name of the case, the child's peak memory in bytes, and the written file."""

    golden: dict[str, Outcome]
    bodies: list[bytes]
    rows: dict[str, dict[str, Any]]
    peak_bytes: int
    images: Path


@pytest.fixture(scope="module")
def run(pictures: dict[str, bytes], normalise: Any, children: Any, tmp_path_factory: Any) -> Run:
    """All cases in one child, with a good picture after each; and again in another, which is measured."""
    table = cases(pictures)
    bodies = [body for each, _ in table.values() for body in (each, pictures["plain.jpg"])]
    out = tmp_path_factory.mktemp("hostile") / "images.parquet"
    rows = normalise(bodies, CONFIG, out=out)
    decoders, others = Decoders(), children("decode")
    with decoders.lend(CONFIG) as decoder:
        for body in bodies:
            decoder.normalise(body)
        (child,) = children("decode") - others
        lines = Path(f"/proc/{child}/status").read_text().splitlines()
        peak = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    decoders.close()
    assert {(row["drop_reason"], row["bytes"]) for row in rows[1::2]} == {(None, rows[1]["bytes"])}
    golden = {name: outcome for name, (_, outcome) in table.items()}
    return Run(golden, bodies, dict(zip(table, rows[::2], strict=True)), peak, out)


def test_every_case_has_its_golden_outcome_and_the_child_stays_small(run: Run) -> None:
    found = {name: (row["drop_reason"], row["detail"]) for name, row in run.rows.items()}
    assert {name: (found[name], run.golden[name]) for name in found if found[name] != run.golden[name]} == {}
    assert {reason for reason, _ in found.values() if reason} <= NORMALISE_REASONS.keys()
    for name, kind in {"icon.ico": "ICO", "cut.jpg": "JPEG", "noise": None, "animated.gif": "GIF"}.items():
        assert run.rows[name]["original_format"] == kind
    assert run.peak_bytes <= MAX_PEAK_BYTES


def test_what_is_taken_is_a_plain_picture_without_what_came_with_it(run: Run) -> None:
    taken = {name: row["bytes"] for name, row in run.rows.items() if row["drop_reason"] is None}
    assert len(taken) >= 15
    for name, data in taken.items():
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB"), name
            assert not image.getexif(), name
            assert "icc_profile" not in image.info, name
        assert data.endswith(b"\xff\xd9"), name
        for extra in (b"payload.sh", b"alert(1)", b"not for the dataset"):
            assert extra not in data, name


def test_a_child_that_has_seen_other_files_before_writes_the_same_bytes(
    run: Run, normalise: Any, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    normalise([pictures["cmyk.jpg"], pictures["palette.png"], None], replace(CONFIG, image_size=32))
    normalise(run.bodies, CONFIG, out=tmp_path / "images.parquet")
    assert (tmp_path / "images.parquet").read_bytes() == run.images.read_bytes()
