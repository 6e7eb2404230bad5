"""The steps that see what became of images: find duplicates over all shards, merge their captions, deduplicate."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.duplicates.captions import duplicate_captions
from cleaning.duplicates.images import DuplicatesConfig, Images, Verdict, judge_images
from cleaning.leaks import LeaksConfig
from cleaning.text.scripts import exact_key
from data_catalog.database.sorting import image_facts, samples_of_bytes, thumbnails_in_order
from data_catalog.fetch.reasons import image_step
from data_catalog.images.pixels import THUMBNAIL_BYTES
from data_catalog.publish import UPSTREAM, SplitConfig, split_of
from data_catalog.reasons import Reason
from data_catalog.schema import CAPTIONS, PENDING
from data_catalog.settings import plain
from data_catalog.stages import Drop, pending_rows, reject, set_values, texts
from data_catalog.storage.manifest import MARKED
from data_catalog.storage.shards import save_parquet
from data_catalog.takedown import of_samples, without_texts
from data_catalog.tombstones import FORGOTTEN
from flows.build.engine import SHARD, Job, count_rows
from flows.build.screen import drop_or_mark
from flows.build.test_sets import TestContents, test_contents

if TYPE_CHECKING:
    from cleaning.duplicates.near_images import Thumbnails

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
_ROWS_PER_BATCH = 50_000
# Captions of the image that stays come first, so that they decide what is a repeat.
_ORDER = [(name, "ascending") for name in ("into", "is_moved", "sample_id", "row")]
# Least guarded first: where images that look the same are in several splits, those of the last one stay.
# What upstream holds out is more guarded than what a hash does: it stays as it was published.
_SPLIT_ORDER = ("train", "val", "test", "upstream's val", "upstream's test", MARKED)
MARKS_FILE = "marks.parquet"
# Settings of duplicates that decide nothing about images, or, the order of sources, are resolved elsewhere.
_NOT_DECISIVE = ("captions", "merge_captions", "sources")

# What is not to be published as a pair of its own, by sample.
_FOUND = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("drop_reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("duplicate_of", pa.string()),  # the sample that stays in its stead
    ]
)


def find_duplicates(
    job: Job,
    *,
    sources: Sequence[str],
    config: Mapping[str, Any],
    leaks: LeaksConfig,
    split: SplitConfig,
    test_sets: Sequence[str],
) -> Mapping[str, Any]:
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
    thumbnails = _thumbnails(files, facts.num_rows, job.folder / "thumbnails")
    tests = test_contents(job, test_sets)
    leaking = _test_pixels(files, facts, thumbnails, tests, leaks) if leaks.by_pixels else {}
    leaks_found = _leaks(facts, leaking)
    drops = leaks.action == "drop"
    judged = _judged(facts, thumbnails, leaking, drops=drops, config=duplicates, split=split)
    found = pa.concat_tables([judged, leaks_found]) if drops else judged
    save_parquet(found.sort_by("sample_id"), job.folder / SHARD)
    (job.folder / "thumbnails").unlink()
    save_parquet(leaks_found.slice(0, 0) if drops else leaks_found, job.folder / MARKS_FILE)
    return {"num_found": found.num_rows, "num_test_images": leaks_found.num_rows}


def decisive_settings(config: DuplicatesConfig) -> dict[str, Any]:
    """Return the settings of `[duplicates]` that decide about images; the order of sources is resolved elsewhere."""
    return {name: value for name, value in plain(config).items() if name not in _NOT_DECISIVE}


def _thumbnails(files: Sequence[Path], count: int, path: Path) -> "Thumbnails":
    """Write thumbnails of all images in the order of `sample_id`, as a file: ten million of them take 2 GB."""
    import numpy as np

    from cleaning.duplicates.near_images import parse_thumbnails

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


def _test_pixels(
    files: Sequence[Path],
    facts: pa.Table,
    thumbnails: "Thumbnails",
    tests: Sequence[TestContents],
    leaks: LeaksConfig,
) -> dict[int, str]:
    """Return, by row number, the image of a test set that an image is or looks like."""
    from cleaning.duplicates.near_images import leak_matches

    images = (facts.column("phash").to_numpy(), thumbnails)
    found: dict[int, str] = {}
    for test in tests:
        views = test.views()
        same = samples_of_bytes(files, pa.array(list(views.names_by_sha256), pa.string()))
        rows = pc.index_in(same.column("sample_id"), facts.column("sample_id"))
        for row, sha256 in zip(rows.to_pylist(), same.column("sha256").to_pylist(), strict=True):
            found.setdefault(row, f"{test.name}: {views.names_by_sha256[sha256]}")
        alike = leak_matches(
            images,
            (views.hashes, views.thumbnails),
            max_distance=leaks.max_distance,
            max_difference=leaks.max_thumbnail_difference,
        )
        for row, view in alike.tolist():
            found.setdefault(row, f"{test.name}: {views.names[view]}")
    return found


def _leaks(facts: pa.Table, leaking: Mapping[int, str]) -> pa.Table:
    rows = sorted(leaking)
    sample_ids = facts.column("sample_id").take(pa.array(rows, pa.int64())).to_pylist()
    return _found(sample_ids, [Drop("test_pixels", leaking[row]) for row in rows], [None] * len(rows))


def _found(sample_ids: Sequence[str], drops: Sequence[Drop], duplicate_of: Sequence[str | None]) -> pa.Table:
    columns = [sample_ids, [drop.reason for drop in drops], [drop.detail for drop in drops], duplicate_of]
    return pa.table(
        [pa.array(values, field.type) for values, field in zip(columns, _FOUND, strict=True)], schema=_FOUND
    )


def _judged(
    facts: pa.Table,
    thumbnails: "Thumbnails",
    leaking: Mapping[int, str],
    *,
    drops: bool,
    config: DuplicatesConfig,
    split: SplitConfig,
) -> pa.Table:
    """Judge the images beside those of test sets, which are left out (`drops`), or kept apart like a split."""
    import numpy as np

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


def merge_captions(job: Job) -> Mapping[str, Any]:
    """Gather, over all shards, the captions of dropped duplicates that say what their images' other captions do not.

    Its file has the schema `CAPTIONS`: rows with `merged_into`, by that. What is held in memory is what is written,
    and the text of the captions that it is compared with.

    Args:
        job: reads `check` and `find-duplicates`.
    """
    captions, stays = job.shards("check"), _stays_instead(job.one("find-duplicates").path(SHARD))
    groups = pa.concat_tables(
        _places(table, stays) for table in chain([CAPTIONS.empty_table()], _involved(captions, stays))
    )
    order = groups.append_column("row", pa.array(range(groups.num_rows))).sort_by(_ORDER)
    merged = _rows(captions, stays, list(_new_captions(order)))
    save_parquet(merged, job.folder / SHARD)
    return {"num_captions": merged.num_rows}


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


def deduplicate(job: Job, *, leaks: LeaksConfig, drop_repeated_captions: bool) -> Mapping[str, Any]:
    """Apply to a shard's captions what became of their images, and drop duplicates; counts for three funnel rows.

    Args:
        job: reads `check`, `forget-images`, `find-duplicates` and, where captions of duplicates are not dropped with
            them, `merge-captions`.
        leaks: section `[leaks]`.
        drop_repeated_captions: of one image.
    """
    before = pq.read_table(job.shard("check"))
    drops = _image_drops(job.shard("forget-images"))
    found = job.one("find-duplicates")
    fetched = _reject_samples(before, drops["fetch"], step="fetch")
    normalised = _reject_samples(fetched, drops["normalise"], step="normalise")
    table = _moved(normalised, job.shard("merge-captions")) if "merge-captions" in job.inputs else normalised
    table = _mark_samples(table, _drops_of(found.path(MARKS_FILE), before), leaks)
    table = _reject_samples(table, _drops_of(found.path(SHARD), before), step="deduplicate")
    table = _reject_repeated_captions(table) if drop_repeated_captions else table
    table = _without_forgotten_texts(table, drops["normalise"])
    save_parquet(table, job.folder / SHARD)
    stages = {"fetch": (before, fetched), "normalise": (fetched, normalised), "deduplicate": (normalised, table)}
    return {"counts": {row: count_rows(*tables) for row, tables in stages.items()}}


def _image_drops(path: Path) -> dict[str, dict[str, Drop]]:
    """Return why images were lost, by step and sample; a reason belongs to one step only."""
    drops: dict[str, dict[str, Drop]] = {"fetch": {}, "normalise": {}}
    for row in pq.read_table(path, columns=["sample_id", "drop_reason", "detail"]).to_pylist():
        if row["drop_reason"]:
            drops[image_step(row["drop_reason"])][row["sample_id"]] = Drop(row["drop_reason"], row["detail"])
    return drops


def _without_forgotten_texts(table: pa.Table, drops: Mapping[str, Drop]) -> pa.Table:
    """Empty the texts of all captions of images that turned out to be forgotten, whatever dropped them."""
    forgotten = [sample_id for sample_id, drop in drops.items() if drop.reason == FORGOTTEN]
    return without_texts(table, of_samples(table, forgotten)) if forgotten else table


def _drops_of(path: Path, captions: pa.Table) -> dict[str, Drop]:
    """Return the drops of a shard's samples, among those of all shards."""
    found = pq.read_table(path)
    rows = found.filter(pc.is_in(found.column("sample_id"), captions.column("sample_id").unique())).to_pylist()
    return {row["sample_id"]: Drop(row["drop_reason"], row["detail"]) for row in rows}


def _moved(table: pa.Table, merged: Path) -> pa.Table:
    """Mark captions of duplicates that go to another image; the others are repeats of what that one has."""
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


def _reject_samples(table: pa.Table, drops: Mapping[str, Drop], *, step: str) -> pa.Table:
    rows = _stationary(table)
    return reject(table, rows, [drops.get(sample_id) for sample_id in texts(table, "sample_id", rows)], step=step)


def _mark_samples(table: pa.Table, marks: Mapping[str, Drop], leaks: LeaksConfig) -> pa.Table:
    rows = pending_rows(table)
    found = [marks.get(sample_id) for sample_id in texts(table, "sample_id", rows)]
    return drop_or_mark(table, rows, found, leaks, step="deduplicate") if marks else table


def _reject_repeated_captions(table: pa.Table) -> pa.Table:
    rows = _stationary(table)
    verdicts = duplicate_captions(texts(table, "sample_id", rows), texts(table, "caption", rows))
    return reject(table, rows, verdicts, step="deduplicate")
