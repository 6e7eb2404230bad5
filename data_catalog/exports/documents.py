"""Documents of a snapshot or an export: the card and the terms."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_catalog.catalog.manifest import SPLITS, DocumentEntry, Manifest
from data_catalog.disk.files import write_bytes
from data_catalog.exports.card import CARD_FILE, DataFiles, card_text, example_captions, upstream_paper
from data_catalog.exports.counts import count_pairs
from data_catalog.exports.markdown import template

TERMS_FILE = "ATTRIBUTION.md"


def write_documents(folder: Path, manifest: Manifest) -> list[DocumentEntry]:
    """Write the card of a snapshot into its folder, which has all its pair shards.

    Return the "documents" of the manifest, which is written after them.
    """
    shards = manifest["files"]["pairs"]
    entries: list[dict[str, Any]] = [{**entry} for split in SPLITS for entry in shards if entry["split"] == split]
    paths = [folder / entry["path"] for entry in entries]
    schema = pq.read_schema(paths[0]) if paths else None
    pairs = DataFiles(pattern="pairs/{}-*.parquet", entries=entries, schema=schema)
    counts = count_pairs(folder / entry["path"] for entry in shards)
    card = card_text(manifest, pairs, counts, examples=example_captions(paths)).encode()
    return [{"path": CARD_FILE, "sha256": write_bytes(folder / CARD_FILE, card), "bytes": len(card)}]


def terms_text(manifest: Manifest) -> str:
    """Return the text of ATTRIBUTION.md: the terms of each source."""
    papers = {name: upstream_paper(manifest, name) for name in manifest["sources"]}
    text: str = template("attribution.md").render(sources=sorted(manifest["sources"].items()), papers=papers)
    return text
