"""Searching shards and folders, and nearest neighbours: hits as plain products have them, whatever changes."""

import json
import logging
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.base.errors import DamagedError, InputError, SettingsError
from data_catalog.disk.files import sha256_of
from training.data.features import image_features, text_features
from training.data.pairs import PairFiles
from training.towers.model import LoadedModel, load_model
from training.use.pictures import contact_sheet
from training.use.search import SearchResult, check_query, folder_gallery, nearest, shard_gallery

HEIC = Path(__file__).parents[1] / "data_catalog" / "images" / "heic.zip"
QUERY = "un quadrato verde in basso"


def search(query: str | Path, files: Sequence[Path], model: LoadedModel | Path, *, k: int = 12) -> SearchResult:
    return shard_gallery({path: sha256_of(path) for path in files}, model).search(query, k)


def search_folder(
    query: str | Path, folder: Path, model: Path, *, k: int = 12, root: Path | None = None
) -> SearchResult:
    return folder_gallery(folder, model, root=root).search(query, k)


@pytest.fixture
def model(make_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder of its own: what is kept of one test is not there in another."""
    return Path(shutil.copytree(make_model(), tmp_path / "model"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty pictures of noise in a folder and folders in it."""
    folder, generator = tmp_path / "photos", np.random.default_rng(1)
    (folder / "deep" / "er").mkdir(parents=True)
    for number in range(40):
        pixels = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("deep/er" if number % 2 else ".") / f"p{number:02}.png")
    return folder


def test_hits_are_those_of_a_plain_product(square_files: PairFiles, model: Path) -> None:
    files, loaded = (*square_files.train, *square_files.test), load_model(model)
    cosines = image_features(loaded, files).astype(np.float64) @ text_features(loaded, [QUERY])[0]
    rows = [row for path in files for row in pq.read_table(path).to_pylist()]
    best = np.argsort(-cosines, kind="stable")[:150]
    found = search(QUERY, files, model, k=150)
    assert [(hit.name, hit.rank) for hit in found.hits] == [
        (rows[index]["sample_id"], rank) for rank, index in enumerate(best, start=1)
    ]
    assert np.allclose([hit.cosine for hit in found.hits], cosines[best])
    first, expected = found.hits[0], rows[best[0]]
    assert (first.image, list(first.captions)) == (expected["image"]["bytes"], expected["captions"])
    assert (first.split, found.num_images) == (expected["split"], 176)
    assert search(QUERY, files, loaded, k=150) == found, "a loaded model keeps nothing"


def test_an_image_finds_images_but_not_its_own_file(
    square_files: PairFiles, model: Path, photos: Path, tmp_path: Path
) -> None:
    query, copy, same_pixels = photos / "p02.png", photos / "deep" / "copy.png", photos / "same.bmp"
    shutil.copy(query, copy)
    with Image.open(query) as image:
        image.save(same_pixels)
    found = search_folder(query, photos, model, k=5)
    assert set(found.left_out) == {"p02.png", "deep/copy.png"}
    first = found.hits[0]
    assert (first.name, first.rank, first.cosine) == ("same.bmp", 1, pytest.approx(1, abs=1e-5))
    assert (len(found.hits), found.num_images) == (5, 42)
    assert len(search_folder(query, photos, model, k=100).hits) == 40
    told = json.loads(json.dumps(found.to_json()))
    assert (told["query"], told["query_image"], told["left_out"]) == (None, str(query), list(found.left_out))
    files, loaded = square_files.test, load_model(model)
    rows = [row for path in files for row in pq.read_table(path).to_pylist()]
    features = image_features(loaded, files).astype(np.float64)
    # The published image, and the file that it was made of, whose sha256 the row has.
    for content in (rows[7]["image"]["bytes"], rows[7]["image"]["bytes"] + rows[7]["sample_id"].encode()):
        path = tmp_path / "query"
        path.write_bytes(content)
        found = search(path, files, model, k=len(rows))
        assert found.left_out == (rows[7]["sample_id"],)
        cosines = {row["sample_id"]: cosine for row, cosine in zip(rows, features @ features[7], strict=True)}
        del cosines[rows[7]["sample_id"]]
        assert {hit.name: hit.cosine for hit in found.hits} == pytest.approx(cosines, abs=1e-5)
        assert [hit.rank for hit in found.hits] == list(range(1, len(rows)))


def test_images_that_an_index_has_are_not_encoded_again_for_other_shards(
    square_files: PairFiles, model: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    search(QUERY, square_files.train, model)
    added = (*square_files.val, *square_files.train)
    found = search(QUERY, added, model, k=500)
    encoded = [re.findall(r"[\d,]+", message) for message in caplog.messages if message.startswith("encoded")]
    images = [
        [row["image"]["bytes"] for path in files for row in pq.read_table(path).to_pylist()]
        for files in (square_files.train, added)
    ]
    first = set(images[0])
    assert encoded == [[str(len(first)), str(len(images[0]))], [str(len(set(images[1]) - first)), str(len(images[1]))]]
    anew = search(
        QUERY, added, Path(shutil.copytree(model, tmp_path / "anew", ignore=shutil.ignore_patterns("index"))), k=500
    )
    assert {hit.name: hit.cosine for hit in found.hits} == pytest.approx(
        {hit.name: hit.cosine for hit in anew.hits}, abs=1e-5
    )


@pytest.mark.parametrize("damage", ["flip", "record", "gone"])
def test_a_damaged_index_is_noticed_and_made_anew(
    square_files: PairFiles, model: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = search(QUERY, square_files.test, model)
    features, record = next(model.glob("index/*.npy")), next(model.glob("index/index.json"))
    whole = features.read_bytes()
    if damage == "flip":
        features.write_bytes(whole[:-5] + bytes([whole[-5] ^ 64]) + whole[-4:])
    elif damage == "gone":
        features.unlink()
    else:
        record.write_text(record.read_text().replace("0", "1", 1))
    assert search(QUERY, square_files.test, model) == first
    assert "created again" in caplog.text
    num_images = sum(pq.read_metadata(path).num_rows for path in square_files.test)
    assert features.read_bytes() == whole
    caplog.clear()
    caplog.set_level(logging.INFO)
    assert search(QUERY, square_files.test, model) == first
    known = f"search {num_images} images, whose features are in {features.parent}"
    assert caplog.messages == [f"load the model {model}", known]


@pytest.mark.parametrize(
    ("query", "k", "word"), [(" \t", 3, "is empty"), ("uno", 0, "k must be positive"), ("a\udc80", 3, "not valid")]
)
def test_queries_that_make_no_sense(query: str, k: int, word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        check_query(query, k)


def test_a_folder_is_searched_as_its_features_say_and_shown_in_a_sheet(
    photos: Path, model: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (2000, 1), "red").save(photos / ("x" * 200 + ".png"))
    found = search_folder(QUERY, photos, model, k=100)
    assert found.num_images == len(found.hits) == 41
    assert {hit.path for hit in found.hits} == set(photos.rglob("*.png"))
    assert [hit.cosine for hit in found.hits] == sorted((hit.cosine for hit in found.hits), reverse=True)
    first = json.loads(json.dumps(found.to_json()))["hits"][0]
    assert (first["path"], first["sample_id"]) == (str(found.hits[0].path), None)
    contact_sheet(found.hits, tmp_path / "sheet.png", "due\nrighe")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 10 * 300
    found.hits[0].path.unlink()  # type: ignore[union-attr]
    with pytest.raises(InputError, match="there is no such file"):
        contact_sheet(found.hits, tmp_path / "sheet.png", "uno")


def test_only_files_that_changed_are_encoded_again(
    photos: Path, model: Path, make_model: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = search_folder(QUERY, photos, model, k=40)
    assert search_folder(QUERY, photos, model, k=40) == before
    Image.new("RGB", (9, 9), "red").save(photos / "p00.png")
    shutil.copy(photos / "p02.png", photos / "new.png")
    (photos / "p04.png").rename(photos / "renamed.png")
    (photos / "p06.png").unlink()
    after = search_folder(QUERY, photos, model, k=100)
    assert re.findall(r"^(encode|search) (.+) image", "\n".join(caplog.messages), re.MULTILINE) == [
        *(("encode", "40 of 40"), ("search", "40"), ("encode", "3 of 40"))
    ]
    shutil.rmtree(photos / ".vernaclip")
    anew = search_folder(QUERY, photos, model, k=100)
    expected = {hit.name: hit.cosine for hit in anew.hits}
    # Features differ in their last digits between batches of 3 and of 40.
    assert {hit.name: hit.cosine for hit in after.hits} == pytest.approx(expected, abs=1e-5)
    search_folder(QUERY, photos, make_model(seed=2), k=1)
    assert len(list((photos / ".vernaclip").iterdir())) == 2, "each model has an index of its own"
    assert len(list((photos / ".vernaclip").glob("*/*.npy"))) == 2


def test_files_that_cannot_be_read_are_listed_and_the_others_found(
    photos: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad: dict[str, bytes] = {
        "text.jpg": b"no image",
        "empty.png": b"",
        "cut.png": (photos / "p00.png").read_bytes()[:200],
        "phone.heic": b"\0\0\0\x18ftypheic" + bytes(40),
        "page.gif": b"<!doctype html><p>gone</p>",
    }
    for name, content in bad.items():
        (photos / name).write_bytes(content)
    Image.new("1", (3000, 3000)).save(photos / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8_000_000)
    latin = os.fsdecode(b"caff\xe8.png")
    shutil.copy(photos / "p00.png", photos / latin)
    (photos / "dangling.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(photos / "pipe.jpg")
    (photos / "notes.txt").write_text("left alone")
    (photos / ".hidden.png").write_bytes(b"left alone")
    (photos / "loop").symlink_to(photos)
    found = search_folder(QUERY, photos, model, k=100)
    assert found.num_images == 40
    reasons = {path.name: reason for path, reason in found.unreadable}
    expected = {"bomb.png": "9,000,000 pixels", "dangling.jpg": "there is no such file", "pipe.jpg": "it is not a file"}
    expected |= {latin: "not valid UTF-8", "phone.heic": "HEIF", "cut.png": "before the image does"}
    assert reasons.keys() == bad.keys() | expected.keys()
    assert all(told in reasons[name] for name, told in expected.items())
    assert search_folder(QUERY, photos, model, k=100) == found, "from the index, reasons too"


def test_photographs_of_phones_are_found_once_their_decoder_is_installed(
    photos: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pi_heif", reason="the extra heif is not installed")
    with zipfile.ZipFile(HEIC) as packed:
        (photos / "phone.heic").write_bytes(packed.read("turned-6.heic"))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pi_heif", None)
        ((path, reason),) = search_folder(QUERY, photos, model).unreadable
    assert (path.name, "HEIF: run `pip install" in reason) == ("phone.heic", True)
    found = search_folder(photos / "phone.heic", photos, model, k=100)
    assert not found.unreadable
    assert found.num_images == 41


def test_where_a_folder_cannot_be_written_to_the_root_keeps_the_index(
    photos: Path, model: Path, tmp_path: Path
) -> None:
    photos.chmod(0o555)
    root = tmp_path / "root"
    found = search_folder(QUERY, photos, model, root=root)
    assert len(list((root / "folder-indexes").glob("*/*.npy"))) == 1
    assert search_folder(QUERY, photos, model) == found, "without a root nothing is kept"
    assert not (photos / ".vernaclip").exists()
    photos.chmod(0o755)
    (photos / ".vernaclip").write_text("in the way")
    assert search_folder(QUERY, photos, model) == found


Matrix = Any


def unit(rows: Matrix) -> Matrix:
    """Rows of length 1, in float32."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def drawn(count: int, dim: int, seed: int) -> Matrix:
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def close(count: int, dim: int) -> Matrix:
    """Rows that float32 does not tell apart."""
    generator = np.random.default_rng(5)
    return unit(generator.standard_normal(dim) + 1e-6 * generator.standard_normal((count, dim)))


@pytest.mark.parametrize(
    ("features", "k"),
    [
        *((drawn(1000, 32, seed=1), k) for k in (1, 999, 1000, 5000)),
        (drawn(70_000, 6, seed=3), 20),
        (close(70, 512), 10),
        (np.concatenate([drawn(3000, 16, seed=9), np.tile(drawn(1, 16, seed=2), (40, 1))]), 30),
    ],
    ids=["best", "most", "all", "more", "many", "close", "equal"],
)
def test_the_best_are_those_of_float64_and_of_equal_rows_the_first_come_first(features: Matrix, k: int) -> None:
    (query,) = drawn(1, features.shape[1], seed=2)
    rows, cosines = nearest(features, query, k)
    exact = features.astype(np.float64) @ query.astype(np.float64)
    # Sums are exact to about 1e-16, so ties are rounded.
    assert rows.tolist() == np.argsort(-np.round(exact, 13), kind="stable")[:k].tolist()
    assert np.allclose(cosines, exact[rows], atol=1e-12)


@pytest.mark.parametrize("number", [np.nan, -np.inf])
def test_numbers_that_are_none_are_refused(number: float) -> None:
    features, (query,) = drawn(7000, 8, seed=15), drawn(1, 8, seed=16)
    features[6900, 3] = number
    with pytest.raises(DamagedError, match="are not finite"):
        nearest(features, query, 5)
    query[3] = number
    with pytest.raises(DamagedError, match="are not finite"):
        nearest(features[:10], query, 5)
