"""What was made of snapshots goes with them, and nothing of other people's does."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.catalog.manifest import MANIFEST_FORMAT, commit_snapshot
from data_catalog.disk.files import write_json
from data_catalog.publish.takedown import clear_caches, clear_exports, clear_work, closure, models_of
from data_catalog.publish.tombstones import Tombstones, new_tombstone
from data_catalog.rows.schema import CAPTIONS, IMAGES, PAIRS
from data_catalog.rows.urls import address_key

Row = dict[str, object]
GONE: Row = {"dataset": "web", "snapshot": "0123456789ab", "format": "urls", "tombstones": None, "files": {}}
REQUIRED: Row = {"caption_id": "1", "source": "a", "upstream_file": "f", "upstream_line": 1, "outcome": "pending"}
LOOK = "00ff00ff33cc33cc"


def write_export(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train.parquet").write_bytes(b"pixels")
    write_json(folder / "export.json", GONE)
    return folder


PLACES = ("exports/web/urls", "exports/mine", "exports/web/.tmp-old-urls")


def test_exports_go_with_their_snapshot_and_other_folders_stay(tmp_path: Path) -> None:
    others = [write_export(tmp_path / place) for place in ("share/for/ann", "catalog/exports/web/urls")]
    for number, text in enumerate(("[]", "no JSON", json.dumps({"dataset": "web", "snapshot": "0123456789ab"}))):
        (tmp_path / "exports" / f"mine-{number}").mkdir(parents=True)
        (tmp_path / "exports" / f"mine-{number}" / "export.json").write_text(text, encoding="utf-8")
    assert clear_exports(tmp_path) == []
    folders = [write_export(tmp_path / place) for place in PLACES]
    (tmp_path / "exports" / "web" / "without-record").mkdir()
    (tmp_path / "exports" / "web" / "link").symlink_to(others[0])
    assert set(clear_exports(tmp_path)) == {*folders, tmp_path / "exports" / "web" / "without-record"}
    assert not any(folder.exists() for folder in folders)
    there: Any = {**GONE, "format": MANIFEST_FORMAT, "files": {}}
    commit_snapshot(tmp_path, there)
    folders = [write_export(tmp_path / place) for place in PLACES[:2]]
    assert clear_exports(tmp_path) == []
    assert all((folder / "data" / "train.parquet").is_file() for folder in (*folders, *others))


def test_features_of_test_images_go_also_from_a_disk_that_they_were_moved_to(tmp_path: Path) -> None:
    model = "0a1b2c3d4e5f6071"
    for name in (model, f".tmp-removed-{model}", "mine"):
        (tmp_path / "disk" / name).mkdir(parents=True)
    (tmp_path / "kept-features").symlink_to(tmp_path / "disk")
    assert clear_caches(tmp_path, ["web"])["cached features folder"] == [tmp_path / "kept-features" / model]
    assert [path.name for path in (tmp_path / "kept-features").iterdir()] == ["mine"]


def test_a_model_is_named_that_learned_from_what_is_gone_or_does_not_tell(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged record stops no take-down."""
    files = {"pairs": [{"path": "pairs/a.parquet", "sha256": "aa"}]}
    snapshot: Any = {**GONE, "format": MANIFEST_FORMAT, "files": files}
    commit_snapshot(tmp_path, snapshot)
    for name, record in {
        "web/sound": b'{"learned": ["aa"]}',
        "web/older": b'{"learned": ["aa", "bb"]}',
        "other/broken": b"\0",
        "other/silent": b"{}",
    }.items():
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "run.json").write_bytes(record)
    found = [path.relative_to(tmp_path / "models").as_posix() for path in models_of(tmp_path)]
    assert found == ["other/broken", "other/silent", "web/older"]
    assert "other/broken/run.json does not tell" in caplog.text


def write_step(root: Path, step: str, rows: list[Row], schema: pa.Schema, *, dataset: str = "web") -> Path:
    folder = root / "work" / dataset / step / "0a1b"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "shard.parquet")
    return folder


def test_captions_of_a_local_image_go_with_it_though_they_tell_no_look_and_no_address(tmp_path: Path) -> None:
    url = "http://a.net/2.jpg"
    captions = [
        REQUIRED | {"sample_id": "photos:1", "path": "1.jpg", "source_caption": "Un gatto"},
        REQUIRED | {"sample_id": "web:2", "url": url, "source_caption": "Un cane"},
        REQUIRED | {"sample_id": "photos:3", "path": "3.jpg", "source_caption": "Una mela"},
    ]
    images: list[Row] = [
        {"sample_id": "photos:1", "phash": LOOK, "sha256": "aa"},
        {"sample_id": "web:2", "phash": LOOK, "sha256": "bb", "url": url, "final_url": url},
        {"sample_id": "photos:3", "phash": "0" * 16, "sha256": "cc"},
    ]
    doomed = [write_step(tmp_path, "clean", captions, CAPTIONS), write_step(tmp_path, "normalise", images, IMAGES)]
    stays = write_step(tmp_path, "fetch", images[2:], IMAGES)
    # Of another dataset, which the tombstone is not of: it stays and teaches nothing.
    others = write_step(tmp_path, "normalise", [images[0] | {"sha256": "dd"}], IMAGES, dataset="other")
    stones, _ = closure(tmp_path, Tombstones(tombstones=(new_tombstone("phash", LOOK, datasets=["web"]),)))
    (one,) = stones.tombstones
    assert (one.images, one.addresses, one.samples) == (("aa", "bb"), (address_key(url),), ("photos:1",))
    # What an interrupted fetch left has bytes of images, too.
    journal = tmp_path / "work" / "web" / ".unfinished" / "key-0" / "00000.journal"
    journal.parent.mkdir(parents=True)
    journal.write_bytes(b"x")
    # As after a kill that left the captions alone: what tells the look is gone.
    (doomed[1] / "shard.parquet").unlink()
    assert clear_work(tmp_path / "work" / "web", stones) == doomed[:1]
    assert not journal.exists()
    assert clear_work(tmp_path / "work" / "other", stones.of("other")) == []
    assert stays.is_dir()
    assert others.is_dir()


def test_step_outputs_go_that_do_not_tell_whose_their_captions_are(tmp_path: Path) -> None:
    """Also after a kill that left none which tells; images of others stay, so that nothing is requested twice."""
    own = REQUIRED | {"caption_id": "own", "sample_id": "web:1", "url": "http://a.net/1.jpg"}
    other = REQUIRED | {"caption_id": "other", "sample_id": "web:2", "url": "http://b.net/2.jpg"}
    captions = write_step(tmp_path, "check", [own, other], CAPTIONS)
    stays = write_step(tmp_path, "fetch", [{"sample_id": "web:1", "url": own["url"]}], IMAGES)
    schema = pa.schema([PAIRS.field(name) for name in ("sample_id", "url", "caption_ids")])
    pair: Row = {"sample_id": "web:1", "url": "http://a.net/1.jpg"}
    pairs = write_step(tmp_path, "publish", [pair | {"caption_ids": ["own", "other"]}], schema)
    stones = Tombstones(tombstones=(new_tombstone("domain", "b.net"),))
    assert clear_work(tmp_path / "work" / "web", stones) == [captions, pairs]
    pairs = write_step(tmp_path, "publish", [pair | {"caption_ids": ["own", "other"]}], schema)
    assert clear_work(tmp_path / "work" / "web", stones) == []
    assert clear_work(tmp_path / "work" / "web", stones, is_resumed=True) == [pairs]
    assert stays.is_dir()
