"""The steps by which builds obey tombstones: what they mean is dropped, and elsewhere nothing changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.images.tables import write_rows
from data_catalog.schema import CAPTIONS, IMAGES, PENDING
from data_catalog.storage.shards import save_parquet
from data_catalog.storage.work import Commit
from data_catalog.tombstones import STAYING, ActiveTombstones, Tombstones, new_tombstone

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
def captions(tmp_path: Path) -> Path:
    none = dict.fromkeys(CAPTIONS.names)
    rows: list[dict[str, Any]] = [
        none
        | {"sample_id": f"web:{number}", "caption_id": f"web:{number}#1", "source": "web", "url": url}
        | {"source_caption": "Un gatto", "upstream_file": "f", "upstream_line": number, "outcome": PENDING}
        for number, url in enumerate(URLS, start=1)
    ]
    rows[0]["page_url"] = "https://www.example.org/page"
    save_parquet(pa.Table.from_pylist(rows, schema=CAPTIONS), tmp_path / "captions.parquet")
    return tmp_path / "captions.parquet"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    none = dict.fromkeys(IMAGES.names) | {"bytes": b"pixels", "thumbnail": b"few"}
    rows: list[dict[str, Any]] = [
        none | {"sample_id": "web:5", "final_url": "http://example.org/5.jpg"},
        none | {"sample_id": "web:6", "sha256": "hash of 6", "original": b"original"},
        none | {"sample_id": "web:7", "phash": "00ff00ff33cc33cf"},
        none | {"sample_id": "web:8", "phash": "0000000000000000", "sha256": "other", "final_url": "http://a.net/"},
        dict.fromkeys(IMAGES.names)
        | {"sample_id": "web:9", "drop_reason": "http_404", "final_url": "http://example.org"},
    ]
    write_rows(rows, IMAGES, tmp_path / "images.parquet")
    return tmp_path / "images.parquet"


Forget = Callable[[str, Path, Tombstones], Commit]


@pytest.fixture
def forget(tmp_path: Path, call_step: Any) -> Forget:
    """Call one of the two steps."""

    def call(step: str, path: Path, tombstones: Tombstones) -> Commit:
        reads = {"forget": "ingest", "forget-images": "normalise"}[step]
        found: Commit = call_step(step, tmp_path / "work", {reads: path}, {"in_force": ActiveTombstones.of(tombstones)})
        return found

    return call


def test_rows_are_dropped_by_address_page_and_sample(captions: Path, forget: Forget) -> None:
    after = forget("forget", captions, TOMBSTONES)
    rows = pq.read_table(after.only_file).to_pylist()
    assert [row["drop_reason"] for row in rows] == ["forgotten"] * 4
    assert {name for row in rows for name, value in row.items() if value is not None} <= set(STAYING)
    assert after.facts == {"counts": {"forget": {"web": {"read": 4, "kept": 0, "dropped": 4}}}}


def test_images_are_dropped_by_redirect_bytes_and_look(images: Path, forget: Forget) -> None:
    rows = pq.read_table(forget("forget-images", images, TOMBSTONES).only_file).to_pylist()
    gone = [{name for name, value in row.items() if value is not None} for row in rows if row["sample_id"] != "web:8"]
    assert gone == [{"sample_id", "drop_reason"}] * 4
    assert {row["drop_reason"] for row in rows} == {"forgotten", None}
    assert rows[3] == pq.read_table(images).to_pylist()[3]


def test_what_concerns_nothing_of_a_shard_changes_no_key(captions: Path, images: Path, forget: Forget) -> None:
    elsewhere = Tombstones(tombstones=(new_tombstone("domain", "elsewhere.org"),))
    found = forget("forget", captions, elsewhere)
    counts = {"forget": {"web": {"read": 4, "kept": 4, "dropped": 0}}}
    assert (found.files, found.facts) == ({}, {"unchanged": True, "counts": counts})
    found = forget("forget-images", images, elsewhere)
    assert (found.files, found.facts) == ({}, {"unchanged": True})
