"""What a model has seen, as far as snapshots of earlier releases can tell."""

import hashlib
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cleaning.leaks import LeaksConfig
from flows.jobs import BuildReport
from flows.seen_images import TrainingImages


def test_without_thumbnails_images_are_compared_by_bytes(
    built: tuple[Path, BuildReport], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = built[1].snapshot
    sha256s = {sha256 for path in whole.pair_files("train") for sha256 in pq.read_table(path)["sha256"].to_pylist()}
    originals = (path.read_bytes() for path in sorted(built[0].rglob("*.jpg")))
    (seen, *_) = [raw for raw in originals if hashlib.sha256(raw).hexdigest() in sha256s]
    shutil.copytree(whole.folder, tmp_path / "old")
    old = replace(whole, folder=tmp_path / "old")
    for path in old.image_files():
        pq.write_table(pq.read_table(path).drop_columns(["thumbnail"]), path)
    images = {"copy": seen, "other": b"other"}
    with caplog.at_level(logging.WARNING):
        guard = TrainingImages(old, LeaksConfig()).guard([*images], [], images.__getitem__)
    assert guard.ways == ("bytes",)
    assert [
        (place, found.is_sure, found.why.startswith("the same bytes as")) for place, found in guard.seen.items()
    ] == [(0, True, True)]
    assert "are compared by bytes, not by looks" in caplog.text
