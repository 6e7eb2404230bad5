"""Kinds of pixels: CMYK, 16 bit, palettes, transparency and colour profiles, each against what its colours mean."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from data_catalog.images.normalise import NormaliseConfig, normalise_image

EXACT = NormaliseConfig(image_size=64, min_image_size=16, encode_format="png", encode_quality=1)
FileOf = Callable[..., bytes]


def pixels(raw: bytes, config: NormaliseConfig = EXACT) -> np.ndarray:
    """Of the result, shape (height, width, 3)."""
    image = Image.open(io.BytesIO(normalise_image(raw, config).data))
    assert image.mode == "RGB"
    return np.asarray(image, np.int16)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel; values of shape (height, width, 1, 2, 3 or 4)."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture
def picture(gradient_of: Callable[[int, int], Image.Image]) -> Image.Image:
    """Small enough to be neither shrunk nor grown."""
    return gradient_of(64, 48)


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_keep_their_high_byte(channels: int) -> None:
    values = np.random.default_rng(1).integers(0, 2**16, (48, 64, channels))
    assert (pixels(png16(values)) == np.broadcast_to(values >> 8, (48, 64, 3))).all()


def test_sixteen_bits_with_transparency() -> None:
    values = np.random.default_rng(2).integers(0, 2**16, (48, 64, 4))
    values[..., 3] = 0xFFFF
    values[:9, :, 3] = 0
    found = pixels(png16(values))
    assert (found[:9] == 255).all()
    assert (found[9:] == values[9:, :, :3] >> 8).all()


def test_sixteen_bit_grey_tiff() -> None:
    values = np.random.default_rng(3).integers(0, 2**16, (48, 64), np.uint16)
    for order in ("<u2", ">u2"):
        buffer = io.BytesIO()
        Image.fromarray(values.astype(order)).save(buffer, "TIFF")
        assert (pixels(buffer.getvalue()) == np.repeat((values >> 8)[..., None], 3, axis=2)).all()


def test_cmyk_is_upside_down_with_and_without_the_marker_of_adobe(picture: Image.Image, file_of: FileOf) -> None:
    """Adobe stores what the ink leaves; other writers of CMYK have followed, with or without its marker."""
    raw = file_of(picture.convert("CMYK"), "JPEG", quality=95)
    start = raw.index(b"\xff\xee")
    unmarked = raw[:start] + raw[start + 2 + int.from_bytes(raw[start + 2 : start + 4]) :]
    assert b"Adobe" in raw
    assert b"Adobe" not in unmarked
    for body in (raw, unmarked):
        assert np.abs(pixels(body) - np.asarray(picture)).mean() <= 2


def test_ycck(picture: Image.Image, file_of: FileOf) -> None:
    """Three planes hold the brightness and colour of what the ink leaves: as Photoshop writes CMYK."""
    inverted = Image.eval(picture, lambda value: 255 - value).convert("YCbCr")
    # Pillow turns CMYK upside down as it writes it; so what is to be stored as it is goes in upside down.
    planes = [Image.eval(plane, lambda value: 255 - value) for plane in inverted.split()]
    raw = bytearray(file_of(Image.merge("CMYK", [*planes, Image.new("L", picture.size, 0)]), "JPEG", quality=98))
    adobe = raw.index(b"Adobe")
    raw[adobe + 11] = 2  # the transform: YCCK
    assert np.abs(pixels(bytes(raw)) - np.asarray(picture)).mean() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_half_transparent_pixels_mix_with_the_matte(mode: str, file_of: FileOf) -> None:
    image = Image.new("RGBA", (64, 64), (90, 90, 90, 255))
    image.paste((90, 90, 90, 128), (0, 0, 32, 64))
    image.paste((90, 90, 90, 0), (0, 0, 8, 64))
    raw = file_of(image.quantize(8) if mode == "P" else image.convert(mode), "PNG")
    for matte, colour in (("#ffffff", (255, 255, 255)), ("#000000", (0, 0, 0)), ("#0080ff", (0, 128, 255))):
        config = NormaliseConfig(image_size=64, matte=matte, encode_format="png", encode_quality=1)
        found = pixels(raw, config)
        wanted = np.array(colour)
        assert (found[:, 60] == 90).all()
        assert (found[:, 2] == wanted).all()
        assert np.abs(found[:, 20] - (90 + (wanted - 90) * 127 / 255)).max() <= 1


def test_a_transparent_colour_of_a_palette_is_matte(file_of: FileOf, picture: Image.Image) -> None:
    palette = picture.quantize(16)
    index = palette.getpixel((5, 5))
    found = pixels(file_of(palette, "PNG", transparency=index))
    clear = np.asarray(palette) == index
    assert (found[clear] == 255).all()
    assert (found[~clear] == np.asarray(palette.convert("RGB"))[~clear]).all()


def test_one_bit(file_of: FileOf, picture: Image.Image) -> None:
    bits = picture.convert("1")
    assert (pixels(file_of(bits, "TIFF")) == np.asarray(bits.convert("RGB"))).all()


def swapped_profile() -> bytes:
    """A valid profile of a space whose red and blue are exchanged: nobody could miss that it is heeded."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    places = {}
    for entry in range(int.from_bytes(profile[128:132])):
        start = 132 + 12 * entry
        places[bytes(profile[start : start + 4])] = start
    red, blue = (bytes(profile[places[name] + 4 : places[name] + 12]) for name in (b"rXYZ", b"bXYZ"))
    profile[places[b"rXYZ"] + 4 : places[b"rXYZ"] + 12] = blue
    profile[places[b"bXYZ"] + 4 : places[b"bXYZ"] + 12] = red
    start = places[b"desc"]
    offset, size = (int.from_bytes(profile[start + at : start + at + 4]) for at in (4, 8))
    text = bytes(profile[offset : offset + size])
    for name in (b"sRGB", "sRGB".encode("utf-16-be")):
        text = text.replace(name, name.replace(b"s", b"x"))
    profile[offset : offset + size] = text
    return bytes(profile)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_profiles_become_srgb(kind: str, picture: Image.Image, file_of: FileOf) -> None:
    raw = file_of(picture, kind, icc_profile=swapped_profile(), quality=95)
    red, green, blue = picture.split()
    swapped = np.asarray(Image.merge("RGB", (blue, green, red)))
    assert np.abs(pixels(raw) - swapped).mean() <= 4
    off = NormaliseConfig(image_size=64, colour_profiles=False, encode_format="png", encode_quality=1)
    assert np.abs(pixels(raw, off) - np.asarray(picture)).mean() <= 4
    assert "icc_profile" not in Image.open(io.BytesIO(normalise_image(raw, EXACT).data)).info


@pytest.mark.parametrize(
    "profile",
    [b"", b"no profile at all", swapped_profile()[:200], b"\xff" * 4000, bytes(200)],
    ids=["empty", "text", "cut", "ones", "zeros"],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_broken_profiles_lose_no_picture(profile: bytes, mode: str, picture: Image.Image, file_of: FileOf) -> None:
    image = picture.convert(mode)
    raw = file_of(image, "JPEG", icc_profile=profile, quality=95)
    assert np.abs(pixels(raw) - np.asarray(image.convert("RGB"))).mean() <= 3


def test_a_profile_of_another_kind_of_pixels_is_not_heeded(picture: Image.Image, file_of: FileOf) -> None:
    for mode in ("L", "CMYK"):
        image = picture.convert(mode)
        raw = file_of(image, "JPEG", icc_profile=swapped_profile(), quality=95)
        assert np.abs(pixels(raw) - np.asarray(image.convert("RGB"))).mean() <= 3


def test_a_grey_profile_is_heeded(picture: Image.Image, file_of: FileOf, grey_profile: bytes) -> None:
    grey = picture.convert("L")
    found = pixels(file_of(grey, "PNG", icc_profile=grey_profile)).astype(float)
    # Brightness in proportion to the number, where sRGB has a power of about 2.2.
    wanted = 255 * (np.asarray(grey, float) / 255) ** (1 / 2.2)
    assert np.abs(found[..., 0] - wanted)[wanted > 60].mean() <= 6


@pytest.fixture
def grey_profile() -> bytes:
    """A minimal ICC profile (version 2) for grey of gamma 1."""

    def tag(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)

    white = tag(b"XYZ \0\0\0\0" + struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D))
    curve = tag(b"curv\0\0\0\0" + struct.pack(">I", 0))
    name = tag(b"desc\0\0\0\0" + struct.pack(">I", 5) + b"Grey\0" + bytes(78))
    parts: list[tuple[bytes, bytes]] = [(b"desc", name), (b"wtpt", white), (b"kTRC", curve)]
    offset, table, body = 132 + 12 * len(parts), struct.pack(">I", len(parts)), b""
    for key, data in parts:
        table += key + struct.pack(">II", offset + len(body), len(data))
        body += data
    size = offset + len(body)
    header: Any = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D) + bytes(48)
    assert len(header) == 128
    return header + table + body
