"""The resumable build of a dataset, from upstream files to a committed snapshot that can be queried."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from cleaning.leaks import guarded_by
from data_catalog.base.heap import share_freed_memory
from data_catalog.catalog.duckdb_file import rebuild
from data_catalog.catalog.manifest import (
    FETCH_LOGS,
    BuildFacts,
    FunnelCount,
    Snapshot,
    SourceEntry,
    StepEntry,
    TestSetEntry,
    datasets_folder,
    find_snapshot,
    snapshot_names,
)
from data_catalog.catalog.work import WorkStore
from data_catalog.disk.files import sweep_temporary
from data_catalog.fetch.config import IMG2DATASET_LIMITS, POLITE
from data_catalog.fetch.outcomes import (
    Fetching,
    attempt_of,
    begin_attempt,
    end_attempt,
    may_be_decoded_now,
    needed_fetch_outputs,
)
from data_catalog.fetch.workers import ImageWorkers
from data_catalog.publish.publish import WriteDocuments, make_current, write_carried, write_snapshot
from data_catalog.publish.tombstones import FORGOTTEN, Matcher
from data_catalog.rows.fetch_reasons import is_retryable
from data_catalog.rows.schema import NATIVE
from data_catalog.sources.hashes import entries_identity
from flows.build.engine import Engine, Step
from flows.build.execution import Executor
from flows.build.inputs import Inputs, Tools, fetching_of, open_inputs
from flows.build.steps import STEPS, Build, step_versions
from flows.recipe.recipe import Recipe, what_settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Result of a build."""

    snapshot: Snapshot
    up_to_date: bool
    """The snapshot existed already, so nothing was done."""
    num_steps: int = 0
    """Calls of steps that ran; finished ones are not counted."""
    seconds_by_step: Mapping[str, float]
    """Sum over the calls of each step, slowest step first."""


def build(
    recipe: Recipe,
    *,
    root: Path,
    executor: Executor,
    write_documents: WriteDocuments,
    serving: Callable[[], AbstractContextManager[object]] = nullcontext,
    retry_failed: bool = False,
) -> Built:
    """Build a recipe's dataset below `root`, unless it is up to date. The caller must hold the writer's lock.

    Args:
        write_documents: writes the documents of a snapshot for people, before it is committed.
        serving: context that is open while steps run: the server of the recipe's scenes images, if it has some.
        retry_failed: fetch images again that failed for a temporary reason.
    """
    share_freed_memory(2)
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what each thread freed
    work = WorkStore(root / "work" / recipe.name)
    work.sweep()
    folder = datasets_folder(root) / recipe.name
    sweep_temporary([root / "packages", root / "memory", root / "work", folder, folder / FETCH_LOGS])
    sweep_temporary([root], files_only=True)
    inputs = open_inputs(recipe, root, step_versions(recipe))
    attempt = attempt_of(root, recipe.name)
    found = _up_to_date(root, inputs, recipe.name, attempt.number)
    if retry_failed and (attempt.is_under_way or _has_retryable_images(found, root, recipe.name)):
        attempt = begin_attempt(root, recipe.name)
        found = _up_to_date(root, inputs, recipe.name, attempt.number)
    if found is not None:
        make_current(root, found)
        _finish(root, recipe.name, work, used=[])  # the build may have been killed before its clean-up
        return Built(snapshot=found, up_to_date=True, seconds_by_step={})
    fetching = fetching_of(recipe, attempt.number)
    with serving(), ImageWorkers(root / "work" / ".hosts") as workers:
        _prepare(workers, recipe, inputs, executor)
        logs = folder / FETCH_LOGS
        tools = Tools(recipe, root, inputs, executor, workers=workers, fetching=fetching, log_folder=logs)
        build = Build(recipe=recipe, inputs=inputs, attempt=attempt.number)
        engine = Engine(STEPS, build, work=work, executor=executor, tools=tools)
        engine.run()
        tools.seal()
    snapshot = commit(engine, root, fetching, write_documents=write_documents)
    _finish(root, recipe.name, work, used=[output.folder.name for output in engine.commits("fetch")])
    slowest = sorted(engine.seconds.items(), key=lambda item: -item[1])
    seconds_by_step = {name: round(seconds, 2) for name, seconds in slowest}
    return Built(snapshot=snapshot, up_to_date=False, num_steps=engine.num_made, seconds_by_step=seconds_by_step)


def _prepare(workers: ImageWorkers, recipe: Recipe, inputs: Inputs, executor: Executor) -> None:
    """Let child processes load their libraries while captions are cleaned and translated."""
    is_ours = recipe.fetch.engine == POLITE
    fetches = not all(source.name in inputs.locations for source in recipe.sources)
    if fetches and not is_ours:
        logger.warning(IMG2DATASET_LIMITS)
    is_here = fetches and is_ours and executor.owners is None
    workers.prepare(fetching=is_here, normalising=not executor.runs_remotely)


def _finish(root: Path, dataset: str, work: WorkStore, *, used: Sequence[str]) -> None:
    """Rebuild the catalog, and remove step outputs but those of fetches with keys in `used`, or otherwise needed."""
    rebuild(root)
    work.empty(keep=needed_fetch_outputs(root, work, dataset, used=used))
    end_attempt(root, dataset)


def _up_to_date(root: Path, inputs: Inputs, dataset: str, attempt: int) -> Snapshot | None:
    """Return the snapshot of a build, unless it lacks images of a lifted tombstone or of a decoder installed since."""
    found = find_snapshot(root, dataset, inputs.build_key, attempt)
    if found is not None and may_be_decoded_now(found):
        return None
    if found is None or inputs.tombstones.includes(found.manifest["tombstones"]):
        return found
    has_forgotten = any(row["drop_reason"] == FORGOTTEN for row in found.manifest["drop_reasons"])
    return None if has_forgotten else found


def _has_retryable_images(found: Snapshot | None, root: Path, dataset: str) -> bool:
    """Return True if a retry has failed images to fetch, of this build or of an earlier one."""
    if found is None:
        return bool(snapshot_names(root, dataset))
    return any(row["step"] == "fetch" and is_retryable(row["drop_reason"]) for row in found.manifest["drop_reasons"])


def commit(engine: Engine, root: Path, fetching: Fetching, *, write_documents: WriteDocuments) -> Snapshot:
    """Assemble a snapshot from the outputs of the steps, check the conservation laws, and commit it."""
    matcher = Matcher(engine.build.inputs.tombstones)
    carry = partial(write_carried, root, fetching, is_gone=lambda rows: (matcher.numbers(rows) >= 0).tolist())
    published = engine.commits("publish")
    return write_snapshot(root, _manifest_facts(engine), published, carry=carry, write_documents=write_documents)


def _manifest_facts(engine: Engine) -> BuildFacts:
    """Return the entries of a manifest that describe the build, apart from its files."""
    build, inputs, recipe = engine.build, engine.build.inputs, engine.build.recipe
    counts = engine.commits("ingest")[0].facts["sources"]
    sources: dict[str, SourceEntry] = {}
    for source, settings in zip(inputs.sources, recipe.sources, strict=True):
        # The license that the recipe states, or else the one that upstream states for the dataset.
        sources[source.name] = {
            "selected": counts[source.name]["selected"],
            "malformed": counts[source.name]["malformed"],
            "unselected": counts[source.name]["unselected"],
            "files": [{"name": name, "sha256": sha256} for name, sha256 in entries_identity(source.file_entries)],
            "license": settings.rights.license or settings.kind.license,
        }
        if settings.rights.stated():
            sources[source.name]["rights"] = settings.rights.stated()
    test_sets: dict[str, TestSetEntry] = {}
    for test_set, output in zip(recipe.test_sets, engine.commits("test-set"), strict=True):
        found, leaks = output.facts, recipe.leaks
        test_sets[test_set.name] = {
            "kind": test_set.kind.kind,
            "files": list(inputs.test_files[test_set.name]),
            "images": inputs.test_images.get(test_set.name) if leaks.by_pixels else None,
            "num_images": found["num_images"],
            "num_identities": found["num_identities"],
            "num_captions": found["num_captions"],
            "num_hashed": found["num_hashed"],
            "action": leaks.action,
            "guarded_by": guarded_by(found, leaks),
        }
    return {
        "dataset": recipe.name,
        "build_key": inputs.build_key,
        "attempt": build.attempt,
        "tombstones": inputs.tombstones.entry,
        "settings": what_settings(recipe),
        "target_lang": recipe.target_language,
        "translator": inputs.translator.fingerprint if inputs.translator else NATIVE,
        "sources": sources,
        "test_sets": test_sets,
        "steps": step_entries([step for step in engine.steps if step.when(build)]),
        "funnel": funnel(engine),
    }


def step_entries(steps: Sequence[Step]) -> list[StepEntry]:
    """Return the rows of the funnel for a manifest, so that it can be explained without the code that built it."""
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
    """Return the funnel from the counts of the steps: rows of source, step number, step, read, kept and dropped."""
    sources = engine.commits("ingest")[0].facts["sources"]
    totals: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for source, found in sources.items():
        read, dropped = found["selected"], found["malformed"]
        totals[source, "ingest"].update(read=read, kept=read - dropped, dropped=dropped)
    counted_by: dict[str, str] = {}
    for step, output in ((each.name, output) for each in engine.steps for output in engine.commits(each.name)):
        for name, by_source in output.facts.get("counts", {}).items():
            if counted_by.setdefault(name, step) != step:
                continue  # if `fit` has dropped the captions whose image failed, `deduplicate` finds none left
            for source, counts in by_source.items():
                totals[source, name].update(counts)
    rows = [name for step in engine.steps if step.when(engine.build) for name in step.rows]
    return [
        {
            "source": source,
            "step_number": number,
            "step": name,
            "read": totals[source, name]["read"],
            "kept": totals[source, name]["kept"],
            "dropped": totals[source, name]["dropped"],
        }
        for source in sorted(sources)
        for number, name in enumerate(rows, start=1)
    ]
