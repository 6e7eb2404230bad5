"""`vernaclip why` over a real build: every id leads to its story, and no id to somebody else's."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.catalog.manifest import require_snapshot
from data_catalog.catalog.query import query
from data_catalog.publish.tombstones import new_tombstone, read_tombstones, write_tombstones
from data_catalog.rows.schema import CAPTIONS, OUTCOMES, SCORED_CAPTIONS
from flows.build.steps import STEPS

Why = Callable[..., str]


@pytest.fixture(scope="module")
def root(built: Any) -> Path:
    return built[0]


@pytest.fixture
def why(root: Path, told: Any) -> Why:
    """Called with an identity, gives its story as the command prints it."""

    def call(identity: str, *more: str, root: Path = root, code: int = 0) -> str:
        return str(told(["why", identity, "--root", str(root), *more], code=code))

    return call


def stories(why: Any, identity: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(why(identity, "--json"))["stories"]
    return found


def first_row(root: Path, sql: str) -> dict[str, Any]:
    row: dict[str, Any] = query(root, f"{sql} ORDER BY ALL LIMIT 1").to_pylist()[0]
    return row


def a_pair(root: Path) -> str:
    return str(first_row(root, "SELECT sample_id FROM pairs")["sample_id"])


def test_every_row_is_found_by_each_of_its_names(root: Path, why: Any) -> None:
    sample = first_row(root, "SELECT sample_id, url, final_url, sha256 FROM images WHERE sha256 IS NOT NULL")
    caption = first_row(root, f"SELECT caption_id FROM captions WHERE sample_id = '{sample['sample_id']}'")
    names = [*sample.values(), caption["caption_id"], sample["url"].replace("http://", "HTTP://") + "#top"]
    for name in names:
        assert sample["sample_id"] in [story["sample_id"] for story in stories(why, name)], name
    assert [story["sample_id"] for story in stories(why, sample["sample_id"])] == [sample["sample_id"]]


def test_a_rejected_caption_is_told_from_its_line_to_its_reason(root: Path, why: Any) -> None:
    row = first_row(root, "FROM rejects WHERE step = 'screen' AND drop_reason = 'near_duplicate_caption'")
    lines = why(row["caption_id"]).split("\n")
    start = lines.index(f"caption {row['caption_id']}: rejected by screen")
    assert start == next(n for n, line in enumerate(lines) if line.startswith("caption ")), (
        "what was asked for is first"
    )
    own = lines[start : lines.index("", start)]
    assert {f"      {name}: {row[name]}" for name in ("upstream_file", "upstream_line")} <= set(own)
    assert [line.split(":")[0].split()[1] for line in own if line[2:3].isdigit()] == ["ingest", "clean", "screen"]
    assert "  3 screen: REJECTED, near_duplicate_caption (repeats.min_similarity = 0.85)" in own
    assert any("an earlier caption of the same image is nearly the same text" in line for line in own)
    assert any(line.startswith("      rules of repeats: ") for line in own)
    assert own[-1].startswith("  = not published; the row is in captions/captions-")
    siblings = [line for line in lines if line.startswith("caption ")][1:]
    assert siblings
    assert lines[lines.index("", start) + 1 :][: len(siblings)] == siblings, "a line each"
    whole = [line for line in why(row["sample_id"]).split("\n") if line.startswith("caption ")]
    assert len(whole) == len(siblings) + 1, "of a sample, each caption is told"
    captions = stories(why, row["caption_id"])[0]["captions"]
    decided = {caption["caption_id"]: caption["decided_by"] for caption in captions}
    assert decided[row["caption_id"]] == {"repeats.min_similarity": 0.85}


def test_a_kept_caption_is_told_to_the_file_that_it_is_published_in(root: Path, why: Any) -> None:
    whole = "sample_id NOT IN (SELECT sample_id FROM rejects)"
    sample = first_row(root, f"SELECT sample_id FROM pairs WHERE split = 'val' AND {whole}")["sample_id"]
    [story] = stories(why, sample)
    [pair] = story["pairs"]
    file = root / "datasets" / "scenes" / story["snapshot"] / pair["file"]
    assert sample in pq.read_table(file, columns=["sample_id"]).column(0).to_pylist()
    assert (pair["split"], "image" in pair) == ("val", False)
    text = why(sample)
    assert f"published: split val, in {pair['file']}" in text
    assert "deduplicate: passed" in text
    assert "rules of" not in text
    text = " ".join(why(sample, "--rules").split())
    assert all(f"rules of {section}: " in text for section in ("clean", "repeats", "check", "fetch", "duplicates"))
    assert 'keep = ["source", "resolution", "captions"], max_distance = 6' in text


def test_a_lost_image_is_told_with_its_answer_and_its_tries(root: Path, why: Any) -> None:
    row = first_row(root, "FROM rejects WHERE step = 'ingest'")
    assert "image: never requested" in why(row["sample_id"])
    row = first_row(root, "FROM image_outcomes WHERE drop_reason = 'http_404'")
    image = why(row["sample_id"]).partition("\nimage ")[2]
    for part in ("lost by fetch", "http_status: 404", "HTTP 404: Not Found"):
        assert part in image
    assert re.search(r"requested: 1 try, first at \d{4}-\d\d-\d\d [\d:]{8} UTC, \d+\.\d s in requests and ", image)
    assert "can be tried again: no, this is final" in image
    assert "normalise:" not in image


def test_what_a_server_said_of_the_use_of_an_image_is_told_with_the_setting_that_decides(
    root: Path, copied: Path, why: Any
) -> None:
    sample = first_row(root, "FROM image_outcomes WHERE drop_reason = 'http_404'")["sample_id"]
    said = [
        {"value": "train-ai=n", "where": "robots.txt", "draft": "draft-a-01, draft-b-02"},
        {"value": "search=y", "where": "header", "draft": "draft-b-02"},
    ]
    for path in (copied / "datasets" / "scenes").rglob("images/*.parquet"):
        table = pq.read_table(path)
        changed = {"content_usage": said, "drop_reason": "content_usage"}
        rows = [row | (changed if row["sample_id"] == sample else {}) for row in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    text = " ".join(why(sample, root=copied).split())
    assert "content_usage: train-ai=n (robots.txt, draft-a-01, draft-b-02), search=y (header, draft-b-02)" in text
    assert "REJECTED, content_usage (consent.ignore" in text
    image = json.loads(why(sample, "--json", root=copied))["stories"][0]["image"]
    assert (image["content_usage"], list(image["decided_by"])) == (said, ["consent.ignore"])


def test_a_duplicate_names_the_sample_that_stays_and_that_one_is_found(root: Path, why: Any) -> None:
    row = first_row(root, "FROM rejects WHERE drop_reason = 'duplicate_image'")
    assert row["detail"] in why(row["sample_id"])
    other = row["detail"].removeprefix("same as ")
    assert stories(why, other)[0]["pairs"][0]["sample_id"] == other


def test_json_has_all_columns_meanings_and_rules(root: Path, why: Any) -> None:
    story = stories(why, first_row(root, "FROM rejects WHERE step = 'normalise'")["sample_id"])[0]
    assert set(CAPTIONS.names) <= set(story["captions"][0])
    assert set(OUTCOMES.names) <= set(story["image"])
    assert story["captions"][0]["meaning"]
    steps = query(root, "SELECT DISTINCT step, step_number FROM funnel ORDER BY step_number").to_pylist()
    assert [step["step"] for step in story["steps"]] == [row["step"] for row in steps]
    assert {step["step"]: step["rules"] for step in story["steps"]}["check"]["check"]["min_words"] == 2


def test_no_column_is_forgotten() -> None:
    head = {"sample_id", "caption_id", "source", "outcome", "step", "drop_reason", "detail"}
    rows = [row for step in STEPS for row in step.rows.values()]
    assert {name for row in rows for name in row.columns} | head == set(SCORED_CAPTIONS.names)
    told_elsewhere = set(OUTCOMES.names) - {name for row in rows for name in row.image_columns} - head
    assert told_elsewhere == {"url", "canonical_url", "path", "thumbnail"}


def test_an_identity_that_is_not_there_is_refused_with_what_may_be_meant(root: Path, why: Any) -> None:
    sample = first_row(root, "SELECT sample_id FROM captions WHERE source = 'wit'")["sample_id"]
    url = first_row(root, "SELECT url FROM images WHERE url LIKE 'http://%'")["url"]
    without_source = sample.split(":")[1]
    for wrong in (without_source, without_source[:-3], f"{sample}#no-such"):
        assert f"did you mean {sample}?" in why(wrong, code=1)
    assert f"did you mean {url}?" in why(url.removeprefix("http://"), code=1)


def test_nonsense_is_refused_in_one_harmless_sentence(why: Any) -> None:
    for identity in ("mscoco:no-such", "", "https://[half", "\x1b[31m", "'; DROP", "x" * 50_000):
        error = why(identity, code=1)
        assert "give a sample_id, a caption_id, an image's URL or the sha256" in error
        assert "\x1b" not in error
        assert len(error) < 700, "an id without end is not said again"


@pytest.mark.parametrize(
    ("kind", "is_there"),
    [("captions", True), ("images", False), ("fetch-log", True)],
)
def test_a_damaged_file_is_named(root: Path, copied: Path, why: Any, kind: str, is_there: bool) -> None:
    files = list((copied / "datasets" / "scenes").rglob(f"{kind}/*.parquet"))
    for path in files:
        path.write_bytes(path.read_bytes()[:50]) if is_there else path.unlink()
    error = why(a_pair(root), root=copied, code=1)
    assert any(str(path) in error for path in files)
    assert "`vernaclip verify`" in error


def test_a_story_is_of_the_dataset_and_snapshot_that_are_named(built: Any, why: Any) -> None:
    snapshot, sample = built[1].snapshot.snapshot, a_pair(built[0])
    assert sample in why(sample, "--snapshot", snapshot[:6], "--dataset", "scenes")
    assert f"it has {snapshot} of scenes" in why(sample, "--snapshot", "ffff", code=1)
    assert "no dataset 'klingon'" in why(sample, "--dataset", "klingon", code=1)
    assert "holds no dataset" in why(sample, root=built[0] / "datasets" / "nowhere", code=1)


def test_what_is_forgotten_is_said_with_a_row_and_without(root: Path, copied: Path, why: Any) -> None:
    shutil.rmtree(copied / "datasets" / "scenes" / "fetch-log")  # a log is no part of a snapshot, and may be gone
    sample, day = a_pair(root), "2026-11-01"
    domain = new_tombstone("domain", "gone.example", reason="asked by \x1b[1mits owner", date=day)
    write_tombstones(copied, read_tombstones(copied).with_more([domain, new_tombstone("sample", sample)]))
    text = why("https://www.gone.example/a.jpg", root=copied)
    assert f"is forgotten, since {day}: a take-down of the domain gone.example" in text
    assert "\x1b" not in text
    assert "No rows of it are in this root." in text
    text = why(sample, root=copied)
    assert text.startswith(f"{sample} is forgotten: a take-down of the sample")
    assert "\ncaption " in text


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_texts_of_a_dataset_do_nothing_to_a_terminal(copied: Path, why: Any, more: tuple[str, ...]) -> None:
    path = require_snapshot(copied, "scenes").files("captions")[0]
    table = pq.read_table(path)
    hostile = ["\x1b]0;owned\x07 \u202ereversed \x9b2J\nsecond line"] * table.num_rows
    for name in ("source_caption", "caption", "license", "upstream_file"):
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), [hostile])
    pq.write_table(table, path)
    text = why(table.column("sample_id")[0].as_py(), *more, root=copied)
    assert not set("\x1b\x07\u202e\x9b") & set(text)
    assert "u202e" in text
