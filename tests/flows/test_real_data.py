"""Builds over real upstream rows: real captions, real photographs, real dead links."""

import io
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat

from data_catalog.database.catalog import query
from data_catalog.errors import InputError
from data_catalog.sample.server import serve
from data_catalog.storage.manifest import require_snapshot
from flows.build.execution import LocalExecutor
from flows.jobs import BuildReport, build_dataset
from flows.recipe.recipe import load_recipe

pytestmark = pytest.mark.real_data


def build(folder: Path, recipe: str, *overrides: str) -> BuildReport:
    path = folder / "recipe.toml"
    path.write_text(recipe, encoding="utf-8")
    loaded = load_recipe(str(path), root=folder / "catalog", overrides=overrides)
    with LocalExecutor() as executor:
        return build_dataset(loaded, root=folder / "catalog", executor=executor)


def one(root: Path, sql: str) -> dict[str, object]:
    found: dict[str, object] = query(root, sql).to_pylist()[0]
    return found


def psnr(first: Image.Image, second: Image.Image) -> float:
    squares = ImageStat.Stat(ImageChops.difference(first, second)).sum2
    mean = sum(squares) / (3 * first.width * first.height)
    return math.inf if mean == 0 else 10 * math.log10(255**2 / mean)


def test_coco_photographs_over_http_become_pairs_that_look_alike(
    shared_data: Path, tmp_path: Path, free_port: int
) -> None:
    coco = json.loads((shared_data / "coco" / "captions_train2017.json").read_text(encoding="utf-8"))
    for image in coco["images"]:
        image["coco_url"] = f"http://127.0.0.1:{free_port}/{image['file_name']}"
    (tmp_path / "captions_train2017.json").write_text(json.dumps(coco), encoding="utf-8")
    recipe = f"""
        name = "coco"
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
        build(tmp_path, recipe)
    root = tmp_path / "catalog"
    assert one(root, "SELECT count(*) AS n FROM captions") == {"n": 400}
    assert one(root, "SELECT count(*) AS n FROM pairs") == {"n": 80}
    for row in query(root, "SELECT url, image.bytes AS jpeg FROM pairs").to_pylist():
        published = Image.open(io.BytesIO(row["jpeg"]))
        with Image.open(shared_data / "coco" / "train2017" / Path(row["url"]).name) as original:
            upright = np.asarray(ImageOps.exif_transpose(original).convert("RGB"))
        expected = Image.fromarray(cv2.resize(upright, published.size, interpolation=cv2.INTER_AREA))
        assert min(published.size) == 256
        assert psnr(published, expected) >= 60, row["url"]


def test_local_photographs_and_italian_captions(shared_data: Path, tmp_path: Path) -> None:
    recipe = """
        name = "coco-local"
        target_language = "en"
        split.by = "hash"
        [sources.mscoco]
        files = ["{data}/coco/captions_train2017.json"]
        images = "{data}/coco/train2017"
    """
    report = build(tmp_path, recipe, f"data={shared_data}")
    assert {row["read"] - row["kept"] - row["dropped"] for row in report.funnel} == {0}
    assert one(tmp_path / "catalog", "SELECT count(*) AS n FROM images WHERE status = 'published'") == {"n": 80}


@pytest.mark.parametrize(
    "num_rows", [60, pytest.param(8000, marks=pytest.mark.slow)], ids=["first 60 rows", "all 8000 rows"]
)
def test_every_unreachable_image_of_cc3m_is_rejected_with_a_cause(
    shared_data: Path, tmp_path: Path, num_rows: int
) -> None:
    lines = next((shared_data / "cc3m").glob("*.tsv")).read_text(encoding="utf-8").split("\n")[:num_rows]
    (tmp_path / "cc3m.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = f"""
        name = "cc3m"
        target_language = "en"
        [sources.cc3m]
        files = ["{tmp_path}/cc3m.tsv"]
        [fetch]
        retries = 0
        timeout_s = 3.0
        deadline_s = 5.0
        threads = 64
    """
    with pytest.raises(InputError, match="cc3m keeps none of"):
        build(tmp_path, recipe)
    root = tmp_path / "catalog"
    assert one(root, "SELECT count(*) AS n FROM captions") == {"n": num_rows}
    assert one(root, "SELECT count(*) AS n FROM pairs") == {"n": 0}
    assert one(root, "SELECT count(*) AS n FROM rejects WHERE drop_reason IS NULL OR step IS NULL") == {"n": 0}
    causes = {
        row["drop_reason"] for row in query(root, "SELECT drop_reason FROM rejects WHERE step = 'fetch'").to_pylist()
    }
    assert causes <= {"dns", "connect", "timeout", "bad_url"}
    assert causes


def test_the_traps_of_wit_lose_no_other_row(shared_data: Path, tmp_path: Path) -> None:
    recipe = """
        name = "wit"
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
    with pytest.raises(InputError, match="wit keeps none of"):
        build(tmp_path, recipe, f"data={shared_data}")
    source = require_snapshot(tmp_path / "catalog", "wit").manifest["sources"]["wit"]
    malformed = query(tmp_path / "catalog", "SELECT upstream_file, drop_reason FROM rejects WHERE step = 'ingest'")
    assert source["malformed"] == 1
    assert malformed.to_pylist() == [
        {"upstream_file": "test-rows-unterminated-quote.tsv", "drop_reason": "malformed_row"}
    ]
    pages = query(tmp_path / "catalog", "SELECT count(DISTINCT page_url) AS n FROM captions").to_pylist()
    assert pages == [{"n": 2}]
