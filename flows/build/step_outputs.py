"""What every step of a build shares: its name and version, its key, its output as a shard, its counts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_catalog.schema import PENDING
from data_catalog.sources.ingest import VERSION as INGEST_VERSION
from data_catalog.storage.shards import save_parquet
from data_catalog.storage.work import Commit, StepKey, WorkStore
from data_catalog.tombstones import FORGET

INGEST, CLEAN, PLAN, TRANSLATE, CHECK = "ingest", "clean", "plan", "translate", "check"
TEST_SET, FIND_REPEATS, SCREEN = "test-set", "find-repeats", "screen"
ROUND_TRIP = "round-trip"
FETCH, NORMALISE, RECALL = "fetch", "normalise", "recall"
FIND_DUPLICATES, MERGE_CAPTIONS, DEDUPLICATE = "find-duplicates", "merge-captions", "deduplicate"
PUBLISH = "publish"
FORGET_IMAGES = "forget-images"
# Raised whenever the code of a step changes what it writes; a golden test catches forgetting.
VERSIONS = {
    INGEST: INGEST_VERSION,
    CLEAN: 5,
    TEST_SET: 2,
    FIND_REPEATS: 2,
    SCREEN: 2,
    PLAN: 3,
    TRANSLATE: 4,
    ROUND_TRIP: 3,
    CHECK: 5,
    FETCH: 3,
    NORMALISE: 4,
    RECALL: 2,
    FIND_DUPLICATES: 3,
    MERGE_CAPTIONS: 2,
    DEDUPLICATE: 6,
    PUBLISH: 5,
}
# Of the steps that are there where something was forgotten; a build's key is the same with and without them.
FORGET_VERSIONS = {FORGET: 2, FORGET_IMAGES: 2}
# The order of the funnel.
FUNNEL_STEPS = (INGEST, FORGET, CLEAN, SCREEN, TRANSLATE, CHECK, FETCH, NORMALISE, DEDUPLICATE)

SHARD = "shard.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A step's output for one shard: where it lies and the hash of its content."""

    shard_id: int
    path: Path
    sha256: str
    counts: Mapping[str, Mapping[str, Mapping[str, int]]]

    @property
    def label(self) -> str:
        """The shard's number as people see it."""
        return f"{self.shard_id:05d}"


def shard_of_commit(commit: Commit, shard_id: int, name: str = SHARD) -> Shard:
    """One file of a commit as a shard; `counts` are the commit's."""
    counts = commit.facts.get("counts", {})
    return Shard(shard_id=shard_id, path=commit.path(name), sha256=commit.files[name], counts=counts)


def table_step(
    work: WorkStore, shard: Shard, step: str, settings: Mapping[str, Any], stage: Callable[[pa.Table], pa.Table]
) -> Shard:
    """Run a step that turns one table of caption rows into another, and count what it dropped."""

    def produce(folder: Path) -> Mapping[str, Any]:
        before = pq.read_table(shard.path)
        after = stage(before)
        save_parquet(after, folder / SHARD)
        return {"counts": {step: count_rows(before, after)}}

    return shard_of_commit(work.run(step_key(step, [shard.sha256], settings), produce), shard.shard_id)


def step_key(step: str, inputs: Sequence[str], settings: Mapping[str, Any]) -> StepKey:
    """The key of a step at its present version."""
    version = FORGET_VERSIONS[step] if step in FORGET_VERSIONS else VERSIONS[step]
    return StepKey(step=step, version=version, inputs=tuple(inputs), settings=settings)


def count_rows(before: pa.Table, after: pa.Table) -> dict[str, dict[str, int]]:
    """Per source, how many pending rows a step read, kept and dropped: counted on its input and output apart."""
    read, kept = _by_source(before, pending=True), _by_source(after, pending=True)
    rejected, rejected_before = _by_source(after, pending=False), _by_source(before, pending=False)
    return {
        source: {"read": read[source], "kept": kept[source], "dropped": rejected[source] - rejected_before[source]}
        for source in sorted(before.column("source").unique().to_pylist())
    }


def _by_source(table: pa.Table, *, pending: bool) -> Counter[str]:
    is_pending = pc.equal(table.column("outcome"), PENDING)
    found = pc.value_counts(table.column("source").filter(is_pending if pending else pc.invert(is_pending)))
    return Counter(dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)))
