"""Builds over real upstream rows: real captions, real photographs, real dead links."""

import io
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat

from data_catalog.errors import InputError
from data_catalog.sample.server import serve
from data_catalog.storage.manifest import require_snapshot

pytestmark = pytest.mark.real_data


def psnr(first: Image.Image, second: Image.Image) -> float:
    squares = ImageStat.Stat(ImageChops.difference(first, second)).sum2
    mean = sum(squares) / (3 * first.width * first.height)
    return math.inf if mean == 0 else 10 * math.log10(255**2 / mean)


def test_coco_photographs_over_http_become_pairs_that_look_alike(
    own: Any, shared_data: Path, tmp_path: Path, free_port: int
) -> None:
    coco = json.loads((shared_data / "coco" / "captions_train2017.json").read_text(encoding="utf-8"))
    coco["images"] = sorted(coco["images"], key=lambda image: image["id"])[:20]
    there = {image["id"] for image in coco["images"]}
    coco["annotations"] = [found for found in coco["annotations"] if found["image_id"] in there]
    for image in coco["images"]:
        image["coco_url"] = f"http://127.0.0.1:{free_port}/{image['file_name']}"
    (tmp_path / "captions_train2017.json").write_text(json.dumps(coco), encoding="utf-8")
    recipe = f"""
        target_language = "en"
        split.by = "hash"
        [sources.mscoco]
        files = ["{tmp_path}/captions_train2017.json"]
        [fetch]
        allow_loopback = true
        host_requests_per_s = 0
        [normalise]
        encode_format = "png"
        encode_quality = 1
        colour_profiles = false
    """
    with serve(shared_data / "coco" / "train2017", free_port):
        report = own.build(recipe)
    assert {row["read"] - row["kept"] - row["dropped"] for row in report.funnel} == {0}
    assert own.rows("SELECT count(*) AS n FROM captions") == [{"n": len(coco["annotations"])}]
    rows = own.rows("SELECT url, image.bytes AS jpeg FROM pairs")
    assert len(rows) == 20
    for row in rows:
        published = Image.open(io.BytesIO(row["jpeg"]))
        with Image.open(shared_data / "coco" / "train2017" / Path(row["url"]).name) as original:
            upright = np.asarray(ImageOps.exif_transpose(original).convert("RGB"))
        expected = Image.fromarray(cv2.resize(upright, published.size, interpolation=cv2.INTER_AREA))
        assert min(published.size) == 256
        assert psnr(published, expected) >= 60, row["url"]


@pytest.mark.parametrize("num_rows", [30, pytest.param(8000, marks=pytest.mark.slow)], ids=["first rows", "all rows"])
def test_every_unreachable_image_of_cc3m_is_rejected_with_a_cause(
    own: Any, shared_data: Path, tmp_path: Path, num_rows: int
) -> None:
    lines = next((shared_data / "cc3m").glob("*.tsv")).read_text(encoding="utf-8").split("\n")[:num_rows]
    (tmp_path / "cc3m.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = f"""
        target_language = "en"
        [sources.cc3m]
        files = ["{tmp_path}/cc3m.tsv"]
        [fetch]
        retries = 0
        timeout_s = 3.0
        deadline_s = 5.0
        threads = 64
    """
    with pytest.raises(InputError, match="keeps none of"):
        own.build(recipe)
    assert own.rows("SELECT count(*) AS n FROM captions") == [{"n": num_rows}]
    assert own.rows("SELECT count(*) AS n FROM pairs") == [{"n": 0}]
    assert own.rows("FROM rejects WHERE drop_reason IS NULL OR step IS NULL") == []
    causes = {row["drop_reason"] for row in own.rows("SELECT drop_reason FROM rejects WHERE step = 'fetch'")}
    assert causes <= {"dns", "connect", "timeout", "bad_url"}
    assert causes


def test_the_traps_of_wit_lose_no_other_row(own: Any, shared_data: Path) -> None:
    recipe = """
        target_language = "it"
        [sources.wit]
        files = ["{data}/wit/*.tsv"]
        languages = ["it", "es", "de"]
        caption_kinds = ["reference", "attribution", "alt_text"]
        [fetch]
        contact = "someone@example.org"
        retries = 0
        timeout_s = 2.0
        deadline_s = 3.0
    """
    with pytest.raises(InputError, match="keeps none of"):
        own.build(recipe, f"data={shared_data}")
    assert require_snapshot(own.root, "own").manifest["sources"]["wit"]["malformed"] == 1
    malformed = own.rows("SELECT upstream_file, drop_reason FROM rejects WHERE step = 'ingest'")
    assert malformed == [{"upstream_file": "test-rows-unterminated-quote.tsv", "drop_reason": "malformed_row"}]
    assert own.rows("SELECT count(DISTINCT page_url) AS n FROM captions") == [{"n": 2}]
