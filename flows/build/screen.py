"""The steps between cleaning and translating: captions of test sets and their images go, and so do repeated captions.

What costs little drops before what costs much: nothing that goes here is translated, and no image of it is fetched.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.duplicates.captions import RepeatsConfig, cap_captions, cluster_captions, crowded_rows
from cleaning.duplicates.similarity import Likeness
from cleaning.leaks import LeaksConfig
from cleaning.text.scripts import exact_key
from data_catalog.reasons import Reason
from data_catalog.settings import how
from data_catalog.stages import Drop, pending_rows, reject, set_values, texts
from data_catalog.storage.shards import save_parquet
from data_catalog.test_sets.identities import canonical_identities
from flows.build.engine import SHARD, Job, count_rows
from flows.build.test_sets import TestContents, test_contents

SCREEN_REASONS = {
    "test_image": Reason(
        "the image is, by its identity, one of a test set of the recipe", settings=("leaks.by_identity", "leaks.action")
    ),
    "test_caption": Reason(
        "the caption is, but for punctuation and case, one of a test set of the recipe",
        settings=("leaks.by_caption", "leaks.min_caption_words", "leaks.action"),
    ),
    "near_duplicate_caption": Reason(
        "an earlier caption of the same image says the same in nearly the same letters",
        settings=("repeats.min_similarity",),
    ),
    "common_caption": Reason(
        "more images than the recipe allows have this caption, or nearly this one",
        settings=("repeats.max_images_per_caption",),
    ),
}
_MAX_DETAIL = 120  # characters
# What captions of one image repeat: a translation that upstream has, else the caption that is translated later.
_SAID = ("caption", "clean_caption")

_LABELS = pa.schema([pa.field("cluster", pa.int64()), pa.field("is_beyond_cap", pa.bool_())])


def find_repeats(
    job: Job, *, config: RepeatsConfig, function_words: Collection[str], threads: "Threads"
) -> Mapping[str, Any]:
    """Find, over all shards, captions that are nearly the same, and those that too many images have.

    Its files are `00000.parquet`, ..., by shard: a row for each pending caption, in order, with the `cluster` of
    similar ones and whether it `is_beyond_cap`.

    Args:
        job: reads `clean`.
        config: section `[repeats]`.
        function_words: of the captions' languages; see `cleaning.duplicates.captions.cluster_captions`.
        threads: the result does not depend on them.
    """
    shards = job.shards("clean")
    labels = cluster_captions(
        lambda: (texts for _, texts in _pending(shards, *_SAID)),
        similarity=config.min_similarity,
        scratch=job.folder / "scratch",
        function_words=function_words or None,
        threads=threads.count,
    )
    (job.folder / "scratch").rmdir()
    beyond = _beyond_cap(labels, shards, config)
    start = 0
    for number, ids in _pending(shards, "caption_id"):
        columns = [pa.array(values[start : start + len(ids)]) for values in (labels, beyond)]
        save_parquet(pa.Table.from_arrays(columns, schema=_LABELS), job.folder / f"{number:05d}.parquet")
        start += len(ids)
    return {"num_captions": start, "num_beyond_cap": int(beyond.sum())}


@dataclass(frozen=True, slots=True)
class Threads:
    """How many threads a step may use: no part of what it makes."""

    count: int = how(1)


def _pending(shards: Sequence[Path], *columns: str) -> Iterator[tuple[int, list[str]]]:
    """Yield, shard by shard, the first of some columns that is filled, for the pending rows."""
    for number, path in enumerate(shards):
        table = pq.read_table(path, columns=[*columns, "outcome"])
        yield number, _first_filled(table, columns, pending_rows(table))


def _first_filled(table: pa.Table, columns: Sequence[str], rows: Sequence[int]) -> list[str]:
    found: list[str] = pc.coalesce(*map(table.column, columns)).take(pa.array(rows, pa.int64())).to_pylist()
    return found


def _beyond_cap(labels: Any, shards: Sequence[Path], config: RepeatsConfig) -> Any:
    """Tell which captions are of images beyond the cap of their cluster; ids are read of those alone that may be."""
    import numpy as np

    beyond = np.zeros(len(labels), np.bool_)
    crowded = crowded_rows(labels, config.max_images_per_caption)
    if len(crowded):
        ids = pa.chunked_array([pa.array(found, pa.string()) for _, found in _pending(shards, "sample_id")])
        identities = ids.take(pa.array(crowded)).to_pylist()
        beyond[crowded] = cap_captions(labels[crowded], identities, cap=config.max_images_per_caption)
    return beyond


def screen(
    job: Job,
    *,
    config: RepeatsConfig,
    function_words: Collection[str],
    leaks: LeaksConfig,
    kinds: Mapping[str, str],
    test_sets: Sequence[str],
) -> Mapping[str, Any]:
    """Drop or mark what test sets hold, by identity and caption; then drop captions that others say already.

    Args:
        job: reads `clean`, `test-set` and, where captions are compared, the shard's own file of `find-repeats`.
        config: section `[repeats]`.
        function_words: those given to `find_repeats`.
        leaks: section `[leaks]`.
        kinds: each source's kind.
        test_sets: names of the recipe's.
    """
    before = pq.read_table(job.shard("clean"))
    table, tests = before, test_contents(job, test_sets)
    if leaks.by_identity:
        table = _judge_images(table, tests, kinds, leaks)
    if leaks.by_caption:
        table = judge_captions(table, tests, leaks, column="clean_caption", step="screen")
    if "find-repeats" in job.inputs:
        labels = pq.read_table(job.shard("find-repeats")).to_pylist()
        by_row = dict(zip(pending_rows(before), labels, strict=True))
        table = _drop_repeats(table, by_row, config, Likeness(config.min_similarity, function_words or None))
    save_parquet(table, job.folder / SHARD)
    return {"counts": {"screen": count_rows(before, table)}}


def _drop_repeats(
    table: pa.Table, labels: Mapping[int, Mapping[str, Any]], config: RepeatsConfig, likeness: Likeness
) -> pa.Table:
    """Drop near duplicates of captions of the same image that stay, and captions beyond the cap; `labels` by row.

    Two captions of a cluster are both like its first, which may be another image's, and need not be like each other.
    """
    rows = pending_rows(table)
    staying: dict[tuple[str, int], list[str]] = defaultdict(list)
    verdicts: list[Drop | None] = []
    for row, sample_id, caption in zip(
        rows, texts(table, "sample_id", rows), _first_filled(table, _SAID, rows), strict=True
    ):
        said = staying[sample_id, labels[row]["cluster"]]
        like = _first_like(caption, said, likeness) if config.near_captions else None
        if like is not None:
            verdicts.append(Drop("near_duplicate_caption", f"like: {like}"[:_MAX_DETAIL]))
        elif config.common_captions and labels[row]["is_beyond_cap"]:
            verdicts.append(Drop("common_caption", f"more than {config.max_images_per_caption} images have its like"))
        else:
            verdicts.append(None)
            said.append(caption)
    return reject(table, rows, verdicts, step="screen")


def _first_like(caption: str, said: Sequence[str], likeness: Likeness) -> str | None:
    """Return the first of some captions that this one resembles."""
    key = exact_key(caption) if said else ""
    for other in said:
        other_key = exact_key(other)
        if other_key == key or likeness.alike(other_key, key):
            return other
    return None


def _judge_images(
    table: pa.Table, tests: Sequence[TestContents], kinds: Mapping[str, str], leaks: LeaksConfig
) -> pa.Table:
    rows = pending_rows(table)
    names = ("sample_id", "source", "url", "path", "page_url")
    cells = zip(*(texts(table, name, rows) for name in names), strict=True)
    found = {}
    for sample_id, source, url, path, page_url in cells:
        if sample_id not in found:
            identities = canonical_identities(
                source_kind=kinds[source], sample_id=sample_id, url=url, path=path, page_url=page_url
            )
            found[sample_id] = _test_with_image(tests, identities)
    drops = [found[sample_id] for sample_id in texts(table, "sample_id", rows)]
    return drop_or_mark(table, rows, drops, leaks, step="screen")


def _test_with_image(tests: Sequence[TestContents], identities: Collection[str]) -> Drop | None:
    for test in tests:
        shared = test.identities.intersection(identities)
        if shared:
            return Drop("test_image", f"{test.name}: {min(shared)}")
    return None


def judge_captions(
    table: pa.Table,
    tests: Sequence[TestContents],
    leaks: LeaksConfig,
    *,
    column: str,
    step: str,
    where: pa.Array | None = None,
) -> pa.Table:
    """Drop or mark, in the name of `step`, the pending rows whose text in `column` is a caption of a test set.

    `where`, if given, is true of the rows to look at.
    """
    for test in tests:
        rows = pending_rows(table, where)
        found = test.has_captions(texts(table, column, rows))
        drops = [Drop("test_caption", test.name) if is_there else None for is_there in found]
        table = drop_or_mark(table, rows, drops, leaks, step=step)
    return table


def drop_or_mark(
    table: pa.Table, rows: list[int], drops: Sequence[Drop | None], leaks: LeaksConfig, *, step: str
) -> pa.Table:
    """Reject the rows that have a `Drop`, or write what it says into their `leaks`."""
    if leaks.action == "drop":
        return reject(table, rows, drops, step=step)
    marked = [(row, drop) for row, drop in zip(rows, drops, strict=True) if drop is not None]
    known = table.column("leaks").to_pylist()
    marks = [[*(known[row] or []), f"{drop.reason} {drop.detail}"] for row, drop in marked]
    return set_values(table, "leaks", [row for row, _ in marked], marks)
