"""The steps that see what became of images: find duplicates over all shards, merge their captions, deduplicate."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
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
from data_catalog.fetch.reasons import image_step
from data_catalog.publish import SplitConfig
from data_catalog.reasons import Reason
from data_catalog.settings import plain
from data_catalog.stages import Drop, count_rows, pending_rows, texts
from data_catalog.storage.shards import save_parquet
from data_catalog.storage.work import StepFacts
from data_catalog.takedown import of_samples, without_texts
from data_catalog.tombstones import FORGOTTEN
from flows.build.engine import SHARD, Job
from flows.build.screen import test_contents

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
    return {name: value for name, value in plain(config).items() if name not in _NOT_DECISIVE}


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
    table = _mark_samples(table, drops_of(found.path(MARKS_FILE), before), leaks)
    table = reject_samples(table, drops_of(found.path(SHARD), before), step="deduplicate")
    table = reject_repeated_captions(table, step="deduplicate") if drop_repeated_captions else table
    table = _without_forgotten_texts(table, drops["normalise"])
    save_parquet(table, job.folder / SHARD)
    stages = {"fetch": (before, fetched), "normalise": (fetched, normalised), "deduplicate": (normalised, table)}
    return {"counts": {row: count_rows(*tables) for row, tables in stages.items()}}


def _without_forgotten_texts(table: pa.Table, drops: Mapping[str, Drop]) -> pa.Table:
    """Empty the texts of all captions of images that turned out to be forgotten, whatever dropped them."""
    forgotten = [sample_id for sample_id, drop in drops.items() if drop.reason == FORGOTTEN]
    return without_texts(table, of_samples(table, forgotten)) if forgotten else table


def _mark_samples(table: pa.Table, marks: Mapping[str, Drop], leaks: LeaksConfig) -> pa.Table:
    rows = pending_rows(table)
    found = [marks.get(sample_id) for sample_id in texts(table, "sample_id", rows)]
    return drop_or_mark(table, rows, found, leaks, step="deduplicate") if marks else table
