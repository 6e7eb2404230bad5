"""The steps that bring and judge images, and what becomes of captions by them; committed by content."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.config import REASONS as CLEANING_REASONS
from cleaning.duplicates import duplicate_captions
from data_catalog.images.fetch import FetchConfig
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.images.workers import ImageWorkers
from data_catalog.schema import PENDING
from data_catalog.shards import digest, save_parquet
from data_catalog.sorting import duplicate_images
from data_catalog.stages import Drop, pending_rows, reject, texts
from data_catalog.work import Commit, WorkStore
from flows.step_outputs import (
    DEDUPLICATE,
    FETCH,
    FIND_DUPLICATES,
    NORMALISE,
    SHARD,
    Shard,
    count_rows,
    shard_of_commit,
    step_key,
)

logger = logging.getLogger(__name__)

MANY_REQUESTS = 20

DEDUPLICATE_REASONS = {
    **CLEANING_REASONS["deduplicate"],
    "duplicate_image": "another sample, of a better source or with a lower id, has an image of the same bytes",
}


def fetch(
    work: WorkStore,
    shard: Shard,
    workers: ImageWorkers,
    config: FetchConfig,
    *,
    what: Mapping[str, Any],
    locations: Mapping[str, str],
    location_digests: Mapping[str, str],
) -> Shard:
    """Bring the raw bytes of every sample that still has a caption: recorded facts, not fetched again.

    Args:
        what: the settings of `config` that change what comes.
        locations: folder or zip of local images, by source.
        location_digests: content hashes of those.
    """
    requests = image_requests(pq.read_table(shard.path), locations)
    local = sorted({location for location in requests.column("location").to_pylist() if location is not None})
    digests = [location_digests[location] for location in local]
    asked = requests.drop_columns(["location"]).to_pylist()
    key = step_key(FETCH, [digest(asked), *digests], what)

    def produce(folder: Path) -> Mapping[str, Any]:
        workers.fetch(requests, config, folder / SHARD)
        _warn_if_offline(folder / SHARD, shard.label)
        return {"num_requests": requests.num_rows}

    return shard_of_commit(work.run(key, produce), shard.shard_id)


def _warn_if_offline(raw: Path, label: str) -> None:
    """Say so where no image could even be asked for: links rot, but not all at once."""
    reasons = pq.read_table(raw, columns=["drop_reason"]).column("drop_reason").to_pylist()
    if len(reasons) >= MANY_REQUESTS and set(reasons) <= {"dns", "connect", "timeout"}:
        logger.warning("shard %s: none of %d images could be reached: is the network down?", label, len(reasons))


def image_requests(table: pa.Table, locations: Mapping[str, str]) -> pa.Table:
    """One row per sample that has a pending caption: `sample_id, url, path, location`, in shard order."""
    rows = table.filter(pc.equal(table.column("outcome"), PENDING)).select(["sample_id", "source", "url", "path"])
    samples: dict[str, dict[str, Any]] = {}
    for row in rows.to_pylist():
        source = row.pop("source")
        location = locations.get(source) if row["path"] is not None else None
        samples.setdefault(row["sample_id"], {**row, "location": location})
    names = ("sample_id", "url", "path", "location")
    return pa.Table.from_pylist(list(samples.values()), schema=pa.schema([(name, pa.string()) for name in names]))


def normalise(
    work: WorkStore, raw: Shard, workers: ImageWorkers, config: NormaliseConfig, *, what: Mapping[str, Any]
) -> Shard:
    """Decode, turn upright, resize and re-encode what was fetched; `what` as in `fetch`."""
    key = step_key(NORMALISE, [raw.sha256], what)

    def produce(folder: Path) -> Mapping[str, Any]:
        workers.normalise(raw.path, config, folder / SHARD)
        return {}

    return shard_of_commit(work.run(key, produce), raw.shard_id)


def find_duplicates(work: WorkStore, images: Sequence[Shard], sources: Sequence[str]) -> Commit:
    """Decide, over all shards, which samples have the same image as a better one; file `shard.parquet`."""
    key = step_key(FIND_DUPLICATES, [image.sha256 for image in images], {"sources": list(sources)})

    def produce(folder: Path) -> Mapping[str, Any]:
        found = duplicate_images([image.path for image in images], sources)
        save_parquet(found, folder / SHARD)
        return {"num_duplicates": found.num_rows}

    return work.run(key, produce)


def finish(work: WorkStore, captions: Shard, raw: Shard, images: Shard, duplicates: Commit) -> Shard:
    """Apply to the captions what became of their images, and drop duplicates; counts for three steps of the funnel."""
    inputs = [captions.sha256, raw.sha256, images.sha256, duplicates.files[SHARD]]

    def produce(folder: Path) -> Mapping[str, Any]:
        before = pq.read_table(captions.path)
        fetched = _reject_samples(before, _image_drops(raw.path), step=FETCH)
        normalised = _reject_samples(fetched, _image_drops(images.path), step=NORMALISE)
        deduplicated = _reject_samples(normalised, _duplicate_drops(duplicates.path(SHARD)), step=DEDUPLICATE)
        deduplicated = _reject_repeated_captions(deduplicated)
        save_parquet(deduplicated, folder / SHARD)
        stages = {FETCH: (before, fetched), NORMALISE: (fetched, normalised), DEDUPLICATE: (normalised, deduplicated)}
        return {"counts": {step: count_rows(*tables) for step, tables in stages.items()}}

    return shard_of_commit(work.run(step_key(DEDUPLICATE, inputs, {}), produce), captions.shard_id)


def _image_drops(path: Path) -> dict[str, Drop]:
    rows = pq.read_table(path, columns=["sample_id", "drop_reason", "detail"]).to_pylist()
    return {row["sample_id"]: Drop(row["drop_reason"], row["detail"]) for row in rows if row["drop_reason"]}


def _duplicate_drops(path: Path) -> dict[str, Drop]:
    rows = pq.read_table(path).to_pylist()
    return {row["sample_id"]: Drop("duplicate_image", f"same as {row['duplicate_of']}") for row in rows}


def _reject_samples(table: pa.Table, drops: Mapping[str, Drop], *, step: str) -> pa.Table:
    rows = pending_rows(table)
    return reject(table, rows, [drops.get(sample_id) for sample_id in texts(table, "sample_id", rows)], step=step)


def _reject_repeated_captions(table: pa.Table) -> pa.Table:
    rows = pending_rows(table)
    verdicts = duplicate_captions(texts(table, "sample_id", rows), texts(table, "caption", rows))
    return reject(table, rows, verdicts, step=DEDUPLICATE)
