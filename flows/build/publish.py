"""From finished shards to a committed snapshot: published files, the funnel, the manifest, the laws it must hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.database.catalog import broken_laws
from data_catalog.database.lookup import LOOKUP_KIND, write_lookup
from data_catalog.database.sorting import count_reasons
from data_catalog.errors import PipelineError
from data_catalog.publish import SplitConfig, publish_shard
from data_catalog.schema import CAPTIONS_VERSION, NATIVE, OUTCOMES_VERSION, PAIRS_VERSION
from data_catalog.storage.failpoints import failpoint
from data_catalog.storage.manifest import (
    MANIFEST_FORMAT,
    Snapshot,
    commit_snapshot,
    current_snapshot,
    point_to,
    read_snapshot,
    snapshot_folder,
)
from data_catalog.storage.shards import digest, sweep_temporary
from data_catalog.storage.work import Commit, StepKey, WorkStore
from data_catalog.tombstones import FORGET
from flows.build.documents import write_documents
from flows.build.execution import Executor
from flows.build.inputs import Inputs
from flows.build.step_outputs import FUNNEL_STEPS, INGEST, PUBLISH, SHARD, VERSIONS, Shard
from flows.build.test_sets import TestContents
from flows.recipe.recipe import Recipe
from flows.recipe.settings import plain
from flows.recipe.sources import SourceSettings
from flows.recipe.what_settings import what_settings

KINDS = ("pairs", "captions", "images")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedShard:
    """Captions and images of one shard, and the step outputs that counted its rows."""

    captions: Shard
    images: Shard
    counted: tuple[Shard, ...]


def publish(
    recipe: Recipe,
    inputs: Inputs,
    root: Path,
    executor: Executor,
    *,
    work: WorkStore,
    ingested: Commit,
    shards: Sequence[FinishedShard],
    merged: Commit | None = None,
    tests: Sequence[TestContents] = (),
    retry_of: Snapshot | None = None,
) -> Snapshot:
    """Write a snapshot's files, check the conservation laws on them, and commit it.

    Args:
        merged: captions that are published with another sample's image, if there are any.
        tests: the recipe's test sets.
        retry_of: the snapshot whose missing images were tried again, if that is what was done.

    Raises:
        PipelineError: a law does not hold; nothing is committed.
    """
    contents = [shard.captions.sha256 + shard.images.sha256 for shard in shards]
    snapshot_id = digest([inputs.build_key, contents])[:12]
    same = read_snapshot(root, recipe.name, snapshot_id)
    if same is not None:  # a committed snapshot is never written again
        return make_current(root, same)
    folder = snapshot_folder(root, recipe.name, snapshot_id)
    files = _write_files(executor, work, shards, folder, split=recipe.split, merged=merged)
    manifest = {
        **_facts(recipe, inputs, ingested, tests),
        "snapshot": snapshot_id,
        "retry_of": retry_of.snapshot if retry_of else None,
        "follows": [*retry_of.follows(), retry_of.snapshot] if retry_of else [],
        "funnel": funnel(ingested, shards),
        "drop_reasons": count_reasons([folder / entry["path"] for entry in files["captions"]]),
        "files": files,
    }
    _check_laws(Snapshot(dataset=recipe.name, snapshot=snapshot_id, folder=folder, manifest=manifest))
    work.note_used(snapshot_id)
    documents = write_documents(folder, manifest)
    return make_current(root, commit_snapshot(root, {**manifest, "documents": documents}, is_current=False))


def make_current(root: Path, snapshot: Snapshot) -> Snapshot:
    """Make what was built the dataset's current snapshot, unless it has no pairs and the current one has some."""
    current = None if snapshot.num_pairs else current_snapshot(root, snapshot.dataset)
    if current is None or not current.num_pairs:
        point_to(root, snapshot.dataset, snapshot.snapshot)
    return snapshot


def _write_files(
    executor: Executor,
    work: WorkStore,
    shards: Sequence[FinishedShard],
    folder: Path,
    *,
    split: SplitConfig,
    merged: Commit | None,
) -> dict[str, list[Any]]:
    """All files of a snapshot but its documents and its manifest; the manifest's lines for them, by kind."""
    if folder.is_dir():
        sweep_temporary([folder, *(folder / kind for kind in (*KINDS, LOOKUP_KIND))])
    failpoint("snapshot.before_files", folder)
    futures = [
        executor.submit(f"publish {shard.captions.label}", _publish, work, shard, folder, split, merged)
        for shard in shards
    ]
    entries = [future.result() for future in futures]
    failpoint("snapshot.after_files", folder)
    files = {kind: [entry for shard in entries for entry in shard[kind]] for kind in KINDS}
    files[LOOKUP_KIND] = [write_lookup(folder, files)]
    return files


def _publish(
    work: WorkStore, shard: FinishedShard, folder: Path, split: SplitConfig, merged: Commit | None
) -> Mapping[str, Any]:
    """One shard's published files, as a committed step whose output lies in the snapshot's folder."""
    others = () if merged is None else (merged.files[SHARD],)
    inputs = (shard.captions.sha256, shard.images.sha256, folder.name, shard.captions.label, *others)
    key = StepKey(step=PUBLISH, version=VERSIONS[PUBLISH], inputs=inputs, settings=plain(split))

    def produce(_: Path) -> Mapping[str, Any]:
        number = shard.captions.shard_id
        return publish_shard(
            shard.captions.path,
            shard.images.path,
            folder,
            shard_id=number,
            config=split,
            merged=None if merged is None else merged.path(SHARD),
        )

    found = work.find(key)
    if found is not None and all((folder / entry["path"]).is_file() for kind in KINDS for entry in found.facts[kind]):
        return found.facts
    if found is not None:
        return produce(folder)
    return work.run(key, produce).facts


def _facts(recipe: Recipe, inputs: Inputs, ingested: Commit, tests: Sequence[TestContents]) -> dict[str, Any]:
    """What a manifest says of a build, whatever came of it."""
    return {
        "format": MANIFEST_FORMAT,
        "schemas": {"captions": CAPTIONS_VERSION, "pairs": PAIRS_VERSION, "images": OUTCOMES_VERSION},
        "dataset": recipe.name,
        "build_key": inputs.build_key,
        "tombstones": {"digest": inputs.tombstones.digest},
        "settings": what_settings(recipe),
        "target_lang": recipe.target_language,
        "translator": inputs.translator.fingerprint if inputs.translator else NATIVE,
        "sources": _source_entries(recipe, inputs, ingested),
        "test_sets": {test.name: test.entry(recipe.leaks) for test in tests},
    }


def _source_entries(recipe: Recipe, inputs: Inputs, ingested: Commit) -> dict[str, Any]:
    settings = {source.name: source for source in recipe.sources}
    return {
        source.name: {
            **ingested.facts["sources"][source.name],
            "files": sorted(
                (
                    {"name": file.name, "sha256": found}
                    for file, found in zip(source.files, source.file_hashes, strict=True)
                ),
                key=lambda entry: (entry["name"], entry["sha256"]),
            ),
            **_terms(settings[source.name]),
        }
        for source in inputs.sources
    }


def _terms(source: SourceSettings) -> dict[str, Any]:
    """Under which terms a source is: the recipe's own words, or else what upstream says of the dataset."""
    stated = source.rights.stated()
    licence = source.rights.licence or source.kind.licence
    return {"licence": licence, "rights": stated} if stated else {"licence": licence}


def funnel(ingested: Commit, shards: Sequence[FinishedShard]) -> list[dict[str, Any]]:
    """Rows of source, step number, step, read, kept and dropped, from what each step counted by itself."""
    totals: dict[tuple[str, str], dict[str, int]] = {}
    for source, found in ingested.facts["sources"].items():
        kept = found["selected"] - found["malformed"]
        totals[source, INGEST] = {"read": found["selected"], "kept": kept, "dropped": found["malformed"]}
    for shard in shards:
        for counted in shard.counted:
            for step, by_source in counted.counts.items():
                for source, counts in by_source.items():
                    total = totals.setdefault((source, step), {"read": 0, "kept": 0, "dropped": 0})
                    for name, count in counts.items():
                        total[name] += count
    sources = sorted(ingested.facts["sources"])
    forgot = any(total["dropped"] for (_, step), total in totals.items() if step == FORGET)
    steps = [step for step in FUNNEL_STEPS if step != FORGET or forgot]
    return [
        {"source": source, "step_number": number, "step": step, **totals.get((source, step), _NOTHING)}
        for source in sources
        for number, step in enumerate(steps, start=1)
    ]


_NOTHING = {"read": 0, "kept": 0, "dropped": 0}


def _check_laws(snapshot: Snapshot) -> None:
    broken = broken_laws(snapshot)
    if broken:
        raise PipelineError(
            f"the snapshot is not committed, since it breaks: {'; '.join(broken)}. This is a defect: report it"
        )
