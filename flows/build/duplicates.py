"""The step that decides, over all shards, which images stay."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.duplicates.images import DuplicatesConfig, Images, Verdict, judge_images
from cleaning.leaks import LeaksConfig
from data_catalog.database.sorting import image_facts, samples_of_bytes, thumbnails_in_order
from data_catalog.images.encoding import THUMBNAIL_BYTES
from data_catalog.publish import UPSTREAM, SplitConfig, split_of
from data_catalog.stages import Drop
from data_catalog.storage.manifest import MARKED
from data_catalog.storage.shards import save_parquet
from data_catalog.storage.work import Commit, WorkStore
from flows.build.images import NO_BYTES_FILE
from flows.build.step_outputs import FIND_DUPLICATES, SHARD, Shard, step_key
from flows.build.test_sets import TestContents
from flows.recipe.settings import plain

if TYPE_CHECKING:
    from cleaning.duplicates.images import Flags
    from cleaning.duplicates.near_images import Thumbnails

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
    work: WorkStore,
    captions: Sequence[Shard],
    images: Sequence[Shard],
    sources: Sequence[str],
    tests: Sequence[TestContents],
    *,
    config: DuplicatesConfig,
    leaks: LeaksConfig,
    split: SplitConfig,
) -> Commit:
    """Decide which samples have the image of a test set, or one that another sample or split has, or none at all.

    Its file is `shard.parquet`: `sample_id`, `drop_reason`, `detail`, and `duplicate_of`, the sample that stays in
    its stead.

    Args:
        captions: of all shards, as checked.
        images: of all shards.
        sources: their names, best first.
        tests: the recipe's test sets.
    """
    inputs = [shard.sha256 for shard in (*captions, *images)] + [test.identity for test in tests]
    decisive = {name: value for name, value in plain(config).items() if name not in _NOT_DECISIVE}
    settings = {"sources": list(sources), "duplicates": decisive, "leaks": plain(leaks), "split": plain(split)}

    def produce(folder: Path) -> Mapping[str, Any]:
        files = [image.path for image in images]
        facts = image_facts(
            files,
            [shard.path for shard in captions],
            sources=sources,
            keep=config.keep,
            stand_in_urls=config.placeholder_urls,
        )
        thumbnails = _thumbnails(files, facts.num_rows, folder / "thumbnails")
        leaking = _test_pixels(files, facts, thumbnails, tests, leaks) if leaks.by_pixels else {}
        leaks_found = _leaks(facts, leaking)
        drops = leaks.action == "drop"
        has_bytes = _have_bytes(files, facts)
        judged = _judged(facts, thumbnails, leaking, has_bytes, drops=drops, config=config, split=split)
        found = pa.concat_tables([judged, leaks_found]) if drops else judged
        save_parquet(found.sort_by("sample_id"), folder / SHARD)
        (folder / "thumbnails").unlink()
        save_parquet(leaks_found.slice(0, 0) if drops else leaks_found, folder / MARKS_FILE)
        return {"num_found": found.num_rows, "num_test_images": leaks_found.num_rows}

    return work.run(step_key(FIND_DUPLICATES, inputs, settings), produce)


def _thumbnails(files: Sequence[Path], count: int, path: Path) -> "Thumbnails":
    """Thumbnails of all images in the order of `sample_id`, as a file: ten million of them take 2 GB."""
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


def _have_bytes(files: Sequence[Path], facts: pa.Table) -> "Flags":
    """Which images are there to be published: where images are tried again, not those that were dropped before."""
    beside = [path for path in (file.with_name(NO_BYTES_FILE) for file in files) if path.is_file()]
    gone = [pq.read_table(path).column("sample_id") for path in beside]
    chunks = [chunk for column in gone for chunk in column.chunks]
    is_gone = pc.is_in(facts.column("sample_id"), pa.chunked_array(chunks, pa.string()))
    has_bytes: Flags = pc.invert(is_gone).to_numpy()
    return has_bytes


def _test_pixels(
    files: Sequence[Path],
    facts: pa.Table,
    thumbnails: "Thumbnails",
    tests: Sequence[TestContents],
    leaks: LeaksConfig,
) -> dict[int, str]:
    """What of which test set an image is, or looks like, by row number."""
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
    has_bytes: "Flags",
    *,
    drops: bool,
    config: DuplicatesConfig,
    split: SplitConfig,
) -> pa.Table:
    """What is found of images beside those of test sets, which are left out (`drops`), or kept apart like a split."""
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
        has_bytes=has_bytes,
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
