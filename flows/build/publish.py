"""From finished shards to a committed snapshot: published files, and what the manifest says of the build."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from cleaning.leaks import guarded_by
from data_catalog.fetch.outcomes import Fetching
from data_catalog.publish import SplitConfig, WriteDocuments, publish_shard, write_carried, write_snapshot
from data_catalog.schema import NATIVE
from data_catalog.sources.ingest import Source
from data_catalog.storage.manifest import (
    BuildFacts,
    Counts,
    FunnelCount,
    Snapshot,
    SourceCounts,
    SourceEntry,
    StepEntry,
    TestSetEntry,
)
from data_catalog.storage.work import StepFacts
from data_catalog.takedown import Matcher
from flows.build.engine import Engine, Job, Step
from flows.recipe.recipe import Recipe, what_settings


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


def commit(engine: Engine, root: Path, fetching: Fetching, *, write_documents: WriteDocuments) -> Snapshot:
    """Give a snapshot the files that the steps wrote, check the conservation laws on them, and commit it.

    Args:
        engine: has run the table.
        root: of the catalog.
        fetching: what the images were fetched by.
        write_documents: see `data_catalog.publish.write_snapshot`.

    Raises:
        DefectError: a law does not hold; nothing is committed.
        DamagedError: what a step wrote is not what it was; run again.
    """
    matcher = Matcher(engine.build.inputs.tombstones)
    return write_snapshot(
        root,
        _facts(engine, engine.build.recipe),
        engine.commits("publish"),
        carry=partial(write_carried, root, fetching, is_gone=lambda rows: (matcher.numbers(rows) >= 0).tolist()),
        write_documents=write_documents,
    )


def _facts(engine: Engine, recipe: Recipe) -> BuildFacts:
    """Return what a manifest says of a build, whatever came of it."""
    build, inputs = engine.build, engine.build.inputs
    return {
        "dataset": recipe.name,
        "build_key": inputs.build_key,
        "attempt": build.attempt,
        "tombstones": {"digest": inputs.tombstones.digest},
        "settings": what_settings(recipe),
        "target_lang": recipe.target_language,
        "translator": inputs.translator.fingerprint if inputs.translator else NATIVE,
        "sources": _source_entries(recipe, inputs.sources, engine.commits("ingest")[0].facts["sources"]),
        "test_sets": dict(_test_set_entries(engine, recipe)),
        "steps": face([step for step in engine.steps if step.when(build)]),
        "funnel": funnel(engine),
    }


def _test_set_entries(engine: Engine, recipe: Recipe) -> Iterator[tuple[str, TestSetEntry]]:
    inputs = engine.build.inputs
    for test_set, commit in zip(recipe.test_sets, engine.commits("test-set"), strict=True):
        found, leaks = commit.facts, recipe.leaks
        yield (
            test_set.name,
            {
                "kind": test_set.kind.kind,
                "files": list(inputs.test_files[test_set.name]),
                "images": inputs.test_images.get(test_set.name) if leaks.by_pixels else None,
                "num_images": found["num_images"],
                "num_identities": found["num_identities"],
                "num_captions": found["num_captions"],
                "num_hashed": found["num_hashed"],
                "action": leaks.action,
                "guarded_by": guarded_by(found, leaks),
            },
        )


def _source_entries(
    recipe: Recipe, sources: Sequence[Source], counts: Mapping[str, SourceCounts]
) -> dict[str, SourceEntry]:
    settings = {source.name: source for source in recipe.sources}
    found: dict[str, SourceEntry] = {}
    for source in sources:
        files = sorted(zip((file.name for file in source.files), source.file_hashes, strict=True))
        # Terms: the recipe's own words, or else what upstream says of the dataset.
        rights, kind = settings[source.name].rights, settings[source.name].kind
        found[source.name] = {
            "selected": counts[source.name]["selected"],
            "malformed": counts[source.name]["malformed"],
            "unselected": counts[source.name]["unselected"],
            "files": [{"name": name, "sha256": sha256} for name, sha256 in files],
            "license": rights.license or kind.license,
        }
        if rights.stated():
            found[source.name]["rights"] = rights.stated()
    return found


def face(steps: Sequence[Step]) -> list[StepEntry]:
    """Return what a manifest says of the table, so that a snapshot explains itself: one entry a row of the funnel.

    Each entry has the row's name, its meaning in a few words, the sections of the recipe that it judges by, its reasons
    with their sentences, the settings that decide them, and the columns that it fills.
    """
    return [
        {
            "step": name,
            "meaning": row.meaning,
            "rules": list(row.rules),
            "reasons": {reason: said.meaning for reason, said in row.reasons.items()},
            "decided_by": {reason: list(said.settings) for reason, said in row.reasons.items() if said.settings},
            "columns": list(row.columns),
            "image_columns": list(row.image_columns),
        }
        for step in steps
        for name, row in step.rows.items()
    ]


def funnel(engine: Engine) -> list[FunnelCount]:
    """Return rows of source, step number, step, read, kept and dropped, from what each step counted by itself."""
    sources = engine.commits("ingest")[0].facts["sources"]
    totals: dict[tuple[str, str], Counts] = {
        (source, "ingest"): {
            "read": found["selected"],
            "kept": found["selected"] - found["malformed"],
            "dropped": found["malformed"],
        }
        for source, found in sources.items()
    }
    for output in (output for step in engine.steps for output in engine.commits(step.name)):
        for name, by_source in output.facts.get("counts", {}).items():
            for source, counts in by_source.items():
                before = totals.get((source, name), _NOTHING)
                totals[source, name] = {
                    "read": before["read"] + counts["read"],
                    "kept": before["kept"] + counts["kept"],
                    "dropped": before["dropped"] + counts["dropped"],
                }
    rows = [name for step in engine.steps if step.when(engine.build) for name in step.rows]
    return [
        {"source": source, "step_number": number, "step": name, **totals.get((source, name), _NOTHING)}
        for source in sorted(sources)
        for number, name in enumerate(rows, start=1)
    ]


_NOTHING: Counts = {"read": 0, "kept": 0, "dropped": 0}
