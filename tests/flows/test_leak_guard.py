"""The leak guard, by builds of photographs: what leaks is dropped or marked, and training refuses what was not guarded.

A test set is the one that a dataset was guarded against by names and contents of its files, and by its images.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image, ImageOps

from cleaning.leaks import LeaksConfig, drop_or_mark
from data_catalog.base.errors import InputError, SettingsError
from data_catalog.catalog.manifest import require_snapshot
from data_catalog.rows.stages import Drop
from flows.guards import require_guarded
from flows.models import train_model
from flows.recipe.recipe import Recipe, what_settings

Row = tuple[str, str]

CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "re-encoded": lambda image: image,
    "resized": lambda image: image.resize((round(0.7 * image.width), round(0.7 * image.height))),
    "cropped": lambda image: image.crop((0, 0, round(0.97 * image.width), round(0.97 * image.height))),
    "mirrored": ImageOps.mirror,
}
HELD = [("test0.jpg", "Three sailing boats, at sunset!"), ("test1.jpg", "A crowded market in an old square.")]
LEAKING = "Three sailing boats: at - sunset"


def held_out(own: Any, rows: list[Row], **more: str) -> str:
    """TOML of a test set "held" of these file names and captions."""
    return str(own.source("held", "path caption", rows, kind="test_sets", lang="", **({"images": ""} | more)))


def photographs(own: Any, num: int) -> list[Row]:
    for number in range(num):
        own.save(f"own{number}.jpg", number)
    return [(f"own{number}.jpg", own.caption(number)) for number in range(num)]


@pytest.fixture
def planted(own: Any) -> list[Row]:
    """Eight photographs of one's own, and each of four changes of two test images."""
    rows = photographs(own, 8)
    (own.folder / "held").mkdir()
    for number in range(2):
        held = own.photo(100 + number)
        held.save(own.folder / "held" / f"test{number}.jpg", quality=95)
        for place, (name, change) in enumerate(CHANGES.items()):
            own.save(f"{name}{number}.jpg", change(held), quality=70)
            rows.append((f"{name}{number}.jpg", own.caption(10 + 4 * number + place)))
    return rows


def test_changed_copies_of_test_images_are_found_by_their_pixels(own: Any, planted: list[Row]) -> None:
    report = own.build(own.source("own", "path caption", planted) + held_out(own, HELD, images=f"{own.folder}/held"))
    found = own.outcomes()
    assert {found[text] for image, text in planted if image.startswith("own")} <= {"train", "val"}
    assert {found[text] for image, text in planted if not image.startswith("own")} == {"test_pixels"}
    entry = report.snapshot.manifest["test_sets"]["held"]
    assert (entry["num_images"], entry["num_hashed"], entry["num_captions"]) == (2, 2, 2)
    assert entry["guarded_by"] == ["caption", "pixels"]  # "test0.jpg" is nobody's identity
    rows = own.rows("SELECT test_set, reason, outcome, num_images FROM leaks")
    assert rows == [{"test_set": "held", "reason": "test_pixels", "outcome": "rejected", "num_images": 8}]


def test_captions_are_found_whatever_their_punctuation_and_images_by_their_names(own: Any) -> None:
    other_size = "3456789012_ffffffffff.jpg"  # of the same photograph on Flickr
    rows = [("own0.jpg", LEAKING), ("own1.jpg", own.caption(1)), (other_size, own.caption(3))]
    for number, (name, _) in enumerate(rows):
        own.save(name, number)
    held = [*HELD, ("3456789012_0123456789.jpg", "A windmill in a field of tulips")]
    report = own.build(own.source("own", "path caption", rows) + held_out(own, held))
    found = own.outcomes()
    assert (found[LEAKING], found[own.caption(3)]) == ("test_caption", "test_image")
    assert found[own.caption(1)] in ("train", "val")
    assert report.snapshot.manifest["test_sets"]["held"]["guarded_by"] == ["identity", "caption"]
    assert len(own.rows("SELECT sample_id FROM image_outcomes")) == 1, "what leaks is not fetched"


def test_marked_leaks_are_published_apart(own: Any, planted: list[Row]) -> None:
    rows = [*planted[:7], ("own7.jpg", LEAKING), *planted[8:]]
    held = held_out(own, HELD, images=f"{own.folder}/held")
    snapshot = own.build(own.source("own", "path caption", rows) + held, "leaks.action=mark").snapshot
    found = own.outcomes()
    # Copies of one photograph are duplicates of each other as well.
    assert {found[text] for image, text in rows if not image.startswith("own")} == {"marked", "near_duplicate_image"}
    assert found[LEAKING] == "marked"
    marks = own.rows("SELECT split, leaks FROM pairs WHERE leaks IS NOT NULL")
    assert {row["split"] for row in marks} == {"marked"}
    leaks = [row["leaks"] for row in marks]
    assert ["test_caption held"] in leaks
    assert ["test_pixels held: test0.jpg"] in leaks
    assert {file["split"] for file in snapshot.manifest["files"]["pairs"]} <= {"train", "val", "marked"}


def test_a_test_set_that_cannot_be_read_is_an_error_before_work_starts(own: Any) -> None:
    source = own.source("own", "path caption", photographs(own, 1))
    with pytest.raises(InputError, match=r"held.jsonl is empty"):
        own.build(source + held_out(own, []))
    with pytest.raises(SettingsError, match=r"test_sets\.held\.kind is 'nothing'"):
        own.build(source + held_out(own, HELD).replace('"pairs"', '"nothing"'))


def test_images_that_look_alike_are_in_one_split(own: Any) -> None:
    rows = [(f"{number}.jpg", own.caption(number)) for number in range(24)]
    for number, (name, _) in enumerate(rows):
        own.save(name, number // 4, quality=70 + number)
    source = own.source("own", "path caption", rows)

    def splits(*overrides: str) -> list[set[str]]:
        off = ("duplicates.images=false", "duplicates.near_images=false", "split.val=0.3")
        own.build(source, *off, *overrides)
        found = own.outcomes()
        return [{found[own.caption(4 * look + copy)] for copy in range(4)} for look in range(6)]

    guarded = splits()
    assert all(len(seen - {"split_leak"}) == 1 for seen in guarded)
    assert {"val", "split_leak"} in guarded
    assert {"train"} in guarded
    assert {"train", "val"} in splits("duplicates.split_guard=false")


def test_repeated_captions_are_dropped_and_capped(own: Any) -> None:
    dog = "A brown dog runs along the sandy beach at sunset"
    rows = [(name, "A picture of a lovely cat") for name, _ in photographs(own, 6)]
    rows += [("own0.jpg", text) for text in (dog, dog.replace("the", "a"), f"{dog}!")]
    source = own.source("own", "path caption", rows)

    def dropped(*overrides: str) -> dict[str, int]:
        own.build(source, *overrides)
        found = own.rows("SELECT drop_reason, count(*) AS n FROM rejects GROUP BY ALL ORDER BY ALL")
        return {row["drop_reason"]: row["n"] for row in found}

    assert dropped("repeats.max_images_per_caption=4") == {"common_caption": 2, "near_duplicate_caption": 2}
    off = ("repeats.common_captions=false", "repeats.near_captions=false")
    assert dropped(*off) == {"duplicate_caption": 1}
    assert dropped(*off, "duplicates.captions=false") == {}


IMAGE = "COCO_train2014_000000391895.jpg"
Load = Callable[..., Recipe]


@pytest.fixture
def load(own: Any) -> Load:
    """Reads a recipe of two pictures; TOML and overrides may follow."""
    source = 'target_language = "it"\n' + own.source(
        "own", "path caption", [("0.jpg", ITALIAN), ("1.jpg", "Un gatto dorme sul divano rosso")], lang="it"
    )
    for number in range(2):
        own.save(f"{number}.jpg", number)
    (own.folder / "held").mkdir()
    Image.linear_gradient("L").save(own.folder / "held" / IMAGE)
    return lambda more, *overrides: own.recipe(source + more, *overrides)


def guard(own: Any, recipe: Recipe) -> None:
    require_guarded(require_snapshot(own.root, "own"), recipe)


ITALIAN, ENGLISH = "Tre barche a vela al tramonto", "Three sailing boats at sunset"
MARKET = "Un mercato affollato in una piazza antica"


def xtd10(folder: Path, images: Path | str = "", **captions: str) -> str:
    """XTD10's lists of one image below a folder; TOML that names them."""
    folder.mkdir(exist_ok=True)
    (folder / "test_image_names.txt").write_text(f"{IMAGE}\n", "utf-8")
    for language, caption in (captions or {"it": MARKET}).items():
        (folder / f"test_1kcaptions_{language}.txt").write_text(f"{caption}\n", "utf-8")
    place = f'\nimages = "{images}"' if images else ""
    return f'[test_sets.xtd10]\nfiles = ["{folder}/*.txt"]\nnum_images = 1{place}\n'


def test_training_refuses_what_was_not_guarded(own: Any, load: Any, tmp_path: Path) -> None:
    folder = tmp_path / "xtd10"
    held = xtd10(folder, it=ENGLISH, en=ITALIAN)
    own.build_recipe(load(""))
    with pytest.raises(InputError, match="it was built without test set xtd10"):
        train_model(load(held), own.root)
    own.build_recipe(load(held))
    assert own.rows("FROM rejects") == [], "only the Italian list counts"
    xtd10(folder, it=ITALIAN, en=ENGLISH)  # the same files by other names
    with pytest.raises(InputError, match="test set xtd10 has changed since the build"):
        guard(own, load(held))
    assert not own.build_recipe(load(held)).up_to_date
    assert [row["drop_reason"] for row in own.rows("FROM rejects")] == ["test_caption"]
    guard(own, load(held))
    shutil.rmtree(folder)
    guard(own, load(held))  # gone is not another one
    held = xtd10(folder, it=ITALIAN)
    own.build_recipe(load(held, *(f"leaks.by_{way}=false" for way in ("identity", "caption", "pixels"))))
    with pytest.raises(InputError, match="test set xtd10 was not looked for"):
        guard(own, load(held))


def test_images_of_a_test_set_are_those_that_were_looked_at(own: Any, load: Any, tmp_path: Path) -> None:
    folder = tmp_path / "held"
    captions, with_images = xtd10(tmp_path / "xtd10"), xtd10(tmp_path / "xtd10", folder)
    own.build_recipe(load(captions))
    with pytest.raises(InputError, match="the build did not compare images of test set xtd10"):
        guard(own, load(with_images))
    guard(own, load(with_images, "leaks.by_pixels=false"))
    of_none = load(xtd10(tmp_path / "xtd10", own.photos))
    own.build_recipe(of_none)
    with pytest.raises(InputError, match="the build found no readable image of test set xtd10"):
        guard(own, of_none)
    own.build_recipe(load(with_images))
    guard(own, load(with_images))
    Image.radial_gradient("L").save(folder / IMAGE)
    with pytest.raises(InputError, match="images of test set xtd10 have changed since the build"):
        guard(own, load(with_images))
    shutil.rmtree(folder)
    guard(own, load(with_images))  # gone is not another one
    guard(own, load(captions))


def test_an_image_that_came_later_was_not_looked_at(own: Any, load: Any, tmp_path: Path) -> None:
    later = "COCO_train2014_000000000009.jpg"
    (tmp_path / "list.txt").write_text(f"{IMAGE}\n{later}", "utf-8")
    recipe = load(f'[test_sets.mine]\nkind = "list"\nfiles = ["{tmp_path}/list.txt"]\nimages = "{tmp_path}/held"')
    own.build_recipe(recipe)
    guard(own, recipe)
    Image.radial_gradient("L").save(tmp_path / "held" / later)
    with pytest.raises(InputError, match="images of test set mine have changed since the build"):
        guard(own, recipe)


def test_places_packing_counts_and_other_files_make_no_other_test_set(own: Any, load: Any, tmp_path: Path) -> None:
    held, lists = tmp_path / "held", tmp_path / "xtd10"
    recipe = load(xtd10(lists, held))
    own.build_recipe(recipe)
    (held / ".DS_Store").write_bytes(b"\0")
    Image.radial_gradient("L").save(held / "COCO_train2014_000000000009.jpg")  # in no list
    archives = [shutil.make_archive(str(tmp_path / f"a-{form}"), form, held) for form in ("zip", "tar")]
    others = [recipe, *(load(xtd10(lists, archive)) for archive in archives)]
    (tmp_path / "held2").mkdir()
    others.append(load(xtd10(lists, tmp_path / "held*")))
    others.append(load(xtd10(lists, held) + 'captions_by = "machine"', "test_sets.xtd10.num_images=0"))
    assert what_settings(others[-1]) == what_settings(recipe)
    (tmp_path / "aside").mkdir()
    moved = xtd10(tmp_path / "moved", held).replace("*.txt", f'*.txt", "{tmp_path}/aside/*.txt')
    (tmp_path / "moved" / "test_image_names.txt").rename(tmp_path / "aside" / "test_image_names.txt")
    others.append(load(moved))
    for other in others:
        guard(own, other)
        assert own.build_recipe(other).up_to_date


def test_a_row_that_is_marked_twice_keeps_both_marks() -> None:
    table = pa.table({"leaks": pa.array([["test_image coco: 1"]], pa.list_(pa.string()))})
    table = drop_or_mark(table, [0], [Drop("test_caption", "coco")], LeaksConfig(action="mark"), step="screen")
    assert table.column("leaks").to_pylist() == [["test_image coco: 1", "test_caption coco"]]
