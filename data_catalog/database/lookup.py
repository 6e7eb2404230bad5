"""Look-up file of a snapshot: the shards of a sample, an address or an image's hash, found by opening two files.

A key is the start of a hash: a look-up may return a shard too many, and never one too few. The file contains no
addresses. It is made from the snapshot's own files only: the same files give the same bytes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.sources.urls import canonical_url, is_web_url
from data_catalog.storage.integrity import file_problem
from data_catalog.storage.manifest import FileEntry, Snapshot, file_entry
from data_catalog.storage.shards import parquet_errors, read_columns, write_named_atomically

LOOKUP_KIND = "lookup"
LOOKUP = pa.schema([pa.field("key", pa.int64(), nullable=False), pa.field("shard", pa.int32(), nullable=False)])
# Bits of a key: with a hundred million keys, one look-up in ten thousand opens a shard in vain.
KEY_BITS = 40
_ROWS_PER_GROUP = 65_536
# Columns of ids, addresses and hashes, by kind of file.
_COLUMNS = {"captions": ("sample_id", "url"), "images": ("final_url", "sha256")}

Keys = npt.NDArray[np.int64]


def lookup_key(text: str) -> int:
    """Return the key of a `sample_id`, of an image's address in any spelling, or of the sha256 of an image's bytes."""
    text = canonical_url(text) if is_web_url(text.strip()) else text
    found = hashlib.sha1(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
    return int.from_bytes(found[:8], "big") >> (64 - KEY_BITS)


def write_lookup(
    folder: Path, files: Mapping[str, Sequence[FileEntry]], *, before: Snapshot | None = None
) -> FileEntry:
    """Write the look-up file of a snapshot whose other files exist; return its entry of the manifest.

    Args:
        folder: folder of the snapshot.
        files: the manifest's entries of captions and images, by kind.
        before: a snapshot whose shards have the same rows and more; its keys spare most of the work.
    """
    old, known = (_by_shard(before.manifest["files"]), _known_keys(before)) if before is not None else ({}, {})
    parts, shards = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
    for shard, own in _by_shard(files).items():
        keys = _keys_left(folder, own, before.folder, old[shard], known[shard]) if before and shard in known else None
        parts.append(_keys(_texts(folder, own)) if keys is None else keys)
        shards.append(np.full(len(parts[-1]), shard, np.int32))
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


def _by_shard(files: Mapping[str, Sequence[FileEntry]]) -> dict[int, dict[str, FileEntry]]:
    """Return the files that the keys of each shard of captions are made from, by kind."""
    found = {entry["shard"]: {"captions": entry} for entry in files["captions"]}
    for entry in files.get("images", []):
        if entry["shard"] in found:
            found[entry["shard"]]["images"] = entry
    return found


def _texts(folder: Path, files: Mapping[str, FileEntry]) -> pa.Array:
    """Return the distinct ids, addresses and hashes of a shard: most final addresses equal the requested ones."""
    tables = [read_columns(folder / entry["path"], _COLUMNS[kind]) for kind, entry in files.items()]
    chunks = [chunk for table in tables for column in table.columns for chunk in column.chunks]
    return pa.chunked_array(chunks, pa.string()).unique().drop_null()


def _keys(texts: pa.Array) -> Keys:
    return np.unique(np.fromiter(map(lookup_key, texts.to_pylist()), np.int64))


def _known_keys(snapshot: Snapshot) -> dict[int, Keys]:
    """Return the keys of each shard of a snapshot, sorted; none if its look-up file is damaged."""
    entries = [(snapshot.folder / entry["path"], entry["sha256"]) for entry in snapshot.manifest["files"][LOOKUP_KIND]]
    if len(entries) != 1 or file_problem(*entries[0]) is not None:
        return {}
    table = read_columns(entries[0][0], LOOKUP.names)
    keys, shards = (column.to_numpy() for column in table.columns)
    order = np.argsort(shards, kind="stable")
    names, starts = np.unique(shards[order], return_index=True)
    return dict(zip(names.tolist(), np.split(keys[order], starts[1:]), strict=False))


def _keys_left(
    folder: Path, own: Mapping[str, FileEntry], before: Path, old: Mapping[str, FileEntry], known: Keys
) -> Keys | None:
    """Return the keys of a shard, given those that it had with more rows; None if those do not tell.

    They do if no two texts of the shard shared a key: then the keys of all texts that went have to go.
    """
    if [entry["sha256"] for entry in own.values()] == [entry["sha256"] for entry in old.values()]:
        return known
    texts, all_texts = _texts(folder, own), _texts(before, old)
    gone = all_texts.filter(pc.invert(pc.is_in(all_texts, texts)))
    if len(all_texts) != len(known) or len(texts) + len(gone) != len(all_texts):
        return None
    return np.setdiff1d(known, _keys(gone), assume_unique=True)


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
