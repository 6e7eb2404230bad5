"""What becomes of the pixels: upright, RGB in sRGB, of the sizes that img2dataset makes; thumbnails and views."""

import hashlib
import io
import warnings
import zipfile
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from data_catalog.base.errors import SettingsError
from data_catalog.fetch.image_views import VIEWS, image_views, write_views
from data_catalog.images.normalise import (
    INTERPOLATIONS,
    ImageRejectedError,
    NormaliseConfig,
    NormalisedImage,
    ResizeMode,
    normalise_image,
)
from data_catalog.rows.fetch_reasons import NORMALISE_REASONS

PNG: dict[str, Any] = {"encode_format": "png", "encode_quality": 1}
EXACT = NormaliseConfig(image_size=64, min_image_size=16, **PNG)


def decoded(result: NormalisedImage, kind: str = "PNG") -> Image.Image:
    image = Image.open(io.BytesIO(result.data))
    assert (image.format, image.mode, image.size) == (kind, "RGB", (result.width, result.height))
    assert not image.getexif()
    assert "icc_profile" not in image.info
    return image


def pixels(raw: bytes, config: NormaliseConfig = EXACT) -> np.ndarray:
    """Of the result, shape (height, width, 3)."""
    return np.asarray(decoded(normalise_image(raw, config)), np.int16)


def difference(one: Any, other: Any) -> float:
    """Mean absolute difference, of 255."""
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())


def shrunk(image: Image.Image) -> Image.Image:
    """What results are measured by: RGB, a shorter side of 64 at most, averaged over areas by OpenCV."""
    scale = min(1.0, 64 / min(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    return Image.fromarray(cv2.resize(np.asarray(image.convert("RGB")), size, interpolation=cv2.INTER_AREA))


def blobs(seed: int, height: int, width: int, blur: int) -> Image.Image:
    """Smooth noise over the whole range of brightness."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(cv2.normalize(cv2.GaussianBlur(noise, (0, 0), blur), None, 0, 255, cv2.NORM_MINMAX))


def rejection(raw: bytes, config: NormaliseConfig = EXACT) -> tuple[str, str | None]:
    with pytest.raises(ImageRejectedError) as rejected:
        normalise_image(raw, config)
    return rejected.value.reason, rejected.value.detail


@pytest.fixture
def picture(gradient_of: Any) -> Image.Image:
    """Small enough to be neither shrunk nor grown."""
    image: Image.Image = gradient_of(64, 48)
    return image


def test_pictures_stay_close_to_their_originals(pictures: dict[str, bytes]) -> None:
    kinds = {"plain.jpg": "JPEG", "progressive.jpg": "JPEG", "plain.webp": "WEBP", "plain.bmp": "BMP"}
    kinds |= {"plain.tif": "TIFF", "still.gif": "GIF", "stereo.mpo": "MPO", "grey.png": "PNG", "bilevel.png": "PNG"}
    for name, kind in (kinds | {"plain.avif": "AVIF"}).items():
        result = normalise_image(pictures[name], EXACT)
        original = Image.open(io.BytesIO(pictures[name]))
        assert (result.original_format, result.original_width, result.original_height) == (kind, *original.size)
        assert difference(decoded(result), shrunk(original)) <= 0.5, name


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_every_exif_orientation_is_turned_upright(kind: str, gradient_of: Any, file_of: Any) -> None:
    upright = gradient_of(120, 80)
    turns = Image.Transpose
    stored = [turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM, turns.TRANSPOSE]
    stored += [turns.ROTATE_90, turns.TRANSVERSE, turns.ROTATE_270]
    for orientation, image in enumerate([upright, *map(upright.transpose, stored)], start=1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        result = normalise_image(file_of(image, kind, exif=exif), EXACT)
        assert (result.original_width, result.original_height) == upright.size
        assert difference(decoded(result), shrunk(upright)) <= 2


def test_settings_of_an_image_that_do_not_fit_are_named() -> None:
    for settings in ({"matte": "white"}, {"encode_quality": 0}, {"encode_format": "png"}):
        with pytest.raises(SettingsError, match=r"normalise\.(matte must be a colour|encode_quality must be from)"):
            NormaliseConfig(**settings)


def test_settings_decide_about_sizes(pictures: dict[str, bytes]) -> None:
    limits = {"too_small": ("min_image_size", 81), "aspect": ("max_aspect_ratio", 1.4)}
    for reason, (name, limit) in (limits | {"too_many_pixels": ("max_pixels", 9599)}).items():
        assert rejection(pictures["plain.jpg"], NormaliseConfig(**{name: limit}))[0] == reason
    normalise_image(pictures["plain.jpg"], NormaliseConfig(min_image_size=80, max_aspect_ratio=1.5, max_pixels=9600))


@pytest.mark.parametrize(
    ("encode_format", "mode", "width", "detail"),
    [
        ("webp", "no", 16_383, None),
        ("webp", "keep_ratio", 16_384, "16384 pixels a side, of at most 16383 in webp"),
        ("webp", "center_crop", 16_384, None),
        ("jpg", "no", 65_501, "65501 pixels a side, of at most 65500 in jpg"),
    ],
)
def test_a_result_beyond_what_its_format_can_hold_is_rejected(
    encode_format: str, mode: str, width: int, detail: str | None, file_of: Any
) -> None:
    shape: dict[str, Any] = {"image_size": 100, "resize_mode": mode, "resize_only_if_bigger": False}
    config = NormaliseConfig(**shape, encode_format=encode_format, encode_quality=1, max_aspect_ratio=1000)
    raw = file_of(Image.linear_gradient("L").resize((width, 100)), "PNG")
    if detail is None:
        assert Image.open(io.BytesIO(normalise_image(raw, config).data)).width <= width
    else:
        assert rejection(raw, config) == ("too_many_pixels", detail)


def test_the_hash_tells_pictures_apart_and_survives_sizes_modes_and_formats(file_of: Any) -> None:
    variants = [("PNG", 64, "keep_ratio"), ("JPEG", 128, "center_crop"), ("WEBP", 256, "border"), ("PNG", 64, "no")]
    seen: list[int] = []
    for seed in range(4):
        image = blobs(seed, 300, 400, 12)
        configs = [(kind, NormaliseConfig(image_size=size, resize_mode=mode)) for kind, size, mode in variants]
        hashes = [normalise_image(file_of(image, kind), config).phash for kind, config in configs]
        assert {len(each) for each in hashes} == {16}
        first, *others = (int(each, 16) for each in hashes)
        assert max((first ^ other).bit_count() for other in others) <= 4
        assert all((first ^ other).bit_count() >= 16 for other in seen)
        seen.append(first)


def test_one_colour_is_no_picture(file_of: Any) -> None:
    plain = Image.new("RGB", (90, 80), (1, 130, 255))
    assert rejection(file_of(plain, "PNG")) == ("one_colour", "#0182ff")
    assert rejection(file_of(Image.new("RGBA", (90, 80), (255, 0, 0, 0)), "PNG")) == ("one_colour", "#ffffff")
    plain.putpixel((3, 3), (1, 131, 255))
    assert normalise_image(file_of(plain, "PNG"), EXACT).width == 72


@given(data=st.data())
def test_damaged_files_end_with_a_reason_or_a_picture(data: st.DataObject, pictures: dict[str, bytes]) -> None:
    body = bytearray(pictures[data.draw(st.sampled_from(sorted(pictures)))])
    for _ in range(data.draw(st.integers(0, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        result = normalise_image(bytes(body[: data.draw(st.integers(0, len(body)))]), EXACT)
    except ImageRejectedError as error:
        assert error.reason in NORMALISE_REASONS  # noqa: PT017  most are rejected, and some are not
    else:
        assert decoded(result)


@pytest.fixture(scope="module")
def both(file_of: Any) -> Any:
    """Our pixels and those of img2dataset's own Resizer, of equal sizes, for the same options, of a picture of noise.

    That is the hardest to agree on: neighbouring pixels have nothing to do with each other.
    """
    with warnings.catch_warnings():  # of its import, about things that are none of ours
        warnings.simplefilter("ignore")
        from img2dataset.resizer import Resizer

    def compare(width: int, height: int, **options: Any) -> float:
        noise = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
        raw = file_of(Image.fromarray(noise), "PNG")
        config = NormaliseConfig(min_image_size=1, max_aspect_ratio=1000, colour_profiles=False, **options, **PNG)
        ours = normalise_image(raw, config)
        # Its transforms look for a newer version of themselves on the network, or warn that they did not.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data, *sizes, error = Resizer(**options, **PNG)(io.BytesIO(raw))
        assert error is None
        assert sizes == [ours.width, ours.height, ours.original_width, ours.original_height]
        one, other = (np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), np.int16) for file in (ours.data, data))
        return float(np.abs(one - other).max())

    return compare


@pytest.mark.slower
@given(
    size=st.tuples(st.integers(2, 300), st.integers(2, 300)),
    image_size=st.integers(1, 120),
    mode=st.sampled_from(get_args(ResizeMode)),
    only_if_bigger=st.booleans(),
    interpolation=st.sampled_from(sorted(INTERPOLATIONS)),
)
def test_sizes_are_those_of_img2dataset_and_noise_differs_by_rounding(
    size: tuple[int, int], image_size: int, mode: str, only_if_bigger: bool, interpolation: str, both: Any
) -> None:
    options = {"resize_mode": mode, "resize_only_if_bigger": only_if_bigger}
    options |= dict.fromkeys(("upscale_interpolation", "downscale_interpolation"), interpolation)
    assert both(*size, image_size=image_size, **options) <= 1


def test_a_large_jpeg_decoded_at_a_fraction_stays_close(file_of: Any) -> None:
    raw = file_of(blobs(4, 1600, 2400, 5), "JPEG", quality=95)
    for size in (64, 224, 384):
        configs = [NormaliseConfig(image_size=size, scaled_decoding=scaled, **PNG) for scaled in (False, True)]
        exact, quick = (normalise_image(raw, config) for config in configs)
        assert exact.original_width == quick.original_width == 2400
        assert exact.data != quick.data
        assert difference(decoded(exact), decoded(quick)) <= 1.5


# Kinds of pixels, each against what its colours mean


def test_cmyk_is_upside_down_with_and_without_the_marker_of_adobe(picture: Image.Image, file_of: Any) -> None:
    """Adobe stores what the ink leaves; other writers of CMYK have followed, with or without its marker."""
    raw = file_of(picture.convert("CMYK"), "JPEG", quality=95)
    start = raw.index(b"\xff\xee")
    unmarked = raw[:start] + raw[start + 2 + int.from_bytes(raw[start + 2 : start + 4]) :]
    assert [b"Adobe" in body for body in (raw, unmarked)] == [True, False]
    assert all(difference(pixels(body), picture) <= 2 for body in (raw, unmarked))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_half_transparent_pixels_mix_with_the_matte(mode: str, file_of: Any) -> None:
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


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_profiles_become_srgb(kind: str, picture: Image.Image, file_of: Any) -> None:
    """A profile whose red and blue are exchanged: nobody could miss that it is heeded."""
    srgb = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    table = {bytes(srgb[at : at + 4]): at for at in range(132, 132 + 12 * srgb[131], 12)}
    red, blue = table[b"rXYZ"], table[b"bXYZ"]
    srgb[red + 4 : red + 12], srgb[blue + 4 : blue + 12] = srgb[blue + 4 : blue + 12], srgb[red + 4 : red + 12]
    named = bytes(srgb).replace("sRGB".encode("utf-16-be"), "Mine".encode("utf-16-be"))  # of that name none is read
    raw = file_of(picture, kind, icc_profile=named, quality=95)
    first, green, last = picture.split()
    assert difference(pixels(raw), Image.merge("RGB", (last, green, first))) <= 4
    assert difference(pixels(raw, NormaliseConfig(image_size=64, colour_profiles=False, **PNG)), picture) <= 4


QUARTERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)


def quarters(width: int, height: int) -> Image.Image:
    """Red, green, blue and white quarters."""
    return Image.fromarray(QUARTERS.repeat(height // 2, 0).repeat(width // 2, 1))


def colours_of(thumbnail: bytes) -> Any:
    return np.frombuffer(thumbnail, np.uint8).reshape(8, 8, 3)


def test_thumbnails_are_of_the_whole_picture_and_average(file_of: Any) -> None:
    for mode in ("keep_ratio", "center_crop", "border", "no"):
        config = NormaliseConfig(image_size=64, resize_mode=mode)
        found = colours_of(normalise_image(file_of(quarters(160, 80), "PNG"), config).thumbnail)
        assert (found == QUARTERS.repeat(4, 0).repeat(4, 1)).all()
    chequered = Image.fromarray((np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)).convert("RGB")
    found = colours_of(normalise_image(file_of(chequered, "PNG"), NormaliseConfig(image_size=64)).thumbnail)
    assert (np.abs(found.astype(int) - 127.5) < 1).all()
    small = normalise_image(file_of(quarters(2, 2), "PNG"), NormaliseConfig(min_image_size=1))
    assert colours_of(small.thumbnail)[0, 0].tolist() == [255, 0, 0]


def test_a_view_is_the_hash_of_a_picture_cropped_and_mirrored_alike(gradient_of: Any, file_of: Any) -> None:
    picture = gradient_of(100, 100).rotate(30)
    found = {view.view: view for view in image_views(file_of(picture, "PNG"))}
    boxes = {"whole": (0, 0, 100, 100), "middle": (3, 3, 97, 97), "top left": (0, 0, 97, 97)}
    boxes |= {"top right": (3, 0, 100, 97), "bottom left": (0, 3, 97, 100), "bottom right": (3, 3, 100, 100)}
    assert [*found] == [*boxes, *(f"mirrored {view}" for view in boxes)]
    for prefix, changed in (("", picture), ("mirrored ", picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))):
        for view, box in boxes.items():
            cropped = normalise_image(file_of(changed.crop(box), "PNG"), NormaliseConfig())
            seen = found[prefix + view]
            assert (seen.phash, seen.thumbnail) == (cropped.phash, cropped.thumbnail)


def test_folders_and_archives_give_the_same_views_in_the_order_of_the_names(
    workers: Any, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    files = {"b/ä.jpg": pictures["plain.jpg"], "a.png": pictures["palette.png"], "cut.jpg": pictures["cut.jpg"]}
    (tmp_path / "images/b").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name, body in files.items():
            archive.writestr(name, body)
            (tmp_path / "images" / name).write_bytes(body)
    names = ["cut.jpg", "b/ä.jpg", "gone.jpg", "a.png", "../a.png"]
    for location in ("images", "images.zip"):
        write_views(str(tmp_path / location), names, tmp_path / f"{location}.parquet", workers)
    assert (tmp_path / "images.parquet").read_bytes() == (tmp_path / "images.zip.parquet").read_bytes()
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"images", "images.parquet", "images.zip", "images.zip.parquet"}
    table = pq.read_table(tmp_path / "images.parquet")
    assert table.schema == VIEWS
    found = {name: list(rows) for name, rows in groupby(table.to_pylist(), lambda row: row["name"])}
    assert list(found) == names
    reasons = {"cut.jpg": "truncated", "gone.jpg": "missing_file", "../a.png": "missing_file"}
    assert {name: rows[0]["drop_reason"] for name, rows in found.items() if len(rows) == 1} == reasons
    assert found["gone.jpg"] == [{**dict.fromkeys(VIEWS.names), "name": "gone.jpg", "drop_reason": "missing_file"}]
    for name, body in files.items():
        assert {row["sha256"] for row in found[name]} == {hashlib.sha256(body).hexdigest()}
    for name in ("b/ä.jpg", "a.png"):
        direct = [(view.view, view.phash, view.thumbnail) for view in image_views(files[name])]
        assert [(row["view"], row["phash"], row["thumbnail"]) for row in found[name]] == direct


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_of_several_frames_the_first_can_be_taken(kind: str, gradient_of: Any, file_of: Any) -> None:
    frame = gradient_of(120, 80)
    raw = file_of(frame, kind, save_all=True, append_images=[frame.rotate(180), frame.rotate(90)])
    assert rejection(raw) == ("animated", kind)
    result = normalise_image(raw, NormaliseConfig(image_size=64, animated="first", **PNG))
    assert result.original_format == kind
    assert difference(decoded(result), shrunk(frame)) <= 4
