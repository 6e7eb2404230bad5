"""A snapshot of few pairs with every kind of rights, and texts that mean harm."""

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from data_catalog.catalog.manifest import MANIFEST_FORMAT, Snapshot, commit_snapshot, file_entry, snapshot_folder
from data_catalog.disk.files import open_image_writer
from data_catalog.rows.schema import PAIRS

SNAPSHOT = "0123456789ab"
HOSTILE = "<script>alert(1)</script> [x](javascript:alert(1)) =1+1 \u202egnp.exe \x1b[31m | ``` www.evil.example"
BY = "Attribution License (http://creativecommons.org/licenses/by/2.0/)"
NC = "Attribution-NonCommercial License (http://creativecommons.org/licenses/by-nc/2.0/)"


def pair(name: str, number: int, **given: Any) -> dict[str, Any]:
    """A published row of the source `photos`, with two captions."""
    Image.new("RGB", (40, 30), (number * 20 % 256, 90, 200)).save(picture := BytesIO(), "JPEG")
    sample_id = f"photos:{name}"
    row: dict[str, Any] = dict.fromkeys(PAIRS.names)
    row |= {"sample_id": sample_id, "source": "photos", "split": "train", "sha256": f"{number:064x}"}
    row |= {"image": {"bytes": picture.getvalue(), "path": None}, "url": f"https://images.example/{number}.jpg"}
    row |= {"width": 40, "height": 30, "original_width": 400, "original_height": 300}
    row |= {
        "caption_ids": [f"{sample_id}#0", f"{sample_id}#1"],
        "captions": [f"un cane numero {number}", f"il cane {number}"],
        "source_captions": [f"a dog number {number}", f"the dog {number}"],
        "source_langs": ["en", "it"],
        "translators": ["argos 1", "native"],
        "origins": ["machine_translation", "native"],
        "scores": [-0.25, None],
    }
    return row | given


# Shards by number: the first goes along whole, the second in part, the third not at all; then the other splits.
SHARDS: dict[tuple[int, str], list[dict[str, Any]]] = {
    (0, "train"): [
        pair("free", 1, license="CC0 1.0"),
        pair(
            "../../etc/pass.wd",
            2,
            license=BY,
            attribution='=HYPERLINK("http://evil.example")',
            page_url="javascript:alert(1)",
            captions=[HOSTILE, "due"],
            source_captions=[HOSTILE, "two"],
        ),
    ],
    (1, "train"): [
        pair("credited", 3, license=BY, attribution="A. Bianchi", page_url="https://photos.example/3"),
        pair("uncredited", 4, license=BY),
        pair("noncommercial", 5, license=NC, page_url="https://photos.example/5"),
        pair("unstated", 6),
        pair("unknown", 7, license="CC0? ask me"),
    ],
    (2, "train"): [pair("local", 8, url=None), pair("reserved", 9, license="All rights reserved")],
    (3, "train"): [pair(f"more-{number}", 10 + number, license="public domain") for number in range(4)],
    (0, "val"): [
        pair("val", 20, split="val", license="CC0 1.0"),
        pair("val", 21, split="val", source="mine", sample_id="mine:val"),
    ],
    (1, "test"): [pair("test", 22, split="test", license="CC0 1.0")],
    (1, "marked"): [pair("marked", 23, split="marked", license="CC0 1.0", leaks=["test_image coco: photos:marked"])],
}

# What a build would commit, but for its files.
MANIFEST: dict[str, Any] = {
    "format": MANIFEST_FORMAT,
    "dataset": "cani",
    "snapshot": SNAPSHOT,
    "build_key": "k",
    "target_lang": "it",
    "translator": "argos 1",
    "settings": {"sources": {"photos": {"kind": "cc3m"}, "mine": {"kind": "pairs"}}, "split": {"by": "hash"}},
    "sources": {
        "photos": {"license": "images belong to <b>third parties</b>"},
        "mine": {"license": "CC-BY-4.0", "rights": {"license": "CC-BY-4.0"}},
    },
    "test_sets": {},
    "steps": [{"step": "ingest", "meaning": "reading", "rules": [], "reasons": {}}],
    "funnel": [{"source": "photos", "step_number": 1, "step": "ingest", "read": 30, "kept": 28, "dropped": 2}],
    "documents": [],
    "tombstones": {"digest": None},
    "drop_reasons": [],
    "follows": [],
}


def make(root: Path, shards: Mapping[tuple[int, str], list[dict[str, Any]]] = SHARDS, **keys: Any) -> Snapshot:
    """Write a snapshot below `root`, of these shards and with these keys in its manifest."""
    folder = snapshot_folder(root, "cani", SNAPSHOT)
    (folder / "pairs").mkdir(parents=True)
    pairs = []
    for (number, split), rows in shards.items():
        path = folder / "pairs" / f"{split}-{number:05d}.parquet"
        with open_image_writer(path, PAIRS) as writer:
            for start in range(0, len(rows), 2):  # several row groups
                writer.write_table(pa.Table.from_pylist(rows[start : start + 2], schema=PAIRS))
        pairs.append(file_entry(path, folder, rows=len(rows), split=split, shard=number))
    files = {"pairs": pairs, "captions": [], "images": []}
    return commit_snapshot(root, MANIFEST | {"files": files} | keys)


@pytest.fixture(scope="session")
def make_snapshot() -> Callable[..., Snapshot]:
    """The function `make`."""
    return make


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    """The snapshot of few pairs, below `tmp_path / "catalog"`."""
    return make(tmp_path / "catalog")


@pytest.fixture(scope="session")
def make_pair() -> Callable[..., dict[str, Any]]:
    """The function `pair`."""
    return pair
