"""What becomes of the pixels: upright, RGB, never enlarged by default, and close to the original."""

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_catalog.errors import SettingsError
from data_catalog.fetch.reasons import NORMALISE_REASONS
from data_catalog.images.normalise import ImageRejectedError, NormaliseConfig, NormalisedImage, normalise_image

CONFIG = NormaliseConfig(image_size=64, min_image_size=16)
EXACT = NormaliseConfig(image_size=64, min_image_size=16, encode_format="png", encode_quality=1)
Gradient = Callable[[int, int], Image.Image]
FileOf = Callable[..., bytes]


def decoded(result: NormalisedImage, kind: str = "JPEG") -> Image.Image:
    image = Image.open(io.BytesIO(result.data))
    assert (image.format, image.mode, image.size) == (kind, "RGB", (result.width, result.height))
    return image


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference, of 255."""
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())


def resized(image: Image.Image, shorter_side: int) -> Image.Image:
    """What the result is measured by: RGB, averaged over areas by OpenCV."""
    scale = min(1.0, shorter_side / min(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return Image.fromarray(cv2.resize(np.asarray(image.convert("RGB")), size, interpolation=cv2.INTER_AREA))


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
    assert difference(decoded(result, "PNG"), resized(original, 64)) <= 0.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_every_exif_orientation_is_turned_upright(
    orientation: int, kind: str, gradient_of: Gradient, file_of: FileOf
) -> None:
    upright = gradient_of(120, 80)
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
    result = normalise_image(file_of(image, kind, exif=exif), EXACT)
    assert (result.original_width, result.original_height) == upright.size
    assert difference(decoded(result, "PNG"), resized(upright, 64)) <= 2
    assert not decoded(result, "PNG").getexif()


@pytest.mark.parametrize(
    ("size", "result"), [((640, 480), (85, 64)), ((480, 640), (64, 85)), ((64, 64), (64, 64)), ((40, 30), (40, 30))]
)
def test_the_shorter_side_shrinks_and_nothing_grows(
    size: tuple[int, int], result: tuple[int, int], gradient_of: Gradient, file_of: FileOf
) -> None:
    image = normalise_image(file_of(gradient_of(*size), "JPEG"), CONFIG)
    assert (image.width, image.height) == result
    assert (image.original_width, image.original_height) == size


def test_nothing_of_the_original_but_its_pixels_is_in_the_result(pictures: dict[str, bytes]) -> None:
    assert b"not for the dataset" not in normalise_image(pictures["commented.jpg"], CONFIG).data
    again = normalise_image(pictures["plain.jpg"], CONFIG)
    assert normalise_image(pictures["commented.jpg"], CONFIG) == again


@pytest.mark.parametrize(
    ("encode_format", "kind", "quality"), [("jpg", "JPEG", 90), ("webp", "WEBP", 90), ("png", "PNG", 9)]
)
def test_encode_formats(encode_format: str, kind: str, quality: int, pictures: dict[str, bytes]) -> None:
    config = NormaliseConfig(image_size=64, encode_format=encode_format, encode_quality=quality)
    result = normalise_image(pictures["plain.bmp"], config)
    assert difference(decoded(result, kind), resized(Image.open(io.BytesIO(pictures["plain.bmp"])), 64)) <= 2


def test_lower_quality_is_smaller(pictures: dict[str, bytes]) -> None:
    for encode_format in ("jpg", "webp"):
        configs = [NormaliseConfig(encode_format=encode_format, encode_quality=quality) for quality in (30, 95)]
        low, high = (len(normalise_image(pictures["plain.bmp"], config).data) for config in configs)
        assert low < high


def test_settings_decide(pictures: dict[str, bytes]) -> None:
    for settings_, reason in [
        (NormaliseConfig(min_image_size=81), "too_small"),
        (NormaliseConfig(max_aspect_ratio=1.4), "aspect"),
        (NormaliseConfig(max_pixels=9599), "too_many_pixels"),
    ]:
        with pytest.raises(ImageRejectedError) as rejected:
            normalise_image(pictures["plain.jpg"], settings_)
        assert rejected.value.reason == reason
    normalise_image(pictures["plain.jpg"], NormaliseConfig(min_image_size=80, max_aspect_ratio=1.5, max_pixels=9600))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resize_mode", "stretch"),
        ("encode_format", "gif"),
        ("animated", "last"),
        ("upscale_interpolation", "spline"),
        ("downscale_interpolation", ""),
        ("matte", "white"),
        ("encode_quality", 0),
        ("min_image_size", 0),
        ("max_pixels", 0),
    ],
)
def test_wrong_settings_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=rf"normalise\.{field} must be"):
        NormaliseConfig(**{field: value})


def test_png_has_a_compression_instead_of_a_quality() -> None:
    with pytest.raises(SettingsError, match=r"normalise\.encode_quality must be between 0 and 9"):
        NormaliseConfig(encode_format="png")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_of_several_frames_the_first_can_be_taken(kind: str, gradient_of: Gradient, file_of: FileOf) -> None:
    frame = gradient_of(120, 80)
    raw = file_of(frame, kind, save_all=True, append_images=[frame.rotate(180), frame.rotate(90)])
    with pytest.raises(ImageRejectedError) as rejected:
        normalise_image(raw, EXACT)
    assert (rejected.value.reason, rejected.value.detail) == ("animated", kind)
    first = NormaliseConfig(image_size=64, animated="first", encode_format="png", encode_quality=1)
    result = normalise_image(raw, first)
    assert result.original_format == kind
    assert difference(decoded(result, "PNG"), resized(frame, 64)) <= 4


def test_the_hash_tells_pictures_apart_and_survives_sizes_modes_and_formats(
    gradient_of: Gradient, file_of: FileOf
) -> None:
    numbers = np.random.default_rng(3)
    blobs = [cv2.GaussianBlur(numbers.integers(0, 255, (300, 400, 3), np.uint8), (0, 0), 12) for _ in range(4)]
    images = [Image.fromarray(cv2.normalize(blob, blob, 0, 255, cv2.NORM_MINMAX)) for blob in blobs]
    hashes = []
    for image in images:
        variants = [
            normalise_image(file_of(image, kind), NormaliseConfig(image_size=size, resize_mode=mode)).phash
            for kind in ("PNG", "JPEG", "WEBP")
            for size in (64, 128, 256)
            for mode in ("keep_ratio", "center_crop", "border", "no")
        ]
        assert {len(variant) for variant in variants} == {16}
        assert max((int(variants[0], 16) ^ int(variant, 16)).bit_count() for variant in variants) <= 4
        hashes.append(int(variants[0], 16))
    distances = [(one ^ other).bit_count() for i, one in enumerate(hashes) for other in hashes[:i]]
    assert min(distances) >= 16


def test_one_colour_is_no_picture(gradient_of: Gradient, file_of: FileOf) -> None:
    plain = Image.new("RGB", (90, 80), (1, 130, 255))
    with pytest.raises(ImageRejectedError) as rejected:
        normalise_image(file_of(plain, "PNG"), CONFIG)
    assert (rejected.value.reason, rejected.value.detail) == ("one_colour", "#0182ff")
    with pytest.raises(ImageRejectedError, match="one_colour"):
        normalise_image(file_of(Image.new("RGBA", (90, 80), (255, 0, 0, 0)), "PNG"), CONFIG)
    plain.putpixel((3, 3), (1, 131, 255))
    assert normalise_image(file_of(plain, "PNG"), CONFIG).width == 72


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
def test_large_photos_decoded_at_a_fraction_stay_close(shared_data: Path, file_of: FileOf) -> None:
    """Photographs of the size that cameras make, four COCO ones each."""
    paths = sorted((shared_data / "coco" / "train2017").glob("*.jpg"))
    random.Random(0).shuffle(paths)
    photos = [Image.open(path).convert("RGB").resize((1200, 1200), Image.Resampling.LANCZOS) for path in paths[:16]]
    for start in range(0, 16, 4):
        mosaic = Image.new("RGB", (2400, 2400))
        for index, photo in enumerate(photos[start : start + 4]):
            mosaic.paste(photo, (index % 2 * 1200, index // 2 * 1200))
        raw = file_of(mosaic, "JPEG", quality=95)
        for size in (224, 256, 384):
            exact, quick = (
                normalise_image(
                    raw,
                    NormaliseConfig(image_size=size, scaled_decoding=scaled, encode_format="png", encode_quality=1),
                )
                for scaled in (False, True)
            )
            assert exact.original_width == quick.original_width == 2400
            assert difference(decoded(exact, "PNG"), decoded(quick, "PNG")) <= 1.5


@pytest.mark.real_data
def test_coco_photos_served_over_loopback_come_back_close(
    shared_data: Path, server: Any, workers: Any, quick: Any, make_requests: Any, read_rows: Any, tmp_path: Path
) -> None:
    paths = sorted((shared_data / "coco" / "train2017").glob("*.jpg"))
    assert len(paths) == 80
    server.files.update({f"/train2017/{path.name}": path.read_bytes() for path in paths})
    requests = make_requests(*[server.url(f"/train2017/{path.name}") for path in paths])
    workers.fetch(requests, quick, tmp_path / "raw.parquet")
    config = NormaliseConfig(colour_profiles=False, keep_original=True)
    workers.normalise(tmp_path / "raw.parquet", config, tmp_path / "images.parquet")
    raw = read_rows(tmp_path / "raw.parquet")
    assert [row["bytes"] for row in raw] == [path.read_bytes() for path in paths]
    rows = read_rows(tmp_path / "images.parquet")
    assert [row["original"] for row in rows] == [row["bytes"] for row in raw]
    assert len({row["phash"] for row in rows}) == 80
    for path, row in zip(paths, rows, strict=True):
        original = Image.open(path)
        assert (row["original_width"], row["original_height"], row["original_format"]) == (*original.size, "JPEG")
        assert difference(Image.open(io.BytesIO(row["bytes"])), resized(original, 256)) <= 5
