"""Files in a folder of images that cannot be read: nobody's end no build, and a row's costs that row."""

import csv
import os
from pathlib import Path

import pytest
from PIL import Image

from data_catalog.database.catalog import query
from flows.build.execution import LocalExecutor
from flows.jobs import build_dataset
from flows.recipe.recipe import load_recipe

RECIPE = """
name = "folder"
target_language = "en"
source_language = "en"

[sources.own]
kind = "pairs"
files = ["{recipe}/own.csv"]
caption_column = "caption"
path_column = "image"
images = "{recipe}/images"
lang = "en"

[check]
proper_noun_check = false
"""
CAPTIONS = (
    "A brown dog is running along the sandy beach",
    "Two children play with a red ball in the park",
    "An old man reads his newspaper under a tree",
    "A white boat lies in the quiet harbour at night",
    "Three cats are sleeping on the warm kitchen floor",
    "A woman with a blue hat rides her bicycle to work",
)


def spoil(folder: Path) -> list[str]:
    """Put in what is no picture that anybody could read; the names that a table can have."""
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "itself.jpg").symlink_to(folder / "itself.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    return ["dangling.jpg", "itself.jpg", "pipe.jpg", "folder.jpg"]


def spoil_for_nobody(folder: Path) -> None:
    """Put in what fails only when it is read, and a name that is not UTF-8."""
    Path(os.fsdecode(os.fsencode(folder) + b"/caff\xe8.jpg")).write_bytes(b"latin-1")
    (folder / "locked.jpg").write_bytes(b"locked")
    (folder / "locked.jpg").chmod(0)
    (folder / "unreadable.jpg").symlink_to("/proc/self/mem")  # a file that root cannot read either
    (folder / "loop").symlink_to(folder)


def build(tmp_path: Path, names: list[str]) -> dict[str, tuple[str, str | None]]:
    """Outcome and reason of the row of each name."""
    with (tmp_path / "own.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *zip(names, CAPTIONS, strict=False)])
    (tmp_path / "folder.toml").write_text(RECIPE, encoding="utf-8")
    root = tmp_path / "root"
    with LocalExecutor() as executor:
        build_dataset(load_recipe(str(tmp_path / "folder.toml"), root=root), root=root, executor=executor)
    rows = query(root, "SELECT path, outcome, drop_reason FROM captions").to_pylist()
    return {row["path"]: (row["outcome"], row["drop_reason"]) for row in rows}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate(("good.jpg", "fine.jpg")):
        Image.effect_noise((64, 64), 40 + 60 * number).convert("RGB").save(folder / name)
    return folder


def test_files_that_no_row_wants_and_nobody_can_read_end_no_build(tmp_path: Path, images: Path) -> None:
    spoil(images)
    spoil_for_nobody(images)
    kept = {"good.jpg": ("kept", None), "fine.jpg": ("kept", None)}
    assert build(tmp_path, ["good.jpg", "fine.jpg"]) == kept


def test_a_file_that_a_row_wants_and_nobody_can_read_costs_that_row(tmp_path: Path, images: Path) -> None:
    spoiled = spoil(images)
    found = build(tmp_path, ["good.jpg", *spoiled, "fine.jpg"])
    assert found.pop("good.jpg") == found.pop("fine.jpg") == ("kept", None)
    assert found == dict.fromkeys(spoiled, ("rejected", "missing_file"))
