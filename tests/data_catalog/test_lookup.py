"""The look-up file names every shard that holds what is asked for, whatever the spelling."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.database.lookup import shards_with, write_lookup
from data_catalog.schema import CAPTIONS, OUTCOMES
from data_catalog.storage.manifest import file_entry
from data_catalog.storage.shards import save_parquet

SHA, URL = "ab" * 32, "http://Example.org:80/a b.jpg"
CAPTION_ROWS = {
    0: [
        ("mscoco:1", "http://Example.org:80/a b.jpg"),
        ("mscoco:1", "http://Example.org:80/a b.jpg"),
        ("cc3m:x#y", None),
    ],
    3: [("wit:2", "https://example.org/2.jpg"), ("mscoco:5", "http://example.org/a%20b.jpg")],
}
IMAGE_ROWS = {0: [("mscoco:1", "https://cdn.example.org/a.jpg", SHA)], 3: [("wit:2", None, None)]}


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    empty = dict.fromkeys(schema.names)
    return pa.Table.from_pylist(
        [empty | row for row in rows], schema=pa.schema([f.with_nullable(True) for f in schema])
    )


def _files(folder: Path) -> dict[str, list[dict[str, Any]]]:
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[dict[str, Any]]] = {"captions": [], "images": []}
    for shard, rows in CAPTION_ROWS.items():
        path = folder / f"captions-{shard}.parquet"
        save_parquet(_table([{"sample_id": name, "url": url} for name, url in rows], CAPTIONS), path)
        files["captions"].append(file_entry(path, folder, rows=len(rows), shard=shard))
    for shard, found in IMAGE_ROWS.items():
        path = folder / f"images-{shard}.parquet"
        outcomes = [{"sample_id": name, "final_url": url, "sha256": sha} for name, url, sha in found]
        save_parquet(_table(outcomes, OUTCOMES), path)
        files["images"].append(file_entry(path, folder, rows=len(found), shard=shard))
    return files


def test_what_is_there_is_found_in_any_spelling(tmp_path: Path) -> None:
    entry = write_lookup(tmp_path, _files(tmp_path))
    for text, shards in {
        "mscoco:1": [0],
        "cc3m:x#y": [0],
        "wit:2": [3],
        "HTTP://example.org/a b.jpg#part": [0, 3],
        "https://cdn.example.org/a.jpg": [0],
        SHA: [0],
        "mscoco:2": [],
        "": [],
    }.items():
        assert shards_with(tmp_path / entry["path"], [text]) == shards, text


def test_the_same_files_give_the_same_bytes_and_no_address(tmp_path: Path) -> None:
    first, second = (write_lookup(tmp_path / name, _files(tmp_path / name)) for name in ("a", "b"))
    assert first == second
    # Two samples, an address before and after a redirect and a hash; two samples and two addresses.
    assert first["rows"] == 5 + 4
    content = (tmp_path / "a" / first["path"]).read_bytes()
    assert b"example" not in content
    table = pq.read_table(tmp_path / "a" / first["path"])
    assert table.column("key").to_pylist() == sorted(table.column("key").to_pylist())


def test_a_snapshot_without_rows_has_an_empty_look_up_file(tmp_path: Path) -> None:
    entry = write_lookup(tmp_path, {"captions": [], "images": []})
    assert entry["rows"] == 0
    assert shards_with(tmp_path / entry["path"], ["mscoco:1"]) == []
