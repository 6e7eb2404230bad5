"""The steps that fetch, normalise and deduplicate images, merge captions of duplicates, and write published files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.duplicates.images import (
    DuplicatesConfig,
    drops_of,
    judged_samples,
    leaking_samples,
    reject_repeated_captions,
    reject_samples,
    write_thumbnails,
)
from cleaning.leaks import LeaksConfig, drop_or_mark, pixel_leaks
from data_catalog.base.settings import json_values
from data_catalog.catalog.sorting import image_facts
from data_catalog.catalog.work import StepFacts
from data_catalog.disk.files import digest, save_parquet
from data_catalog.disk.row_groups import read_groups, write_rows
from data_catalog.fetch.config import FetchConfig, main_host
from data_catalog.fetch.outcomes import FETCHED_FILE, IMAGES_FILE, IN_FETCHED, ORDER_FILE, RAW_FILE
from data_catalog.fetch.urls import fetchable_url
from data_catalog.fetch.workers import image_requests
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.publish.publish import SplitConfig, publish_shard
from data_catalog.publish.tombstones import (
    FORGOTTEN,
    ActiveTombstones,
    Matcher,
    forgotten_image,
    is_of_samples,
    without_texts,
)
from data_catalog.rows.drop_reasons import Reason
from data_catalog.rows.schema import IMAGES, PENDING
from data_catalog.rows.stages import pending_rows, texts
from flows.build.captions import test_contents
from flows.build.engine import SHARD, UNCHANGED, Job, Lane
from flows.build.fit import without_lost_images, written_stages

DEDUPLICATE_REASONS = {
    "test_pixels": Reason(
        "the image is a near-duplicate of a test image",
        settings=("leaks.max_distance", "leaks.max_thumbnail_difference", "leaks.action"),
    ),
    "split_leak": Reason(
        "the image is a near-duplicate of an image in a held-out split",
        settings=("duplicates.split_guard", "duplicates.max_distance", "duplicates.max_thumbnail_difference"),
    ),
    "placeholder_image": Reason(
        "the host returns the same bytes for many URLs",
        settings=("duplicates.placeholder_urls",),
    ),
    "duplicate_image": Reason(
        "a preferred sample has an image with the same bytes",
        settings=("duplicates.images", "duplicates.keep"),
    ),
    "near_duplicate_image": Reason(
        "a preferred sample has a near-duplicate image",
        settings=("duplicates.max_distance", "duplicates.max_thumbnail_difference", "duplicates.keep"),
    ),
    "duplicate_caption": Reason(
        "an earlier caption of the same image is the same text", settings=("duplicates.captions",)
    ),
}
MARKS_FILE = "marks.parquet"
# Settings of [duplicates] that decide nothing about images, and `sources`, which `Recipe.source_order` resolves.
_NOT_DECISIVE = ("captions", "merge_captions", "sources")


def fetch(
    job: Job,
    *,
    config: FetchConfig,
    normalise: NormaliseConfig,
    attempt: int,
    locations: Mapping[str, str],
) -> StepFacts:
    """Get the image of every sample that still has a caption: from the root if its outcome is known, else fetch it.

    The output files are `asked.parquet` (fetched now) and `raw.parquet` (known raw bytes), both schema `RAW_IMAGES`;
    `images.parquet` (schema `IMAGES`, known normalised images); and `order.parquet`, with the file of each image. Known
    images are reused if they were normalised with the same settings. `normalise`, and the content hashes of local
    images, are part of the key only.
    """
    requests = image_requests(pq.read_table(job.shard("check")), job.tools.locations)
    urls = pa.array([fetchable_url(url) for url in requests.column("url").to_pylist()], pa.string())
    sample_ids = requests.column("sample_id").to_pylist()
    places = job.tools.known.write_recorded(urls, sample_ids, job.folder)
    missing = requests.filter(pa.array([place is None for place in places], pa.bool_()))
    log = job.tools.log_folder / f"{job.label}-{digest([attempt, sample_ids])[:12]}.parquet"
    assert job.unfinished is not None
    job.unfinished.mkdir(parents=True, exist_ok=True)
    job.tools.workers.fetch(
        missing,
        config,
        job.folder / FETCHED_FILE,
        attempt=attempt,
        log=log,
        journals=job.unfinished,
        owners=job.tools.owners,
    )
    order = [IN_FETCHED if place is None else place for place in places]
    save_parquet(pa.table({"file": pa.array(order, pa.int8())}), job.folder / ORDER_FILE)
    return {}


def fetch_lane(config: FetchConfig, width: int, captions: Path) -> Lane:
    """Return the lane of a shard's fetch: that of the host of most of its images, or the common one of other shards.

    So shards of a slow host, of which many may wait, take no place from the others. `width` is how many shards of a
    lane are fetched at the same time.
    """
    table = pq.read_table(captions, columns=["outcome", "url", "path"])
    is_asked = pc.and_(pc.equal(table.column("outcome"), PENDING), pc.is_null(table.column("path")))
    urls = table.filter(is_asked).column("url").drop_null().unique().to_pylist()
    host = main_host(urls, config)
    return Lane("fetch" if host is None else f"fetch-{host}", width)


def normalise(job: Job, *, config: NormaliseConfig, heif: bool = False) -> StepFacts:
    """Decode, turn upright, resize and re-encode the images of a shard; copy known normalised images unchanged.

    `heif`, whether the decoder of HEIF is installed, is part of the key only.
    """
    fetched, names = job.one("fetch"), (FETCHED_FILE, RAW_FILE, IMAGES_FILE)
    there = [name for name in names if name in fetched.files]
    order = pq.read_table(fetched.path(ORDER_FILE)).column("file").to_pylist()
    files = [fetched.path(name) for name in there]
    places = [there.index(names[place]) for place in order]
    job.tools.workers.normalise(files, config, job.folder / SHARD, order=places)
    return {}


def forget_images(job: Job, *, in_force: ActiveTombstones) -> StepFacts:
    """Drop the images that match a tombstone by their final URL, bytes or perceptual hash."""
    path = job.shard("normalise")
    table = pq.read_table(path, columns=["final_url", "sha256", "phash", "drop_reason"])
    is_meant = (Matcher(in_force.tombstones).numbers(table) >= 0).tolist()
    if not any(is_meant):
        return UNCHANGED
    rows = (row for group in read_groups(path) for row in group)
    kept = (forgotten_image(row) if meant else row for row, meant in zip(rows, is_meant, strict=True))
    write_rows(kept, IMAGES, job.folder / SHARD)
    return {}


def find_duplicates(
    job: Job,
    *,
    sources: Sequence[str],
    config: Mapping[str, Any],
    leaks: LeaksConfig,
    split: SplitConfig,
    test_sets: Sequence[str],
) -> StepFacts:
    """Find samples with placeholder images, duplicates of other samples or splits, and leaks of test sets.

    The file `shard.parquet` has the columns `sample_id`, `drop_reason`, `detail` and `duplicate_of` (the sample that is
    kept instead). `marks.parquet` lists the samples that are only marked as leaks. Sources come most preferred first;
    `config` has the settings of `[duplicates]` that decide about images.
    """
    files = job.shards("forget-images")
    duplicates = DuplicatesConfig(**{**config, "keep": tuple(config["keep"])})
    facts = image_facts(
        files, job.shards("fit"), sources=sources, keep=duplicates.keep, stand_in_urls=duplicates.placeholder_urls
    )
    thumbnails = write_thumbnails(files, facts.num_rows, job.folder / "thumbnails")
    tests = test_contents(job, test_sets)
    leaking = pixel_leaks(files, facts, thumbnails, tests, leaks) if leaks.by_pixels else {}
    leaks_found = leaking_samples(facts, leaking)
    drops = leaks.action == "drop"
    judged = judged_samples(facts, thumbnails, leaking, drops=drops, config=duplicates, split=split)
    found = pa.concat_tables([judged, leaks_found]) if drops else judged
    save_parquet(found.sort_by("sample_id"), job.folder / SHARD)
    (job.folder / "thumbnails").unlink()
    save_parquet(leaks_found.slice(0, 0) if drops else leaks_found, job.folder / MARKS_FILE)
    return {}


def decisive_settings(config: DuplicatesConfig) -> dict[str, Any]:
    """Return the settings of `[duplicates]` that decide about images, without the order of sources."""
    return {name: value for name, value in json_values(config).items() if name not in _NOT_DECISIVE}


def deduplicate(job: Job, *, leaks: LeaksConfig, drop_repeated_captions: bool) -> StepFacts:
    """Drop captions whose image failed or is a duplicate, and repeated captions; count three rows of the funnel."""
    tables, lost = without_lost_images(job, job.shard("fit"))
    before, table, found = tables[0], tables[-1], job.one("find-duplicates")
    if marks := drops_of(found.path(MARKS_FILE), before):
        rows = pending_rows(table)
        verdicts = [marks.get(sample_id) for sample_id in texts(table, "sample_id", rows)]
        table = drop_or_mark(table, rows, verdicts, leaks, step="deduplicate")
    table = reject_samples(table, drops_of(found.path(SHARD), before), step="deduplicate")
    table = reject_repeated_captions(table, step="deduplicate") if drop_repeated_captions else table
    # Empty the texts of all captions of forgotten images, whichever step dropped them.
    forgotten = [sample_id for sample_id, drop in lost.items() if drop.reason == FORGOTTEN]
    table = without_texts(table, is_of_samples(table, forgotten)) if forgotten else table
    return written_stages(job, [*tables, table], "deduplicate")


def publish(job: Job, *, split: SplitConfig, image_rows: Sequence[str]) -> StepFacts:
    """Write a shard's published files; `image_rows` of the funnel drop captions after their images were fetched."""
    files = job.shard("deduplicate"), job.shard("forget-images"), job.folder
    return {"rows": publish_shard(*files, config=split, image_rows=image_rows)}
