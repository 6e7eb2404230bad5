"""What servers said about the use of an image is told with its story, and so is the time when they were asked."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_catalog.database.sample_record import SampleRecord, record_lines, record_values
from data_catalog.storage.manifest import Snapshot
from flows.build.steps import STEPS

SAID = [
    {"value": "train-ai=n", "where": "robots.txt", "draft": "draft-a-01, draft-b-02"},
    {"value": "search=y", "where": "header", "draft": "draft-a-01, draft-b-02"},
]
COLUMNS = next(list(row.image_columns) for step in STEPS for name, row in step.rows.items() if name == "fetch")


def story(folder: Path) -> SampleRecord:
    """An image that its host does not want trained on, in a snapshot of nothing else."""
    image = {"sample_id": "web:1", "source": "web", "url": "http://example.org/1.jpg", "content_usage": SAID}
    image |= {"step": "fetch", "drop_reason": "content_usage", "detail": "robots.txt: train-ai=n", "http_status": 200}
    entry: dict[str, Any] = {"meaning": "", "columns": [], "rules": ["fetch"], "reasons": {}}
    manifest: dict[str, Any] = {
        "files": {"pairs": [], "captions": [], "images": [{"path": "images.parquet"}]},
        "steps": [{**entry, "step": "fetch", "image_columns": COLUMNS}],
        "sources": {"web": {"license": "none"}},
        "funnel": [],
        "target_lang": "it",
        "translator": "native",
        "settings": {"fetch": {"consent": {"ignore": []}, "timeout_s": 10.0}},
    }
    lost = {"outcome": "rejected", "step": "fetch", "drop_reason": "content_usage"}
    caption = {"caption_id": "web:1#1", "source": "web", "file": "captions", **lost}
    first = {"tries": 2, "asking_s": 0.3, "waiting_s": 1.0, "drop_reason": "content_usage"}
    second = {"tries": 1, "asking_s": 0.3, "waiting_s": 0.0, "drop_reason": None, "asked_at": None}
    return SampleRecord(
        snapshot=Snapshot(dataset="one", snapshot="0123456789ab", folder=folder, manifest=manifest),
        sample_id="web:1",
        shard=0,
        captions=[dict.fromkeys(("url", "path", "merged_into", "detail")) | caption],
        image=image,
        pairs={},
        captions_of_others=[],
        requests=[{**first, "asked_at": datetime(2026, 11, 27, 20, 0, 1, tzinfo=UTC)}, second],
    )


def test_a_story_tells_what_was_said_where_and_when_it_was_asked(tmp_path: Path) -> None:
    lines = [line.strip() for line in record_lines(story(tmp_path), identity="web:1")]
    text = " ".join(lines)
    assert "content_usage: train-ai=n (robots.txt, draft-a-01, draft-b-02), search=y (header, draft-a-01, " in text
    assert "2 tries, first at 2026-11-27 20:00:01 UTC, 0.3 s in requests and 1.0 s between them: " in text
    assert "1 try, 0.3 s in requests and 0.0 s between them: " in text
    assert "fetch: REJECTED, content_usage" in lines, "older snapshots do not note what decides a reason"
    assert "rules of fetch: consent = {ignore = []}, timeout_s = 10" in text
    assert record_values(story(tmp_path))["image"]["content_usage"] == SAID


def test_a_reason_names_the_settings_that_decide_it_and_their_values(tmp_path: Path) -> None:
    told = story(tmp_path)
    settings = ["consent.ignore", "fetch.timeout_s", "fetch.consent"]
    told.snapshot.manifest["steps"][0]["decided_by"] = {"content_usage": settings}
    decided = "content_usage (consent.ignore, fetch.timeout_s = 10, fetch.consent)"
    assert f"  fetch: REJECTED, {decided}" in list(record_lines(told, identity="web:1"))
    values = record_values(told)
    named: dict[str, Any] = {"consent.ignore": None, "fetch.timeout_s": 10.0, "fetch.consent": {"ignore": []}}
    assert values["image"]["decided_by"] == values["captions"][0]["decided_by"] == named
