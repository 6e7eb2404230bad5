"""Exports from the command line, documents of snapshots, and what recipes say of rights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_catalog.database.catalog import rebuild
from data_catalog.errors import SettingsError
from data_catalog.exports.documents import write_documents
from data_catalog.storage.manifest import require_snapshot
from flows.cli import main
from flows.jobs import BuildReport
from flows.recipe.recipe import load_recipe, what_settings

Built = tuple[Path, BuildReport]


def test_a_build_writes_its_card_and_metadata_and_verifies_them(copied: Path) -> None:
    snapshot = require_snapshot(copied, "scenes")
    documents = {entry["path"]: entry for entry in snapshot.manifest["documents"]}
    assert documents.keys() == {"README.md", "croissant.json"}
    assert all((snapshot.folder / name).stat().st_size == entry["bytes"] for name, entry in documents.items())
    assert snapshot.verify() == []
    assert write_documents(snapshot.folder, snapshot.manifest) == snapshot.manifest["documents"], "the same again"
    metadata = json.loads((snapshot.folder / "croissant.json").read_text())
    found = {file["contentUrl"]: file["sha256"] for file in metadata["distribution"] if "sha256" in file}
    assert found == {entry["path"]: entry["sha256"] for entry in snapshot.manifest["files"]["pairs"]}
    assert {entry["license"] for entry in snapshot.manifest["sources"].values()} == {"CC0-1.0"}
    card = snapshot.folder / "README.md"
    assert "Srinivasan" not in card.read_text(), "the samples only borrow the format of WIT"
    card.write_text(card.read_text().replace("vernaclip", "somebody"))
    (problem,) = snapshot.verify()
    assert problem.startswith(f"{card} is damaged")


def test_the_command_says_what_is_in_an_export_and_what_is_not(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", "scenes", "--root", str(copied), "--format"]
    assert main([*arguments, "huggingface"]) == 0
    assert f"Exported: {copied}/exports/scenes/huggingface" in capsys.readouterr().out
    assert main([*arguments, "huggingface"]) == 0
    assert f"Up to date: {copied}/exports/scenes/huggingface" in capsys.readouterr().out
    assert main([*arguments, "urls", "--out", str(copied.parent / "list")]) == 0
    said = capsys.readouterr().out
    assert "images of flickr8k are not exported: they have no URL" in said
    assert "the export was made without pixels" in said
    assert f"Exported: {copied.parent}/list" in said
    rebuild(copied)
    assert main(["verify", "--root", str(copied)]) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cats", "--root", "{root}"], "has no dataset 'cats'"),
        (["scenes", "--root", "{root}/typo"], "typo does not exist: give the root of a catalog with --root"),
        (["scenes", "--root", "{root}", "--published", "soon"], "published must be a date such as 2026-01-31"),
    ],
)
def test_wrong_wishes_are_one_sentence(
    built: Built, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", *(word.format(root=built[0]) for word in words), "--format", "urls"]) == 1
    assert told in capsys.readouterr().err
    assert not (built[0] / "typo").exists()


@pytest.mark.parametrize(
    ("failpoint", "returncode"), [("atomic.after_write=enospc", 1), ("atomic.after_fsync:2=kill", -9)]
)
def test_a_full_disk_or_a_kill_leaves_no_half_export(failpoint: str, returncode: int, copied: Path) -> None:
    place = copied / "exports" / "scenes" / "webdataset"
    words = ["export", "scenes", "--root", str(copied), "--format", "webdataset"]
    environment = {**os.environ, "VERNACLIP_FAILPOINTS": failpoint}
    command = [sys.executable, "-m", "flows.cli", *words]
    failed = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert failed.returncode == returncode, failed.stderr
    if returncode == 1:
        last = failed.stderr.splitlines()[-1]
        assert last.startswith("vernaclip: ")
        assert last.endswith("is full: free space and run the same command again")
        assert not list(place.parent.glob(".tmp-*")), "what filled the disk is removed"
    assert not place.exists()
    assert main(words) == 0
    assert (place / "export.json").is_file()
    assert not list(place.parent.glob(".tmp-*"))


def test_rights_of_a_source_are_settings_of_every_kind(tmp_path: Path) -> None:
    free = ['sources.wit.license="CC-BY-4.0"', "sources.wit.redistribution=false"]
    recipe = load_recipe("italian", root=tmp_path, overrides=free)
    stated = {"license": "CC-BY-4.0", "redistribution": False}
    assert {source.name: source.rights.stated() for source in recipe.sources}["wit"] == stated
    assert what_settings(recipe)["rights"] == {"wit": stated}
    assert "rights" not in what_settings(load_recipe("italian", root=tmp_path)), "as before there were any"
    with pytest.raises(SettingsError, match=r"sources\.wit\.redistribution must be true or false, got 'yes'"):
        load_recipe("italian", root=tmp_path, overrides=["sources.wit.redistribution=yes"])
    with pytest.raises(SettingsError, match=r"sources\.wit\.license must be a string, got 4"):
        load_recipe("italian", root=tmp_path, overrides=["sources.wit.license=4"])
