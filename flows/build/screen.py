"""The steps that read test sets, and drop between cleaning and translating what these hold and what is repeated.

What costs little drops before what costs much: nothing that goes here is translated, and no image of it is fetched.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from cleaning.duplicates.captions import RepeatsConfig, drop_repeats, label_repeats
from cleaning.leaks import LeaksConfig, TestContents, judge_captions, judge_identities, write_test_set
from data_catalog.reasons import Reason
from data_catalog.settings import how
from data_catalog.stages import count_rows, pending_rows
from data_catalog.storage.shards import save_parquet
from data_catalog.storage.work import StepFacts
from data_catalog.test_sets.registry import TEST_SET_KINDS
from flows.build.engine import SHARD, Job

logger = logging.getLogger(__name__)

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


def test_contents(job: Job, names: Sequence[str]) -> list[TestContents]:
    """Return the recipe's test sets, of which a job reads `test-set`."""
    return [TestContents(name=name, commit=commit) for name, commit in zip(names, job.all("test-set"), strict=True)]


def read_test_set(
    job: Job, *, name: str, kind: str, config: Any, files: Sequence[Sequence[str]], images: str | None, min_words: int
) -> StepFacts:
    """Read a test set and hash its images, where they are there.

    Args:
        job: reads no step.
        name: the recipe's name for it.
        kind: of its files.
        config: of that kind.
        files: name and sha256 of each of them.
        images: content hash of its images; None: they are not looked at, or it has none.
        min_words: captions of fewer words are left out.
    """
    reads = TEST_SET_KINDS[kind]
    found = list(reads.read(config))
    location = config.images if images else None
    pixels = (location, job.tools.workers) if location is not None else None
    facts = write_test_set(found, job.folder, min_words=min_words, pixels=pixels)
    if location is not None and facts["num_hashed"] < len(found):
        logger.warning(
            "%s of %s images of test set %s are not in %s, or no pictures: training images are not compared with them",
            f"{len(found) - facts['num_hashed']:,}",
            f"{len(found):,}",
            name,
            location,
        )
    return facts


@dataclass(frozen=True, slots=True)
class Threads:
    """How many threads a step may use: no part of what it makes."""

    count: int = how(1)


def find_repeats(job: Job, *, config: RepeatsConfig, function_words: Collection[str], threads: Threads) -> StepFacts:
    """Find, over all shards, captions that are nearly the same, and those that too many images have.

    Args:
        job: reads `clean`.
        config: section `[repeats]`.
        function_words: of the captions' languages; see `cleaning.duplicates.near_captions.cluster_captions`.
        threads: the result does not depend on them.
    """
    return label_repeats(
        job.shards("clean"), job.folder, config, function_words=function_words or None, threads=threads.count
    )


def screen(
    job: Job,
    *,
    config: RepeatsConfig,
    function_words: Collection[str],
    leaks: LeaksConfig,
    kinds: Mapping[str, str],
    test_sets: Sequence[str],
) -> StepFacts:
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
        table = judge_identities(table, tests, leaks, kinds=kinds, step="screen")
    if leaks.by_caption:
        table = judge_captions(table, tests, leaks, column="clean_caption", step="screen")
    if "find-repeats" in job.inputs:
        labels = pq.read_table(job.shard("find-repeats")).to_pylist()
        by_row = dict(zip(pending_rows(before), labels, strict=True))
        table = drop_repeats(table, by_row, config, function_words or None, step="screen")
    save_parquet(table, job.folder / SHARD)
    return {"counts": {"screen": count_rows(before, table)}}
