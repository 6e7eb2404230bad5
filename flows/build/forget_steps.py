"""The steps by which a build obeys tombstones: rows before anything is asked for, images before any is preferred.

Where a shard has nothing of what is forgotten it goes on as it is, so that tombstones that do not concern it change no
key of what follows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.images.tables import Row, read_groups, write_rows
from data_catalog.schema import IMAGES
from data_catalog.settings import HOW
from data_catalog.stages import count_rows
from data_catalog.storage.shards import save_parquet
from data_catalog.takedown import Matcher, forget_rows, forgotten_image, of_samples, without_texts
from data_catalog.tombstones import FORGET, Tombstones
from flows.build.engine import SHARD, UNCHANGED, Job


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """The tombstones of a dataset; in keys they are their digest, which reasons and dates do not change."""

    tombstones: Tombstones = field(metadata=HOW)
    digest: str | None = None

    @classmethod
    def of(cls, tombstones: Tombstones) -> "InForce":
        """Return tombstones with their digest."""
        return cls(tombstones=tombstones, digest=tombstones.digest)


def forget_captions(job: Job, *, in_force: InForce) -> Mapping[str, Any]:
    """Reject the rows that tombstones mean by sample, address or page, and empty their texts.

    Lines that ingest could not read stay rejected by it, without their texts where these name what is meant.

    Args:
        job: reads `ingest`.
        in_force: the tombstones of the dataset.
    """
    matcher = Matcher(in_force.tombstones)
    before = pq.read_table(job.shard("ingest"))
    is_meant = matcher.numbers(before.select(["sample_id", "url", "page_url", "step", "drop_reason"])) >= 0
    lines = matcher.lines(before)
    after = without_texts(forget_rows(before, pa.array(is_meant)), of_samples(before, lines))
    counts = {"counts": {FORGET: count_rows(before, after)}}
    if not is_meant.any() and not lines:
        return UNCHANGED | counts
    save_parquet(after, job.folder / SHARD)
    return counts


def forget_images(job: Job, *, in_force: InForce) -> Mapping[str, Any]:
    """Drop the images that tombstones mean by what they turned out to be: by redirect, bytes or look.

    Args:
        job: reads `normalise`.
        in_force: the tombstones of the dataset.
    """
    path = job.shard("normalise")
    table = pq.read_table(path, columns=["final_url", "sha256", "phash", "drop_reason"])
    is_meant = (Matcher(in_force.tombstones).numbers(table) >= 0).tolist()
    if not any(is_meant):
        return UNCHANGED
    write_rows(_without(path, is_meant), IMAGES, job.folder / SHARD)
    return {"num_forgotten": sum(is_meant)}


def _without(path: Path, is_meant: list[bool]) -> Iterator[Row]:
    rows = (row for group in read_groups(path) for row in group)
    for row, meant in zip(rows, is_meant, strict=True):
        yield forgotten_image(row) if meant else row
