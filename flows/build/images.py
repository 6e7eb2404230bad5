"""The steps that bring images, fetched or recalled, and bring them into one form; committed by content."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.fetch.fetch import FetchConfig
from data_catalog.fetch.hosts import group_of
from data_catalog.fetch.known import KnownShard
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.images.tables import Row, write_rows
from data_catalog.images.workers import ImageWorkers
from data_catalog.schema import IMAGES, PENDING, RAW_IMAGES
from data_catalog.storage.shards import TEMPORARY_PREFIX, digest, save_parquet
from data_catalog.storage.work import WorkStore
from flows.build.earlier_images import EarlierImages
from flows.build.execution import Lane
from flows.build.step_outputs import FETCH, NORMALISE, RECALL, SHARD, Shard, shard_of_commit, step_key

NO_BYTES_FILE = "no-bytes.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalImages:
    """Where local images are.

    Args:
        locations: folder or archive, by source.
        digests: content hashes of those, by location.
    """

    locations: Mapping[str, str]
    digests: Mapping[str, str]


def fetch(
    work: WorkStore,
    shard: Shard,
    workers: ImageWorkers,
    config: FetchConfig,
    *,
    what: Mapping[str, Any],
    local: LocalImages,
    log_folder: Path,
    known: KnownShard | None = None,
    earlier: EarlierImages | None = None,
) -> Shard:
    """Bring the raw bytes of every sample that still has a caption: recorded facts, not fetched again.

    Args:
        what: the settings of `config` that change what comes.
        local: where local images are.
        log_folder: where tries and latencies are told.
        known: what an earlier snapshot has of the shard: only what it lacks is asked for.
        earlier: what earlier builds fetched: that is not asked for again, unless it is to be tried again.
    """
    requests = image_requests(pq.read_table(shard.path), local.locations)
    if known is not None:
        settled = pa.array(sorted(known.settled()), pa.string())
        requests = requests.filter(pc.invert(pc.is_in(requests.column("sample_id"), settled)))
    locations = sorted({location for location in requests.column("location").to_pylist() if location is not None})
    digests = [local.digests[location] for location in locations]
    asked = requests.drop_columns(["location"]).to_pylist()
    settings = what if known is None else {**what, "retry_of": known.snapshot, "attempt": known.attempt}
    key = step_key(FETCH, [digest(asked), *digests], settings)

    def produce(folder: Path) -> Mapping[str, Any]:
        log = log_folder / f"{shard.label}-{key.key[:12]}.parquet"
        if earlier is None or known is not None:
            workers.fetch(requests, config, folder / SHARD, log=log)
            return {"num_requests": requests.num_rows}
        with TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=folder) as scratch:
            asked, there = Path(scratch) / SHARD, earlier.of(requests)
            missing = requests.filter(pc.invert(pc.is_in(requests.column("sample_id"), pa.array(there, pa.string()))))
            workers.fetch(missing, config, asked, log=log)
            sample_ids = requests.column("sample_id").to_pylist()
            write_rows(earlier.merged_rows(sample_ids, there, asked), RAW_IMAGES, folder / SHARD)
        return {"num_requests": missing.num_rows, "num_reused": len(there)}

    return shard_of_commit(work.run(key, produce), shard.shard_id)


def fetch_lane(shard: Shard, config: FetchConfig, width: int) -> Lane:
    """Where a shard's images are fetched: one by one with all others of a slow host that most of its images are on.

    A host is slow here if its limits are tighter than what one shard would ask of it.
    """
    table = pq.read_table(shard.path, columns=["outcome", "url"])
    urls = table.filter(pc.equal(table.column("outcome"), PENDING)).column("url").drop_null().unique().to_pylist()
    hosts = Counter(group_of(urlsplit(url).hostname or "", config.named_limits) for url in urls if _is_plain(url))
    host, count = hosts.most_common(1)[0] if hosts else ("", 0)
    limits = config.named_limits.get(host, config.default_limits)
    slow = limits.requests_per_s > 0 or limits.concurrency < config.threads
    return Lane(f"fetch-{host}") if slow and 2 * count >= len(urls) and count else Lane("fetch", width)


def _is_plain(url: str) -> bool:
    try:
        return urlsplit(url).hostname is not None
    except ValueError:
        return False


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


def recall(work: WorkStore, shard: Shard, tried_again: Shard, known: KnownShard) -> Shard:
    """All images of a shard: those that an earlier snapshot has, and those that were tried again.

    Beside its file lies `NO_BYTES_FILE`: the `sample_id` of good images whose bytes are gone, since an earlier build
    dropped them.
    """
    requests = image_requests(pq.read_table(shard.path), {})
    sample_ids = requests.column("sample_id").to_pylist()
    key = step_key(RECALL, [tried_again.sha256, known.identity, digest(sample_ids)], {})

    def produce(folder: Path) -> Mapping[str, Any]:
        gone: list[str] = []
        rows = _noting_gone(known.merged_rows(sample_ids, tried_again.path), gone)
        write_rows(rows, IMAGES, folder / SHARD)
        save_parquet(pa.table({"sample_id": pa.array(gone, pa.string())}), folder / NO_BYTES_FILE)
        return {}

    return shard_of_commit(work.run(key, produce), shard.shard_id)


def _noting_gone(rows: Iterator[Row], gone: list[str]) -> Iterator[Row]:
    for row in rows:
        if row["drop_reason"] is None and row["bytes"] is None:
            gone.append(row["sample_id"])
        yield row
