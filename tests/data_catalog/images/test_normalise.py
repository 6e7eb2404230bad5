"""What becomes of the pixels: upright, RGB in sRGB, close to the original, and of the sizes that img2dataset makes."""

import io
import random
import struct
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from data_catalog.errors import SettingsError
from data_catalog.fetch.reasons import NORMALISE_REASONS
from data_catalog.images.normalise import (
    INTERPOLATIONS,
    RESIZE_MODES,
    ImageRejectedError,
    NormaliseConfig,
    NormalisedImage,
    normalise_image,
)

CONFIG = NormaliseConfig(image_size=64, min_image_size=16)
PNG: dict[str, Any] = {"encode_format": "png", "encode_quality": 1}
EXACT = NormaliseConfig(image_size=64, min_image_size=16, **PNG)
Gradient = Callable[[int, int], Image.Image]
FileOf = Callable[..., bytes]


def decoded(result: NormalisedImage, kind: str = "PNG") -> Image.Image:
    image = Image.open(io.BytesIO(result.data))
    assert (image.format, image.mode, image.size) == (kind, "RGB", (result.width, result.height))
    return image


def pixels(raw: bytes, config: NormaliseConfig = EXACT) -> np.ndarray:
    """Of the result, shape (height, width, 3)."""
    return np.asarray(decoded(normalise_image(raw, config)), np.int16)


def difference(one: Any, other: Any) -> float:
    """Mean absolute difference, of 255."""
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())


def resized(image: Image.Image, shorter_side: int) -> Image.Image:
    """What the result is measured by: RGB, averaged over areas by OpenCV."""
    scale = min(1.0, shorter_side / min(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return Image.fromarray(cv2.resize(np.asarray(image.convert("RGB")), size, interpolation=cv2.INTER_AREA))


def rejection(raw: bytes, config: NormaliseConfig = CONFIG) -> tuple[str, str | None]:
    with pytest.raises(ImageRejectedError) as rejected:
        normalise_image(raw, config)
    return rejected.value.reason, rejected.value.detail


@pytest.fixture
def picture(gradient_of: Gradient) -> Image.Image:
    """Small enough to be neither shrunk nor grown."""
    return gradient_of(64, 48)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("plain.jpg", "JPEG"),
        ("progressive.jpg", "JPEG"),
        ("plain.webp", "WEBP"),
        ("plain.bmp", "BMP"),
        ("plain.tif", "TIFF"),
        ("still.gif", "GIF"),
        ("stereo.mpo", "MPO"),
        ("grey.png", "PNG"),
        ("plain.avif", "AVIF"),
        ("bilevel.png", "PNG"),
    ],
)
def test_pictures_stay_close_to_their_originals(name: str, kind: str, pictures: dict[str, bytes]) -> None:
    result = normalise_image(pictures[name], EXACT)
    original = Image.open(io.BytesIO(pictures[name]))
    assert result.original_format == kind
    assert (result.original_width, result.original_height) == original.size
    assert difference(decoded(result), resized(original, 64)) <= 0.5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_every_exif_orientation_is_turned_upright(kind: str, gradient_of: Gradient, file_of: FileOf) -> None:
    upright = gradient_of(120, 80)
    turns = Image.Transpose
    stored = [turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM, turns.TRANSPOSE]
    stored += [turns.ROTATE_90, turns.TRANSVERSE, turns.ROTATE_270]
    images = [upright, *map(upright.transpose, stored)]
    for orientation, image in enumerate(images, start=1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        result = normalise_image(file_of(image, kind, exif=exif), EXACT)
        assert (result.original_width, result.original_height) == upright.size
        assert difference(decoded(result), resized(upright, 64)) <= 2
        assert not decoded(result).getexif()


@pytest.mark.parametrize(("encode_format", "kind"), [("jpg", "JPEG"), ("webp", "WEBP")])
def test_lower_quality_is_smaller(encode_format: str, kind: str, pictures: dict[str, bytes]) -> None:
    low, high = (
        normalise_image(pictures["plain.bmp"], NormaliseConfig(encode_format=encode_format, encode_quality=quality))
        for quality in (30, 95)
    )
    assert len(low.data) < len(high.data)
    assert difference(decoded(high, kind), Image.open(io.BytesIO(pictures["plain.bmp"]))) <= 2


def test_png_has_a_compression_instead_of_a_quality() -> None:
    with pytest.raises(SettingsError, match=r"normalise\.encode_quality must be between 0 and 9"):
        NormaliseConfig(encode_format="png")


def test_settings_decide_about_sizes(pictures: dict[str, bytes]) -> None:
    for name, limit, reason in [
        ("min_image_size", 81, "too_small"),
        ("max_aspect_ratio", 1.4, "aspect"),
        ("max_pixels", 9599, "too_many_pixels"),
    ]:
        assert rejection(pictures["plain.jpg"], NormaliseConfig(**{name: limit}))[0] == reason
    normalise_image(pictures["plain.jpg"], NormaliseConfig(min_image_size=80, max_aspect_ratio=1.5, max_pixels=9600))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_of_several_frames_the_first_can_be_taken(kind: str, gradient_of: Gradient, file_of: FileOf) -> None:
    frame = gradient_of(120, 80)
    raw = file_of(frame, kind, save_all=True, append_images=[frame.rotate(180), frame.rotate(90)])
    assert rejection(raw) == ("animated", kind)
    result = normalise_image(raw, NormaliseConfig(image_size=64, animated="first", **PNG))
    assert result.original_format == kind
    assert difference(decoded(result), resized(frame, 64)) <= 4


def test_the_hash_tells_pictures_apart_and_survives_sizes_modes_and_formats(file_of: FileOf) -> None:
    numbers = np.random.default_rng(3)
    blobs = [cv2.GaussianBlur(numbers.integers(0, 255, (300, 400, 3), np.uint8), (0, 0), 12) for _ in range(4)]
    hashes = []
    for blob in blobs:
        image = Image.fromarray(cv2.normalize(blob, blob, 0, 255, cv2.NORM_MINMAX))
        variants = [
            normalise_image(file_of(image, kind), NormaliseConfig(image_size=size, resize_mode=mode)).phash
            for kind, size, mode in [
                ("PNG", 64, "keep_ratio"),
                ("JPEG", 128, "center_crop"),
                ("WEBP", 256, "border"),
                ("PNG", 64, "no"),
            ]
        ]
        assert {len(variant) for variant in variants} == {16}
        assert max((int(variants[0], 16) ^ int(variant, 16)).bit_count() for variant in variants) <= 4
        hashes.append(int(variants[0], 16))
    assert min((one ^ other).bit_count() for i, one in enumerate(hashes) for other in hashes[:i]) >= 16


def test_one_colour_is_no_picture(file_of: FileOf) -> None:
    plain = Image.new("RGB", (90, 80), (1, 130, 255))
    assert rejection(file_of(plain, "PNG")) == ("one_colour", "#0182ff")
    assert rejection(file_of(Image.new("RGBA", (90, 80), (255, 0, 0, 0)), "PNG")) == ("one_colour", "#ffffff")
    plain.putpixel((3, 3), (1, 131, 255))
    assert normalise_image(file_of(plain, "PNG"), CONFIG).width == 72


@given(data=st.data())
def test_damaged_files_end_with_a_reason_or_a_picture(data: st.DataObject, pictures: dict[str, bytes]) -> None:
    body = bytearray(pictures[data.draw(st.sampled_from(sorted(pictures)))])
    for _ in range(data.draw(st.integers(0, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    try:
        result = normalise_image(bytes(body[:cut]), EXACT)
    except ImageRejectedError as error:
        if error.reason not in NORMALISE_REASONS:
            raise
    else:
        assert decoded(result)


# Against img2dataset's own Resizer


def noise(width: int, height: int) -> Image.Image:
    """The hardest to agree on: neighbouring pixels have nothing to do with each other."""
    return Image.fromarray(np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8))


Both = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def both() -> Both:
    """Our pixels and img2dataset's, of equal sizes, for the same options."""
    with warnings.catch_warnings():  # of its import, about things that are none of ours
        warnings.simplefilter("ignore")
        from img2dataset.resizer import Resizer

    def compare(raw: bytes, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        config = NormaliseConfig(min_image_size=1, max_aspect_ratio=1000, colour_profiles=False, **options)
        ours = normalise_image(raw, config)
        # Its transforms look for a newer version of themselves on the network, or warn that they did not.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data, *sizes, error = Resizer(**options)(io.BytesIO(raw))
        assert error is None
        assert sizes == [ours.width, ours.height, ours.original_width, ours.original_height]
        one, other = (np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), np.int16) for file in (ours.data, data))
        return one, other

    return compare


@given(
    size=st.tuples(st.integers(2, 300), st.integers(2, 300)),
    image_size=st.integers(1, 120),
    mode=st.sampled_from(RESIZE_MODES),
    only_if_bigger=st.booleans(),
)
def test_sizes_are_equal_and_noise_differs_by_rounding(
    size: tuple[int, int], image_size: int, mode: str, only_if_bigger: bool, both: Both, file_of: FileOf
) -> None:
    options = {"image_size": image_size, "resize_mode": mode, "resize_only_if_bigger": only_if_bigger, **PNG}
    one, other = both(file_of(noise(*size), "PNG"), **options)
    assert np.abs(one - other).max() <= 1


@pytest.mark.parametrize("name", sorted(INTERPOLATIONS))
def test_every_interpolation(name: str, both: Both, file_of: FileOf) -> None:
    names = {"upscale_interpolation": name, "downscale_interpolation": name}
    for image_size in (64, 200):
        options = {"image_size": image_size, "resize_mode": "keep_ratio", "resize_only_if_bigger": False, **PNG}
        one, other = both(file_of(noise(120, 90), "PNG"), **options, **names)
        assert np.abs(one - other).max() <= 1


@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_every_mode_and_encoding(mode: str, both: Both, gradient_of: Gradient, file_of: FileOf) -> None:
    for kind, encode_format, quality in [("JPEG", "jpg", 95), ("BMP", "webp", 80), ("TIFF", "png", 6)]:
        options = {"resize_mode": mode, "encode_format": encode_format, "encode_quality": quality}
        one, other = both(file_of(gradient_of(250, 170), kind), image_size=100, resize_only_if_bigger=True, **options)
        assert difference(one, other) <= 1


@pytest.mark.real_data
@pytest.mark.parametrize("image_size", [224, pytest.param(256, marks=pytest.mark.slow), 384])
def test_photographs_as_jpeg(image_size: int, both: Both, shared_data: Path) -> None:
    """Both decode, resize and encode: what differs at all is a rounding, seen through the JPEG."""
    paths = sorted((shared_data / "coco" / "train2017").glob("*.jpg"))
    random.Random(image_size).shuffle(paths)
    for place, mode in enumerate(RESIZE_MODES):
        for path in paths[3 * place : 3 * place + 3]:
            pair = both(path.read_bytes(), image_size=image_size, resize_mode=mode, resize_only_if_bigger=True)
            assert difference(*pair) <= 1.5


def test_a_large_jpeg_decoded_at_a_fraction_stays_close(file_of: FileOf) -> None:
    blobs = cv2.GaussianBlur(np.random.default_rng(4).integers(0, 256, (1600, 2400, 3), np.uint8), (0, 0), 5)
    raw = file_of(Image.fromarray(cv2.normalize(blobs, blobs, 0, 255, cv2.NORM_MINMAX)), "JPEG", quality=95)
    for size in (64, 224, 384):
        configs = [NormaliseConfig(image_size=size, scaled_decoding=scaled, **PNG) for scaled in (False, True)]
        exact, quick = (normalise_image(raw, config) for config in configs)
        assert exact.original_width == quick.original_width == 2400
        assert exact.data != quick.data
        assert difference(decoded(exact), decoded(quick)) <= 1.5


# Kinds of pixels, each against what its colours mean


def test_cmyk_is_upside_down_with_and_without_the_marker_of_adobe(picture: Image.Image, file_of: FileOf) -> None:
    """Adobe stores what the ink leaves; other writers of CMYK have followed, with or without its marker."""
    raw = file_of(picture.convert("CMYK"), "JPEG", quality=95)
    start = raw.index(b"\xff\xee")
    unmarked = raw[:start] + raw[start + 2 + int.from_bytes(raw[start + 2 : start + 4]) :]
    assert b"Adobe" in raw
    assert b"Adobe" not in unmarked
    for body in (raw, unmarked):
        assert difference(pixels(body), picture) <= 2


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_half_transparent_pixels_mix_with_the_matte(mode: str, file_of: FileOf) -> None:
    image = Image.new("RGBA", (64, 64), (90, 90, 90, 255))
    image.paste((90, 90, 90, 128), (0, 0, 32, 64))
    image.paste((90, 90, 90, 0), (0, 0, 8, 64))
    raw = file_of(image.quantize(8) if mode == "P" else image.convert(mode), "PNG")
    for matte, colour in (("#ffffff", (255, 255, 255)), ("#0080ff", (0, 128, 255))):
        found = pixels(raw, NormaliseConfig(image_size=64, matte=matte, **PNG))
        wanted = np.array(colour)
        assert (found[:, 60] == 90).all()
        assert (found[:, 2] == wanted).all()
        assert np.abs(found[:, 20] - (90 + (wanted - 90) * 127 / 255)).max() <= 1


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


def grey_profile() -> bytes:
    """A minimal ICC profile (version 2) for grey of gamma 1."""
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D)
    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"Grey\0" + bytes(79)
    parts = [(b"desc", name), (b"wtpt", white), (b"kTRC", curve)]
    offset, table, body = 132 + 12 * len(parts), struct.pack(">I", len(parts)), b""
    for key, data in parts:
        table += key + struct.pack(">II", offset + len(body), len(data))
        body += data
    header = struct.pack(">I4sI4s4s4s", offset + len(body), b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D) + bytes(48)
    return header + table + body


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_profiles_become_srgb(kind: str, picture: Image.Image, file_of: FileOf) -> None:
    raw = file_of(picture, kind, icc_profile=swapped_profile(), quality=95)
    red, green, blue = picture.split()
    assert difference(pixels(raw), Image.merge("RGB", (blue, green, red))) <= 4
    off = NormaliseConfig(image_size=64, colour_profiles=False, **PNG)
    assert difference(pixels(raw, off), picture) <= 4
    assert "icc_profile" not in decoded(normalise_image(raw, EXACT)).info


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_profiles_that_are_broken_or_of_another_kind_lose_no_picture(
    mode: str, picture: Image.Image, file_of: FileOf
) -> None:
    image = picture.convert(mode)
    useless: Sequence[bytes] = [b"", b"no profile at all", swapped_profile()[:200], b"\xff" * 4000, bytes(200)]
    for profile in [*useless, grey_profile() if mode == "RGB" else swapped_profile()]:
        raw = file_of(image, "JPEG", icc_profile=profile, quality=95)
        assert difference(pixels(raw), image.convert("RGB")) <= 3


def test_a_grey_profile_is_heeded(picture: Image.Image, file_of: FileOf) -> None:
    grey = picture.convert("L")
    found = pixels(file_of(grey, "PNG", icc_profile=grey_profile())).astype(float)
    # Brightness in proportion to the number, where sRGB has a power of about 2.2.
    wanted = 255 * (np.asarray(grey, float) / 255) ** (1 / 2.2)
    assert np.abs(found[..., 0] - wanted)[wanted > 60].mean() <= 6
