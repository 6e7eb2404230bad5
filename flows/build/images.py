"""The steps that bring images, and those that see what became of them: duplicates, merged captions, published files."""

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
    merged_captions,
    move_captions,
    reject_repeated_captions,
    reject_samples,
    write_thumbnails,
)
from cleaning.leaks import LeaksConfig, drop_or_mark, pixel_leaks
from data_catalog.database.sorting import image_facts
from data_catalog.fetch.config import FetchConfig, slow_host
from data_catalog.fetch.outcomes import FETCHED_FILE, IMAGES_FILE, IN_FETCHED, ORDER_FILE, RAW_FILE
from data_catalog.fetch.reasons import image_step
from data_catalog.fetch.shard import image_requests
from data_catalog.fetch.urls import askable_url
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.images.tables import read_groups, write_rows
from data_catalog.schema import IMAGES, PENDING
from data_catalog.settings import json_values
from data_catalog.stages import Drop, Reason, count_rows, pending_rows, texts
from data_catalog.storage.publish import SplitConfig, publish_shard
from data_catalog.storage.shards import digest, save_parquet
from data_catalog.storage.work import StepFacts
from data_catalog.tombstones import FORGOTTEN, ActiveTombstones, Matcher, forgotten_image, is_of_samples, without_texts
from flows.build.captions import test_contents
from flows.build.engine import SHARD, UNCHANGED, Job, Lane

DEDUPLICATE_REASONS = {
    "test_pixels": Reason(
        "the image looks like one of a test set of the recipe",
        settings=("leaks.max_distance", "leaks.max_thumbnail_difference", "leaks.action"),
    ),
    "split_leak": Reason(
        "an image of a split that is held out looks the same",
        settings=("duplicates.split_guard", "duplicates.max_distance", "duplicates.max_thumbnail_difference"),
    ),
    "placeholder_image": Reason(
        "the host answers many addresses with the same bytes: they stand for images that are gone",
        settings=("duplicates.placeholder_urls",),
    ),
    "duplicate_image": Reason(
        "another sample, one that is to be preferred, has an image of the same bytes",
        settings=("duplicates.images", "duplicates.keep"),
    ),
    "near_duplicate_image": Reason(
        "another sample, one that is to be preferred, has an image that looks the same",
        settings=("duplicates.max_distance", "duplicates.max_thumbnail_difference", "duplicates.keep"),
    ),
    "duplicate_caption": Reason(
        "an earlier caption of the same image says the same", settings=("duplicates.captions",)
    ),
}
MARKS_FILE = "marks.parquet"
# Settings of duplicates that decide nothing about images, or, the order of sources, are resolved elsewhere.
_NOT_DECISIVE = ("captions", "merge_captions", "sources")


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
    places = job.tools.known.write_recorded(urls, sample_ids, job.folder)
    missing = requests.filter(pa.array([place is None for place in places], pa.bool_()))
    log = job.tools.log_folder / f"{job.label}-{digest([attempt, sample_ids])[:12]}.parquet"
    job.tools.workers.fetch(missing, config, job.folder / FETCHED_FILE, attempt=attempt, log=log)
    order = [IN_FETCHED if place is None else place for place in places]
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
    fetched, files = job.one("fetch"), (FETCHED_FILE, RAW_FILE, IMAGES_FILE)
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


def forget_images(job: Job, *, in_force: ActiveTombstones) -> StepFacts:
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
    rows = (row for group in read_groups(path) for row in group)
    kept = (forgotten_image(row) if meant else row for row, meant in zip(rows, is_meant, strict=True))
    write_rows(kept, IMAGES, job.folder / SHARD)
    return {"num_forgotten": sum(is_meant)}


def find_duplicates(
    job: Job,
    *,
    sources: Sequence[str],
    config: Mapping[str, Any],
    leaks: LeaksConfig,
    split: SplitConfig,
    test_sets: Sequence[str],
) -> StepFacts:
    """Decide which samples have the image of a test set, or one that another sample or split has, or none at all.

    Its file `shard.parquet` has `sample_id`, `drop_reason`, `detail`, and `duplicate_of`, the sample that stays in
    its stead; `marks.parquet` the samples that are marked as images of a test set.

    Args:
        job: reads `check`, `forget-images` and `test-set`.
        sources: their names, best first.
        config: what of section `[duplicates]` decides about images.
        leaks: section `[leaks]`.
        split: section `[split]`.
        test_sets: names of the recipe's.
    """
    files = job.shards("forget-images")
    duplicates = DuplicatesConfig(**{**config, "keep": tuple(config["keep"])})
    facts = image_facts(
        files,
        job.shards("check"),
        sources=sources,
        keep=duplicates.keep,
        stand_in_urls=duplicates.placeholder_urls,
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
    return {"num_found": found.num_rows, "num_test_images": leaks_found.num_rows}


def decisive_settings(config: DuplicatesConfig) -> dict[str, Any]:
    """Return the settings of `[duplicates]` that decide about images; the order of sources is resolved elsewhere."""
    return {name: value for name, value in json_values(config).items() if name not in _NOT_DECISIVE}


def merge_captions(job: Job) -> StepFacts:
    """Gather the captions of dropped duplicates that go to another image: rows with `merged_into`, by that.

    Args:
        job: reads `check` and `find-duplicates`.
    """
    merged = merged_captions(job.shards("check"), job.one("find-duplicates").path(SHARD))
    save_parquet(merged, job.folder / SHARD)
    return {"num_captions": merged.num_rows}


def deduplicate(job: Job, *, leaks: LeaksConfig, drop_repeated_captions: bool) -> StepFacts:
    """Apply to a shard's captions what became of their images, and drop duplicates; counts for three funnel rows.

    Args:
        job: reads `check`, `forget-images`, `find-duplicates` and, where captions of duplicates are not dropped with
            them, `merge-captions`.
        leaks: section `[leaks]`.
        drop_repeated_captions: of one image.
    """
    before = pq.read_table(job.shard("check"))
    drops: dict[str, dict[str, Drop]] = {"fetch": {}, "normalise": {}}
    for row in pq.read_table(job.shard("forget-images"), columns=["sample_id", "drop_reason", "detail"]).to_pylist():
        if row["drop_reason"]:  # a reason belongs to one step only
            drops[image_step(row["drop_reason"])][row["sample_id"]] = Drop(row["drop_reason"], row["detail"])
    found = job.one("find-duplicates")
    fetched = reject_samples(before, drops["fetch"], step="fetch")
    normalised = reject_samples(fetched, drops["normalise"], step="normalise")
    table = move_captions(normalised, job.shard("merge-captions")) if "merge-captions" in job.inputs else normalised
    if marks := drops_of(found.path(MARKS_FILE), before):
        rows = pending_rows(table)
        verdicts = [marks.get(sample_id) for sample_id in texts(table, "sample_id", rows)]
        table = drop_or_mark(table, rows, verdicts, leaks, step="deduplicate")
    table = reject_samples(table, drops_of(found.path(SHARD), before), step="deduplicate")
    table = reject_repeated_captions(table, step="deduplicate") if drop_repeated_captions else table
    # The texts of all captions of images that turned out to be forgotten are emptied, whatever dropped them.
    forgotten = [sample_id for sample_id, drop in drops["normalise"].items() if drop.reason == FORGOTTEN]
    table = without_texts(table, is_of_samples(table, forgotten)) if forgotten else table
    save_parquet(table, job.folder / SHARD)
    stages = {"fetch": (before, fetched), "normalise": (fetched, normalised), "deduplicate": (normalised, table)}
    return {"counts": {row: count_rows(*tables) for row, tables in stages.items()}}


def publish(job: Job, *, split: SplitConfig, image_rows: Sequence[str]) -> StepFacts:
    """Write one shard's published files; the snapshot gets them when it is committed.

    Args:
        job: reads `deduplicate`, `forget-images` and, where captions are merged, `merge-captions`.
        split: section `[split]`.
        image_rows: rows of the funnel that drop captions whose images were asked for.
    """
    merged = job.shard("merge-captions") if "merge-captions" in job.inputs else None
    rows = publish_shard(
        job.shard("deduplicate"),
        job.shard("forget-images"),
        job.folder,
        config=split,
        image_rows=image_rows,
        merged=merged,
    )
    return {"rows": rows}
