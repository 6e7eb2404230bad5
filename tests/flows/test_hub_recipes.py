"""The shipped recipes of files on Hugging Face's hub that hold their images, with small files as the hub has them."""

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.catalog.manifest import require_snapshot
from data_catalog.fetch import workers
from data_catalog.fetch.owner import FetchingProcess
from flows.recipe.recipe import load_recipe

ENGLISH = ["A white dog runs along the empty beach", "Two old boats lie in the quiet harbour"]
ITALIAN = ["Un cane bianco corre lungo la spiaggia vuota", "Due vecchie barche riposano nel porto tranquillo"]


@pytest.fixture(autouse=True)
def _unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no build start what fetches from the web."""
    monkeypatch.delattr(FetchingProcess, "start")
    monkeypatch.delattr(workers, "fetch_by_owners")


def jpeg(own: Any, seed: int) -> bytes:
    """A photograph."""
    file = io.BytesIO()
    own.photo(seed).save(file, "JPEG")
    return file.getvalue()


def built(own: Any, recipe: str, *settings: str) -> list[dict[str, Any]]:
    """Build a shipped recipe by its name; return what it kept, and require that its splits are drawn."""
    own.build_recipe(load_recipe(recipe, root=own.root, overrides=[f"data={own.folder}", *settings]))
    assert require_snapshot(own.root, recipe).manifest["settings"]["split"]["by"] == "hash"
    found: list[dict[str, Any]] = own.rows("SELECT * FROM pairs ORDER BY url")
    return found


def test_cc12m_pixels_translates_the_tars_of_the_hub(own: Any) -> None:
    (own.folder / "cc12m-wds").mkdir()
    for number, caption in enumerate(ENGLISH):
        key = f"{number:09d}"
        record = {"key": key, "url": f"https://a.example/{number}.jpg", "caption": "not this", "status": "success"}
        members = {"jpg": jpeg(own, number), "json": json.dumps(record).encode(), "txt": caption.encode()}
        with tarfile.open(own.folder / "cc12m-wds" / f"cc12m-train-{number:04d}.tar", "w") as tar:
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    program = own.folder / "translate.py"
    answers = dict(zip(ENGLISH, ITALIAN, strict=True))
    program.write_text(
        f"import sys\nfor line in sys.stdin:\n    print({answers!r}[line.strip()], flush=True)\n", "utf-8"
    )
    command = json.dumps([sys.executable, "-X", "utf8", str(program)])
    found = built(own, "cc12m-pixels", "translate.engine=command", f"translate.command={command}")
    assert [(row["captions"], row["url"]) for row in found] == [
        ([text], f"https://a.example/{number}.jpg") for number, text in enumerate(ITALIAN)
    ]


def test_wit_pixels_reads_the_tables_of_the_hub(own: Any) -> None:
    captions = [f"English: {ENGLISH[0]}", None, f"Italiano: {ITALIAN[0]}. {ITALIAN[1]}", ENGLISH[1]]
    rows = [
        {
            "image": {"bytes": jpeg(own, number), "path": None},
            "image_url": f"https://upload.wikimedia.org/wikipedia/commons/8/8b/{number}.jpg",
            "embedding": [0.5] * 8,
            "metadata_url": f"http://commons.wikimedia.org/wiki/File:{number}.jpg",
            "original_height": 3000,
            "original_width": 4000,
            "mime_type": "image/jpeg",
            "caption_attribution_description": caption,
            "wit_features": {"language": ["it", "sk"], "caption_reference_description": [ITALIAN[1], None]},
        }
        for number, caption in enumerate(captions)
    ]
    folder = Path(own.folder, "wit_base", "data")
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00330.parquet")
    found = built(own, "wit-pixels")
    assert [(row["captions"], row["url"], row["page_url"]) for row in found] == [
        ([captions[number]], rows[number]["image_url"], rows[number]["metadata_url"]) for number in (0, 3)
    ]
    assert own.outcomes()[captions[2]] == "wrong_language"
