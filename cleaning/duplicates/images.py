"""Deduplication of images: which of several equal or similar ones stays, and the consequences for samples and captions.

Similar images are also kept out of different splits. Images are rows, by number.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from annotated_types import Ge, Interval
from numpy.typing import NDArray

from cleaning.duplicates.captions import duplicate_captions
from cleaning.duplicates.near_images import (
    MAX_DISTANCE,
    Hashes,
    ImageSimilarity,
    Rows,
    Thumbnails,
    first_kept,
    first_similar,
    parse_thumbnails,
)
from data_catalog.base.errors import SettingsError
from data_catalog.catalog.manifest import MARKED, UPSTREAM
from data_catalog.catalog.sorting import thumbnails_in_order
from data_catalog.images.normalise import THUMBNAIL_BYTES
from data_catalog.publish.publish import SplitConfig, split_of
from data_catalog.rows.stages import Drop, pending_rows, reject, texts

Flags = NDArray[np.bool_]

Criterion = Literal["source", "resolution", "captions"]
# Captions of the image that stays come first, so that the others count as duplicates.
_ORDER = [(name, "ascending") for name in ("into", "is_moved", "sample_id", "row")]
# The least protected split first: of similar images in several splits, those of the last one stay. Upstream's held-out
# splits rank above those drawn by a hash, so that they stay as published.
_SPLIT_ORDER = ("train", "val", "test", "upstream's val", "upstream's test", MARKED)

# Samples that are not published as a pair of their own, with the reason.
FOUND = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("drop_reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("duplicate_of", pa.string()),  # the sample that replaces it
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicatesConfig:
    """Exact and near-duplicate images over all sources, and placeholder images."""

    images: bool = True
    """Keep one of several samples with the same image bytes."""
    near_images: bool = True
    """Keep one of several samples with near-duplicate images."""
    max_distance: Annotated[int, Interval(ge=0, le=MAX_DISTANCE)] = 6
    """Maximum number of the 64 bits of `phash` in which near-duplicates differ."""
    max_thumbnail_difference: Annotated[float, Ge(0)] = 0.2
    """Maximum difference of their 8 x 8 colour thumbnails: 0 if equal, 1 if unrelated."""
    keep: tuple[Criterion, ...] = get_args(Criterion)
    """Criteria that decide which sample stays, in order: the best "source", the highest "resolution" before resizing,
    the most "captions"; then the lowest id."""
    sources: tuple[str, ...] = ()
    """All sources of the recipe, best first. By default in the recipe's order."""
    merge_captions: Literal[False] = False
    """Captions of dropped samples are dropped. Only older snapshots have published them with the image that stays."""
    split_guard: bool = True
    """Drop train images similar to one of val or test, and val images similar to one of test, even if `images` or
    `near_images` is off."""
    captions: bool = True
    """Drop captions equal to an earlier one of the same image, ignoring case, width, white space and final
    punctuation."""
    placeholder_urls: Annotated[int, Ge(0)] = 10
    """Image bytes that this many URLs of one host share (at least 2) are a placeholder. 0 turns the check off."""

    def __post_init__(self) -> None:
        if self.placeholder_urls == 1:
            raise SettingsError("duplicates.placeholder_urls must be 0, or at least 2, got 1")

    def source_order(self, names: Sequence[str]) -> list[str]:
        """Return the names of a recipe's sources, the best first."""
        if self.sources and sorted(self.sources) != sorted(names):
            raise SettingsError(
                f"duplicates.sources must name each source of the recipe once ({', '.join(names)}), got "
                f"{', '.join(self.sources)}"
            )
        return list(self.sources or names)


class Verdict(IntEnum):
    """Verdict on an image: keep it, or the reason to drop it."""

    KEEP = 0
    PLACEHOLDER = 1
    SPLIT_LEAK = 2
    DUPLICATE = 3
    NEAR_DUPLICATE = 4


_REASONS = {
    Verdict.PLACEHOLDER: ("placeholder_image", "the same bytes at many addresses of {host}"),
    Verdict.SPLIT_LEAK: ("split_leak", "looks like {other} of {split}"),
    Verdict.DUPLICATE: ("duplicate_image", "same as {other}"),
    Verdict.NEAR_DUPLICATE: ("near_duplicate_image", "looks like {other}"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Facts of all images that deduplication uses; each array has one value a row."""

    same_bytes: Rows
    """The first row whose image has the same bytes."""
    hashes: Hashes
    preference: Rows
    """Rank among all images, the best first."""
    split: Rows
    """Rank of the split: 0 for train, higher for more protected ones."""
    placeholder: Flags
    """Its bytes are a host's placeholder image."""
    left_out: Flags
    """It belongs to a test set; such an image is nobody's duplicate."""
    thumbnails: Thumbnails


def judge_images(images: Images, config: DuplicatesConfig) -> tuple[Rows, Rows]:
    """Return a verdict on every image that is not left out.

    Images similar to a placeholder are placeholders, too. The others are taken in order, the most protected split first
    and in it the best preference first: each one stays unless it is similar to one that stays already. So no chain of
    small differences leads from a dropped image to an unrelated one.

    Returns:
        The `Verdict` of each row, and the row that caused it (for a kept row: itself).
    """
    verdicts = np.full(len(images.hashes), Verdict.KEEP, np.int64)
    account = np.arange(len(images.hashes))
    looks = ImageSimilarity(
        hashes=images.hashes,
        thumbnails=images.thumbnails,
        max_distance=config.max_distance,
        max_difference=config.max_thumbnail_difference,
    )

    def staying() -> Flags:
        chosen: Flags = (verdicts == Verdict.KEEP) & ~images.left_out
        return chosen

    def ordered(chosen: Flags) -> Rows:
        """Return the chosen rows in order of preference."""
        rows = np.flatnonzero(chosen)
        levels = images.split[rows] * config.split_guard
        return rows[np.lexsort((images.preference[rows], -levels))]

    def first_of_bytes(rows: Rows) -> Rows:
        """Return for each of the rows the first of them that has the same bytes."""
        first = np.empty(len(verdicts), np.int64)
        first[images.same_bytes[rows[::-1]]] = rows[::-1]  # reversed: the last write counts
        return first[images.same_bytes[rows]]

    def drop(rows: Rows, others: Rows) -> None:
        """Drop rows as duplicates of others; keep a row whose other is -1 or itself."""
        chosen = (others >= 0) & (others != rows)
        rows, others = rows[chosen], others[chosen]
        same = images.same_bytes[rows] == images.same_bytes[others]
        is_leak = config.split_guard & (images.split[rows] < images.split[others])
        looks_so = np.where(same, Verdict.DUPLICATE, Verdict.NEAR_DUPLICATE)
        verdicts[rows] = np.where(is_leak, Verdict.SPLIT_LEAK, looks_so)
        account[rows] = others

    stand_ins = np.flatnonzero(images.placeholder & ~images.left_out)
    stand_ins = stand_ins[np.argsort(images.preference[stand_ins])]
    verdicts[stand_ins], account[stand_ins] = Verdict.PLACEHOLDER, first_of_bytes(stand_ins)
    if config.near_images:
        others = np.flatnonzero(staying())
        found = first_similar(looks, others, stand_ins[account[stand_ins] == stand_ins])
        alike = found >= 0
        verdicts[others[alike]], account[others[alike]] = Verdict.PLACEHOLDER, found[alike]
        rows = ordered(staying())
        drop(rows, first_kept(looks, rows))
        return verdicts, account
    if config.split_guard:
        for level in np.unique(images.split)[::-1]:
            rows = ordered(staying() & (images.split == level))
            drop(rows, first_similar(looks, rows, ordered(staying() & (images.split > level))))
    if config.images:
        rows = ordered(staying())
        drop(rows, first_of_bytes(rows))
    return verdicts, account


def write_thumbnails(files: Sequence[Path], count: int, path: Path) -> Thumbnails:
    """Write the thumbnails of all images to a file in the order of `sample_id`; ten million of them take 2 GB."""
    with path.open("wb") as file:  # allocate first: on a full disk, writing to a memory map would kill the process
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
    """Return, in the schema `FOUND`, the samples whose images, by row number of `facts`, belong to test sets."""
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
    """Return, in the schema `FOUND`, the samples whose images are placeholders or duplicates.

    Args:
        facts: facts of the images; see `data_catalog.catalog.sorting.image_facts`.
        thumbnails: one thumbnail a row.
        leaking: images of test sets, by row number.
        drops: whether those are dropped and left out here; otherwise they are kept apart like a split.
    """
    sample_ids, hosts = facts.column("sample_id"), facts.column("placeholder_of")
    is_leaking = np.zeros(facts.num_rows, np.bool_)
    is_leaking[list(leaking)] = True
    marked = facts.column("is_marked").to_numpy() | (is_leaking & (not drops))
    guarded_as = [
        f"upstream's {stated}"
        if split.by == UPSTREAM and stated in ("val", "test")
        else split_of(name, split, [stated])
        for name, stated in zip(sample_ids.to_pylist(), facts.column("stated_split").to_pylist(), strict=True)
    ]
    levels = np.array([_SPLIT_ORDER.index(name) for name in guarded_as], np.int64)
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
    judged = zip(
        verdicts[rows].tolist(),
        sample_ids.take(pa.array(account[rows])).to_pylist(),
        hosts.take(pa.array(account[rows])).to_pylist(),
        images.split[account[rows]].tolist(),
        (verdicts[account[rows]] == Verdict.KEEP).tolist(),
        strict=True,
    )
    found, others = [], []
    for verdict, other, host, level, is_there in judged:
        reason, detail = _REASONS[verdict]
        found.append(Drop(reason, detail.format(other=other, host=host, split=_SPLIT_ORDER[level])))
        others.append(other if is_there and verdict in (Verdict.DUPLICATE, Verdict.NEAR_DUPLICATE) else None)
    return _found(sample_ids.take(pa.array(rows)).to_pylist(), found, others)


def drops_of(path: Path, captions: pa.Table) -> dict[str, Drop]:
    """Return the drops of a shard's samples, from the file of all shards' drops (schema `FOUND`)."""
    found = pq.read_table(path)
    rows = found.filter(pc.is_in(found.column("sample_id"), captions.column("sample_id").unique())).to_pylist()
    return {row["sample_id"]: Drop(row["drop_reason"], row["detail"]) for row in rows}


def reject_samples(table: pa.Table, drops: Mapping[str, Drop], *, step: str) -> pa.Table:
    """Reject the pending rows of samples that have a drop."""
    rows = pending_rows(table)
    return reject(table, rows, [drops.get(sample_id) for sample_id in texts(table, "sample_id", rows)], step=step)


def reject_repeated_captions(table: pa.Table, *, step: str) -> pa.Table:
    """Reject captions that equal an earlier one of the same image."""
    rows = pending_rows(table)
    verdicts = duplicate_captions(texts(table, "sample_id", rows), texts(table, "caption", rows))
    return reject(table, rows, verdicts, step=step)
