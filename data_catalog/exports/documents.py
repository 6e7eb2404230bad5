"""What a snapshot and an export say of themselves: card, Croissant metadata, terms of their sources, credits."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow.parquet as pq

from data_catalog.ablations import AblationTable
from data_catalog.exports.card import CardParts, DataConfig, SplitFiles, card_text, example_captions, upstream_paper
from data_catalog.exports.counts import PairCounts, count_pairs
from data_catalog.exports.croissant import FILE as CROISSANT_FILE
from data_catalog.exports.croissant import croissant_text
from data_catalog.exports.markdown import markdown_text, sheet_cell, table
from data_catalog.exports.rights import Policy
from data_catalog.exports.sinks import JudgedShard, ParquetSink, Sink, TarSink, sample_key
from data_catalog.storage.manifest import SPLITS, DocumentEntry, Manifest
from data_catalog.storage.shards import sha256_of, write_bytes

CSV_FILE, TEXT_FILE = "ATTRIBUTION.csv", "ATTRIBUTION.md"
COLUMNS = ("key", "sample_id", "source", "split", "pixels", "license", "attribution", "page_url", "url")
_NEEDED = ["sample_id", "source", "split", "license", "attribution", "page_url", "url"]

_HEAD = """# Attribution

ATTRIBUTION.csv has a line for each image: its license, whom to credit and where it is from, in upstream's words.
`pixels` says whether the image itself is here (`yes`), or why it is only listed. A cell that a spreadsheet would take
for a formula has an apostrophe in front.

The terms of each source as a whole, and the paper to cite:"""


class AttributionWriter:
    """Writes ATTRIBUTION.csv into a folder, as images come."""

    def __init__(self, folder: Path, policy: Policy) -> None:
        self._file = (folder / CSV_FILE).open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._policy = policy
        self._writer.writerow(COLUMNS)

    def __enter__(self) -> "AttributionWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, shard: JudgedShard) -> None:
        """Write a line for each image of a shard that goes along, or is listed by its URL."""
        for row, reason in zip(shard.rows.select(_NEEDED).to_pylist(), shard.reasons, strict=True):
            if reason is None or row["url"]:
                self._writer.writerow([sheet_cell(cell) for cell in self._cells(row, reason)])

    def _cells(self, row: Mapping[str, Any], reason: str | None) -> list[str | None]:
        return [
            sample_key(row["sample_id"]),
            row["sample_id"],
            row["source"],
            row["split"],
            reason or "yes",
            self._policy.license(row),
            row["attribution"],
            row["page_url"],
            row["url"],
        ]


def attribution_text(manifest: Manifest) -> str:
    """ATTRIBUTION.md: the terms of each source."""
    rows = [
        [markdown_text(name), markdown_text(entry["license"]), upstream_paper(manifest, name) or ""]
        for name, entry in sorted(manifest["sources"].items())
    ]
    return f"{_HEAD}\n\n{table(['source', 'terms', 'paper'], rows)}\n"


CARD_FILE = "README.md"

LOAD_PAIRS = """```python
from datasets import load_dataset

pairs = load_dataset("FOLDER", split="train")
pairs[0]["image"], pairs[0]["captions"]
```

`croissant.json` describes the same files for `mlcroissant`."""

LOAD_TARS = """```python
import webdataset

pairs = webdataset.WebDataset("FOLDER/train-000000.tar", shardshuffle=False).decode("pil")
```

Each sample is `KEY.jpg` (or `.webp`, `.png`), `KEY.json` and `KEY.txt`. open_clip's own trainer reads
`FOLDER/train-{000000..N}.tar` (`--dataset-type webdataset --train-data ...`), and finds how many samples there are in
`sizes.json`. `KEY.txt` is one caption; `KEY.json` has all of them in `captions`, and the first five as `caption_0` to
`caption_4`, which newer versions of open_clip draw from with `--json-text-key` and `--json-text-key-probs`.

`datasets.load_dataset("FOLDER")` reads them as well."""

LOAD_LINKS = """`links/SPLIT/` lists images by address, without pixels, as img2dataset reads them:

```
img2dataset --url_list FOLDER/links/train --input_format parquet --url_col url --caption_col caption \\
  --save_additional_columns '["sample_id","license","attribution","page_url"]' \\
  --output_folder OUT --output_format webdataset
```

`sha256` is of the bytes as they came, so that `--verify_hash '["sha256","sha256"]'` finds what has changed since;
Wikimedia's were asked for in another size, so that theirs always differ.

`datasets.load_dataset("parquet", data_dir="FOLDER/links")` reads them as well."""


def write_folder_documents(
    manifest: Manifest,
    folder: Path,
    *,
    sink: Sink,
    links: DataConfig,
    counts: PairCounts,
    listed: PairCounts,
    withheld: Mapping[tuple[str, str], int],
    published: str | None,
    ablations: Sequence[AblationTable] = (),
) -> None:
    """Write README.md, ATTRIBUTION.md and, for Parquet shards, croissant.json into an export's folder."""
    schema, examples = None, []
    written = sink.config()
    if isinstance(sink, ParquetSink):
        schema, examples = sink.schema, example_captions(folder / entry["path"] for entry in sink.entries)
        patterns = [found.pattern for found in written.splits.values()]
        text = croissant_text(manifest, files=sink.entries, patterns=patterns, schema=schema, published=published)
        _write_text(folder / CROISSANT_FILE, text)
    # `datasets` reads all that a card names with one reader, so that beside tars a list is none of its configurations.
    parts = CardParts(
        counts=counts,
        listed=listed,
        configs=[written] if isinstance(sink, TarSink) and written.splits else [written, links],
        schema=schema,
        examples=examples,
        loading="\n\n".join(_loading(sink, written, links)),
        withheld=withheld,
        ablations=ablations,
    )
    _write_text(folder / CARD_FILE, card_text(manifest, parts))
    _write_text(folder / TEXT_FILE, attribution_text(manifest))


def _loading(sink: Sink, written: DataConfig, links: DataConfig) -> list[str]:
    own = LOAD_TARS if isinstance(sink, TarSink) else LOAD_PAIRS
    said = [*([own] if written.splits else []), *([LOAD_LINKS] if links.splits else [])]
    return said or ["It holds no image that may be passed on, and none that has an address."]


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


LOADING = """```python
from datasets import load_dataset

pairs = load_dataset("FOLDER", split="train")  # this folder
pairs[0]["image"], pairs[0]["captions"]
```

`croissant.json` describes the same files for `mlcroissant`; any reader of Parquet reads them as well."""


def write_documents(folder: Path, manifest: Manifest) -> list[DocumentEntry]:
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
    return [_write_document(folder / name, text) for name, text in texts.items()]


def _write_document(path: Path, text: str) -> DocumentEntry:
    content = text.encode()
    write_bytes(path, content)
    return {"path": path.name, "sha256": sha256_of(path), "bytes": len(content)}
