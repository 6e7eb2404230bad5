"""Every export is read back by the library that it is for, in a process of its own that has no network."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data_catalog.catalog.export_formats import ExportConfig
from data_catalog.exports.documents import write_documents
from data_catalog.exports.export import export_snapshot
from data_catalog.exports.sinks import sample_key

pytestmark = pytest.mark.slower
CONSUMERS = Path(__file__).parent / "consumers.py"
FREE = {"photos:free", "photos:../../etc/pass.wd", "photos:credited", *(f"photos:more-{n}" for n in range(4))}
SIZES = {"train": 7, "validation": 2, "test": 1}
IMAGE = ["JpegImageFile", 40, 30]
CAPTIONS = ["un cane numero 1", "il cane 1"]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, make_snapshot: Any) -> dict[str, Any]:
    """What all consumers say of the exports of the snapshot of few pairs."""
    place = tmp_path_factory.mktemp("read-back")
    snapshot = make_snapshot(place / "catalog")
    write_documents(snapshot.folder, snapshot.manifest)
    for config in (ExportConfig(format="huggingface"), ExportConfig(format="webdataset", samples_per_shard=3)):
        export_snapshot(snapshot, config, place / config.format)
    cache = place / "cache"
    cache.mkdir()
    command = [sys.executable, CONSUMERS, place / "huggingface", place / "webdataset", snapshot.folder, cache]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=place, timeout=300)
    assert ran.returncode == 0, ran.stderr[-4000:]
    found: dict[str, Any] = json.loads((cache / "answers.json").read_text())
    return found


def sizes(splits: dict[str, list[Any]]) -> dict[str, int]:
    return {split: len(rows) for split, rows in splits.items()}


def test_datasets_loads_images_with_captions_lists_and_tars(answers: dict[str, Any]) -> None:
    assert sizes(answers["datasets"]) == sizes(answers["datasets_tars"]) == SIZES
    train = {row["sample_id"]: row for row in answers["datasets"]["train"]}
    assert train.keys() == FREE
    expected = {"image": IMAGE, "captions": CAPTIONS, "scores": [-0.25, None]}
    assert expected.items() <= train["photos:free"].items()
    rows = answers["datasets_links"]["train"]
    listed = {"uncredited", "noncommercial", "unstated", "unknown", "reserved"}
    assert {row["sample_id"].removeprefix("photos:") for row in rows} == listed
    assert all("image" not in row and row["url"] for row in rows)
    assert answers["configs_of_tars"] == ["default"], "datasets would read a second one as tars, and fail"
    assert [row["sample_id"] for row in answers["datasets_tars_links"]["train"]] == [row["sample_id"] for row in rows]
    row = next(row for row in answers["datasets_tars"]["train"] if row["json"]["sample_id"] == "photos:credited")
    assert (row["image"], row["txt"]) == (IMAGE, "un cane numero 3")
    expected = {"captions": ["un cane numero 3", "il cane 3"], "attribution": "A. Bianchi", "caption_2": None}
    assert expected.items() <= row["json"].items()


def test_a_snapshot_is_read_as_it_lies_in_the_catalog(answers: dict[str, Any]) -> None:
    splits = answers["datasets_snapshot"]
    assert sizes(splits) == {"train": 13, "validation": 2, "test": 1}
    assert "photos:marked" not in {row["sample_id"] for rows in splits.values() for row in rows}


def test_webdataset_has_every_caption_under_keys_that_are_safe(answers: dict[str, Any]) -> None:
    samples = {sample["json"]["sample_id"]: sample for sample in answers["webdataset"]}
    assert {name: sample["key"] for name, sample in samples.items()} == {name: sample_key(name) for name in FREE}
    free = samples["photos:free"]
    assert (free["size"], free["txt"]) == ([40, 30], CAPTIONS[0])
    expected = {"caption": CAPTIONS[0], "caption_0": CAPTIONS[0], "caption_1": CAPTIONS[1], "captions": CAPTIONS}
    assert expected.items() <= free["json"].items()


def test_open_clips_own_loader_counts_and_batches(answers: dict[str, Any]) -> None:
    found = answers["open_clip"]
    assert found["size"] == [7, 3], "seven samples in three shards, by sizes.json"
    assert found["num_samples"] == 8, "it repeats one to fill the last batch"
    assert found["train"] == [[[2, 3, 32, 32], [2, 77]]] * 4
    assert found["val"] == [[[2, 3, 32, 32], [2, 77]]]


def test_img2dataset_takes_the_list_by_the_cards_command(answers: dict[str, Any]) -> None:
    found = answers["img2dataset"]
    assert found["finished"] == [True, True], "five images in two shards"
    rows = {row["sample_id"]: row for row in found["rows"]}
    assert len(rows) == 5
    expected = {"url": "https://images.example/5.jpg", "caption": "un cane numero 5"}
    assert (expected | {"page_url": "https://photos.example/5"}).items() <= rows["photos:noncommercial"].items()
    assert {row["status"] for row in rows.values()} == {"failed_to_download"}, "there is no network"
