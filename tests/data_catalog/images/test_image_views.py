"""Thumbnails of normalised images, and views of test images in folders and archives, through the decoding child."""

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.errors import InputError
from data_catalog.images.decoding import ImageRejectedError
from data_catalog.images.normalise import NormaliseConfig, normalise_image
from data_catalog.images.views import VIEWS, image_views, write_views
from data_catalog.images.workers import ImageWorkers

FileOf = Callable[..., bytes]
Gradient = Callable[[int, int], Image.Image]


def quarters(width: int = 160, height: int = 120) -> Image.Image:
    """Red, green, blue and white quarters."""
    image = Image.new("RGB", (width, height), "white")
    for place, colour in {(0, 0): "red", (width // 2, 0): "lime", (0, height // 2): "blue"}.items():
        image.paste(colour, (*place, place[0] + width // 2, place[1] + height // 2))
    return image


def pixels(thumbnail: bytes) -> Any:
    return np.frombuffer(thumbnail, np.uint8).reshape(8, 8, 3)


def test_thumbnails_are_of_the_whole_picture_and_average(file_of: FileOf) -> None:
    raw = file_of(quarters(160, 80), "PNG")
    for mode in ("keep_ratio", "center_crop", "border", "no"):
        found = pixels(normalise_image(raw, NormaliseConfig(image_size=64, resize_mode=mode)).thumbnail)
        colours = np.repeat(np.repeat([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], 4, 0), 4, 1)
        assert (found == colours).all()
    chequered = Image.fromarray((np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)).convert("RGB")
    found = pixels(normalise_image(file_of(chequered, "PNG"), NormaliseConfig(image_size=64)).thumbnail)
    assert (np.abs(found.astype(int) - 127.5) < 1).all()
    small = normalise_image(file_of(quarters(2, 2), "PNG"), NormaliseConfig(min_image_size=1))
    assert pixels(small.thumbnail)[0, 0].tolist() == [255, 0, 0]


def test_views_see_the_picture_whole_cropped_and_mirrored(file_of: FileOf) -> None:
    raw = file_of(quarters(), "PNG")
    views = {view.view: view for view in image_views(raw)}
    cuts = ["whole", "middle", "top left", "top right", "bottom left", "bottom right"]
    assert list(views) == [*cuts, *(f"mirrored {cut}" for cut in cuts)]
    whole = normalise_image(raw, NormaliseConfig())
    assert (views["whole"].phash, views["whole"].thumbnail) == (whole.phash, whole.thumbnail)
    assert (pixels(views["mirrored whole"].thumbnail) == pixels(whole.thumbnail)[:, ::-1]).all()
    assert (pixels(views["mirrored middle"].thumbnail) == pixels(views["middle"].thumbnail)[:, ::-1]).all()


def test_a_view_is_the_hash_of_a_picture_cropped_alike(gradient_of: Gradient, file_of: FileOf) -> None:
    picture = gradient_of(100, 100).rotate(30)
    found = {view.view: view for view in image_views(file_of(picture, "PNG"))}
    boxes = {"middle": (3, 3, 97, 97), "top left": (0, 0, 97, 97), "top right": (3, 0, 100, 97)}
    boxes |= {"bottom left": (0, 3, 97, 100), "bottom right": (3, 3, 100, 100)}
    for prefix, changed in (("", picture), ("mirrored ", picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))):
        for view, box in boxes.items():
            cropped = normalise_image(file_of(changed.crop(box), "PNG"), NormaliseConfig())
            seen = found[prefix + view]
            assert (seen.phash, seen.thumbnail) == (cropped.phash, cropped.thumbnail)


def test_what_is_no_picture_has_no_views(file_of: FileOf) -> None:
    for raw, reason in [(b"", "not_an_image"), (file_of(Image.new("RGB", (1, 1)), "PNG"), "one_colour")]:
        with pytest.raises(ImageRejectedError) as rejected:
            image_views(raw)
        assert rejected.value.reason == reason


def test_extreme_sizes_have_views(gradient_of: Gradient, file_of: FileOf) -> None:
    for size in ((2, 1), (1, 40), (30, 2000), (2000, 30)):
        assert [len(view.thumbnail) for view in image_views(file_of(gradient_of(*size), "PNG"))] == [192] * 12


def rows_by_name(path: Path) -> dict[str, list[dict[str, Any]]]:
    table = pq.read_table(path)
    assert table.schema == VIEWS
    found: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        found.setdefault(row["name"], []).append(row)
    return found


def test_folders_and_archives_give_the_same_views_in_the_order_of_the_names(
    workers: ImageWorkers, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    files = {"b/ä.jpg": pictures["plain.jpg"], "a.png": pictures["palette.png"], "cut.jpg": pictures["cut.jpg"]}
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name, body in files.items():
            archive.writestr(name, body)
            (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "images" / name).write_bytes(body)
    names = ["cut.jpg", "b/ä.jpg", "gone.jpg", "a.png", "../a.png"]
    for location in ("images", "images.zip"):
        write_views(str(tmp_path / location), names, tmp_path / f"{location}.parquet", workers)
    folder, archive_bytes = ((tmp_path / f"{name}.parquet").read_bytes() for name in ("images", "images.zip"))
    assert folder == archive_bytes
    found = rows_by_name(tmp_path / "images.parquet")
    assert list(found) == names
    assert {name: found[name][0]["drop_reason"] for name in names if len(found[name]) == 1} == {
        "cut.jpg": "truncated", "gone.jpg": "missing_file", "../a.png": "missing_file",
    }  # fmt: skip
    assert found["gone.jpg"][0] == {**dict.fromkeys(VIEWS.names), "name": "gone.jpg", "drop_reason": "missing_file"}
    assert found["cut.jpg"][0]["sha256"] == hashlib.sha256(files["cut.jpg"]).hexdigest()
    for name in ("b/ä.jpg", "a.png"):
        direct = [(view.view, view.phash, view.thumbnail) for view in image_views(files[name])]
        assert [(row["view"], row["phash"], row["thumbnail"]) for row in found[name]] == direct
        assert {row["sha256"] for row in found[name]} == {hashlib.sha256(files[name]).hexdigest()}
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"images", "images.parquet", "images.zip", "images.zip.parquet"}


def test_more_names_than_are_read_at_once(workers: ImageWorkers, file_of: FileOf, tmp_path: Path) -> None:
    for at in range(3):
        (tmp_path / f"{at}.png").write_bytes(file_of(quarters(40 + at, 30), "PNG"))
    names = [f"{at % 3}.png" if at % 10 == 0 else f"none {at}" for at in range(1100)]
    write_views(str(tmp_path), iter(names), tmp_path / "views.parquet", workers)
    table = pq.read_table(tmp_path / "views.parquet", columns=["name"])
    assert list(dict.fromkeys(table.column("name").to_pylist())) == list(dict.fromkeys(names))
    assert table.num_rows == 110 * 12 + 990


def test_a_location_that_is_not_there_is_an_error(workers: ImageWorkers, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_views(str(tmp_path / "none"), ["a.jpg"], tmp_path / "views.parquet", workers)


def test_what_is_transparent_is_white(gradient_of: Gradient, file_of: FileOf) -> None:
    clear = gradient_of(80, 60).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((80, 60)))
    white = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    one, other = (image_views(file_of(image, "PNG")) for image in (clear, white))
    assert [view.phash for view in one] == [view.phash for view in other]
