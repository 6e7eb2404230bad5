"""What makes a test set the one that a dataset was guarded against: names and contents of its files, and its images."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data_catalog.database.catalog import query
from data_catalog.errors import InputError
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.manifest import require_snapshot
from flows.build.execution import LocalExecutor
from flows.jobs import BuildReport, build_dataset, require_guarded
from flows.recipe.recipe import Recipe, load_recipe, what_settings

ITALIAN, ENGLISH = "Tre barche a vela al tramonto", "Three sailing boats at sunset"
Load = Callable[..., Recipe]
Build = Callable[[Recipe], BuildReport]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Reads a recipe of one local image of each caption; TOML and overrides may follow."""
    (tmp_path / "photos").mkdir()
    for place, colour in enumerate(("navy", "crimson")):
        picture = Image.new("RGB", (200, 200), colour)
        picture.paste("white", (20 + 60 * place, 30, 90 + 60 * place, 160))
        picture.save(tmp_path / "photos" / f"{place}.png")
    rows = f"image\tcaption\n0.png\t{ITALIAN}\n1.png\tUn gatto dorme sul divano rosso\n"
    (tmp_path / "pairs.tsv").write_text(rows, "utf-8")

    def run(more: str, *overrides: str) -> Recipe:
        path = tmp_path / "files.toml"
        path.write_text(
            f"""
            target_language = "it"
            [sources.own]
            kind = "pairs"
            files = ["{tmp_path}/pairs.tsv"]
            images = "{tmp_path}/photos"
            path_column = "image"
            caption_column = "caption"
            lang = "it"
            {more}
            """,
            "utf-8",
        )
        return load_recipe(str(path), root=tmp_path / "catalog", overrides=overrides)

    return run


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Builds a recipe's dataset."""

    def run(recipe: Recipe) -> BuildReport:
        with LocalExecutor() as executor:
            return build_dataset(recipe, root=tmp_path / "catalog", executor=executor)

    return run


def dropped(tmp_path: Path) -> list[str]:
    rows = query(tmp_path / "catalog", "SELECT drop_reason FROM rejects ORDER BY ALL").to_pylist()
    return [row["drop_reason"] for row in rows]


def guard(tmp_path: Path, recipe: Recipe) -> None:
    require_guarded(require_snapshot(tmp_path / "catalog", recipe.name), recipe)


def write_xtd10(folder: Path, **captions: str) -> str:
    """XTD10's lists of one image below a folder; TOML that names them."""
    folder.mkdir(exist_ok=True)
    (folder / "test_image_names.txt").write_text("COCO_train2014_000000391895.jpg\n", "utf-8")
    for language, caption in captions.items():
        (folder / f"test_1kcaptions_{language}.txt").write_text(f"{caption}\n", "utf-8")
    return f'[test_sets.xtd10]\nfiles = ["{folder}/*.txt"]\nnum_images = 1'


def test_files_that_change_their_names_are_another_test_set(tmp_path: Path, load: Load, build: Build) -> None:
    build(load(write_xtd10(tmp_path / "xtd10", it=ENGLISH, en=ITALIAN)))
    assert dropped(tmp_path) == []  # only the Italian list counts
    swapped = load(write_xtd10(tmp_path / "xtd10", it=ITALIAN, en=ENGLISH))
    with pytest.raises(InputError, match="test set xtd10 has changed since the build"):
        guard(tmp_path, swapped)
    assert not build(swapped).up_to_date
    assert dropped(tmp_path) == ["test_caption"]
    guard(tmp_path, swapped)


@pytest.mark.slow
def test_where_its_files_lie_makes_no_other_test_set(tmp_path: Path, load: Load, build: Build) -> None:
    build(load(write_xtd10(tmp_path / "xtd10", it=ITALIAN, en=ENGLISH)))
    write_xtd10(tmp_path / "moved", it=ITALIAN, en=ENGLISH)
    (tmp_path / "aside").mkdir()
    (tmp_path / "moved" / "test_image_names.txt").rename(tmp_path / "aside" / "test_image_names.txt")
    lists = [f"{tmp_path}/moved/*.txt", f"{tmp_path}/aside/*.txt"]  # in another order, too
    moved = load(f"[test_sets.xtd10]\nfiles = {lists}\nnum_images = 1")
    assert build(moved).up_to_date
    guard(tmp_path, moved)


@pytest.mark.slow
def test_neither_a_count_nor_who_made_captions_makes_another_test_set(tmp_path: Path, load: Load, build: Build) -> None:
    held = write_xtd10(tmp_path / "xtd10", it=ITALIAN)
    build(load(held))
    unbounded = load(f'{held}\ncaptions_by = "machine"', "test_sets.xtd10.num_images=0")
    assert what_settings(unbounded) == what_settings(load(held))
    guard(tmp_path, unbounded)
    assert build(unbounded).up_to_date


def test_images_of_a_test_set_are_those_that_were_looked_at(tmp_path: Path, load: Load, build: Build) -> None:
    folder = tmp_path / "held"
    captions = write_xtd10(tmp_path / "xtd10", it="Un mercato affollato in una piazza antica")
    with_images = f'{captions}\nimages = "{folder}"'
    folder.mkdir()
    image = folder / "COCO_train2014_000000391895.jpg"
    Image.linear_gradient("L").save(image)
    build(load(captions))
    with pytest.raises(InputError, match="the build did not compare images of test set xtd10"):
        guard(tmp_path, load(with_images))
    guard(tmp_path, load(with_images, "leaks.by_pixels=false"))
    build(load(with_images))
    guard(tmp_path, load(with_images))
    Image.radial_gradient("L").save(image)
    with pytest.raises(InputError, match="images of test set xtd10 have changed since the build"):
        guard(tmp_path, load(with_images))
    image.unlink()
    folder.rmdir()
    guard(tmp_path, load(with_images))  # gone is not another one
    guard(tmp_path, load(captions))


HELD_IMAGE = "COCO_train2014_000000391895.jpg"


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A folder with the image of XTD10's lists."""
    folder = tmp_path / "held"
    folder.mkdir()
    Image.linear_gradient("L").save(folder / HELD_IMAGE)
    return folder


def with_images(tmp_path: Path, place: Path) -> str:
    captions = write_xtd10(tmp_path / "xtd10", it="Un mercato affollato in una piazza antica")
    return f'{captions}\nimages = "{place}"'


def test_what_else_lies_beside_its_images_makes_no_others(tmp_path: Path, load: Load, build: Build, held: Path) -> None:
    recipe = load(with_images(tmp_path, held))
    build(recipe)
    (held / "notes.txt").write_text("mine", "utf-8")
    (held / ".DS_Store").write_bytes(b"\0")
    Image.radial_gradient("L").save(held / "COCO_train2014_000000000009.jpg")
    guard(tmp_path, recipe)
    assert build(recipe).up_to_date


@pytest.mark.parametrize("form", ["zip", pytest.param("tar", marks=pytest.mark.slow)])
def test_how_its_images_are_packed_makes_no_others(
    tmp_path: Path, load: Load, build: Build, held: Path, form: str
) -> None:
    build(load(with_images(tmp_path, held)))
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), form, tmp_path, "held"))
    recipe = load(with_images(tmp_path, packed))
    guard(tmp_path, recipe)
    assert build(recipe).up_to_date


def test_images_in_several_places_are_those_of_one(tmp_path: Path, load: Load, build: Build, held: Path) -> None:
    build(load(with_images(tmp_path, held)))
    (tmp_path / "held2").mkdir()
    guard(tmp_path, load(with_images(tmp_path, tmp_path / "held*")))


def test_images_of_which_none_was_found_guard_nothing(tmp_path: Path, load: Load, build: Build, held: Path) -> None:
    wrong = load(with_images(tmp_path, tmp_path / "photos"))
    build(wrong)
    with pytest.raises(InputError, match="the build found no readable image of test set xtd10"):
        guard(tmp_path, wrong)
    guard(tmp_path, load(with_images(tmp_path, tmp_path / "photos"), "leaks.by_pixels=false"))
    build(load(with_images(tmp_path, held)))
    guard(tmp_path, load(with_images(tmp_path, held)))


def test_an_image_that_came_later_was_not_looked_at(tmp_path: Path, load: Load, build: Build, held: Path) -> None:
    names = [HELD_IMAGE, "COCO_train2014_000000000009.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(names), "utf-8")
    listed = f'[test_sets.mine]\nkind = "list"\nfiles = ["{tmp_path}/list.txt"]\nimages = "{held}"'
    build(load(listed))
    guard(tmp_path, load(listed))
    Image.radial_gradient("L").save(held / names[1])
    with pytest.raises(InputError, match="images of test set mine have changed since the build"):
        guard(tmp_path, load(listed))


def test_what_training_hashes_is_remembered(tmp_path: Path, load: Load, build: Build, held: Path) -> None:
    build(load(with_images(tmp_path, held)))
    moved = held.rename(tmp_path / "moved")
    root, recipe = tmp_path / "catalog", load(with_images(tmp_path, moved))
    with writer_lock(root):  # of a build that goes on meanwhile, which is no reason to refuse
        guard(tmp_path, recipe)
    hashes = root / "file-hashes.json"
    assert str(moved / HELD_IMAGE) not in hashes.read_text("utf-8")
    guard(tmp_path, recipe)
    assert str(moved / HELD_IMAGE) in hashes.read_text("utf-8")
