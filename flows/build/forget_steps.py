"""The steps by which a build obeys tombstones: rows before anything is asked for, images before any is preferred.

Where a shard has nothing of what is forgotten it goes on as it is, so that tombstones that do not concern it change no
key of what follows.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.images.tables import Row, read_groups, write_rows
from data_catalog.schema import IMAGES
from data_catalog.storage.shards import save_parquet
from data_catalog.storage.work import Commit, WorkStore
from data_catalog.takedown import Matcher, forget_rows, forgotten_image, of_samples, without_texts
from data_catalog.tombstones import FORGET, Tombstones
from flows.build.images import NO_BYTES_FILE
from flows.build.step_outputs import FORGET_IMAGES, SHARD, Shard, count_rows, step_key


def forget_captions(work: WorkStore, shard: Shard, tombstones: Tombstones) -> Shard:
    """Reject the rows that tombstones mean by sample, address or page, and empty their texts.

    Lines that ingest could not read stay rejected by it, without their texts where these name what is meant.
    """
    matcher = Matcher(tombstones)

    def produce(folder: Path) -> Mapping[str, Any]:
        before = pq.read_table(shard.path)
        is_meant = matcher.numbers(before.select(["sample_id", "url", "page_url", "step", "drop_reason"])) >= 0
        lines = matcher.lines(before)
        after = without_texts(forget_rows(before, pa.array(is_meant)), of_samples(before, lines))
        if is_meant.any() or lines:
            save_parquet(after, folder / SHARD)
        return {"counts": {FORGET: count_rows(before, after)}}

    commit = work.run(step_key(FORGET, [shard.sha256], {"tombstones": tombstones.digest}), produce)
    return _changed_or(shard, commit)


def forget_images(work: WorkStore, images: Shard, tombstones: Tombstones) -> Shard:
    """Drop the images that tombstones mean by what they turned out to be: by redirect, bytes or look."""
    matcher = Matcher(tombstones)

    def produce(folder: Path) -> Mapping[str, Any]:
        table = pq.read_table(images.path, columns=["final_url", "sha256", "phash", "drop_reason"])
        is_meant = (matcher.numbers(table) >= 0).tolist()
        if any(is_meant):
            write_rows(_without(images.path, is_meant), IMAGES, folder / SHARD)
            beside = images.path.with_name(NO_BYTES_FILE)
            if beside.is_file():
                os.link(beside, folder / NO_BYTES_FILE)
        return {"num_forgotten": sum(is_meant)}

    commit = work.run(step_key(FORGET_IMAGES, [images.sha256], {"tombstones": tombstones.digest}), produce)
    return _changed_or(images, commit)


def _without(path: Path, is_meant: list[bool]) -> Iterator[Row]:
    rows = (row for group in read_groups(path) for row in group)
    for row, meant in zip(rows, is_meant, strict=True):
        yield forgotten_image(row) if meant else row


def _changed_or(shard: Shard, commit: Commit) -> Shard:
    """The step's output, or the shard itself where the step had nothing to change."""
    counts = commit.facts.get("counts", {})
    if SHARD in commit.files:
        return Shard(shard_id=shard.shard_id, path=commit.path(SHARD), sha256=commit.files[SHARD], counts=counts)
    return Shard(shard_id=shard.shard_id, path=shard.path, sha256=shard.sha256, counts=counts)
