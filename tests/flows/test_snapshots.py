"""Snapshots of a dataset: listed, named, compared, pruned."""

import csv
import io
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.database.catalog import query
from data_catalog.errors import DamagedError, SettingsError
from data_catalog.storage.diff import Change, diff_snapshots
from data_catalog.storage.history import append_run, history, remove_snapshot, resolve
from data_catalog.storage.integrity import record_folder, write_checksummed
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.manifest import (
    Snapshot,
    commit_snapshot,
    file_entry,
    find_snapshot,
    point_to,
    require_snapshot,
    snapshot_names,
)
from flows.cli import main

Row = dict[str, Any]


@pytest.fixture
def root(copied: Path) -> Path:
    return copied


def publish(
    root: Path,
    name: str,
    *,
    captions: Callable[[list[Row]], list[Row]] = lambda rows: rows,
    pairs: Callable[[list[Row]], list[Row]] = lambda rows: rows,
    **manifest: Any,
) -> Snapshot:
    """Commit a snapshot that is the current one with other rows in the files of its first shard."""
    before = require_snapshot(root, "scenes")
    folder = before.folder.with_name(name)
    shutil.copytree(before.folder, folder)
    files = {kind: list(entries) for kind, entries in before.manifest["files"].items()}
    for kind, change in (("captions", captions), ("pairs", pairs)):
        entry = files[kind][0]
        table = pq.read_table(folder / entry["path"])
        rows = change(table.to_pylist())
        (folder / entry["path"]).unlink()
        path = folder / entry["path"]
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
        more = {key: value for key, value in entry.items() if key not in ("path", "sha256", "bytes", "rows")}
        files[kind][0] = file_entry(path, folder, rows=len(rows), **more)
    found = commit_snapshot(root, {**before.manifest, "snapshot": name, "files": files, **manifest})
    append_run(root, "scenes", snapshot=name)
    return found


def counts(changes: tuple[Change, ...]) -> dict[tuple[str, str | None, str | None], int]:
    found: dict[tuple[str, str | None, str | None], int] = {}
    for change in changes:
        key = change.change, change.before, change.after
        found[key] = found.get(key, 0) + change.rows
    return found


def test_a_diff_tells_what_became_of_each_row(root: Path) -> None:
    def other_captions(rows: list[Row]) -> list[Row]:
        kept = [row for row in rows if row["outcome"] == "kept"]
        assert len(kept) >= 6
        kept[0]["caption"] = "something else"
        kept[1]["caption"], kept[1]["license"] = "something, else", "CC0"
        kept[2] |= {"outcome": "rejected", "step": "clean", "drop_reason": "caption_too_long", "detail": "9 words"}
        kept[3]["upstream_line"] += 1
        kept[4]["language_margin"] = 0.25
        gone = kept[5]
        new = {**gone, "caption_id": "cc3m:new#1", "sample_id": "cc3m:new", "caption": "=new"}
        return [row for row in rows if row is not gone] + [new]

    def other_images(rows: list[Row]) -> list[Row]:
        rows[0]["sha256"] = "0" * 64
        rows[1]["split"] = "val"
        rows[2]["width"] += 1
        return rows[:-1]

    before = require_snapshot(root, "scenes")
    after = publish(root, "0123456789ab", captions=other_captions, pairs=other_images)
    found = diff_snapshots(before, after, num_examples=2)
    assert counts(found.captions) == {
        ("caption", "kept", "kept"): 1,
        ("upstream, caption", "kept", "kept"): 1,
        ("outcome", "kept", "rejected at clean: caption_too_long"): 1,
        ("place", "kept", "kept"): 1,
        ("measures", "kept", "kept"): 1,
        ("gone", "kept", None): 1,
        ("added", None, "kept"): 1,
    }
    assert found.num_same == sum(file["rows"] for file in before.manifest["files"]["captions"]) - 6
    assert counts(found.images) == {
        ("image", "train", "train"): 1,
        ("outcome", "train", "val"): 1,
        ("size", "train", "train"): 1,
        ("gone", "train", None): 1,
    }
    outcome = next(change for change in found.captions if change.change == "outcome")
    assert outcome.examples[0].columns["drop_reason"] == (None, "caption_too_long")
    assert outcome.examples[0].columns["detail"][1] == "9 words"
    assert [(each.kind, each.only_before, each.only_after) for each in found.files if each.only_after] == [
        ("captions", 1, 1),
        ("pairs", 1, 1),
    ]
    turned = diff_snapshots(after, before, num_examples=0)
    assert counts(turned.captions)["added", None, "kept"] == 1
    assert counts(turned.captions)["outcome", "rejected at clean: caption_too_long", "kept"] == 1
    assert all(change.examples == () for change in turned.captions)


def test_files_that_both_have_are_not_read_and_a_damaged_one_is_a_sentence(root: Path) -> None:
    before = require_snapshot(root, "scenes")
    after = publish(root, "0123456789ab", settings={**before.manifest["settings"], "split": {"val": 0.3}})
    for path in (*after.caption_files()[1:], *after.all_pair_files()[1:]):
        path.unlink()
    found = diff_snapshots(before, after, num_examples=2)
    assert (found.captions, found.images) == ((), ())
    assert found.settings["settings.split.val"] == (0.2, 0.3)
    assert found.settings["settings.split.salt"] == ("vernaclip", None)
    other = publish(root, "0123456789ac", captions=lambda rows: rows[:-1])
    other.caption_files()[0].write_bytes(b"PAR1 no PAR1")
    with pytest.raises(DamagedError, match=r"the snapshots cannot be compared .*: see `vernaclip verify`"):
        diff_snapshots(before, other, num_examples=1)


def test_diff_prints_in_three_formats(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def escape(rows: list[Row]) -> list[Row]:
        first, *_ = (row for row in rows if row["outcome"] == "kept")
        first["caption"], first["source"] = "\x1b[31m<b>\n\u202e", "=1+1"
        return rows

    first = require_snapshot(root, "scenes").snapshot
    assert main(["diff", "current", first[:5], "--root", str(root)]) == 0
    assert capsys.readouterr().out.count("0 added, 0 gone, 0 changed") == 2
    publish(root, "0123456789ab", captions=escape)
    assert main(["diff", "previous", "current", "--root", str(root)]) == 0
    out = capsys.readouterr().out
    assert "0 added, 0 gone, 1 changed" in out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert main(["diff", "previous", "current", "--root", str(root), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    told = [(row["of"], row["change"], row["source"], row["rows"]) for row in rows]
    assert told == [("captions", "caption", "'=1+1", "1")]
    assert main(["diff", "previous", "current", "--root", str(root), "--format", "json"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    found = json.loads(out)
    assert found["after"] == "0123456789ab"
    [change] = found["captions"]["changes"]
    assert change["examples"][0]["columns"]["caption"][1] == "\x1b[31m<b>\n\u202e"


def test_snapshots_are_named_by_first_letters_and_by_place(root: Path) -> None:
    first = require_snapshot(root, "scenes").snapshot
    publish(root, "0123456789ab")
    publish(root, "0123ffffffff")

    def named(*names: str) -> list[str]:
        return [snapshot.snapshot for snapshot in resolve(root, names, None)]

    assert named("current", "previous", first[:6], "01234") == ["0123ffffffff", "0123456789ab", first, "0123456789ab"]
    point_to(root, "scenes", first)
    append_run(root, "scenes", snapshot=first)
    assert named("current", "previous") == [first, "0123ffffffff"]
    with pytest.raises(SettingsError, match="0123 matches 0123456789ab and 0123ffffffff"):
        named("0123")
    with pytest.raises(SettingsError, match="holds no snapshot zz: `vernaclip snapshots`"):
        named("zz")
    with pytest.raises(SettingsError, match="holds no snapshot current"):
        resolve(root, ["current"], "nothing")


def test_snapshots_are_listed_oldest_first(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = require_snapshot(root, "scenes").snapshot
    publish(root, "0123456789ab", attempt=1)
    assert main(["snapshots", "--root", str(root), "--format", "json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for attempt, name in ((0, first), (1, "0123456789ab"), (2, None)):
        found = find_snapshot(root, "scenes", require_snapshot(root, "scenes").manifest["build_key"], attempt)
        assert (found.snapshot if found else None) == name, "a build finds the snapshot of its attempt"
    assert [(row["snapshot"], row["current"], row["attempt"]) for row in rows] == [
        (first, False, 0),
        ("0123456789ab", True, 1),
    ]
    assert all(row["published"] and row["captions"] > 0 and row["bytes"] > 0 for row in rows)
    (root / "datasets" / "scenes" / "runs.jsonl").unlink()
    os.utime(root / "datasets" / "scenes" / first / "manifest.json", (time.time() - 60,) * 2)
    listed = [(each.snapshot.snapshot, each.time) for each in history(root, "scenes")]
    assert listed == [(first, None), ("0123456789ab", None)]
    assert main(["snapshots", "nothing", "--root", str(root)]) == 1
    assert "holds no dataset 'nothing': it holds scenes" in capsys.readouterr().err


def test_prune_keeps_what_is_asked_for_and_what_something_needs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [require_snapshot(root, "scenes").snapshot]
    names += [publish(root, f"{number}123456789ab").snapshot for number in range(5)]
    write_checksummed(root / "models" / "scenes" / "current.json", {"model": "x", "snapshot": names[0]})
    record_folder(root / "models" / "scenes" / "x", [])
    write_checksummed(
        root / "exports" / "scenes" / "urls" / "export.json", {"dataset": "scenes", "snapshot": names[2], "files": {}}
    )
    folder = root / "datasets" / "scenes"
    for name in ("fedcba987654", ".tmp-removed-aaaaaaaaaaaa"):
        (folder / name / "pairs").mkdir(parents=True)
    before = set(snapshot_names(root, "scenes"))
    assert main(["prune", "--keep", "2", "--root", str(root), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert set(snapshot_names(root, "scenes")) == before
    assert main(["prune", "scenes", "--keep", "2", "--root", str(root)]) == 0
    out = capsys.readouterr().out
    for done, planned in (
        ("removed:", "would be removed:"),
        ("freed", "would be freed"),
        ("is removed;", "would be removed;"),
        ("is gone", "goes"),
    ):
        told = told.replace(planned, done)
    assert out == told
    assert set(snapshot_names(root, "scenes")) == {names[0], names[4], names[5]}
    assert f"kept: scenes {names[0]}: the newest model was trained on it" in out
    assert "urls was exported from a snapshot that is removed" in out
    assert "fedcba987654 (unfinished" in out
    left = {path.name for path in folder.iterdir() if path.is_dir()}
    assert left == {names[0], names[4], names[5], "fetch-log"}
    assert main(["verify", "--root", str(root)]) == 0
    assert "stray:" not in capsys.readouterr().out
    assert main(["prune", "--keep", "2", "--root", str(root)]) == 0
    assert capsys.readouterr().out.endswith("nothing to remove\n")
    assert main(["prune", "--keep", "0", "--root", str(root)]) == 1


def test_where_no_snapshot_is_the_current_one_the_newest_stays(root: Path) -> None:
    """As after a build that was killed before it wrote the pointer, or where a damaged one was removed."""
    newest = [publish(root, f"{number}123456789ab").snapshot for number in range(3)]
    (root / "datasets" / "scenes" / "current.json").unlink()
    assert main(["prune", "--keep", "2", "--root", str(root)]) == 0
    assert snapshot_names(root, "scenes") == newest[1:]
    assert main(["prune", "--root", str(root)]) == 0
    assert snapshot_names(root, "scenes") == newest[2:]


def test_prune_frees_what_it_says(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = require_snapshot(root, "scenes")
    shared = first.all_pair_files()[0]
    second = publish(root, "0123456789ab", captions=lambda rows: rows[:-1])
    linked = second.folder / shared.relative_to(first.folder)
    linked.unlink()
    linked.hardlink_to(shared)
    size = sum(path.stat().st_size for path in first.folder.rglob("*") if path.is_file())
    assert main(["prune", "--root", str(root)]) == 0
    assert f"1 snapshot, {size - linked.stat().st_size:,} bytes freed" in capsys.readouterr().out
    assert linked.is_file()


def test_a_training_keeps_all_snapshots(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = require_snapshot(root, "scenes").snapshot
    publish(root, "0123456789ab")  # and its build dies before the catalog is rebuilt
    with writer_lock(root / "models" / "scenes"):
        assert main(["prune", "--root", str(root)]) == 0
    assert f"process {os.getpid()}" in capsys.readouterr().out
    assert snapshot_names(root, "scenes") == sorted(["0123456789ab", first])
    assert main(["prune", "--root", str(root)]) == 0
    seen = query(root, "SELECT DISTINCT snapshot FROM captions").to_pylist()
    assert seen == [{"snapshot": "0123456789ab"}], "views do not name what is pruned"
    with pytest.raises(SettingsError, match="0123456789ab is the current snapshot of scenes"):
        remove_snapshot(root, "scenes", "0123456789ab")
    assert remove_snapshot(root, "scenes", first) == 0, "it is gone already"
