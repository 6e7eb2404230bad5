"""Of several upstream rows of one image the strictest license decides, and its row tells whom to credit, and where."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_catalog.database.catalog import query
from flows.build.execution import LocalExecutor
from flows.jobs import build_dataset
from flows.recipe.recipe import load_recipe

RECIPE = """
name = "rights"
target_language = "en"
source_language = "en"

[sources.own]
kind = "pairs"
files = ["{recipe}/own.csv"]
caption_column = "caption"
path_column = "image"
images = "{recipe}/images"
license_column = "license"
attribution_column = "attribution"
page_column = "page"
lang = "en"

[sources.elsewhere]
kind = "pairs"
files = ["{recipe}/elsewhere.csv"]
caption_column = "caption"
path_column = "image"
images = "{recipe}/images"
license_column = "license"
attribution_column = "attribution"
page_column = "page"
lang = "en"

[duplicates]
sources = ["own", "elsewhere"]
merge_captions = true

[check]
proper_noun_check = false
"""
CAPTIONS = (
    "A brown dog is running along the sandy beach",
    "Two children play with a red ball in the park",
    "An old man reads his newspaper under a tree",
)
TOO_SHORT = "A dog"  # a row that is dropped for its caption is still a row of the image
ARR, BY, BY_SA, NC = "All rights reserved", "CC BY 4.0", "CC BY-SA 4.0", "CC BY-NC 4.0"
# What each row of an image says (license, attribution, page), and which of them is published.
IMAGES: dict[str, tuple[list[tuple[str, str, str]], int | None]] = {
    "forbidden": ([("CC0", "Anna", ""), (BY, "Bea", ""), (ARR, "", "")], 2),
    "noncommercial": ([(BY, "Anna", "https://a.example/"), (NC, "", "https://b.example/")], 1),
    "unknown": ([("CC0", "", ""), ("mine, ask me", "Bea", "")], 1),
    "silent": ([("CC0", "Anna", ""), ("", "", "https://b.example/")], 1),
    "silence-does-not-lift-a-ban": ([("", "Anna", ""), (NC, "", "https://b.example/")], 1),
    "sharealike": ([(BY, "Anna", ""), (BY_SA, "Bea", "")], 1),
    "credited": ([(BY, "", ""), (BY, "Bea", "https://b.example/")], 1),
    "dropped-caption": ([("CC0", "Anna", ""), (ARR, "Bea", TOO_SHORT)], 1),
}


def write_rows(path: Path, rows: list[tuple[str, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("image", "caption", "license", "attribution", "page"), *rows])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, dict[str, Any]]:
    """License, attribution and page of each published image, by its name."""
    folder = tmp_path_factory.mktemp("rights")
    (folder / "images").mkdir()
    rows = []
    for number, (name, (stated, _)) in enumerate(IMAGES.items()):
        image = Image.effect_noise((64, 64), 20 + 10 * number).convert("RGB")
        image.save(folder / "images" / f"{name}.png")
        for caption, (license, attribution, page) in zip(CAPTIONS, stated, strict=False):
            caption, page = (TOO_SHORT, "") if page == TOO_SHORT else (f"{caption} number {number}", page)
            rows.append((f"{name}.png", caption, license, attribution, page))
    same = Image.effect_noise((64, 64), 150).convert("RGB")
    for name in ("here", "there", "also-here", "also-there"):
        same.rotate(0 if "also" in name else 90).save(folder / "images" / f"{name}.png")
    rows += [
        ("here.png", f"{CAPTIONS[0]} here", BY, "Anna", ""),
        ("also-here.png", f"{CAPTIONS[1]} too", BY, "Bea", ""),
    ]
    write_rows(folder / "own.csv", rows)
    others = [("there.png", f"{CAPTIONS[2]} there", ARR, "Cleo", ""), ("also-there.png", CAPTIONS[2], "", "", "")]
    write_rows(folder / "elsewhere.csv", others)
    recipe = folder / "rights.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    with LocalExecutor() as executor:
        build_dataset(load_recipe(str(recipe), root=folder / "root"), root=folder / "root", executor=executor)
    found = query(folder / "root", "SELECT sample_id, license, attribution, page_url FROM pairs").to_pylist()
    return {row.pop("sample_id").removeprefix("own:").removesuffix(".png"): row for row in found}


@pytest.mark.parametrize("name", IMAGES)
def test_the_strictest_row_of_an_image_tells_its_rights(published: Mapping[str, dict[str, Any]], name: str) -> None:
    stated, chosen = IMAGES[name]
    license, attribution, page = stated[chosen or 0]
    expected = {"license": license, "attribution": attribution, "page_url": "" if page == TOO_SHORT else page}
    assert published[name] == {field: value or None for field, value in expected.items()}


def test_a_stricter_license_of_a_duplicate_that_is_merged_decides(published: Mapping[str, dict[str, Any]]) -> None:
    assert published["here"] == {"license": ARR, "attribution": "Cleo", "page_url": None}


def test_a_duplicate_that_states_no_license_takes_none_away(published: Mapping[str, dict[str, Any]]) -> None:
    assert published["also-here"] == {"license": BY, "attribution": "Bea", "page_url": None}
