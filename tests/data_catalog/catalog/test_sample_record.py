"""Samples are found by every spelling of their addresses, and by no other."""

from typing import Any

import pyarrow as pa
import pytest

from data_catalog.catalog.manifest import Snapshot, file_entry
from data_catalog.catalog.why import find_sample_records, not_found_text
from data_catalog.disk.files import save_parquet
from data_catalog.rows.schema import CAPTIONS, OUTCOMES

SPELLINGS = {
    "web:plain": "http://example.org/a%20b.jpg?w=1&x=%C3%A8",
    "web:raw": "HTTP://Example.org:80/a b.jpg?w=1&x=è",
    "web:dots": "http://example.org/./c/../a%20b.jpg?w=1&x=%c3%a8#part",
    "web:escaped": "http://example.org/%61%20%62.%6apg?w=1&x=%C3%A8",
    "web:torn": " http://example.org/a%20b.j\npg?w=1&x=%C3%A8\t",
}
OTHERS = {
    "web:case": "http://example.org/A%20b.jpg?w=1&x=%C3%A8",
    "web:order": "http://example.org/a%20b.jpg?x=%C3%A8&w=1",
    "web:host": "http://example.net/a%20b.jpg?w=1&x=%C3%A8",
    "web:bare": "http://example.org/",
    "photos:x#y": None,
}
SHA = "ab" * 32


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    folder = tmp_path_factory.mktemp("found") / "0123456789ab"
    folder.mkdir()
    captions = [
        {"sample_id": name, "caption_id": f"{name}#{number}", "source": "web", "url": url, "outcome": "kept"}
        for name, url in (SPELLINGS | OTHERS).items()
        for number in range(2)
    ]
    images = [{"sample_id": "web:host", "source": "web", "final_url": "https://cdn.example.org/1.JPG", "sha256": SHA}]
    files: dict[str, Any] = {"pairs": []}
    for kind, schema, rows in (("captions", CAPTIONS, captions), ("images", OUTCOMES, images)):
        path = folder / f"{kind}.parquet"
        fields = pa.schema([field.with_nullable(True) for field in schema])
        save_parquet(pa.Table.from_pylist(rows, schema=fields), path)
        files[kind] = [file_entry(path, folder, rows=len(rows), shard=3)]
    sources = {"web": {"license": "free", "unselected": {"no caption": 7}}}
    manifest: Any = {"files": files, "sources": sources, "settings": {}, "steps": []}
    return Snapshot(dataset="found", snapshot=folder.name, folder=folder, manifest=manifest)


def samples(snapshot: Snapshot, identity: str) -> set[str]:
    return {record["sample_id"] for record in find_sample_records(snapshot, identity)}


def test_an_address_is_found_in_any_spelling_and_no_other_is(snapshot: Snapshot) -> None:
    for url in SPELLINGS.values():
        assert samples(snapshot, url) == set(SPELLINGS), url
    for name, url in OTHERS.items():
        assert samples(snapshot, url or name) == {name}
    assert samples(snapshot, "HTTPS://cdn.example.org/1%2EJPG") == {"web:host"}


def test_ids_and_hashes_are_found_whole(snapshot: Snapshot) -> None:
    for identity in ("web:host", "web:host#1", f" {SHA.upper()}\n"):
        assert samples(snapshot, identity) == {"web:host"}
    assert samples(snapshot, "photos:x#y#0") == {"photos:x#y"}
    for identity in ("photos:x", "web:host#", SHA[1:], "web:%", "\ud800", "http://example.org/" + "a" * 50_000):
        assert samples(snapshot, identity) == set(), identity


def test_what_may_be_meant_is_named(snapshot: Snapshot) -> None:
    for identity, meant in (("host", "web:host"), ("web:escap", "web:escaped"), ("example.org", "http://example.org")):
        assert f"did you mean {meant}?" in not_found_text([snapshot], identity)
    assert "7 upstream rows were not selected" in not_found_text([snapshot], "\ud800")
