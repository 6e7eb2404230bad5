"""Sizes equal to those of img2dataset's own Resizer for every mode, and pixels close to its."""

import io
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_catalog.images.normalise import INTERPOLATIONS, RESIZE_MODES, NormaliseConfig, normalise_image

MODES = sorted(RESIZE_MODES)


@pytest.fixture(scope="module")
def resizer() -> Any:
    """img2dataset's class; its import warns of things that are none of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from img2dataset.resizer import Resizer
    return Resizer


def both(raw: bytes, resizer: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Our pixels and img2dataset's, for the same options."""
    config = NormaliseConfig(min_image_size=1, max_aspect_ratio=1000, colour_profiles=False, **options)
    ours = normalise_image(raw, config)
    # Its transforms look for a newer version of themselves on the network, or warn that they did not.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data, width, height, original_width, original_height, error = resizer(**options)(io.BytesIO(raw))
    assert error is None
    assert (ours.width, ours.height) == (width, height)
    assert (ours.original_width, ours.original_height) == (original_width, original_height)
    pixels = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), np.int16) for file in (ours.data, data)]
    assert pixels[0].shape == pixels[1].shape
    return pixels[0], pixels[1]


def mean_difference(pair: tuple[np.ndarray, np.ndarray]) -> float:
    return float(np.abs(pair[0] - pair[1]).mean())


def noise(width: int, height: int) -> Image.Image:
    """The hardest to agree on: neighbouring pixels have nothing to do with each other."""
    return Image.fromarray(np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8))


@settings(max_examples=120, deadline=None)
@given(
    width=st.integers(2, 300),
    height=st.integers(2, 300),
    image_size=st.integers(1, 120),
    mode=st.sampled_from(MODES),
    only_if_bigger=st.booleans(),
)
def test_sizes_are_equal_and_noise_differs_by_rounding(
    width: int, height: int, image_size: int, mode: str, only_if_bigger: bool, resizer: Any, file_of: Any
) -> None:
    pair = both(
        file_of(noise(width, height), "PNG"),
        resizer,
        image_size=image_size,
        resize_mode=mode,
        resize_only_if_bigger=only_if_bigger,
        encode_format="png",
        encode_quality=1,
    )
    assert np.abs(pair[0] - pair[1]).max() <= 1


@pytest.mark.parametrize("name", sorted(INTERPOLATIONS))
@pytest.mark.parametrize("image_size", [64, 200])
def test_every_interpolation(name: str, image_size: int, resizer: Any, file_of: Any) -> None:
    pair = both(
        file_of(noise(120, 90), "PNG"),
        resizer,
        image_size=image_size,
        resize_mode="keep_ratio",
        resize_only_if_bigger=False,
        upscale_interpolation=name,
        downscale_interpolation=name,
        encode_format="png",
        encode_quality=1,
    )
    assert np.abs(pair[0] - pair[1]).max() <= 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize(("encode_format", "quality"), [("jpg", 95), ("webp", 80), ("png", 6)])
def test_gradients_of_every_format(
    mode: str,
    kind: str,
    encode_format: str,
    quality: int,
    resizer: Any,
    gradient_of: Callable[[int, int], Image.Image],
    file_of: Any,
) -> None:
    pair = both(
        file_of(gradient_of(250, 170), kind),
        resizer,
        image_size=100,
        resize_mode=mode,
        resize_only_if_bigger=True,
        encode_format=encode_format,
        encode_quality=quality,
    )
    assert mean_difference(pair) <= 1


def test_what_is_transparent_is_white_for_both(resizer: Any, file_of: Any) -> None:
    image = noise(120, 90).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    options = {"resize_mode": "keep_ratio", "resize_only_if_bigger": True, "encode_format": "png", "encode_quality": 1}
    assert mean_difference(both(file_of(image, "PNG"), resizer, image_size=64, **options)) <= 1


@pytest.mark.real_data
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("image_size", [224, 256, 384])
def test_photographs_as_jpeg(mode: str, image_size: int, resizer: Any, shared_data: Path) -> None:
    """Both decode, resize and encode: what differs at all is a rounding, seen through the JPEG."""
    paths = sorted((shared_data / "coco" / "train2017").glob("*.jpg"))
    random.Random(image_size).shuffle(paths)
    for path in paths[:20]:
        pair = both(path.read_bytes(), resizer, image_size=image_size, resize_mode=mode, resize_only_if_bigger=True)
        assert mean_difference(pair) <= 1.5
