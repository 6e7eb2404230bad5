"""Which samples are dropped, on account of which others, and what becomes of their captions: files in, tables out."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.duplicates.captions import duplicate_captions
from cleaning.duplicates.images import DuplicatesConfig, Images, Verdict, judge_images
from cleaning.duplicates.near_images import Thumbnails, parse_thumbnails
from cleaning.text.scripts import exact_key
from data_catalog.database.sorting import thumbnails_in_order
from data_catalog.images.normalise import THUMBNAIL_BYTES
from data_catalog.publish import UPSTREAM, SplitConfig, split_of
from data_catalog.schema import CAPTIONS, PENDING
from data_catalog.stages import Drop, pending_rows, reject, set_values, texts
from data_catalog.storage.manifest import MARKED

_ROWS_PER_BATCH = 50_000
# Captions of the image that stays come first, so that they decide what is a repeat.
_ORDER = [(name, "ascending") for name in ("into", "is_moved", "sample_id", "row")]
# Least guarded first: where images that look the same are in several splits, those of the last one stay.
# What upstream holds out is more guarded than what a hash does: it stays as it was published.
_SPLIT_ORDER = ("train", "val", "test", "upstream's val", "upstream's test", MARKED)

# What is not to be published as a pair of its own, by sample.
FOUND = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("drop_reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("duplicate_of", pa.string()),  # the sample that stays in its stead
    ]
)


def write_thumbnails(files: Sequence[Path], count: int, path: Path) -> Thumbnails:
    """Write thumbnails of all images in the order of `sample_id`, as a file: ten million of them take 2 GB."""
    with path.open("wb") as file:  # a page of a map that the full disk has no room for would kill the process
        os.posix_fallocate(file.fileno(), 0, max(1, count * THUMBNAIL_BYTES))
    if count == 0:
        return np.zeros((0, THUMBNAIL_BYTES), np.uint8)
    pixels = np.memmap(path, np.uint8, "r+", shape=(count, THUMBNAIL_BYTES))
    start = 0
    for batch in thumbnails_in_order(files):
        pixels[start : start + len(batch)] = parse_thumbnails(batch)
        start += len(batch)
    return pixels


def leaking_samples(facts: pa.Table, leaking: Mapping[int, str]) -> pa.Table:
    """Return the samples whose images, by row number of `facts`, are of test sets, in the schema `FOUND`."""
    rows = sorted(leaking)
    sample_ids = facts.column("sample_id").take(pa.array(rows, pa.int64())).to_pylist()
    return _found(sample_ids, [Drop("test_pixels", leaking[row]) for row in rows], [None] * len(rows))


def _found(sample_ids: Sequence[str], drops: Sequence[Drop], duplicate_of: Sequence[str | None]) -> pa.Table:
    columns = [sample_ids, [drop.reason for drop in drops], [drop.detail for drop in drops], duplicate_of]
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, FOUND, strict=True)], schema=FOUND)


def judged_samples(
    facts: pa.Table,
    thumbnails: Thumbnails,
    leaking: Mapping[int, str],
    *,
    drops: bool,
    config: DuplicatesConfig,
    split: SplitConfig,
) -> pa.Table:
    """Return, in the schema `FOUND`, the samples whose images stand for none, or are there already.

    Args:
        facts: of the images; see `data_catalog.database.sorting.image_facts`.
        thumbnails: one a row.
        leaking: the images of test sets, by row number.
        drops: those are left out; else they are kept apart like a split.
        config: section `[duplicates]`.
        split: section `[split]`.
    """
    sample_ids, hosts = facts.column("sample_id"), facts.column("placeholder_of")
    is_leaking = np.zeros(facts.num_rows, np.bool_)
    is_leaking[list(leaking)] = True
    marked = facts.column("is_marked").to_numpy() | (is_leaking & (not drops))
    stated = zip(sample_ids.to_pylist(), facts.column("stated_split").to_pylist(), strict=True)
    levels = np.array([_SPLIT_ORDER.index(_guarded_as(*sample, split)) for sample in stated], np.int64)
    images = Images(
        same_bytes=facts.column("same_bytes").to_numpy(),
        hashes=facts.column("phash").to_numpy(),
        preference=facts.column("preference").to_numpy(),
        split=np.where(marked, _SPLIT_ORDER.index(MARKED), levels),
        placeholder=pc.is_valid(hosts).to_numpy(),
        left_out=is_leaking & drops,
        thumbnails=thumbnails,
    )
    verdicts, account = judge_images(images, config)
    rows = np.flatnonzero(verdicts)
    told = zip(
        verdicts[rows].tolist(),
        sample_ids.take(pa.array(account[rows])).to_pylist(),
        hosts.take(pa.array(account[rows])).to_pylist(),
        (_SPLIT_ORDER[level] for level in images.split[account[rows]].tolist()),
        (verdicts[account[rows]] == Verdict.KEEP).tolist(),
        strict=True,
    )
    found, others = [], []
    for verdict, other, host, where, is_there in told:
        found.append(_drop(Verdict(verdict), other, host, where))
        others.append(other if is_there and verdict in (Verdict.DUPLICATE, Verdict.NEAR_DUPLICATE) else None)
    return _found(sample_ids.take(pa.array(rows)).to_pylist(), found, others)


def _guarded_as(sample_id: str, stated: str | None, config: SplitConfig) -> str:
    """Return which of `_SPLIT_ORDER` a sample is in."""
    split = split_of(sample_id, config, [stated])
    return f"upstream's {split}" if config.by == UPSTREAM and stated in ("val", "test") else split


def _drop(verdict: Verdict, other: str, host: str | None, split: str) -> Drop:
    if verdict == Verdict.PLACEHOLDER:
        return Drop("placeholder_image", f"the same bytes at many addresses of {host}")
    if verdict == Verdict.SPLIT_LEAK:
        return Drop("split_leak", f"looks like {other} of {split}")
    if verdict == Verdict.DUPLICATE:
        return Drop("duplicate_image", f"same as {other}")
    return Drop("near_duplicate_image", f"looks like {other}")


def merged_captions(captions: Sequence[Path], found: Path) -> pa.Table:
    """Return the captions of dropped duplicates that say what their images' other captions do not, of all shards.

    What is held in memory is what is returned, and the text of the captions that it is compared with.

    Args:
        captions: caption rows, by shard.
        found: a table of the schema `FOUND`.

    Returns:
        Rows of the schema `CAPTIONS` with `merged_into`, by that.
    """
    stays = _stays_instead(found)
    groups = pa.concat_tables(
        _places(table, stays) for table in chain([CAPTIONS.empty_table()], _involved(captions, stays))
    )
    order = groups.append_column("row", pa.array(range(groups.num_rows))).sort_by(_ORDER)
    return _rows(captions, stays, list(_new_captions(order)))


def _stays_instead(path: Path) -> pa.Table:
    """Return each duplicate's `sample_id`, and which sample stays in its stead: `duplicate_of`."""
    table = pq.read_table(path, columns=["sample_id", "duplicate_of"])
    return table.filter(pc.is_valid(table.column("duplicate_of"))).combine_chunks()


def _involved(captions: Sequence[Path], stays: pa.Table) -> Iterator[pa.Table]:
    """Yield pending captions of duplicates and of what stays in their stead, shard by shard."""
    samples = pa.chunked_array([*stays.column("sample_id").chunks, *stays.column("duplicate_of").chunks], pa.string())
    for path in captions:
        table = pq.read_table(path)
        chosen = pc.and_(pc.equal(table.column("outcome"), PENDING), pc.is_in(table.column("sample_id"), samples))
        yield table.filter(chosen)


def _places(table: pa.Table, stays: pa.Table) -> pa.Table:
    """Return, for each caption, the image `into` which it goes, whether it `is_moved` there, and its text's `key`."""
    moved_to = stays.column("duplicate_of").take(pc.index_in(table.column("sample_id"), stays.column("sample_id")))
    columns = {
        "into": pc.coalesce(moved_to, table.column("sample_id")),
        "is_moved": pc.cast(pc.is_valid(moved_to), pa.int8()),
        "sample_id": table.column("sample_id"),
        "key": pa.array(map(exact_key, table.column("caption").to_pylist()), pa.string()),
    }
    return pa.table(columns)


def _new_captions(ordered: pa.Table) -> Iterator[int]:
    """Yield the numbers of the moved rows whose caption none before them of the same image has."""
    image, said = None, set[str]()
    for batch in ordered.to_batches(max_chunksize=_ROWS_PER_BATCH):
        for row in batch.to_pylist():
            if row["into"] != image:
                image, said = row["into"], set()
            if row["is_moved"] and row["key"] not in said:
                yield row["row"]
            said.add(row["key"])


def _rows(captions: Sequence[Path], stays: pa.Table, numbers: Sequence[int]) -> pa.Table:
    """Return the rows of some numbers among the involved ones, in that order, with `merged_into`."""
    wanted, start, found = pa.array(numbers, pa.int64()), 0, [CAPTIONS.empty_table()]
    for table in _involved(captions, stays):
        here = pc.is_in(pa.array(range(start, start + table.num_rows)), wanted)
        start += table.num_rows
        chosen = table.filter(here)
        into = stays.column("duplicate_of").take(pc.index_in(chosen.column("sample_id"), stays.column("sample_id")))
        found.append(chosen.set_column(CAPTIONS.get_field_index("merged_into"), CAPTIONS.field("merged_into"), into))
    ascending = pc.sort_indices(wanted)  # the rows are found in the order of their numbers
    return pa.concat_tables(found).take(pc.sort_indices(ascending))


def drops_of(path: Path, captions: pa.Table) -> dict[str, Drop]:
    """Return the drops of a shard's samples, among those of all shards: a table of the schema `FOUND`."""
    found = pq.read_table(path)
    rows = found.filter(pc.is_in(found.column("sample_id"), captions.column("sample_id").unique())).to_pylist()
    return {row["sample_id"]: Drop(row["drop_reason"], row["detail"]) for row in rows}


def move_captions(table: pa.Table, merged: Path) -> pa.Table:
    """Mark captions of duplicates that go to another image; the others are repeats of what that one has.

    Args:
        table: caption rows of one shard.
        merged: `merged_captions`, as a file.
    """
    found = pq.read_table(merged, columns=["caption_id", "merged_into"])
    found = found.filter(pc.is_in(found.column("caption_id"), table.column("caption_id")))
    into = dict(zip(found.column("caption_id").to_pylist(), found.column("merged_into").to_pylist(), strict=True))
    rows = pending_rows(table)
    chosen = [
        (row, into[name]) for row, name in zip(rows, texts(table, "caption_id", rows), strict=True) if name in into
    ]
    return set_values(table, "merged_into", [row for row, _ in chosen], [sample_id for _, sample_id in chosen])


def _stationary(table: pa.Table) -> list[int]:
    """Return the pending rows that are not published with another sample's image."""
    return pending_rows(table, pc.is_null(table.column("merged_into")))


def reject_samples(table: pa.Table, drops: Mapping[str, Drop], *, step: str) -> pa.Table:
    """Reject, in the name of `step`, the pending rows of some samples, but what goes to another image."""
    rows = _stationary(table)
    return reject(table, rows, [drops.get(sample_id) for sample_id in texts(table, "sample_id", rows)], step=step)


def reject_repeated_captions(table: pa.Table, *, step: str) -> pa.Table:
    """Reject, in the name of `step`, captions that an earlier one of the same image says already."""
    rows = _stationary(table)
    verdicts = duplicate_captions(texts(table, "sample_id", rows), texts(table, "caption", rows))
    return reject(table, rows, verdicts, step=step)
