"""`vernaclip why` over a real build: every id leads to its story, and no id to somebody else's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_catalog.database.catalog import query
from data_catalog.schema import CAPTIONS, OUTCOMES
from data_catalog.storage.manifest import require_snapshot
from data_catalog.tombstones import new_tombstone, read_tombstones, write_tombstones
from flows.build.steps import STEPS
from flows.cli import main
from flows.jobs import BuildReport

Built = tuple[Path, BuildReport]
Capture = pytest.CaptureFixture[str]


def rows(root: Path, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = query(root, sql).to_pylist()
    return found


def told(root: Path, identity: str, capsys: Capture, *more: str) -> str:
    """What the command prints; it must end well."""
    capsys.readouterr()
    assert main(["why", identity, "--root", str(root), *more]) == 0
    return capsys.readouterr().out


def stories(root: Path, identity: str, capsys: Capture) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(told(root, identity, capsys, "--json"))["stories"]
    return found


def refused(root: Path, identity: str, capsys: Capture, *more: str) -> str:
    capsys.readouterr()
    assert main(["why", identity, "--root", str(root), *more]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def a_pair(root: Path) -> str:
    return str(rows(root, "SELECT sample_id FROM pairs ORDER BY 1 LIMIT 1")[0]["sample_id"])


def test_every_row_is_found_by_each_of_its_names(built: Built, capsys: Capture) -> None:
    root = built[0]
    sample = rows(root, "SELECT sample_id, url, final_url, sha256 FROM images WHERE final_url IS NOT NULL LIMIT 1")[0]
    caption = rows(root, f"SELECT caption_id FROM captions WHERE sample_id = '{sample['sample_id']}' LIMIT 1")[0]
    names = [*sample.values(), caption["caption_id"], sample["url"].replace("http://", "HTTP://") + "#top"]
    for name in names:
        assert sample["sample_id"] in [story["sample_id"] for story in stories(root, name, capsys)], name
    assert [story["sample_id"] for story in stories(root, sample["sample_id"], capsys)] == [sample["sample_id"]]


def test_a_rejected_caption_is_told_from_its_line_to_its_reason(built: Built, capsys: Capture) -> None:
    root = built[0]
    sql = "SELECT * FROM rejects WHERE step = 'screen' AND drop_reason = 'near_duplicate_caption' ORDER BY 1, 3 LIMIT 1"
    row = rows(root, sql)[0]
    lines = told(root, row["caption_id"], capsys).split("\n")
    start = lines.index(f"caption {row['caption_id']}: rejected by screen")
    own = lines[start : lines.index("", start)]
    assert f"      upstream_file: {row['upstream_file']}" in own
    assert f"      upstream_line: {row['upstream_line']}" in own
    assert [line.split(":")[0].split()[1] for line in own if line[2:3].isdigit()] == ["ingest", "clean", "screen"]
    assert "  3 screen: REJECTED, near_duplicate_caption (repeats.min_similarity = 0.85)" in own
    assert any("an earlier caption of the same image is nearly the same text" in line for line in own)
    assert any(line.startswith("      rules of repeats: ") and "min_similarity = 0.85" in line for line in own)
    assert own[-1].startswith("  = not published; the row is in captions/captions-")
    story = stories(root, row["caption_id"], capsys)[0]
    decided = {caption["caption_id"]: caption["decided_by"] for caption in story["captions"]}
    assert decided[row["caption_id"]] == {"repeats.min_similarity": 0.85}
    # The caption that was asked for stands first.
    assert next(line for line in lines if line.startswith("caption ")) == lines[start]


def test_a_kept_caption_is_told_to_the_file_that_it_is_published_in(built: Built, capsys: Capture) -> None:
    root = built[0]
    row = rows(root, "SELECT sample_id, split FROM pairs WHERE split = 'val' ORDER BY 1 LIMIT 1")[0]
    story = stories(root, row["sample_id"], capsys)[0]
    folder = root / "datasets" / "scenes" / story["snapshot"]
    assert story["pairs"][0]["split"] == "val"
    published = pq.read_table(folder / story["pairs"][0]["file"], columns=["sample_id"]).column(0).to_pylist()
    assert row["sample_id"] in published
    assert "image" not in story["pairs"][0]
    text = told(root, row["sample_id"], capsys)
    assert f"published: split val, in {story['pairs'][0]['file']}" in text
    assert "deduplicate: passed" in text


def test_a_lost_image_is_told_with_its_answer_and_its_tries(built: Built, capsys: Capture) -> None:
    root = built[0]
    row = rows(root, "SELECT * FROM image_outcomes WHERE drop_reason = 'http_404' ORDER BY sample_id LIMIT 1")[0]
    text = told(root, row["sample_id"], capsys)
    image = text[text.index("\nimage ") :]
    assert "lost by fetch" in image
    assert "http_status: 404" in image
    assert "the file does not exist any more" in image
    assert "requested: 1 try, " in image
    assert "can be tried again: no, this is final" in image
    assert "normalise:" not in image


def test_a_malformed_row_has_a_story_and_no_image(built: Built, capsys: Capture) -> None:
    row = rows(built[0], "SELECT * FROM rejects WHERE step = 'ingest' ORDER BY 1, 3 LIMIT 1")[0]
    text = told(built[0], row["sample_id"], capsys)
    assert f"1 ingest: REJECTED, {row['drop_reason']}" in text
    assert "image: never requested" in text


def test_a_duplicate_names_the_sample_that_stays_and_that_one_is_found(built: Built, capsys: Capture) -> None:
    sql = "SELECT sample_id, detail FROM rejects WHERE drop_reason = 'duplicate_image' ORDER BY 1 LIMIT 1"
    [row] = rows(built[0], sql)
    assert row["detail"] in told(built[0], row["sample_id"], capsys)
    other = row["detail"].removeprefix("same as ")
    assert stories(built[0], other, capsys)[0]["pairs"][0]["sample_id"] == other


def test_json_has_all_columns_meanings_and_rules(built: Built, capsys: Capture) -> None:
    root = built[0]
    row = rows(root, "SELECT sample_id FROM rejects WHERE step = 'normalise' ORDER BY 1 LIMIT 1")[0]
    story = stories(root, row["sample_id"], capsys)[0]
    assert set(CAPTIONS.names) <= set(story["captions"][0])
    assert set(OUTCOMES.names) <= set(story["image"])
    assert story["captions"][0]["meaning"]
    steps = rows(root, "SELECT DISTINCT step, step_number FROM funnel ORDER BY step_number")
    assert [step["step"] for step in story["steps"]] == [row["step"] for row in steps]
    assert {step["step"]: step["rules"] for step in story["steps"]}["check"]["check"]["min_words"] == 2


def test_all_rules_are_told_on_demand(built: Built, capsys: Capture) -> None:
    root, sample = built[0], a_pair(built[0])
    assert "rules of" not in told(root, sample, capsys)
    text = " ".join(told(root, sample, capsys, "--rules").split())
    assert all(f"rules of {section}: " in text for section in ("clean", "repeats", "check", "fetch", "duplicates"))
    assert "keep = [source, resolution, captions], max_distance = 6" in text


def test_no_column_is_forgotten() -> None:
    head = {"sample_id", "caption_id", "source", "outcome", "step", "drop_reason", "detail"}
    rows = [row for step in STEPS for row in step.rows.values()]
    assert {name for row in rows for name in row.columns} | head == set(CAPTIONS.names)
    told_elsewhere = set(OUTCOMES.names) - {name for row in rows for name in row.image_columns} - head
    assert told_elsewhere == {"url", "canonical_url", "path", "thumbnail"}


def test_an_identity_that_is_not_there_is_refused_with_what_may_be_meant(built: Built, capsys: Capture) -> None:
    root = built[0]
    sample = rows(root, "SELECT sample_id FROM captions WHERE source = 'wit' ORDER BY 1 LIMIT 1")[0]["sample_id"]
    url = rows(root, "SELECT url FROM images WHERE url LIKE 'http://%' ORDER BY 1 LIMIT 1")[0]["url"]
    without_source = sample.split(":")[1]
    for wrong in (without_source, without_source[:-3], f"{sample}#no-such"):
        assert f"did you mean {sample}?" in refused(root, wrong, capsys)
    assert f"did you mean {url}?" in refused(root, url.removeprefix("http://"), capsys)


@pytest.mark.parametrize(
    "identity", ["mscoco:no-such", "", "#", "https://[half", "\x1b[31m", "%", "'; DROP", "a#b#c", "x" * 50_000]
)
def test_nonsense_is_refused_in_one_harmless_sentence(built: Built, capsys: Capture, identity: str) -> None:
    error = refused(built[0], identity, capsys)
    assert "give a sample_id, a caption_id, an image's URL or the sha256" in error
    assert "\x1b" not in error
    assert len(error) < 700, "an id without end is not said again"


@pytest.mark.parametrize(
    ("kind", "is_there"),
    [("captions", True), ("images", False), ("pairs", True), ("lookup", False), ("lookup", True), ("fetch-log", True)],
)
def test_a_damaged_file_is_named(built: Built, copied: Path, capsys: Capture, kind: str, is_there: bool) -> None:
    files = list((copied / "datasets" / "scenes").rglob(f"{kind}/*.parquet"))
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[:50]) if is_there else path.unlink()
    error = refused(copied, a_pair(built[0]), capsys)
    assert any(str(path) in error for path in files)
    assert "`vernaclip verify` lists all damaged files" in error


def test_other_datasets_and_snapshots(built: Built, capsys: Capture) -> None:
    root, snapshot, sample = built[0], built[1].snapshot.snapshot, a_pair(built[0])
    assert sample in told(root, sample, capsys, "--snapshot", snapshot[:6], "--dataset", "scenes")
    assert f"it has {snapshot} of scenes" in refused(root, sample, capsys, "--snapshot", "ffff")
    assert "no dataset 'klingon'" in refused(root, sample, capsys, "--dataset", "klingon")
    assert "holds no dataset" in refused(root / "datasets" / "nowhere", sample, capsys)


def test_what_is_forgotten_is_said_with_a_row_and_without(built: Built, copied: Path, capsys: Capture) -> None:
    shutil.rmtree(copied / "datasets" / "scenes" / "fetch-log")  # a log is no part of a snapshot, and may be gone
    sample = a_pair(built[0])
    more = [
        new_tombstone("domain", "gone.example", reason="asked by \x1b[1mits owner", date="2026-11-01"),
        new_tombstone("sample", sample),
    ]
    write_tombstones(copied, read_tombstones(copied).with_more(more))
    text = told(copied, "https://www.gone.example/a.jpg", capsys)
    assert "is forgotten, since 2026-11-01: a take-down of the domain gone.example" in text
    assert "\x1b" not in text
    assert "No rows of it are in this root." in text
    text = told(copied, sample, capsys)
    assert text.startswith(f"{sample} is forgotten: a take-down of the sample")
    assert "\ncaption " in text


def test_texts_of_a_dataset_do_nothing_to_a_terminal(copied: Path, capsys: Capture) -> None:
    path = require_snapshot(copied, "scenes").caption_files()[0]
    table = pq.read_table(path)
    hostile = ["\x1b]0;owned\x07 \u202ereversed \x9b2J\nsecond line"] * table.num_rows
    for name in ("source_caption", "caption", "license", "upstream_file"):
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), [hostile])
    pq.write_table(table, path)
    for more in ((), ("--json",)):
        text = told(copied, table.column("sample_id")[0].as_py(), capsys, *more)
        assert not set("\x1b\x07\u202e\x9b") & set(text)
        assert "u202e" in text
