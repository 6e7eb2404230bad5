"""`vernaclip catalog`: its numbers are those of the rows, and what lies beside a snapshot is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_catalog.database.catalog import query
from data_catalog.storage.integrity import write_checksummed
from data_catalog.storage.manifest import commit_snapshot, point_to, require_snapshot
from flows.cli import main
from flows.jobs import BuildReport

Built = tuple[Path, BuildReport]
Capture = pytest.CaptureFixture[str]


def told(root: Path, capsys: Capture, *more: str) -> str:
    capsys.readouterr()
    assert main(["catalog", "--root", str(root), *more]) == 0
    return capsys.readouterr().out


def facts(root: Path, capsys: Capture, *more: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(told(root, capsys, "--json", *more))
    return found


def test_numbers_are_those_of_the_rows(built: Built, capsys: Capture) -> None:
    [found] = facts(built[0], capsys)
    sql = "SELECT source, count(*) AS captions, count(*) FILTER (outcome = 'kept') AS kept FROM captions GROUP BY 1"
    counted = sorted(query(built[0], sql).to_pylist(), key=lambda row: str(row["source"]))
    assert [{name: source[name] for name in ("source", "captions", "kept")} for source in found["sources"]] == counted
    splits = query(built[0], "SELECT split, count(*) AS n FROM pairs GROUP BY 1").to_pylist()
    assert {split: count for split, count in found["pairs"].items() if count} == {
        row["split"]: row["n"] for row in splits
    }
    rejects = query(built[0], "SELECT step, drop_reason, count(*) AS dropped FROM rejects GROUP BY ALL").to_pylist()
    assert len(found["drop_reasons"]) == len(rejects) > 0
    assert all(row in rejects for row in found["drop_reasons"])
    counts = [row["dropped"] for row in found["drop_reasons"]]
    assert counts == sorted(counts, reverse=True)
    text = told(built[0], capsys)
    rows, kept = (sum(row[name] for row in counted) for name in ("captions", "kept"))
    assert f"captions  {rows:,}, of which {kept:,} are kept ({kept / rows:.1%})" in text
    assert all(source["license"] in text for source in found["sources"])


def test_what_lies_beside_a_snapshot_is_named(copied: Path, capsys: Capture) -> None:
    now = require_snapshot(copied, "scenes")
    nothing: dict[str, list[object]] = {kind: [] for kind in now.manifest["files"]}
    commit_snapshot(copied, {**now.manifest, "snapshot": "0123456789ab", "files": nothing})
    point_to(copied, "scenes", now.snapshot)
    (now.folder.parent / "report.html").write_text("<p>", encoding="utf-8")
    for kind, snapshot in (("huggingface", now.snapshot), ("webdataset", "0123456789ab")):
        folder = copied / "exports" / "scenes" / kind
        folder.mkdir(parents=True)
        write_checksummed(
            folder / "export.json", {"dataset": "scenes", "snapshot": snapshot, "format": kind, "files": {}}
        )
    [found] = facts(copied, capsys, "--rebuild")
    assert found["other_snapshots"] == ["0123456789ab"]
    assert found["report"] == str(now.folder.parent / "report.html")
    text = told(copied, capsys)
    assert f"export    huggingface: {copied / 'exports' / 'scenes' / 'huggingface'}\n" in text
    assert f"export    webdataset: {copied / 'exports' / 'scenes' / 'webdataset'} (of 0123456789ab)\n" in text
    assert "older     0123456789ab" in text


@pytest.mark.parametrize("record", ["{", "[]"])
def test_a_damaged_record_of_an_export_is_named(copied: Path, record: str, capsys: Capture) -> None:
    folder = copied / "exports" / "scenes" / "huggingface"
    folder.mkdir(parents=True)
    (folder / "export.json").write_text(record, encoding="utf-8")
    assert main(["catalog", "--rebuild", "--root", str(copied)]) == 1
    assert "remove its folder and export again" in capsys.readouterr().err
