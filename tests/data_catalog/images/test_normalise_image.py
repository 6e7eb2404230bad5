"""What becomes of the pixels: upright, RGB, white where transparent, never enlarged, and close to the original."""

import io
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_catalog.images.normalise import (
    NORMALISE_REASONS,
    ImageRejectedError,
    NormaliseConfig,
    NormalisedImage,
    normalise_image,
)

CONFIG = NormaliseConfig(image_size=64, min_side=16)


def decoded(result: NormalisedImage) -> Image.Image:
    image = Image.open(io.BytesIO(result.jpeg))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (result.width, result.height))
    return image


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB."""
    difference = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    mean_square = float(np.mean(difference**2))
    return math.inf if mean_square == 0 else 10 * math.log10(255**2 / mean_square)


def resized(image: Image.Image, shorter_side: int) -> Image.Image:
    """What the result is measured by: RGB, resized by Pillow in the plain way."""
    scale = min(1.0, shorter_side / min(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


@pytest.mark.parametrize(
    "name",
    ["plain.jpg", "progressive.jpg", "plain.webp", "plain.bmp", "plain.tif", "still.gif", "stereo.mpo", "grey.png"],
)
def test_pictures_stay_close_to_their_originals(name: str, pictures: dict[str, bytes]) -> None:
    image = decoded(normalise_image(pictures[name], CONFIG))
    original = Image.open(io.BytesIO(pictures[name]))
    assert psnr(image, resized(original, 64)) >= 35


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_exif_orientation_is_turned_upright(orientation: int, kind: str, pictures: dict[str, bytes]) -> None:
    upright = Image.open(io.BytesIO(pictures["plain.bmp"]))
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = upright.transpose(stored[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif)
    result = normalise_image(buffer.getvalue(), CONFIG)
    assert (result.original_width, result.original_height) == upright.size
    assert psnr(decoded(result), resized(upright, 64)) >= 30
    assert not decoded(result).getexif()


def colour(result: NormalisedImage) -> tuple[int, ...]:
    """The colour of the middle."""
    found = decoded(result).getpixel((result.width // 2, result.height // 2))
    assert isinstance(found, tuple)
    return found


def test_colour_modes(pictures: dict[str, bytes]) -> None:
    assert colour(normalise_image(pictures["clear.png"], CONFIG)) == (255, 255, 255)
    sixteen_bit = colour(normalise_image(pictures["deep.png"], CONFIG))
    assert all(abs(value - 40_000 // 256) <= 2 for value in sixteen_bit)
    cmyk = Image.open(io.BytesIO(pictures["cmyk.jpg"])).convert("RGB")
    assert psnr(decoded(normalise_image(pictures["cmyk.jpg"], CONFIG)), resized(cmyk, 64)) >= 35


def test_half_transparent_pixels_mix_with_white() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (64, 64), (255, 0, 0, 128)).save(buffer, "PNG")
    red, green, blue = colour(normalise_image(buffer.getvalue(), CONFIG))
    assert red >= 253
    assert abs(green - 127) <= 3
    assert abs(blue - 127) <= 3


@pytest.mark.parametrize(
    ("size", "result"), [((640, 480), (85, 64)), ((480, 640), (64, 85)), ((64, 64), (64, 64)), ((40, 30), (40, 30))]
)
def test_the_shorter_side_shrinks_and_nothing_grows(size: tuple[int, int], result: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", size, "green").save(buffer, "JPEG")
    image = normalise_image(buffer.getvalue(), CONFIG)
    assert (image.width, image.height) == result
    assert (image.original_width, image.original_height) == size


def test_nothing_of_the_original_but_its_pixels_is_in_the_result(pictures: dict[str, bytes]) -> None:
    assert b"not for the dataset" not in normalise_image(pictures["commented.jpg"], CONFIG).jpeg
    again = normalise_image(pictures["plain.jpg"], CONFIG).jpeg
    assert normalise_image(pictures["commented.jpg"], CONFIG).jpeg == again


def test_settings_decide(pictures: dict[str, bytes]) -> None:
    for settings_, reason in [
        (NormaliseConfig(min_side=81), "too_small"),
        (NormaliseConfig(max_aspect=1.4), "aspect"),
        (NormaliseConfig(max_pixels=9599), "too_many_pixels"),
    ]:
        with pytest.raises(ImageRejectedError) as rejected:
            normalise_image(pictures["plain.jpg"], settings_)
        assert rejected.value.reason == reason
    normalise_image(pictures["plain.jpg"], NormaliseConfig(min_side=80, max_aspect=1.5, max_pixels=9600))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_files_end_with_a_reason_or_a_picture(data: st.DataObject, pictures: dict[str, bytes]) -> None:
    name = data.draw(st.sampled_from(sorted(set(pictures) - {"bomb.png"})))
    body = bytearray(pictures[name])
    for _ in range(data.draw(st.integers(0, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    try:
        result = normalise_image(bytes(body[:cut]), CONFIG)
    except ImageRejectedError as error:
        reason = error.reason
    else:
        reason = ""
        assert decoded(result)
    assert not reason or reason in NORMALISE_REASONS


@pytest.mark.real_data
def test_large_photos_decoded_at_a_fraction_stay_close(shared_data: Path) -> None:
    """Four photos in a row are large enough for Pillow to decode at a half or a quarter."""
    paths = sorted((shared_data / "coco" / "train2017").glob("*.jpg"))
    random.Random(0).shuffle(paths)
    photos = [Image.open(path).convert("RGB").resize((1200, 1200), Image.Resampling.LANCZOS) for path in paths[:4]]
    mosaic = Image.new("RGB", (2400, 2400))
    for index, photo in enumerate(photos):
        mosaic.paste(photo, (index % 2 * 1200, index // 2 * 1200))
    buffer = io.BytesIO()
    mosaic.save(buffer, "JPEG", quality=95)
    original = Image.open(io.BytesIO(buffer.getvalue()))
    for size in (224, 256, 384):
        image = decoded(normalise_image(buffer.getvalue(), NormaliseConfig(image_size=size)))
        assert psnr(image, resized(original, size)) >= 35


@pytest.mark.real_data
def test_coco_photos_served_over_loopback_come_back_close(
    shared_data: Path, server: Any, workers: Any, quick: Any, make_requests: Any, read_rows: Any, tmp_path: Path
) -> None:
    paths = sorted((shared_data / "coco" / "train2017").glob("*.jpg"))
    assert len(paths) == 80
    server.files.update({f"/train2017/{path.name}": path.read_bytes() for path in paths})
    requests = make_requests(*[server.url(f"/train2017/{path.name}") for path in paths])
    workers.fetch(requests, quick, tmp_path / "raw.parquet")
    workers.normalise(tmp_path / "raw.parquet", NormaliseConfig(), tmp_path / "images.parquet")
    raw = read_rows(tmp_path / "raw.parquet")
    assert [row["bytes"] for row in raw] == [path.read_bytes() for path in paths]
    scores = []
    for path, row in zip(paths, read_rows(tmp_path / "images.parquet"), strict=True):
        original = Image.open(path)
        assert (row["original_width"], row["original_height"]) == original.size
        scores.append(psnr(Image.open(io.BytesIO(row["bytes"])), resized(original, 256)))
    assert min(scores) >= 35
