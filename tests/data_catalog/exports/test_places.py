"""Where exports go: what they may replace, what they leave alone, and what a killed one left."""

import json
import os
from pathlib import Path

import pytest

from data_catalog.errors import BusyError, DamagedError, DiskError, PipelineError, SettingsError
from data_catalog.exports.export import ExportConfig, export_snapshot
from data_catalog.storage.integrity import write_checksummed
from data_catalog.storage.lock import place_lock
from data_catalog.storage.manifest import Snapshot
from data_catalog.storage.shards import sha256_of

URLS = ExportConfig(format="urls")


@pytest.fixture
def export(snapshot: Snapshot, tmp_path: Path) -> Path:
    """A list of URLs in `tmp_path / "out"`."""
    export_snapshot(snapshot, URLS, tmp_path / "out")
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
        export_snapshot(snapshot, URLS, tmp_path / "out")
    assert (tmp_path / "out/thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", ["links/train/notes.txt", "README.md"])
def test_what_somebody_added_or_edited_is_never_replaced(export: Path, snapshot: Snapshot, name: str) -> None:
    assert export_snapshot(snapshot, URLS, export).up_to_date
    path = export / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("write to me@example.org")
    with pytest.raises(SettingsError, match=f"{path} was added to the export or edited"):
        export_snapshot(snapshot, ExportConfig(format="huggingface"), export)
    assert path.read_text() == "write to me@example.org"
    path.unlink()
    if not path.parent.samefile(export):
        assert not export_snapshot(snapshot, ExportConfig(format="huggingface"), export).up_to_date


@pytest.mark.parametrize("place", ["datasets/cani/mine", "models/cani", "link/x"])
def test_none_goes_where_a_root_keeps_its_own(snapshot: Snapshot, tmp_path: Path, place: str) -> None:
    root = tmp_path / "catalog"
    (root / "link").symlink_to(root / "datasets")
    with pytest.raises(SettingsError, match="not for exports"):
        export_snapshot(snapshot, URLS, root / place)
    assert not (root / place / "README.md").exists()
    assert not export_snapshot(snapshot, URLS, root / "mine").up_to_date


def test_none_goes_where_nothing_can_be_replaced_or_written(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    export_snapshot(snapshot, URLS, tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out/links")
    for error, place, told in (
        (SettingsError, Path("/proc"), "mount point"),
        (SettingsError, tmp_path / "file", "not an export"),
        (DiskError, tmp_path / "file/out", "not a writable folder"),
        (DiskError, tmp_path / "loop/out", "cannot be an export's folder"),
        (DiskError, tmp_path / ("x" * 250), "cannot be an export's folder"),
        (SettingsError, tmp_path / "out", "current"),
    ):
        with pytest.raises(error, match=told):
            export_snapshot(snapshot, ExportConfig(format="urls", published="2026-01-31"), place)


def test_where_an_export_goes_may_be_said_in_any_way(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for name in ("../link", "a/b/../c"):
        export_snapshot(snapshot, ExportConfig(format="urls"), Path(name))
    for name in ("there", "here/a/c"):
        assert (tmp_path / name / "export.json").is_file()
    assert (tmp_path / "link").is_symlink()


def test_leftovers_of_a_killed_export_are_removed(snapshot: Snapshot, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_snapshot(snapshot, ExportConfig(format="webdataset"), out)
    (tmp_path / ".tmp-new-out").mkdir()
    assert export_snapshot(snapshot, ExportConfig(format="webdataset"), out).up_to_date
    assert not list(tmp_path.glob(".tmp-*")), "though nothing else is to be done"
    for name in (".tmp-new-out", ".tmp-old-out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train-000009.tar").write_bytes(b"half")
    export_snapshot(snapshot, ExportConfig(format="webdataset", samples_per_shard=2), out)
    assert not list(tmp_path.glob(".tmp-*"))
    assert not (out / "train-000009.tar").exists()


def test_an_export_that_a_killed_one_had_moved_away_is_there_again(export: Path, snapshot: Snapshot) -> None:
    record = json.loads((export / "export.json").read_text())
    export.rename(export.with_name(".tmp-old-out"))  # killed between the two renames
    export.with_name(".tmp-new-out").mkdir()
    shard = snapshot.pair_files("train")[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(PipelineError, match="damaged"):
        export_snapshot(snapshot, ExportConfig(format="webdataset"), export)
    assert {name: sha256_of(export / name) for name in record["files"]} == record["files"]
    assert export_snapshot(snapshot, URLS, export).up_to_date
    assert not list(export.parent.glob(".tmp-*"))


@pytest.mark.parametrize("gone", ["export.json", "links/train/part-00000.parquet"])
def test_half_an_export_is_not_put_back(export: Path, snapshot: Snapshot, gone: str) -> None:
    export.rename(export.with_name(".tmp-old-out"))  # killed while it was removed, and the new one lost since
    (export.with_name(".tmp-old-out") / gone).unlink()
    shard = snapshot.pair_files("train")[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(PipelineError, match="damaged"):
        export_snapshot(snapshot, URLS, export)
    assert not export.exists()
    shard.write_bytes(content)
    assert not export_snapshot(snapshot, URLS, export).up_to_date


def test_two_exports_to_one_place_do_not_harm_each_other(export: Path, snapshot: Snapshot) -> None:
    half = export.with_name(".tmp-new-out")
    half.mkdir()
    (half / "train-000000.tar").write_bytes(b"half")
    with place_lock(export):
        for settings in (URLS, ExportConfig(format="webdataset")):
            with pytest.raises(BusyError, match=f"process {os.getpid()}"):
                export_snapshot(snapshot, settings, export)
        assert (half / "train-000000.tar").read_bytes() == b"half"
        assert not export_snapshot(snapshot, URLS, export.with_name("other")).up_to_date
    assert export_snapshot(snapshot, URLS, export).up_to_date
    assert not half.exists()
    assert not list(export.parent.glob(".*lock*"))
