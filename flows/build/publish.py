"""From finished shards to a committed snapshot: published files, the funnel, the manifest, the laws it must hold."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cleaning.leaks import TestContents
from data_catalog.database.catalog import broken_laws, recounted
from data_catalog.database.lookup import LOOKUP_KIND, write_lookup
from data_catalog.errors import DefectError
from data_catalog.fetch.outcomes import Fetching
from data_catalog.publish import SplitConfig, make_current, place_files, publish_shard, remove_others, write_carried
from data_catalog.schema import CAPTIONS_VERSION, NATIVE, OUTCOMES_VERSION, PAIRS_VERSION
from data_catalog.storage.failpoints import failpoint
from data_catalog.storage.manifest import MANIFEST_FORMAT, Snapshot, commit_snapshot, read_snapshot, snapshot_folder
from data_catalog.storage.shards import digest, sweep_temporary
from data_catalog.takedown import Matcher
from flows.build.engine import Engine, Job, Step
from flows.recipe.recipe import Recipe, what_settings
from flows.recipe.sources import SourceSettings

WriteDocuments = Callable[[Path, Mapping[str, Any]], list[dict[str, Any]]]


def publish(job: Job, *, split: SplitConfig, image_rows: Sequence[str]) -> Mapping[str, Any]:
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
        write_documents: writes what a snapshot says of itself, for people, into its folder; returns the manifest's
            "documents".

    Raises:
        DefectError: a law does not hold; nothing is committed.
        DamagedError: what a step wrote is not what it was; run again.
    """
    build = engine.build
    recipe: Recipe = build.recipe
    published = engine.commits("publish")
    contents = [sorted(commit.files.items()) for commit in published]
    snapshot_id = digest([build.inputs.build_key, build.attempt, contents])[:12]
    same = read_snapshot(root, recipe.name, snapshot_id)
    if same is not None:  # a committed snapshot is never written again
        return make_current(root, same)
    folder = snapshot_folder(root, recipe.name, snapshot_id)
    if folder.is_dir():
        sweep_temporary([folder, *(folder / kind for kind in ("pairs", "captions", "images", LOOKUP_KIND))])
    failpoint("snapshot.before_files", folder)
    files = place_files(root, recipe.name, folder, published)
    outcomes = [folder / entry["path"] for entry in files["images"]]
    matcher = Matcher(build.inputs.tombstones)

    def is_gone(rows: pa.Table) -> list[bool]:
        found: list[bool] = (matcher.numbers(rows) >= 0).tolist()
        return found

    files["spare"] += write_carried(root, fetching, outcomes, folder, is_gone)
    remove_others(folder, files)
    failpoint("snapshot.after_files", folder)
    files[LOOKUP_KIND] = [write_lookup(folder, files)]
    manifest = {
        **_facts(engine, recipe),
        "snapshot": snapshot_id,
        "steps": face([step for step in engine.steps if step.when(build)]),
        "funnel": funnel(engine),
        "files": files,
    }
    snapshot = Snapshot(dataset=recipe.name, snapshot=snapshot_id, folder=folder, manifest=manifest)
    _check_laws(snapshot)
    manifest["drop_reasons"] = recounted(snapshot)["drop_reasons"]
    documents = write_documents(folder, manifest)
    return make_current(root, commit_snapshot(root, {**manifest, "documents": documents}, is_current=False))


def _facts(engine: Engine, recipe: Recipe) -> dict[str, Any]:
    """Return what a manifest says of a build, whatever came of it."""
    build, inputs = engine.build, engine.build.inputs
    return {
        "format": MANIFEST_FORMAT,
        "schemas": {"captions": CAPTIONS_VERSION, "pairs": PAIRS_VERSION, "images": OUTCOMES_VERSION},
        "dataset": recipe.name,
        "build_key": inputs.build_key,
        "attempt": build.attempt,
        "tombstones": {"digest": inputs.tombstones.digest},
        "settings": what_settings(recipe),
        "target_lang": recipe.target_language,
        "translator": inputs.translator.fingerprint if inputs.translator else NATIVE,
        "sources": _source_entries(recipe, inputs.sources, engine.commits("ingest")[0].facts["sources"]),
        "test_sets": dict(_test_set_entries(engine, recipe)),
    }


def _test_set_entries(engine: Engine, recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    inputs = engine.build.inputs
    for test_set, commit in zip(recipe.test_sets, engine.commits("test-set"), strict=True):
        yield (
            test_set.name,
            {
                "kind": test_set.kind.kind,
                "files": list(inputs.test_files[test_set.name]),
                "images": inputs.test_images.get(test_set.name) if recipe.leaks.by_pixels else None,
                **TestContents(name=test_set.name, commit=commit).entry(recipe.leaks),
            },
        )


def _source_entries(recipe: Recipe, sources: Sequence[Any], counts: Mapping[str, Any]) -> dict[str, Any]:
    settings = {source.name: source for source in recipe.sources}
    return {
        source.name: {
            **counts[source.name],
            "files": sorted(
                (
                    {"name": file.name, "sha256": found}
                    for file, found in zip(source.files, source.file_hashes, strict=True)
                ),
                key=lambda entry: (entry["name"], entry["sha256"]),
            ),
            **_terms(settings[source.name]),
        }
        for source in sources
    }


def _terms(source: SourceSettings) -> dict[str, Any]:
    """Return under which terms a source is: the recipe's own words, or else what upstream says of the dataset."""
    stated = source.rights.stated()
    licence = source.rights.licence or source.kind.licence
    return {"licence": licence, "rights": stated} if stated else {"licence": licence}


def face(steps: Sequence[Step]) -> list[dict[str, Any]]:
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


def funnel(engine: Engine) -> list[dict[str, Any]]:
    """Return rows of source, step number, step, read, kept and dropped, from what each step counted by itself."""
    sources = engine.commits("ingest")[0].facts["sources"]
    totals = {
        (source, "ingest"): {
            "read": found["selected"],
            "kept": found["selected"] - found["malformed"],
            "dropped": found["malformed"],
        }
        for source, found in sources.items()
    }
    rows = [name for step in engine.steps if step.when(engine.build) for name in step.rows]
    for output in (output for step in engine.steps for output in engine.commits(step.name)):
        for name, by_source in output.facts.get("counts", {}).items():
            for source, counts in by_source.items():
                total = totals.setdefault((source, name), {"read": 0, "kept": 0, "dropped": 0})
                for count, number in counts.items():
                    total[count] += number
    return [
        {"source": source, "step_number": number, "step": name, **totals.get((source, name), _NOTHING)}
        for source in sorted(sources)
        for number, name in enumerate(rows, start=1)
    ]


_NOTHING = {"read": 0, "kept": 0, "dropped": 0}


def _check_laws(snapshot: Snapshot) -> None:
    broken = broken_laws(snapshot)
    if broken:
        raise DefectError(
            f"the snapshot is not committed, since it breaks: {'; '.join(broken)}. This is a defect: report it"
        )
