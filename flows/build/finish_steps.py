"""The step that applies to a shard's captions what became of their images, and drops repeats."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cleaning.duplicates import duplicate_captions
from cleaning.selection_config import LeaksConfig
from data_catalog.fetch.reasons import image_step
from data_catalog.stages import Drop, pending_rows, reject, set_values, texts
from data_catalog.storage.shards import save_parquet
from data_catalog.storage.work import Commit, WorkStore
from data_catalog.takedown import of_samples, without_texts
from data_catalog.tombstones import FORGOTTEN
from flows.build.duplicates import MARKS_FILE
from flows.build.screen import drop_or_mark
from flows.build.step_outputs import DEDUPLICATE, FETCH, NORMALISE, SHARD, Shard, count_rows, shard_of_commit, step_key
from flows.recipe.settings import plain


def finish(
    work: WorkStore,
    captions: Shard,
    images: Shard,
    duplicates: Commit,
    merged: Commit | None,
    leaks: LeaksConfig,
    *,
    drop_repeated_captions: bool,
) -> Shard:
    """Apply to the captions what became of their images, and drop duplicates; counts for three steps of the funnel.

    `merged` is of `merge_captions`, or None where captions of duplicates are dropped with them.
    """
    inputs = [captions.sha256, images.sha256, duplicates.files[SHARD], duplicates.files[MARKS_FILE]]
    inputs += [merged.files[SHARD]] if merged else []

    def produce(folder: Path) -> Mapping[str, Any]:
        before = pq.read_table(captions.path)
        drops = _image_drops(images.path)
        fetched = _reject_samples(before, drops[FETCH], step=FETCH)
        normalised = _reject_samples(fetched, drops[NORMALISE], step=NORMALISE)
        moved = _moved(normalised, merged) if merged else normalised
        marked = _mark_samples(moved, _drops_of(duplicates.path(MARKS_FILE), before), leaks)
        deduplicated = _reject_samples(marked, _drops_of(duplicates.path(SHARD), before), step=DEDUPLICATE)
        deduplicated = _reject_repeated_captions(deduplicated) if drop_repeated_captions else deduplicated
        deduplicated = _without_forgotten_texts(deduplicated, drops[NORMALISE])
        save_parquet(deduplicated, folder / SHARD)
        stages = {FETCH: (before, fetched), NORMALISE: (fetched, normalised), DEDUPLICATE: (normalised, deduplicated)}
        return {"counts": {step: count_rows(*tables) for step, tables in stages.items()}}

    settings = {"leaks": plain(leaks), "drop_repeated_captions": drop_repeated_captions}
    return shard_of_commit(work.run(step_key(DEDUPLICATE, inputs, settings), produce), captions.shard_id)


def _image_drops(path: Path) -> dict[str, dict[str, Drop]]:
    """Why images were lost, by step and sample; a reason belongs to one step only."""
    drops: dict[str, dict[str, Drop]] = {FETCH: {}, NORMALISE: {}}
    for row in pq.read_table(path, columns=["sample_id", "drop_reason", "detail"]).to_pylist():
        if row["drop_reason"]:
            drops[image_step(row["drop_reason"])][row["sample_id"]] = Drop(row["drop_reason"], row["detail"])
    return drops


def _without_forgotten_texts(table: pa.Table, drops: Mapping[str, Drop]) -> pa.Table:
    """All captions of images that turned out to be forgotten lose their texts, whatever dropped them."""
    forgotten = [sample_id for sample_id, drop in drops.items() if drop.reason == FORGOTTEN]
    return without_texts(table, of_samples(table, forgotten)) if forgotten else table


def _drops_of(path: Path, captions: pa.Table) -> dict[str, Drop]:
    """What is found of the samples of a shard, among those of all shards."""
    found = pq.read_table(path)
    rows = found.filter(pc.is_in(found.column("sample_id"), captions.column("sample_id").unique())).to_pylist()
    return {row["sample_id"]: Drop(row["drop_reason"], row["detail"]) for row in rows}


def _moved(table: pa.Table, merged: Commit) -> pa.Table:
    """Captions of duplicates that go to another image say which; the others are repeats of what that one has."""
    found = pq.read_table(merged.path(SHARD), columns=["caption_id", "merged_into"])
    found = found.filter(pc.is_in(found.column("caption_id"), table.column("caption_id")))
    into = dict(zip(found.column("caption_id").to_pylist(), found.column("merged_into").to_pylist(), strict=True))
    rows = pending_rows(table)
    chosen = [
        (row, into[name]) for row, name in zip(rows, texts(table, "caption_id", rows), strict=True) if name in into
    ]
    return set_values(table, "merged_into", [row for row, _ in chosen], [sample_id for _, sample_id in chosen])


def _stationary(table: pa.Table) -> list[int]:
    """Pending rows that are not published with another sample's image."""
    return pending_rows(table, pc.is_null(table.column("merged_into")))


def _reject_samples(table: pa.Table, drops: Mapping[str, Drop], *, step: str) -> pa.Table:
    rows = _stationary(table)
    return reject(table, rows, [drops.get(sample_id) for sample_id in texts(table, "sample_id", rows)], step=step)


def _mark_samples(table: pa.Table, marks: Mapping[str, Drop], leaks: LeaksConfig) -> pa.Table:
    rows = pending_rows(table)
    found = [marks.get(sample_id) for sample_id in texts(table, "sample_id", rows)]
    return drop_or_mark(table, rows, found, leaks, step=DEDUPLICATE) if marks else table


def _reject_repeated_captions(table: pa.Table) -> pa.Table:
    rows = _stationary(table)
    verdicts = duplicate_captions(texts(table, "sample_id", rows), texts(table, "caption", rows))
    return reject(table, rows, verdicts, step=DEDUPLICATE)
