"""Views over snapshots, each column with its meaning."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.base.errors import DamagedError
from data_catalog.catalog.duckdb_file import rebuild
from data_catalog.catalog.manifest import MANIFEST_FORMAT, Snapshot, commit_snapshot, file_entry, snapshot_folder
from data_catalog.catalog.query import query
from data_catalog.catalog.views import COLUMNS, VIEWS, view_texts
from data_catalog.disk.files import open_image_writer
from data_catalog.rows.schema import CAPTIONS, PAIRS

ROW = {
    "caption_id": "mscoco:1#1",
    "sample_id": "mscoco:1",
    "source": "web",
    "upstream_file": "a.json",
    "upstream_line": 1,
    "outcome": "rejected",
    "step": "clean",
    "drop_reason": "it's \x1b;--",
    "leaks": ["test_caption xtd10: a"],
}


def snapshot_with(folder: Path, dataset: str, schema: pa.Schema, num_files: int) -> Snapshot:
    """A snapshot of some caption files of one row each, and of nothing else."""
    files = []
    for number in range(num_files):
        path = folder / dataset / f"{number}, it's.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {name: value for name, value in ROW.items() if name in schema.names}
        pq.write_table(pa.Table.from_pylist([row], schema=schema), path)
        files.append({"path": path.name, "rows": 1, "bytes": path.stat().st_size})
    manifest: dict[str, Any] = {
        "files": {"pairs": [], "captions": files, "images": []},
        "steps": [{"step": step, "meaning": "", "rules": [], "reasons": {}} for step in ("ingest", "clean")],
        "sources": {"web": {}},
        "funnel": [],
        "target_lang": "it",
        "translator": "native",
        "settings": {},
    }
    return Snapshot(dataset=dataset, snapshot="0123456789ab", folder=folder / dataset, manifest=manifest)


@pytest.fixture
def connection(tmp_path: Path) -> duckdb.DuckDBPyConnection:
    """Views over two snapshots."""
    snapshots = [snapshot_with(tmp_path, "one", CAPTIONS, 2), snapshot_with(tmp_path, "other", CAPTIONS, 3)]
    connection = duckdb.connect()
    for name, text in view_texts(snapshots).items():
        connection.execute(f"CREATE VIEW {name} AS {text}")
    return connection


def test_snapshots_stand_side_by_side_also_without_images(connection: duckdb.DuckDBPyConnection) -> None:
    sql = "SELECT dataset, count(*), count(leaks), min(drop_reason), min(upstream_line) FROM captions GROUP BY ALL"
    reason = ROW["drop_reason"]
    assert sorted(connection.execute(sql).fetchall()) == [("one", 2, 2, reason, 1), ("other", 3, 3, reason, 1)]
    assert set(connection.table("captions").columns) == set(COLUMNS["captions"])
    counts = {view: connection.execute(f"SELECT count(*) FROM {view}").fetchall()[0][0] for view in COLUMNS}
    assert counts["rejects"] == counts["captions"] == 5
    assert (counts["pairs"], counts["image_outcomes"], counts["images"], counts["builds"]) == (0, 0, 2, 2)
    assert connection.execute("SELECT test_set, reason FROM leaks").fetchall() == [("xtd10", "test_caption")] * 2


def test_each_snapshot_has_its_own_order_of_steps(tmp_path: Path) -> None:
    """Of a sample's captions the one that came farthest tells where the image was lost, as its own build counts."""
    snapshots = []
    for name, order in (("forth", ("ingest", "clean")), ("back", ("clean", "ingest"))):
        snapshot = snapshot_with(tmp_path, name, CAPTIONS, 2)
        rows = [ROW | {"step": step, "drop_reason": step, "caption_id": step} for step in ("ingest", "clean")]
        for path, some in zip(snapshot.files("captions"), (rows, []), strict=True):
            pq.write_table(pa.Table.from_pylist(some, schema=CAPTIONS), path)
        steps = [{"step": step, "meaning": "", "rules": [], "reasons": {}} for step in order]
        snapshots.append(replace(snapshot, snapshot=name * 2, manifest={**snapshot.manifest, "steps": steps}))
    connection = duckdb.connect()
    for name, text in view_texts(snapshots).items():
        connection.execute(f"CREATE VIEW {name} AS {text}")
    found_at = connection.execute("SELECT dataset, step, drop_reason FROM images").fetchall()
    assert sorted(found_at) == [("back", "ingest", "ingest"), ("forth", "clean", "clean")]
    funnel = connection.execute("SELECT dataset, step, read, kept, dropped FROM funnel ORDER BY ALL").fetchall()
    assert funnel[:2] == [("back", "clean", 2, 1, 1), ("back", "ingest", 1, 0, 1)]
    assert funnel[2:] == [("forth", "clean", 1, 0, 1), ("forth", "ingest", 2, 1, 1)]


def test_a_file_of_another_schema_within_a_snapshot_is_an_error_and_no_null(tmp_path: Path) -> None:
    snapshot = snapshot_with(tmp_path, "torn", CAPTIONS, 2)
    rest = pa.schema([field for field in CAPTIONS if field.name != "drop_reason"])
    pq.write_table(pa.Table.from_pylist([], schema=rest), snapshot.files("captions")[1])
    connection = duckdb.connect()
    connection.execute(f"CREATE VIEW captions AS {view_texts([snapshot])['captions']}")
    with pytest.raises(duckdb.Error, match="drop_reason"):
        connection.execute("SELECT count(drop_reason) FROM captions").fetchall()


def test_every_view_and_column_has_a_short_text_and_no_text_is_of_another(tmp_path: Path) -> None:
    """In the catalog of a root that holds nothing yet."""
    program = shutil.which("duckdb", path=str(Path(sys.executable).parent))
    assert program is not None, "duckdb-cli is among the dev dependencies"
    command = [program, "-readonly", "-csv", "-noheader", str(rebuild(tmp_path)), "SELECT count(*) FROM captions"]
    assert subprocess.check_output(command, text=True) == "0\n", "its own command line opens it"
    with duckdb.connect(str(tmp_path / "catalog.duckdb"), read_only=True) as connection:
        views = connection.execute("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal").fetchall()
        columns = connection.execute(
            "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal"
        ).fetchall()
    assert {name for name, _ in views} == set(view_texts([])) == set(VIEWS) == set(COLUMNS)
    found = {(view, name) for view, name, _ in columns}
    assert found == {(view, name) for view, names in COLUMNS.items() for name in names}
    texts = [text for _, text in views] + [text for _, _, text in columns]
    assert [text for text in texts if not text or "\n" in text or len(text) > 120 or text != text.strip()] == []


def test_a_query_for_few_rows_reads_no_pixels_of_other_row_groups(tmp_path: Path) -> None:
    """So it answers although those are damaged, which a query for all pixels notices."""
    for dataset in ("one", "other"):
        folder = snapshot_folder(tmp_path, dataset, "0123456789ab")
        path = folder / "pairs" / "train.parquet"
        path.parent.mkdir(parents=True)
        fields = pa.schema([field.with_nullable(True) for field in PAIRS])
        with open_image_writer(path, fields) as writer:
            for number in range(4):
                image = {"bytes": bytes([65 + number]) * 1000, "path": None}
                row = {"sample_id": f"web:{number}", "split": "train", "image": image}
                writer.write_table(pa.Table.from_pylist([row, {**row, "sample_id": f"other:{number}"}], schema=fields))
        names = {"format": MANIFEST_FORMAT, "dataset": dataset, "snapshot": folder.name}
        files = {"pairs": [file_entry(path, folder, rows=8, split="train")], "captions": [], "images": []}
        found = snapshot_with(tmp_path / "elsewhere", dataset, CAPTIONS, 0)
        commit_snapshot(tmp_path, {**found.manifest, **names, "files": files})
        path.write_bytes(path.read_bytes().replace(b"D" * 1000, b"E" * 1000))
    for where in ("sample_id = 'web:1'", "sample_id IN ('web:1', 'x') AND dataset = 'one'"):
        sql = f"SELECT dataset, image.bytes AS bytes FROM pairs WHERE {where} ORDER BY ALL"
        rows = query(tmp_path, sql).to_pylist()
        assert rows == [{"dataset": name, "bytes": b"B" * 1000} for name in ("one", "other")[: len(rows)]]
        assert len(rows) == 1 + ("dataset" not in where)
    for sql in ("SELECT max(image.bytes) FROM pairs", "SELECT image FROM pairs WHERE sample_id = 'web:3'"):
        with pytest.raises(DamagedError, match="vernaclip verify"):
            query(tmp_path, sql)
