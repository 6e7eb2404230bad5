"""Snapshots of a dataset: listed, named, compared, pruned, exported; and the overview of a catalog."""

import csv
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.base.errors import DamagedError, DefectError, SettingsError
from data_catalog.catalog.diff import diff_snapshots
from data_catalog.catalog.history import append_run, remove_snapshot, resolve
from data_catalog.catalog.manifest import (
    Snapshot,
    commit_snapshot,
    file_entry,
    find_snapshot,
    point_to,
    require_snapshot,
    snapshot_names,
)
from data_catalog.catalog.query import query
from data_catalog.disk.files import write_json
from data_catalog.disk.lock import writer_lock
from data_catalog.disk.records import record_folder, write_checksummed
from data_catalog.exports.documents import write_documents
from flows.recipe.recipe import load_recipe, what_settings

Row = dict[str, Any]
Change = Callable[[list[Row]], list[Row]]


@pytest.fixture
def root(copied: Path) -> Path:
    return copied


@pytest.fixture
def first(root: Path) -> Snapshot:
    """The snapshot of the build."""
    return require_snapshot(root, "scenes")


@pytest.fixture
def call(root: Path, told: Any) -> Callable[..., str]:
    """Called with a command, gives what it prints about the root."""
    return lambda *words, code=0: str(told([*words, "--root", str(root)], code=code))


def publish(root: Path, name: str, *, captions: Change = list, pairs: Change = list, **manifest: Any) -> Snapshot:
    """Commit a snapshot that is the current one with other rows in the files of its first shard."""
    before = require_snapshot(root, "scenes")
    folder = before.folder.with_name(name)
    shutil.copytree(before.folder, folder)
    files = {kind: list(entries) for kind, entries in before.manifest["files"].items()}
    for kind, change in (("captions", captions), ("pairs", pairs)):
        # A loaded machine may lose images to a timeout. Rows are then changed in the file that has most of them.
        rows_of = [file["rows"] for file in files[kind]]
        number = rows_of.index(max(rows_of)) if kind == "pairs" and pairs is not list else 0
        entry = files[kind][number]
        path = folder / entry["path"]
        table = pq.read_table(path)
        rows = change(table.to_pylist())
        path.unlink()
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
        more = {key: value for key, value in entry.items() if key not in ("path", "sha256", "bytes", "rows")}
        files[kind][number] = file_entry(path, folder, rows=len(rows), **more)
    found = commit_snapshot(root, {**before.manifest, "snapshot": name, "files": files, **manifest})
    append_run(root, "scenes", snapshot=name)
    return found


def counts(found: dict[str, Any], kind: str) -> dict[tuple[str, str | None, str | None], int]:
    counted = Counter[tuple[str, str | None, str | None]]()
    for change in found[kind]["changes"]:
        counted[change["change"], change["before"], change["after"]] += change["rows"]
    return dict(counted)


def test_a_diff_tells_what_became_of_each_row(root: Path, first: Snapshot) -> None:
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

    after = publish(root, "0123456789ab", captions=other_captions, pairs=other_images)
    found = diff_snapshots(first, after, num_examples=2)
    assert counts(found, "captions") == {
        ("caption", "kept", "kept"): 1,
        ("caption, license", "kept", "kept"): 1,
        ("outcome", "kept", "rejected at clean: caption_too_long"): 1,
        ("upstream_line", "kept", "kept"): 1,
        ("language_margin", "kept", "kept"): 1,
        ("gone", "kept", None): 1,
        ("added", None, "kept"): 1,
    }
    assert found["captions"]["same"] == sum(file["rows"] for file in first.manifest["files"]["captions"]) - 6
    assert counts(found, "images") == {
        ("sha256", "train", "train"): 1,
        ("outcome", "train", "val"): 1,
        ("width", "train", "train"): 1,
        ("gone", "train", None): 1,
    }
    outcome = next(change for change in found["captions"]["changes"] if change["change"] == "outcome")
    assert outcome["examples"][0]["columns"]["drop_reason"] == (None, "caption_too_long")
    assert outcome["examples"][0]["columns"]["detail"][1] == "9 words"
    files = {each["kind"]: (each["only_before"], each["only_after"]) for each in found["files"] if each["only_after"]}
    assert files == {"captions": (1, 1), "pairs": (1, 1)}
    turned = diff_snapshots(after, first, num_examples=0)
    assert counts(turned, "captions")["outcome", "rejected at clean: caption_too_long", "kept"] == 1
    assert all(change["examples"] == [] for change in turned["captions"]["changes"])


def test_files_that_both_have_are_not_read_and_a_damaged_one_is_a_sentence(root: Path, first: Snapshot) -> None:
    after = publish(root, "0123456789ab", settings={**first.manifest["settings"], "split": {"val": 0.3}})
    for path in (*after.files("captions")[1:], *after.files("pairs")[1:]):
        path.unlink()
    found = diff_snapshots(first, after, num_examples=2)
    assert (counts(found, "captions"), counts(found, "images")) == ({}, {})
    settings = {row["name"]: (row["before"], row["after"]) for row in found["settings"]}
    assert settings["settings.split.val"] == (0.2, 0.3)
    assert settings["settings.split.salt"] == ("vernaclip", None)
    other = publish(root, "0123456789ac", captions=lambda rows: rows[:-1])
    other.files("captions")[0].write_bytes(b"PAR1 no PAR1")
    with pytest.raises(DamagedError, match=r"cannot be compared .*: see `vernaclip verify`"):
        diff_snapshots(first, other, num_examples=1)


def test_diff_prints_in_three_formats(root: Path, first: Snapshot, call: Any) -> None:
    def escape(rows: list[Row]) -> list[Row]:
        row = next(row for row in rows if row["outcome"] == "kept")
        row["caption"], row["source"] = "\x1b[31m<b>\n\u202e", "=1+1"
        return rows

    assert call("diff", "current", first.snapshot[:5]).count("0 added, 0 gone, 0 changed") == 2
    publish(root, "0123456789ab", captions=escape)
    table, lines, text = (
        call("diff", "previous", "current", "--format", form).replace("\r", "") for form in ("table", "csv", "json")
    )
    assert "0 added, 0 gone, 1 changed" in table
    assert not {"\x1b", "\u202e"} & set(table)
    changes = [(row["of"], row["change"], row["source"], row["rows"]) for row in csv.DictReader(io.StringIO(lines))]
    assert changes == [("captions", "source, caption", "'=1+1", "1")]
    assert "\x1b" not in text
    [change] = json.loads(text)["captions"]["changes"]
    assert change["examples"][0]["columns"]["caption"][1] == "\x1b[31m<b>\n\u202e"


def test_snapshots_are_named_by_first_letters_and_by_place(root: Path, first: Snapshot) -> None:
    publish(root, "0123456789ab")
    publish(root, "0123ffffffff")

    def named(*names: str) -> list[str]:
        return [snapshot.snapshot for snapshot in resolve(root, names, None)]

    expected = ["0123ffffffff", "0123456789ab", first.snapshot, "0123456789ab"]
    assert named("current", "previous", first.snapshot[:6], "01234") == expected
    point_to(root, "scenes", first.snapshot)
    append_run(root, "scenes", snapshot=first.snapshot)
    assert named("current", "previous") == [first.snapshot, "0123ffffffff"]
    for names, dataset, error in (
        (["0123"], None, "0123 matches 0123456789ab and 0123ffffffff"),
        (["zz"], None, "holds no snapshot zz:"),
        (["zz", "current"], None, "holds no snapshot zz and current"),
        (["current"], "nothing", "holds no snapshot current"),
    ):
        with pytest.raises(SettingsError, match=error):
            resolve(root, names, dataset)


def test_snapshots_are_listed_oldest_first(root: Path, first: Snapshot, call: Any) -> None:
    publish(root, "0123456789ab", attempt=1)
    rows = [json.loads(line) for line in call("snapshots", "--format", "json").splitlines()]
    for attempt, name in ((0, first.snapshot), (1, "0123456789ab"), (2, None)):
        found = find_snapshot(root, "scenes", first.manifest["build_key"], attempt)
        assert (found.snapshot if found else None) == name, "a build finds the snapshot of its attempt"
    expected = [(first.snapshot, False, 0), ("0123456789ab", True, 1)]
    assert [(row["snapshot"], row["current"], row["attempt"]) for row in rows] == expected
    assert all(row["published"] and row["captions"] > 0 and row["bytes"] > 0 for row in rows)
    assert "holds no dataset 'nothing': it holds scenes" in call("snapshots", "nothing", code=1)


def test_prune_keeps_what_is_asked_for_and_what_something_needs(root: Path, first: Snapshot, call: Any) -> None:
    names = [first.snapshot, *(publish(root, f"{number}123456789ab").snapshot for number in range(5))]
    model = root / "models" / "scenes" / "x"
    write_checksummed(model.parent / "current.json", {"model": "x"})
    for name, value in (("run.json", {}), ("dataset.json", {"dataset": "scenes", "snapshot": names[0]})):
        write_json(model / name, value)
    record_folder(model, ["dataset.json"])
    record = {"dataset": "scenes", "snapshot": names[2], "files": {}}
    write_checksummed(root / "exports" / "scenes" / "urls" / "export.json", record)
    folder = root / "datasets" / "scenes"
    for name in ("fedcba987654", ".tmp-removed-aaaaaaaaaaaa"):
        (folder / name / "pairs").mkdir(parents=True)
    planned = call("prune", "--keep", "2", "--dry-run")
    assert snapshot_names(root, "scenes") == sorted(names)
    done = call("prune", "scenes", "--keep", "2")
    assert planned.replace("would be ", "").replace("removed;", "is removed;").replace("goes", "is gone") == done
    kept = {names[0], names[4], names[5]}
    assert set(snapshot_names(root, "scenes")) == kept
    assert f"kept: scenes {names[0]}: the model scenes/x was trained on it" in done
    assert "urls was exported from a snapshot that is removed" in done
    assert "fedcba987654 (unfinished" in done
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {*kept, "fetch-log"}
    assert "stray:" not in call("verify")
    assert call("prune", "--keep", "2").endswith("nothing to remove\n")
    call("prune", "--keep", "0", code=1)


def test_prune_frees_what_it_says_and_keeps_the_newest_where_none_is_the_current_one(
    root: Path, first: Snapshot, call: Any
) -> None:
    """A build that was killed has no pointer yet."""
    shared = first.files("pairs")[0]
    second = publish(root, "0123456789ab", captions=lambda rows: rows[:-1])
    linked = second.folder / shared.relative_to(first.folder)
    linked.unlink()
    linked.hardlink_to(shared)
    size = sum(path.stat().st_size for path in first.folder.rglob("*") if path.is_file())
    (root / "datasets" / "scenes" / "current.json").unlink()
    assert f"1 snapshot, {size - linked.stat().st_size:,} bytes freed" in call("prune")
    assert snapshot_names(root, "scenes") == [second.snapshot]
    assert linked.is_file()


def test_a_training_keeps_all_snapshots(root: Path, first: Snapshot, call: Any) -> None:
    publish(root, "0123456789ab")  # and its build dies before the catalog is rebuilt
    with writer_lock(root / "models" / "scenes"):
        assert f"process {os.getpid()}" in call("prune")
    assert snapshot_names(root, "scenes") == sorted(["0123456789ab", first.snapshot])
    call("prune")
    seen = query(root, "SELECT DISTINCT snapshot FROM captions").to_pylist()
    assert seen == [{"snapshot": "0123456789ab"}], "views do not name what is pruned"
    with pytest.raises(DefectError, match="0123456789ab is the current snapshot of scenes"):
        remove_snapshot(root, "scenes", "0123456789ab")
    assert remove_snapshot(root, "scenes", first.snapshot) == 0, "it is gone already"


def test_the_catalogs_numbers_are_those_of_the_rows(built: Any, told: Any) -> None:
    root, command = built[0], ["catalog", "--root", str(built[0])]
    [found] = json.loads(told([*command, "--json"]))
    sql = "SELECT source, count(*) AS captions, count(*) FILTER (outcome = 'kept') AS kept FROM captions GROUP BY 1"
    counted = query(root, f"{sql} ORDER BY 1").to_pylist()
    assert [{name: source[name] for name in ("source", "captions", "kept")} for source in found["sources"]] == counted
    splits = query(root, "SELECT split, count(*) AS n FROM pairs GROUP BY 1").to_pylist()
    assert {split: n for split, n in found["pairs"].items() if n} == {row["split"]: row["n"] for row in splits}
    rejects = query(root, "SELECT step, drop_reason, count(*) AS dropped FROM rejects GROUP BY ALL").to_pylist()
    assert len(found["drop_reasons"]) == len(rejects) > 0
    assert all(row in rejects for row in found["drop_reasons"])
    counts = [row["dropped"] for row in found["drop_reasons"]]
    assert counts == sorted(counts, reverse=True)
    rows, kept = (sum(row[name] for row in counted) for name in ("captions", "kept"))
    assert f"captions  {rows:,}, of which {kept:,} are kept ({kept / rows:.1%})" in told(command)


def test_what_lies_beside_a_snapshot_is_named(root: Path, first: Snapshot, call: Any) -> None:
    publish(root, "0123456789ab")
    point_to(root, "scenes", first.snapshot)
    exports, report = root / "exports" / "scenes", first.folder.parent / "report.html"
    report.write_text("<p>", encoding="utf-8")
    for kind, snapshot in (("huggingface", first.snapshot), ("webdataset", "0123456789ab")):
        record = {"dataset": "scenes", "snapshot": snapshot, "format": kind, "files": {}}
        write_checksummed(exports / kind / "export.json", record)
    [found] = json.loads(call("catalog", "--rebuild", "--json"))
    assert (found["other_snapshots"], found["report"]) == (["0123456789ab"], str(report))
    text = call("catalog")
    assert f"export    huggingface: {exports / 'huggingface'}\n" in text
    assert f"export    webdataset: {exports / 'webdataset'} (of 0123456789ab)\n" in text


def test_a_build_writes_its_card_and_verifies_it(first: Snapshot) -> None:
    documents, card = first.manifest["documents"], first.folder / "README.md"
    assert [entry["path"] for entry in documents] == ["README.md"]
    assert write_documents(first.folder, first.manifest) == documents, "the same again"
    assert first.verify() == []
    card.write_text(card.read_text().replace("vernaclip", "somebody"))
    (problem,) = first.verify()
    assert problem.startswith(f"{card} is damaged")


def test_the_command_says_what_is_in_an_export_and_what_is_not(root: Path, call: Any) -> None:
    for state in ("Exported", "Up to date"):
        assert f"{state}: {root}/exports/scenes/huggingface" in call("export", "scenes", "--format", "huggingface")
    said = call("export", "scenes", "--format", "huggingface", "--pixels", "none", "--out", f"{root.parent}/list")
    assert "images of flickr8k are not exported: they have no URL" in said
    assert "the export was made without pixels" in said
    assert f"Exported: {root.parent}/list" in said


@pytest.mark.parametrize(("failpoint", "code"), [("atomic.after_write=enospc", 1), ("atomic.after_fsync:2=kill", -9)])
def test_a_full_disk_or_a_kill_leaves_no_half_export(
    failpoint: str, code: int, root: Path, child: Any, call: Any
) -> None:
    place, words = root / "exports" / "scenes" / "webdataset", ["export", "scenes", "--format", "webdataset"]
    with child([*words, "--root", str(root)], failpoint) as process:
        _, error = process.communicate()
    assert process.returncode == code, error
    if code == 1:
        assert error.splitlines()[-1].endswith("is full: free space and run the same command again")
        assert not list(place.parent.glob(".tmp-*")), "what filled the disk is removed"
    assert not place.exists()
    call(*words)
    assert (place / "export.json").is_file()
    assert not list(place.parent.glob(".tmp-*"))


def test_rights_of_a_source_are_settings_of_every_kind(tmp_path: Path) -> None:
    recipe = load_recipe(
        "italian", root=tmp_path, overrides=['sources.wit.license="CC-BY-4.0"', "sources.wit.redistribution=false"]
    )
    assert what_settings(recipe)["rights"] == {"wit": {"license": "CC-BY-4.0", "redistribution": False}}
    assert "rights" not in what_settings(load_recipe("italian", root=tmp_path)), "as before there were any"
    for wrong in ("redistribution=yes", "license=4"):
        with pytest.raises(SettingsError, match=rf"sources\.wit\.{wrong.partition('=')[0]} must be"):
            load_recipe("italian", root=tmp_path, overrides=[f"sources.wit.{wrong}"])
