"""The steps that bring images: fetch what the root does not know yet, normalise it, and leave out what is forgotten."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.fetch.config import FetchConfig, slow_host
from data_catalog.fetch.outcomes import ASKED_FILE, IMAGES_FILE, IN_ASKED, ORDER_FILE, RAW_FILE
from data_catalog.fetch.shard import image_requests
from data_catalog.fetch.urls import askable_url
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.images.tables import Row, read_groups, write_rows
from data_catalog.schema import IMAGES, PENDING
from data_catalog.storage.shards import digest, save_parquet
from data_catalog.storage.work import StepFacts
from data_catalog.takedown import Matcher, forgotten_image
from data_catalog.tombstones import InForce
from flows.build.engine import SHARD, UNCHANGED, Job, Lane


def fetch(
    job: Job,
    *,
    config: FetchConfig,
    normalise: NormaliseConfig,
    attempt: int,
    locations: Mapping[str, str],
) -> StepFacts:
    """Bring the raw bytes of every sample that still has a caption: what the root does not know is asked for.

    Its files are `asked.parquet` and `raw.parquet` (schema `RAW_IMAGES`), `images.parquet` (schema `IMAGES`, what is
    known as it was normalised) and `order.parquet`, which says where each image is.

    Args:
        job: reads `check`.
        config: section `[fetch]`.
        normalise: section `[normalise]`, by which pictures that the root has are taken as they are.
        attempt: of the dataset.
        locations: content hash of the local images of each source that has some.
    """
    requests = image_requests(pq.read_table(job.shard("check")), job.tools.locations)
    urls = pa.array([askable_url(url) for url in requests.column("url").to_pylist()], pa.string())
    sample_ids = requests.column("sample_id").to_pylist()
    places = job.tools.known.recall(urls, sample_ids, job.folder)
    missing = requests.filter(pa.array([place is None for place in places], pa.bool_()))
    log = job.tools.log_folder / f"{job.label}-{digest([attempt, sample_ids])[:12]}.parquet"
    job.tools.workers.fetch(missing, config, job.folder / ASKED_FILE, attempt=attempt, log=log)
    order = [IN_ASKED if place is None else place for place in places]
    save_parquet(pa.table({"file": pa.array(order, pa.int8())}), job.folder / ORDER_FILE)
    return {"num_asked": missing.num_rows, "num_known": requests.num_rows - missing.num_rows}


def fetch_lane(config: FetchConfig, width: int, captions: Path) -> Lane:
    """Return where a shard's images are fetched: one by one with all others of a slow host that most of them are on.

    Args:
        config: section `[fetch]`.
        width: shards that are fetched at once, from many hosts.
        captions: the shard's caption rows.
    """
    table = pq.read_table(captions, columns=["outcome", "url"])
    urls = table.filter(pc.equal(table.column("outcome"), PENDING)).column("url").drop_null().unique().to_pylist()
    host = slow_host(urls, config)
    return Lane("fetch", width) if host is None else Lane(f"fetch-{host}")


def normalise(job: Job, *, config: NormaliseConfig) -> StepFacts:
    """Decode, turn upright, resize and re-encode what came; what the root has normalised already stays as it is.

    Args:
        job: reads `fetch`.
        config: section `[normalise]`.
    """
    fetched, files = job.one("fetch"), (ASKED_FILE, RAW_FILE, IMAGES_FILE)
    there = [name for name in files if name in fetched.files]
    order = pq.read_table(fetched.path(ORDER_FILE)).column("file").to_pylist()
    job.tools.workers.normalise_in_order(
        [fetched.path(name) for name in there if name != IMAGES_FILE],
        config,
        job.folder / SHARD,
        known=fetched.path(IMAGES_FILE) if IMAGES_FILE in there else None,
        order=[there.index(files[place]) for place in order],
    )
    return {}


def forget_images(job: Job, *, in_force: InForce) -> StepFacts:
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
