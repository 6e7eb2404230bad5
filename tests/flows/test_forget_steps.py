"""The steps by which builds obey tombstones: what they write changes only with their version, and elsewhere nothing."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.images.tables import write_rows
from data_catalog.schema import CAPTIONS, IMAGES, PENDING
from data_catalog.storage.shards import digest, save_parquet, sha256_of
from data_catalog.storage.work import WorkStore
from data_catalog.takedown import STAYING
from data_catalog.tombstones import FORGET, Tombstones, new_tombstone
from flows.build.forget_steps import forget_captions, forget_images
from flows.build.images import NO_BYTES_FILE
from flows.build.step_outputs import FORGET_IMAGES, FORGET_VERSIONS, VERSIONS, Shard

# (version, digest of the rows): a change of the digest alone means that the version must be raised.
GOLDENS = {FORGET: (2, "d027e2ec604de5e7"), FORGET_IMAGES: (2, "7ed02a238f0b49b8")}

TOMBSTONES = Tombstones(
    tombstones=(
        new_tombstone("domain", "example.org"),
        new_tombstone("url", "http://other.net/a.jpg"),
        new_tombstone("sample", "web:4").with_found(["hash of 6"], []),
        new_tombstone("phash", "00ff00ff33cc33cc", distance=2),
    )
)
URLS = ["http://a.net/1.jpg", "http://img.example.org/1.jpg", "https://other.net/a.jpg", "http://a.net/4.jpg"]


@pytest.fixture
def captions(tmp_path: Path) -> Shard:
    none = dict.fromkeys(CAPTIONS.names)
    rows: list[dict[str, Any]] = [
        none
        | {"sample_id": f"web:{number}", "caption_id": f"web:{number}#1", "source": "web", "url": url}
        | {"source_caption": "Un gatto", "upstream_file": "f", "upstream_line": number, "outcome": PENDING}
        for number, url in enumerate(URLS, start=1)
    ]
    rows[0]["page_url"] = "https://www.example.org/page"
    save_parquet(pa.Table.from_pylist(rows, schema=CAPTIONS), tmp_path / "captions.parquet")
    return shard(tmp_path / "captions.parquet")


@pytest.fixture
def images(tmp_path: Path) -> Shard:
    none = dict.fromkeys(IMAGES.names) | {"bytes": b"pixels", "thumbnail": b"few"}
    rows: list[dict[str, Any]] = [
        none | {"sample_id": "web:5", "final_url": "http://example.org/5.jpg"},
        none | {"sample_id": "web:6", "sha256": "hash of 6", "original": b"original"},
        none | {"sample_id": "web:7", "phash": "00ff00ff33cc33cf"},
        none | {"sample_id": "web:8", "phash": "0000000000000000", "sha256": "other", "final_url": "http://a.net/"},
        dict.fromkeys(IMAGES.names)
        | {"sample_id": "web:9", "drop_reason": "http_404", "final_url": "http://example.org"},
    ]
    folder = tmp_path / "work" / "recall"
    folder.mkdir(parents=True)
    write_rows(rows, IMAGES, folder / "images.parquet")
    save_parquet(pa.table({"sample_id": ["web:8"]}), folder / NO_BYTES_FILE)
    return shard(folder / "images.parquet")


def shard(path: Path) -> Shard:
    return Shard(shard_id=3, path=path, sha256=sha256_of(path), counts={})


def test_what_steps_write_changes_only_with_their_version(captions: Shard, images: Shard, tmp_path: Path) -> None:
    work = WorkStore(tmp_path / "work")
    written = {
        FORGET: forget_captions(work, captions, TOMBSTONES),
        FORGET_IMAGES: forget_images(work, images, TOMBSTONES),
    }
    found = {
        step: (FORGET_VERSIONS[step], digest(repr(pq.read_table(one.path).to_pylist()))[:16])
        for step, one in written.items()
    }
    assert found == GOLDENS
    assert not VERSIONS.keys() & FORGET_VERSIONS.keys()


def test_rows_are_dropped_by_address_page_and_sample(captions: Shard, tmp_path: Path) -> None:
    after = forget_captions(WorkStore(tmp_path / "work"), captions, TOMBSTONES)
    rows = pq.read_table(after.path).to_pylist()
    assert [row["drop_reason"] for row in rows] == ["forgotten"] * 4
    assert {name for row in rows for name, value in row.items() if value is not None} <= set(STAYING)
    assert after.counts == {"forget": {"web": {"read": 4, "kept": 0, "dropped": 4}}}


def test_images_are_dropped_by_redirect_bytes_and_look(images: Shard, tmp_path: Path) -> None:
    after = forget_images(WorkStore(tmp_path / "work"), images, TOMBSTONES)
    rows = pq.read_table(after.path).to_pylist()
    gone = [{name for name, value in row.items() if value is not None} for row in rows if row["sample_id"] != "web:8"]
    assert gone == [{"sample_id", "drop_reason"}] * 4
    assert {row["drop_reason"] for row in rows} == {"forgotten", None}
    assert rows[3] == pq.read_table(images.path).to_pylist()[3]
    assert pq.read_table(after.path.with_name(NO_BYTES_FILE)).to_pylist() == [{"sample_id": "web:8"}]


def test_what_concerns_nothing_of_a_shard_changes_no_key(captions: Shard, images: Shard, tmp_path: Path) -> None:
    work = WorkStore(tmp_path / "work")
    elsewhere = Tombstones(tombstones=(new_tombstone("domain", "elsewhere.org"),))
    found = forget_captions(work, captions, elsewhere)
    assert (found.path, found.sha256) == (captions.path, captions.sha256)
    assert found.counts == {"forget": {"web": {"read": 4, "kept": 4, "dropped": 0}}}
    assert forget_images(work, images, elsewhere) == images
