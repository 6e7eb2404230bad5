"""The step that publishes captions of dropped duplicates with the images that stay in their stead."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.text.scripts import exact_key
from data_catalog.schema import CAPTIONS, PENDING
from data_catalog.storage.shards import save_parquet
from data_catalog.storage.work import Commit, WorkStore
from flows.build.step_outputs import MERGE_CAPTIONS, SHARD, Shard, step_key

_ROWS_PER_BATCH = 50_000
# Captions of the image that stays come first, so that they decide what is a repeat.
_ORDER = [(name, "ascending") for name in ("into", "is_moved", "sample_id", "row")]


def merge_captions(work: WorkStore, captions: Sequence[Shard], duplicates: Commit) -> Commit:
    """Gather, over all shards, the captions of dropped duplicates that say what their images' other captions do not.

    Its file is `shard.parquet`, schema `CAPTIONS`: rows with `merged_into`, by that. What is held in memory is what is
    written, and the text of the captions that it is compared with.

    Args:
        captions: checked, in the order of their numbers.
        duplicates: of `find_duplicates`.
    """
    key = step_key(MERGE_CAPTIONS, [*(shard.sha256 for shard in captions), duplicates.files[SHARD]], {})

    def produce(folder: Path) -> Mapping[str, Any]:
        stays = _stays_instead(duplicates)
        groups = pa.concat_tables(
            _places(table, stays) for table in chain([CAPTIONS.empty_table()], _involved(captions, stays))
        )
        order = groups.append_column("row", pa.array(range(groups.num_rows))).sort_by(_ORDER)
        merged = _rows(captions, stays, list(_new_captions(order)))
        save_parquet(merged, folder / SHARD)
        return {"num_captions": merged.num_rows}

    return work.run(key, produce)


def _stays_instead(duplicates: Commit) -> pa.Table:
    """Each duplicate's `sample_id`, and which sample stays in its stead: `duplicate_of`."""
    table = pq.read_table(duplicates.path(SHARD), columns=["sample_id", "duplicate_of"])
    return table.filter(pc.is_valid(table.column("duplicate_of"))).combine_chunks()


def _involved(captions: Sequence[Shard], stays: pa.Table) -> Iterator[pa.Table]:
    """Pending captions of duplicates and of what stays in their stead, shard by shard."""
    samples = pa.chunked_array([*stays.column("sample_id").chunks, *stays.column("duplicate_of").chunks], pa.string())
    for shard in captions:
        table = pq.read_table(shard.path)
        chosen = pc.and_(pc.equal(table.column("outcome"), PENDING), pc.is_in(table.column("sample_id"), samples))
        yield table.filter(chosen)


def _places(table: pa.Table, stays: pa.Table) -> pa.Table:
    """Of each caption, the image `into` which it goes, whether it `is_moved` there, and its text's `key`."""
    moved_to = stays.column("duplicate_of").take(pc.index_in(table.column("sample_id"), stays.column("sample_id")))
    columns = {
        "into": pc.coalesce(moved_to, table.column("sample_id")),
        "is_moved": pc.cast(pc.is_valid(moved_to), pa.int8()),
        "sample_id": table.column("sample_id"),
        "key": pa.array(map(exact_key, table.column("caption").to_pylist()), pa.string()),
    }
    return pa.table(columns)


def _new_captions(ordered: pa.Table) -> Iterator[int]:
    """Numbers of the moved rows whose caption none before them of the same image has."""
    image, said = None, set[str]()
    for batch in ordered.to_batches(max_chunksize=_ROWS_PER_BATCH):
        for row in batch.to_pylist():
            if row["into"] != image:
                image, said = row["into"], set()
            if row["is_moved"] and row["key"] not in said:
                yield row["row"]
            said.add(row["key"])


def _rows(captions: Sequence[Shard], stays: pa.Table, numbers: Sequence[int]) -> pa.Table:
    """The rows of some numbers among the involved ones, in that order, with `merged_into`."""
    wanted, start, found = pa.array(numbers, pa.int64()), 0, [CAPTIONS.empty_table()]
    for table in _involved(captions, stays):
        here = pc.is_in(pa.array(range(start, start + table.num_rows)), wanted)
        start += table.num_rows
        chosen = table.filter(here)
        into = stays.column("duplicate_of").take(pc.index_in(chosen.column("sample_id"), stays.column("sample_id")))
        found.append(chosen.set_column(CAPTIONS.get_field_index("merged_into"), CAPTIONS.field("merged_into"), into))
    ascending = pc.sort_indices(wanted)  # the rows are found in the order of their numbers
    return pa.concat_tables(found).take(pc.sort_indices(ascending))
