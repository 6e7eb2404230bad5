"""The documents of every snapshot, written before its manifest: its dataset card and its Croissant metadata."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_catalog.exports.card import CardParts, card_text, example_captions
from data_catalog.exports.counts import count_pairs
from data_catalog.exports.croissant import FILE as CROISSANT_FILE
from data_catalog.exports.croissant import croissant_text
from data_catalog.exports.front_matter import DataConfig, SplitFiles
from data_catalog.storage.manifest import SPLITS
from data_catalog.storage.shards import sha256_of, write_bytes

CARD_FILE = "README.md"

LOADING = """```python
from datasets import load_dataset

pairs = load_dataset("FOLDER", split="train")  # this folder
pairs[0]["image"], pairs[0]["captions"]
```

`croissant.json` describes the same files for `mlcroissant`; any reader of Parquet reads them as well."""


def write_documents(folder: Path, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write the card and the metadata of a snapshot's files into its folder; call it before the manifest is written.

    Args:
        folder: the snapshot's, with all its pair shards.
        manifest: the manifest to be: everything but "documents" and the checksum.

    Returns:
        The manifest's "documents": path, sha256 and bytes of each.
    """
    entries = [entry for entry in manifest["files"]["pairs"] if entry["split"] in SPLITS]
    files = [folder / entry["path"] for entry in entries]
    schema = pq.read_schema(files[0]) if files else None
    splits = {
        split: SplitFiles(
            pattern=f"pairs/{split}-*.parquet",
            rows=sum(entry["rows"] for entry in entries if entry["split"] == split),
            num_bytes=sum(entry["bytes"] for entry in entries if entry["split"] == split),
        )
        for split in SPLITS
        if any(entry["split"] == split for entry in entries)
    }
    parts = CardParts(
        counts=count_pairs(folder / entry["path"] for entry in manifest["files"]["pairs"]),
        configs=[DataConfig(name="default", splits=splits, schema=schema)],
        schema=schema,
        examples=example_captions(files),
        loading=LOADING,
    )
    patterns = [found.pattern for found in splits.values()]
    texts = {
        CARD_FILE: card_text(manifest, parts),
        CROISSANT_FILE: croissant_text(manifest, files=entries, patterns=patterns, schema=schema),
    }
    return [_write(folder / name, text) for name, text in texts.items()]


def _write(path: Path, text: str) -> dict[str, Any]:
    content = text.encode()
    write_bytes(path, content)
    return {"path": path.name, "sha256": sha256_of(path), "bytes": len(content)}
