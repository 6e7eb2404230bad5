"""Files made to do harm, through the decoding child: a golden outcome for each, and a child that stays small."""

import gzip
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.fetch.reasons import NORMALISE_REASONS
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.images.tables import write_rows
from data_catalog.images.workers import ImageWorkers
from data_catalog.schema import RAW_IMAGES

CONFIG = NormaliseConfig(image_size=64, memory_bytes=256 * 1024**2, timeout_s=20)
# The decoders' libraries take most of it.
MAX_PEAK_BYTES = 250_000_000


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *extra: bytes, rows: bytes = b"", kind: int = 0) -> bytes:
    """A PNG by hand: 8 bits, grey unless `kind` says otherwise; `extra` chunks come before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + data + chunk(b"IEND", b"")


def grey_rows(width: int, height: int) -> bytes:
    return b"".join(b"\0" + bytes((x + y) % 256 for x in range(width)) for y in range(height))


def bmp(width: int, height: int, pixels: bytes, bits: int = 24) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(pixels), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + header + pixels


def tiff(*entries: tuple[int, int, int, int], next_ifd: int = 0, data: bytes = b"") -> bytes:
    """A TIFF by hand, pixels at the end; entries are (tag, type, count, value)."""
    body = struct.pack("<H", len(entries))
    body += b"".join(struct.pack("<HHII", *entry) for entry in entries) + struct.pack("<I", next_ifd)
    return b"II*\0" + struct.pack("<I", 8) + body + data


def grey_tiff(width: int, height: int, *more: tuple[int, int, int, int], next_ifd: int = 0) -> bytes:
    num = 8 + len(more)
    start = 8 + 2 + 12 * num + 4
    size = width * height
    entries = [
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)),
        *((273, 4, 1, start), (278, 4, 1, height), (279, 4, 1, size)),
    ]
    pixels = bytes(index % 251 for index in range(size))
    return tiff(*sorted([*entries, *more]), next_ifd=next_ifd, data=pixels)


def many_pages(num: int) -> bytes:
    """A TIFF whose directories lead from one to the next, `num` of them, without a single pixel of their own."""
    first = grey_tiff(64, 64)
    start = len(first) + len(first) % 2
    body = bytearray(first + bytes(start - len(first)))
    last = 8 + 2 + 12 * 8
    body[last : last + 4] = struct.pack("<I", start)
    for index in range(num):
        entry = struct.pack("<HHHII", 1, 256, 4, 1, 64)
        body += entry + struct.pack("<I", start + 18 * (index + 1) if index < num - 1 else 0)
    return bytes(body)


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
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("payload.sh", "#!/bin/sh\necho harm\n")
    return buffer.getvalue()


Case = tuple[Callable[[dict[str, bytes]], bytes], str | None, str | None]
BOMB = zlib.compress(bytes(80_000_000), 9)
EXIF_LOOP = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8)
ROWS_64 = grey_rows(64, 64)
CASES: dict[str, Case] = {
    "jpeg and zip": (lambda files: files["plain.jpg"] + zipped(), None, None),
    "zip and jpeg": (lambda files: zipped() + files["plain.jpg"], "not_an_image", "zip"),
    "png and html": (lambda files: files["grey.png"] + b"<html><script>alert(1)</script></html>", None, None),
    "gif and javascript": (
        lambda files: b"GIF89a/*" + files["still.gif"][8:] + b"*/=1;alert(1);//",
        "aspect",
        "10799x48",
    ),
    "html and jpeg": (lambda files: b"<html>" + files["plain.jpg"], "not_an_image", "HTML"),
    "pdf and jpeg": (lambda files: b"%PDF-1.4\n" + files["plain.jpg"], "format_not_allowed", "PDF"),
    "png of 60,000 x 60,000": (
        lambda files: png(60_000, 60_000, rows=bytes(900_000)),
        "too_many_pixels",
        "3600000000 pixels",
    ),
    "png of 2^31-1": (lambda files: png(2**31 - 1, 2**31 - 1), "too_many_pixels", "4611686014132420609 pixels"),
    "png of 0": (lambda files: png(0, 0), "decode_error", "PNG with a broken header"),
    "png without pixels": (lambda files: png(64, 64), "truncated", "PNG"),
    "png with too many pixels' worth of data": (
        lambda files: png(64, 64, rows=ROWS_64 + bytes(50_000_000)),
        None,
        None,
    ),
    "png zTXt bomb": (
        lambda files: png(64, 64, chunk(b"zTXt", b"k\0\0" + BOMB), rows=ROWS_64),
        "decode_error",
        "PNG: ValueError",
    ),
    "png iTXt bomb": (
        lambda files: png(64, 64, chunk(b"iTXt", b"k\0\1\0\0\0" + BOMB), rows=ROWS_64),
        "decode_error",
        "PNG: ValueError",
    ),
    "png iCCP bomb": (
        lambda files: png(64, 64, chunk(b"iCCP", b"k\0\0" + BOMB), rows=ROWS_64),
        "decode_error",
        "PNG: ValueError",
    ),
    "png iCCP of noise": (lambda files: png(64, 64, chunk(b"iCCP", b"k\0\0noise"), rows=ROWS_64), None, None),
    "png many texts": (
        lambda files: png(64, 64, *[chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000)))] * 80, rows=ROWS_64),
        "decode_error",
        "PNG: ValueError",
    ),
    "png of a bad checksum": (
        lambda files: files["plain.png"][:30] + b"?" + files["plain.png"][31:],
        "decode_error",
        "PNG with a broken header",
    ),
    "gif of 65,535 x 65,535": (
        lambda files: b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + files["still.gif"][10:],
        "too_many_pixels",
        "4294836225 pixels",
    ),
    "bmp upside down": (lambda files: bmp(64, -64, bytes(i % 251 for i in range(64 * 64 * 3))), None, None),
    "bmp of a huge size": (lambda files: bmp(60_000, 60_000, bytes(100)), "too_many_pixels", "3600000000 pixels"),
    "bmp of negative width": (lambda files: bmp(-64, 64, bytes(64 * 64 * 3)), "too_many_pixels", "274877902848 pixels"),
    "bmp that is cut": (lambda files: bmp(64, 64, bytes(100)), "truncated", "BMP"),
    "jpeg of height 0": (lambda files: with_height(files["plain.jpg"], 0), "decode_error", "JPEG with a broken header"),
    "jpeg of height 65,500": (lambda files: with_height(files["plain.jpg"], 65_500), "aspect", "120x65500"),
    "jpeg taller than its data": (lambda files: with_height(files["plain.jpg"], 300), None, None),
    "jpeg without end": (lambda files: files["plain.jpg"][:-2], "truncated", "JPEG"),
    "jpeg of headers alone": (
        lambda files: files["plain.jpg"][:2] * 40_000,
        "decode_error",
        "JPEG with a broken header",
    ),
    "jpeg, broken exif": (
        lambda files: with_segment(files["plain.jpg"], 0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
        None,
        None,
    ),
    "jpeg, exif loop": (lambda files: with_segment(files["plain.jpg"], 0xE1, EXIF_LOOP), None, None),
    "jpeg, exif of noise": (
        lambda files: with_segment(files["plain.jpg"], 0xE1, b"Exif\0\0" + bytes(range(256))),
        None,
        None,
    ),
    "jpeg, broken profile": (
        lambda files: with_segment(files["plain.jpg"], 0xE2, b"ICC_PROFILE\0\1\1" + bytes(range(200))),
        None,
        None,
    ),
    "jpeg, part 1 of 200 of a profile": (
        lambda files: with_segment(files["plain.jpg"], 0xE2, b"ICC_PROFILE\0\1\xc8" + bytes(2000)),
        None,
        None,
    ),
    "jpeg, broken MPO index": (
        lambda files: with_segment(files["plain.jpg"], 0xE2, b"MPF\0II*\0" + b"\xff" * 40),
        None,
        None,
    ),
    "jpeg of 100 scans": (lambda files: with_scans(files["progressive.jpg"], 100), None, None),
    "jpeg of 101 scans": (lambda files: with_scans(files["progressive.jpg"], 101), "too_many_scans", "more than 100"),
    "jpeg of 101 scans, with markers filled up": (
        lambda files: with_scans(files["progressive.jpg"], 101).replace(b"\xff\xda", b"\xff\xff\xff\xda"),
        "too_many_scans",
        "more than 100",
    ),
    "jpeg of 400 scans behind a comment": (
        lambda files: with_segment(with_scans(files["progressive.jpg"], 400), 0xFE, b"\xff\xd9" * 9),
        "too_many_scans",
        "more than 100",
    ),
    **{
        f"jpeg of 400 scans behind marker {marker:02x}": (
            lambda files, marker=marker: with_hidden_scans(with_scans(files["progressive.jpg"], 400), marker),
            "too_many_scans",
            "more than 100",
        )
        for marker in (0x02, 0xBF)
    },
    "jpeg with what looks like scans in a comment": (
        lambda files: with_segment(files["plain.jpg"], 0xFE, b"\xff\xda\0\2" * 500),
        None,
        None,
    ),
    "jpeg with what looks like scans behind it": (
        lambda files: files["plain.jpg"] + with_scans(files["progressive.jpg"], 400),
        None,
        None,
    ),
    "jpeg with a segment of no length": (
        lambda files: files["plain.jpg"][:-2] + b"\xff\xda\0\0" * 500,
        "too_many_scans",
        "more than 100",
    ),
    "tiff, endless directories": (lambda files: grey_tiff(64, 64, next_ifd=8), None, None),
    "tiff, 200,000 directories": (lambda files: many_pages(200_000), "animated", "TIFF"),
    "tiff, next directory outside": (lambda files: grey_tiff(64, 64, next_ifd=2**31), "animated", "TIFF"),
    "tiff, huge tag": (lambda files: grey_tiff(64, 64, (270, 2, 2**32 - 1, 8)), None, None),
    "tiff, huge numbers": (lambda files: grey_tiff(64, 64, (700, 12, 2**31, 8)), None, None),
    "tiff of 2^31": (
        lambda files: tiff((256, 4, 1, 2**31), (257, 4, 1, 2**31)),
        "decode_error",
        "TIFF with a broken header",
    ),
    "tiff without anything": (lambda files: tiff(), "decode_error", "TIFF with a broken header"),
    "webp of 16,383 x 16,383": (
        lambda files: files["plain.webp"][:26] + b"\xff\x3f\xff\x3f" + files["plain.webp"][30:],
        "too_many_pixels",
        "268402689 pixels",
    ),
    "avif that is cut": (lambda files: files["plain.avif"][:200], "decode_error", "AVIF with a broken header"),
    "avif with a broken picture": (
        lambda files: files["plain.avif"][:-300] + bytes(300),
        "decode_error",
        "AVIF: RuntimeError",
    ),
    "heic": (lambda files: b"\0\0\0\x18ftypheic" + bytes(300), "format_not_allowed", "HEIF"),
    "ico": (lambda files: files["icon.ico"], "format_not_allowed", "ICO"),
    "svg": (lambda files: files["drawing.svg"], "format_not_allowed", "SVG"),
    "svg, packed": (lambda files: gzip.compress(files["drawing.svg"], mtime=0), "not_an_image", "gzip"),
    "psd": (lambda files: b"8BPS\0\1" + bytes(100), "format_not_allowed", "PSD"),
    "jpeg 2000": (lambda files: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100), "format_not_allowed", "JPEG 2000"),
    "eps": (lambda files: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "format_not_allowed", "PostScript"),
    "netpbm": (lambda files: b"P6 64 64 255\n" + bytes(64 * 64 * 3), "not_an_image", "unknown bytes"),
    "gzip bomb": (lambda files: gzip.compress(bytes(10_000_000), mtime=0), "not_an_image", "gzip"),
    "one byte": (lambda files: b"\1", "not_an_image", "unknown bytes"),
}


def normalise(bodies: list[bytes], workers: ImageWorkers, folder: Path) -> list[dict[str, Any]]:
    empty = dict.fromkeys(RAW_IMAGES.names)
    raw = ({**empty, "sample_id": f"x:{at}", "sha256": "0" * 64, "bytes": body} for at, body in enumerate(bodies))
    write_rows(raw, RAW_IMAGES, folder / "raw.parquet")
    workers.normalise(folder / "raw.parquet", CONFIG, folder / "images.parquet")
    rows: list[dict[str, Any]] = pq.read_table(folder / "images.parquet").to_pylist()
    return rows


def decoding_children() -> set[int]:
    """Process ids of the decoding children of this process."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            command = (stat.parent / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        if parent == os.getpid() and b"\0normalise\0" in command:
            found.add(int(stat.parent.name))
    return found


def peak_bytes(pid: int) -> int:
    """Most memory that a process has ever had resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


Run = tuple[dict[str, dict[str, Any]], int]


@pytest.fixture(scope="module")
def run(pictures: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Rows of the result by name of the case, a good picture after each, and the peak memory of the child, in bytes."""
    files = {**pictures, "plain.png": png(64, 64, rows=ROWS_64)}
    bodies = [body for make, _, _ in CASES.values() for body in (make(files), files["plain.jpg"])]
    others = decoding_children()
    with ImageWorkers() as workers:
        rows = normalise(bodies, workers, tmp_path_factory.mktemp("hostile"))
        (child,) = decoding_children() - others
        peak = peak_bytes(child)
    assert [row["sample_id"] for row in rows] == [f"x:{at}" for at in range(len(bodies))]
    assert {(row["drop_reason"], row["bytes"]) for row in rows[1::2]} == {(None, rows[1]["bytes"])}
    return dict(zip(CASES, rows[::2], strict=True)), peak


def test_every_case_has_its_golden_outcome(run: Run) -> None:
    found = {name: (row["drop_reason"], row["detail"]) for name, row in run[0].items()}
    golden = {name: (reason, detail) for name, (_, reason, detail) in CASES.items()}
    assert {name: (found[name], golden[name]) for name in golden if found[name] != golden[name]} == {}
    assert {reason for reason, _ in found.values() if reason} <= NORMALISE_REASONS.keys()


def test_what_is_taken_is_a_plain_picture_without_what_came_with_it(run: Run) -> None:
    taken = {name: row["bytes"] for name, row in run[0].items() if row["drop_reason"] is None}
    assert len(taken) >= 15
    for name, data in taken.items():
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB"), name
            assert not image.getexif(), name
            assert "icc_profile" not in image.info, name
        assert data.endswith(b"\xff\xd9"), name
        assert b"payload.sh" not in data, name
        assert b"alert(1)" not in data, name


def test_the_child_stays_small_and_alive(run: Run) -> None:
    assert "decode_crash" not in {row["drop_reason"] for row in run[0].values()}
    assert run[1] <= MAX_PEAK_BYTES
