"""Where exports go: what they may replace, what they leave alone, and what a killed one left."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from data_catalog.base.errors import BusyError, DamagedError, DiskError, PipelineError, SettingsError
from data_catalog.catalog.export_formats import ExportConfig
from data_catalog.catalog.manifest import Snapshot
from data_catalog.disk.files import sha256_of
from data_catalog.disk.lock import place_lock
from data_catalog.disk.records import write_checksummed
from data_catalog.exports.export import export_snapshot


def export(snapshot: Snapshot, place: Path, kind: str = "urls", **options: Any) -> bool:
    """Whether there was something to do."""
    return not export_snapshot(snapshot, ExportConfig(format=kind, **options), place).up_to_date


@pytest.fixture
def out(snapshot: Snapshot, tmp_path: Path) -> Path:
    """A list of URLs in `tmp_path / "out"`."""
    export(snapshot, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("record", [None, "{}", '{"files": {}, "format": "x"}', {"hits": [], "dataset": "mine"}])
def test_a_folder_of_somebody_elses_is_never_replaced(snapshot: Snapshot, tmp_path: Path, record: object) -> None:
    """Nor is one that has a file of the record's name."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("years of work")
    if isinstance(record, str):
        (tmp_path / "out/export.json").write_text(record)
    elif record is not None:
        write_checksummed(tmp_path / "out/export.json", record)
    with pytest.raises(DamagedError if isinstance(record, str) else SettingsError, match="name another"):
        export(snapshot, tmp_path / "out")
    assert (tmp_path / "out/thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", ["links/train/notes.txt", "README.md"])
def test_what_somebody_added_or_edited_is_never_replaced(out: Path, snapshot: Snapshot, name: str) -> None:
    assert not export(snapshot, out)
    (out / name).write_text("write to me@example.org")
    with pytest.raises(SettingsError, match=f"{out / name} was added to the export or edited"):
        export(snapshot, out, "huggingface")
    assert (out / name).read_text() == "write to me@example.org"
    (out / name).unlink()
    if name != "README.md":
        assert export(snapshot, out, "huggingface")


@pytest.mark.parametrize("place", ["datasets/cani/mine", "models/cani", "link/x"])
def test_none_goes_where_a_root_keeps_its_own(snapshot: Snapshot, tmp_path: Path, place: str) -> None:
    root = tmp_path / "catalog"
    (root / "link").symlink_to(root / "datasets")
    with pytest.raises(SettingsError, match="not for exports"):
        export(snapshot, root / place)
    assert not (root / place / "README.md").exists()
    assert export(snapshot, root / "mine")


def test_none_goes_where_nothing_can_be_replaced_or_written(
    out: Path, snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    monkeypatch.chdir(out / "links")
    for error, place, told in (
        (SettingsError, Path("/proc"), "not an export"),
        (SettingsError, tmp_path / "file", "not an export"),
        (DiskError, tmp_path / "file/out", "not a writable folder"),
        (DiskError, tmp_path / "loop/out", "name another folder"),
        (DiskError, tmp_path / ("x" * 250), "File name too long"),
        (SettingsError, out, "current"),
    ):
        with pytest.raises(error, match=told):
            export(snapshot, place, published="2026-01-31")


def test_leftovers_of_a_killed_export_are_removed(out: Path, snapshot: Snapshot, tmp_path: Path) -> None:
    for kind, has_work in (("urls", False), ("webdataset", True)):
        for name in (".tmp-new-out", ".tmp-old-out"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "train-000009.tar").write_bytes(b"half")
        assert export(snapshot, out, kind) is has_work
        assert not list(tmp_path.glob(".tmp-*")), "also where nothing else is to be done"
        assert not (out / "train-000009.tar").exists()


@pytest.mark.parametrize("gone", [None, "export.json", "links/train/part-00000.parquet"])
def test_an_export_that_a_killed_one_had_moved_away_is_put_back_and_half_of_one_is_not(
    out: Path, snapshot: Snapshot, gone: str | None
) -> None:
    record = json.loads((out / "export.json").read_text())
    out.rename(out.with_name(".tmp-old-out"))  # killed between the two renames
    out.with_name(".tmp-new-out").mkdir()
    if gone is not None:  # or while it was removed, and the new one lost since
        (out.with_name(".tmp-old-out") / gone).unlink()
    shard = snapshot.pair_files("train")[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(PipelineError, match="damaged"):
        export(snapshot, out, "webdataset")
    assert out.exists() is (gone is None)
    if gone is None:
        assert {name: sha256_of(out / name) for name in record["files"]} == record["files"]
    shard.write_bytes(content)
    assert export(snapshot, out) is (gone is not None)
    assert not list(out.parent.glob(".tmp-*"))


def test_two_exports_to_one_place_do_not_harm_each_other(out: Path, snapshot: Snapshot) -> None:
    half = out.with_name(".tmp-new-out")
    half.mkdir()
    (half / "train-000000.tar").write_bytes(b"half")
    with place_lock(out):
        for kind in ("urls", "webdataset"):
            with pytest.raises(BusyError, match=f"process {os.getpid()}"):
                export(snapshot, out, kind)
        assert (half / "train-000000.tar").read_bytes() == b"half"
        assert export(snapshot, out.with_name("other"))
    assert not export(snapshot, out)
    assert not half.exists()
    assert not list(out.parent.glob(".*lock*"))
