"""Nothing of a test set is translated, fetched or trained on; images that look alike are kept once, in one split."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from data_catalog.database.catalog import query
from data_catalog.errors import InputError, SettingsError
from data_catalog.storage.manifest import current_snapshot
from flows.build.execution import LocalExecutor
from flows.jobs import BuildReport, build_dataset, require_guarded, train_model
from flows.recipe.recipe import load_recipe

Row = tuple[str, str]
Build = Callable[..., BuildReport]

NOUNS = (
    "gatto",
    "cane",
    "treno",
    "aquilone",
    "fiore",
    "ponte",
    "cavallo",
    "aereo",
    "violino",
    "camion",
    "panino",
    "orso",
)
PLACES = ("sul divano", "nel bosco", "vicino al lago", "in cima al monte", "dentro la stazione", "sotto un ombrello")


def caption(number: int) -> str:
    """Captions of which no two are near each other."""
    noun, place = NOUNS[number % len(NOUNS)], PLACES[number // len(NOUNS) % len(PLACES)]
    return f"Un {noun} di colore diverso si trova {place}"


def photo(seed: int) -> Image.Image:
    """Smooth noise of all scales, as photographs have it."""
    numbers = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(numbers.integers(0, 255, (2**n, 2**n, 3), np.uint8)).resize(
                (256, 192), Image.Resampling.BICUBIC
            ),
            float,
        )
        / n
        for n in range(1, 7)
    ]
    total = sum(layers)
    return Image.fromarray((255 * (total - total.min()) / np.ptp(total)).astype(np.uint8))


def save(image: Image.Image, path: Path, quality: int = 90) -> None:
    path.parent.mkdir(exist_ok=True)
    image.save(path, quality=quality)


def cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((0, 0, round(0.97 * width), round(0.97 * height)))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "re-encoded": lambda image: image,
    "resized": lambda image: image.resize((round(0.7 * image.width), round(0.7 * image.height))),
    "cropped": cropped,
    "mirrored": ImageOps.mirror,
}


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Builds a dataset of local images: `rows` are file names and captions; more TOML and overrides may follow."""

    def run(rows: list[Row], *overrides: str, more: str = "", name: str = "guarded") -> BuildReport:
        (tmp_path / "pairs.tsv").write_text(
            "image\tcaption\n" + "".join(f"{image}\t{text}\n" for image, text in rows), encoding="utf-8"
        )
        recipe = tmp_path / f"{name}.toml"
        recipe.write_text(
            f"""
            target_language = "it"
            [sources.own]
            kind = "pairs"
            files = ["{tmp_path}/pairs.tsv"]
            images = "{tmp_path}/photos"
            path_column = "image"
            caption_column = "caption"
            lang = "it"
            [build]
            shard_size = 4
            {more}
            """,
            encoding="utf-8",
        )
        root = tmp_path / "catalog"
        with LocalExecutor() as executor:
            return build_dataset(load_recipe(str(recipe), root=root, overrides=overrides), root=root, executor=executor)

    return run


def held_out(tmp_path: Path, rows: list[Row], *, images: bool) -> str:
    """TOML of a test set "held" of the given file names and captions."""
    (tmp_path / "held.tsv").write_text(
        "image\tcaption\n" + "".join(f"{image}\t{text}\n" for image, text in rows), encoding="utf-8"
    )
    place = f'images = "{tmp_path}/held"' if images else ""
    return f"""
        [test_sets.held]
        kind = "pairs"
        files = ["{tmp_path}/held.tsv"]
        path_column = "image"
        caption_column = "caption"
        {place}
        """


def outcomes(tmp_path: Path) -> dict[str, str]:
    """By caption, why it was dropped, or the split of its pair."""
    rows = query(
        tmp_path / "catalog",
        """
        SELECT source_caption, coalesce(c.drop_reason, p.split) AS outcome FROM captions c
        LEFT JOIN (SELECT split, unnest(caption_ids) AS caption_id FROM pairs) p USING (caption_id)
        """,
    ).to_pylist()
    return {row["source_caption"]: row["outcome"] for row in rows}


@pytest.fixture
def planted(tmp_path: Path) -> list[Row]:
    """Eight photographs of one's own, and each of four changes of two test images."""
    rows = []
    for number in range(8):
        save(photo(number), tmp_path / "photos" / f"own{number}.jpg")
        rows.append((f"own{number}.jpg", caption(number)))
    for number in range(2):
        held = photo(100 + number)
        save(held, tmp_path / "held" / f"test{number}.jpg", quality=95)
        for place, (name, change) in enumerate(CHANGES.items()):
            save(change(held), tmp_path / "photos" / f"{name}{number}.jpg", quality=70)
            rows.append((f"{name}{number}.jpg", caption(10 + 4 * number + place)))
    return rows


HELD = [("test0.jpg", "Tre barche a vela, al tramonto!"), ("test1.jpg", "Un mercato affollato in una piazza antica.")]


def test_changed_copies_of_test_images_are_found_by_their_pixels(
    tmp_path: Path, build: Build, planted: list[Row]
) -> None:
    report = build(planted, more=held_out(tmp_path, HELD, images=True))
    found = outcomes(tmp_path)
    assert {found[text] for image, text in planted if image.startswith("own")} <= {"train", "val"}
    assert {found[text] for image, text in planted if not image.startswith("own")} == {"test_pixels"}
    entry = report.snapshot.manifest["test_sets"]["held"]
    assert (entry["num_images"], entry["num_hashed"], entry["num_captions"]) == (2, 2, 2)
    assert entry["guarded_by"] == ["caption", "pixels"]  # "test0.jpg" is nobody's identity
    rows = query(tmp_path / "catalog", "SELECT test_set, reason, outcome, num_images FROM leaks").to_pylist()
    assert rows == [{"test_set": "held", "reason": "test_pixels", "outcome": "rejected", "num_images": 8}]


def test_captions_are_found_whatever_their_punctuation_and_images_by_their_names(tmp_path: Path, build: Build) -> None:
    rows = [("own0.jpg", "tre barche a vela al tramonto"), ("own1.jpg", caption(1)), ("test1.jpg", caption(2))]
    for image, _ in rows:
        save(photo(len(image) + ord(image[3])), tmp_path / "photos" / image)
    held = [*HELD, ("3456789012_0123456789.jpg", "Un mulino a vento in un campo di tulipani")]
    rows.append(("3456789012_ffffffffff.jpg", caption(3)))  # another size of the same photograph on Flickr
    save(photo(9), tmp_path / "photos" / "3456789012_ffffffffff.jpg")
    report = build(rows, more=held_out(tmp_path, held, images=False))
    found = outcomes(tmp_path)
    assert found["tre barche a vela al tramonto"] == "test_caption"
    assert found[caption(3)] == "test_image"
    assert found[caption(1)] in ("train", "val")
    assert report.snapshot.manifest["test_sets"]["held"]["guarded_by"] == ["identity", "caption"]
    asked = query(tmp_path / "catalog", "SELECT sample_id FROM image_outcomes").to_pylist()
    assert len(asked) == 2  # what leaks is not fetched


def test_marked_leaks_are_published_apart(tmp_path: Path, build: Build, planted: list[Row]) -> None:
    rows = [*planted[:7], ("own7.jpg", "Tre barche: a vela - al tramonto"), *planted[8:]]
    build(rows, "leaks.action=mark", more=held_out(tmp_path, HELD, images=True))
    found = outcomes(tmp_path)
    leaking = [text for image, text in rows if not image.startswith("own")]
    # Copies of one photograph are duplicates of each other as well.
    assert {found[text] for text in leaking} == {"marked", "near_duplicate_image"}
    assert found["Tre barche: a vela - al tramonto"] == "marked"
    marks = query(tmp_path / "catalog", "SELECT split, leaks FROM pairs WHERE leaks IS NOT NULL").to_pylist()
    assert {row["split"] for row in marks} == {"marked"}
    assert ["test_caption held"] in [row["leaks"] for row in marks]
    assert ["test_pixels held: test0.jpg"] in [row["leaks"] for row in marks]
    snapshot = current_snapshot(tmp_path / "catalog", "guarded")
    assert snapshot is not None
    assert {file["split"] for file in snapshot.manifest["files"]["pairs"]} <= {"train", "val", "marked"}


def test_training_refuses_what_was_not_guarded(tmp_path: Path, build: Build, planted: list[Row]) -> None:
    own = planted[:8]
    build(own, "split.val=0.3")
    held = held_out(tmp_path, HELD, images=True)
    recipe = tmp_path / "guarded.toml"
    recipe.write_text(recipe.read_text("utf-8") + held, encoding="utf-8")
    root = tmp_path / "catalog"
    with pytest.raises(InputError, match="it was built without test set held"):
        train_model(load_recipe(str(recipe), root=root), root)
    build(own, "split.val=0.3", more=held)
    (tmp_path / "held.tsv").write_text("image\tcaption\ntest9.jpg\tQualcosa di molto diverso da prima\n", "utf-8")
    with pytest.raises(InputError, match="test set held has changed since the build"):
        train_model(load_recipe(str(recipe), root=root), root)
    (tmp_path / "held.tsv").unlink()
    snapshot = current_snapshot(root, "guarded")
    assert snapshot is not None
    require_guarded(snapshot, load_recipe(str(recipe), root=root))  # gone is not another one
    held_out(tmp_path, HELD, images=True)
    off = [f"leaks.by_{way}=false" for way in ("identity", "caption", "pixels")]
    build(own, "split.val=0.3", *off, more=held)
    with pytest.raises(InputError, match="test set held was not looked for"):
        train_model(load_recipe(str(recipe), root=root), root)


def test_a_test_set_that_cannot_be_read_is_an_error_before_work_starts(
    tmp_path: Path, build: Build, planted: list[Row]
) -> None:
    with pytest.raises(InputError, match="columns but no rows"):
        build(planted, more=held_out(tmp_path, [], images=True))
    with pytest.raises(SettingsError, match=r"test_sets\.held\.kind is 'nothing'"):
        build(planted, more=held_out(tmp_path, HELD, images=True).replace('"pairs"', '"nothing"'))


def test_of_images_that_look_alike_the_larger_one_stays_and_may_take_all_captions(tmp_path: Path, build: Build) -> None:
    picture = photo(1)
    save(picture.filter(ImageFilter.GaussianBlur(0.3)).resize((128, 96)), tmp_path / "photos" / "small.jpg")
    save(picture, tmp_path / "photos" / "large.jpg")
    save(photo(2), tmp_path / "photos" / "other.jpg")
    rows = [
        ("small.jpg", caption(0)),
        ("small.jpg", f"{caption(1)}."),
        ("large.jpg", caption(1)),
        ("other.jpg", caption(2)),
    ]
    build(rows)
    assert outcomes(tmp_path)[caption(0)] == "near_duplicate_image"
    build(rows, 'duplicates.keep=["captions"]')
    assert outcomes(tmp_path)[caption(0)] in ("train", "val")  # the small one has two captions
    build(rows, "duplicates.merge_captions=true")
    found = outcomes(tmp_path)
    assert found[caption(0)] == found[caption(1)]
    assert found[caption(0)] in ("train", "val")
    assert found[f"{caption(1)}."] == "near_duplicate_image"  # what it says is said already
    pairs = query(tmp_path / "catalog", "SELECT original_width, captions FROM pairs ORDER BY ALL").to_pylist()
    assert pairs == [
        {"original_width": 256, "captions": [caption(1), caption(0)]},
        {"original_width": 256, "captions": [caption(2)]},
    ]
    images = "SELECT status, step, drop_reason, retryable FROM images WHERE path = 'small.jpg'"
    [merged] = query(tmp_path / "catalog", images).to_pylist()
    assert merged == {"status": "merged", "step": None, "drop_reason": None, "retryable": False}


def test_images_that_look_alike_are_in_one_split(tmp_path: Path, build: Build) -> None:
    rows = []
    for number in range(24):
        save(photo(number // 4), tmp_path / "photos" / f"{number}.jpg", quality=70 + number)
        rows.append((f"{number}.jpg", caption(number)))
    off = ("duplicates.images=false", "duplicates.near_images=false", "split.val=0.3")
    build(rows, *off)
    found = outcomes(tmp_path)
    splits: list[set[str]] = [{found[caption(4 * look + copy)] for copy in range(4)} for look in range(6)]
    assert all(len(seen - {"split_leak"}) == 1 for seen in splits)
    assert {"val", "split_leak"} in splits
    assert {"train"} in splits
    build(rows, *off, "duplicates.split_guard=false")
    assert {"train", "val"} in [
        {outcomes(tmp_path)[caption(4 * look + copy)] for copy in range(4)} for look in range(6)
    ]


def test_repeated_captions_are_dropped_and_capped(tmp_path: Path, build: Build) -> None:
    rows: list[Row] = []
    for number in range(6):
        save(photo(number), tmp_path / "photos" / f"{number}.jpg")
        rows.append((f"{number}.jpg", "Una foto di un bel gatto"))
    rows += [
        ("0.jpg", "Un cane marrone corre sulla spiaggia al tramonto"),
        ("0.jpg", "Un cane marrone corre su una spiaggia al tramonto"),
    ]
    build(rows, "repeats.max_images_per_caption=4")
    query_text = "SELECT drop_reason, count(*) AS n FROM rejects GROUP BY ALL ORDER BY ALL"
    found: list[dict[str, Any]] = query(tmp_path / "catalog", query_text).to_pylist()
    assert found == [{"drop_reason": "common_caption", "n": 2}, {"drop_reason": "near_duplicate_caption", "n": 1}]
    off = ("repeats.common_captions=false", "repeats.near_captions=false")
    build(rows, *off)
    assert query(tmp_path / "catalog", query_text).to_pylist() == []
    rows.append(("0.jpg", "un cane marrone corre sulla spiaggia al tramonto!"))
    build(rows, *off)
    assert query(tmp_path / "catalog", query_text).to_pylist() == [{"drop_reason": "duplicate_caption", "n": 1}]
    build(rows, *off, "duplicates.captions=false")
    assert query(tmp_path / "catalog", query_text).to_pylist() == []


def test_two_captions_of_one_image_need_not_be_alike_because_a_third_one_elsewhere_is_like_both(
    tmp_path: Path, build: Build
) -> None:
    for number in range(2):
        save(photo(number), tmp_path / "photos" / f"{number}.jpg")
    rows = [("0.jpg", "Un uomo con la barca vicino al grande lago")]
    rows += [("1.jpg", f"Un uomo con la {what} vicino al grande lago") for what in ("barba", "banca")]
    build(rows)
    found = query(tmp_path / "catalog", "SELECT sample_id, drop_reason FROM rejects").to_pylist()
    assert found == []


def test_an_image_with_many_repeats_of_a_common_caption_takes_one_place(tmp_path: Path, build: Build) -> None:
    rows: list[Row] = []
    for number in range(5):
        save(photo(number), tmp_path / "photos" / f"{number}.jpg")
        rows += [(f"{number}.jpg", "Una foto di un bel gatto"), (f"{number}.jpg", "una foto di un bel gatto!")]
    build(rows, "repeats.max_images_per_caption=4")
    counted = "SELECT count(DISTINCT sample_id) AS n FROM captions WHERE outcome = 'kept'"
    assert query(tmp_path / "catalog", counted).to_pylist() == [{"n": 4}]
