"""Look-up file of a snapshot: the shards of a sample, an address or an image's hash, found by opening two files.

A key is the start of a hash: a look-up may return a shard too many, and never one too few. The file contains no
addresses. It is made from the snapshot's own files only: the same files give the same bytes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.sources.urls import canonical_url, is_web_url
from data_catalog.storage.manifest import FileEntry, file_entry
from data_catalog.storage.shards import parquet_errors, write_named_atomically

LOOKUP_KIND = "lookup"
LOOKUP = pa.schema([pa.field("key", pa.int64(), nullable=False), pa.field("shard", pa.int32(), nullable=False)])
# Bits of a key: with a hundred million keys, one look-up in ten thousand opens a shard in vain.
KEY_BITS = 40
_ROWS_PER_GROUP = 65_536


def lookup_key(text: str) -> int:
    """Return the key of a `sample_id`, of an image's address in any spelling, or of the sha256 of an image's bytes."""
    text = canonical_url(text) if is_web_url(text.strip()) else text
    found = hashlib.sha1(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
    return int.from_bytes(found[:8], "big") >> (64 - KEY_BITS)


def write_lookup(folder: Path, files: Mapping[str, Sequence[FileEntry]]) -> FileEntry:
    """Write the look-up file of a snapshot whose other files exist; return its entry of the manifest.

    Args:
        folder: folder of the snapshot.
        files: the manifest's entries of captions and images, by kind.
    """
    images = {entry["shard"]: entry for entry in files.get("images", [])}
    parts, shards = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
    for entry in files["captions"]:
        texts: set[str] = set()  # a set, since most final addresses equal the requested ones
        for one, names in ((entry, ["sample_id", "url"]), (images.get(entry["shard"]), ["final_url", "sha256"])):
            for column in pq.read_table(folder / one["path"], columns=names).columns if one is not None else ():
                texts.update(column.drop_null().unique().to_pylist())
        parts.append(np.unique(np.fromiter(map(lookup_key, texts), np.int64)))
        shards.append(np.full(len(parts[-1]), entry["shard"], np.int32))
    keys = np.concatenate(parts)
    order = np.argsort(keys, kind="stable")
    table = pa.table([pa.array(keys[order]), pa.array(np.concatenate(shards)[order])], schema=LOOKUP)

    def write(path: Path) -> None:
        encoding = dict.fromkeys(LOOKUP.names, "DELTA_BINARY_PACKED")
        pq.write_table(
            table,
            path,
            compression="zstd",
            use_dictionary=False,
            column_encoding=encoding,
            row_group_size=_ROWS_PER_GROUP,
            write_page_checksum=True,
        )

    path = write_named_atomically(folder / LOOKUP_KIND, lambda found: f"lookup-{found[:12]}.parquet", write)
    return file_entry(path, folder, rows=table.num_rows)


def shards_with(path: Path, texts: Sequence[str]) -> list[int]:
    """Return the shards, sorted, that may have any of the given ids or addresses.

    Raises:
        DamagedError: the look-up file is damaged or missing.
    """
    keys = {lookup_key(text) for text in texts}
    found: set[int] = set()
    with parquet_errors(path), pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            bounds = file.metadata.row_group(number).column(0).statistics
            if bounds is not None and any(bounds.min <= key <= bounds.max for key in keys):
                rows = file.read_row_group(number)
                pairs = zip(rows.column("key").to_pylist(), rows.column("shard").to_pylist(), strict=True)
                found.update(shard for key, shard in pairs if key in keys)
    return sorted(found)
