"""Thumbnails of normalised images, and views of test images in folders and archives, through the decoding child."""

import hashlib
import zipfile
from itertools import groupby
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

QUARTERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)


def quarters(width: int, height: int) -> Image.Image:
    """Red, green, blue and white quarters."""
    return Image.fromarray(QUARTERS.repeat(height // 2, 0).repeat(width // 2, 1))


def pixels(thumbnail: bytes) -> Any:
    return np.frombuffer(thumbnail, np.uint8).reshape(8, 8, 3)


def test_thumbnails_are_of_the_whole_picture_and_average(file_of: Any) -> None:
    for mode in ("keep_ratio", "center_crop", "border", "no"):
        config = NormaliseConfig(image_size=64, resize_mode=mode)
        found = pixels(normalise_image(file_of(quarters(160, 80), "PNG"), config).thumbnail)
        assert (found == QUARTERS.repeat(4, 0).repeat(4, 1)).all()
    chequered = Image.fromarray((np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)).convert("RGB")
    found = pixels(normalise_image(file_of(chequered, "PNG"), NormaliseConfig(image_size=64)).thumbnail)
    assert (np.abs(found.astype(int) - 127.5) < 1).all()
    small = normalise_image(file_of(quarters(2, 2), "PNG"), NormaliseConfig(min_image_size=1))
    assert pixels(small.thumbnail)[0, 0].tolist() == [255, 0, 0]


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


def test_what_is_no_picture_has_no_views_and_any_size_has(gradient_of: Any, file_of: Any) -> None:
    for raw, reason in [(b"", "not_an_image"), (file_of(Image.new("RGB", (1, 1)), "PNG"), "one_colour")]:
        with pytest.raises(ImageRejectedError) as rejected:
            image_views(raw)
        assert rejected.value.reason == reason
    for size in ((2, 1), (1, 40), (30, 2000), (2000, 30)):
        assert [len(view.thumbnail) for view in image_views(file_of(gradient_of(*size), "PNG"))] == [192] * 12


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


def test_more_names_than_are_read_at_once(workers: Any, file_of: Any, tmp_path: Path) -> None:
    for at in range(3):
        (tmp_path / f"{at}.png").write_bytes(file_of(quarters(40 + 2 * at, 30), "PNG"))
    names = [f"{at % 3}.png" if at % 10 == 0 else f"none {at}" for at in range(1100)]
    write_views(str(tmp_path), iter(names), tmp_path / "views.parquet", workers)
    table = pq.read_table(tmp_path / "views.parquet", columns=["name"])
    assert list(dict.fromkeys(table.column("name").to_pylist())) == list(dict.fromkeys(names))
    assert table.num_rows == 110 * 12 + 990
    with pytest.raises(InputError, match="does not exist"):
        write_views(str(tmp_path / "none"), ["a.jpg"], tmp_path / "views.parquet", workers)


def test_what_is_transparent_is_white(gradient_of: Any, file_of: Any) -> None:
    clear = gradient_of(80, 60).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((80, 60)))
    white = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    one, other = (image_views(file_of(image, "PNG")) for image in (clear, white))
    assert [view.phash for view in one] == [view.phash for view in other]
