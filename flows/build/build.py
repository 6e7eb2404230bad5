"""The build of a dataset: upstream files in, a committed and queryable snapshot out, resumable at any moment."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cleaning.leaks import guarded_by
from data_catalog.database.catalog import rebuild
from data_catalog.fetch.outcomes import (
    Fetching,
    attempt_of,
    begin_attempt,
    end_attempt,
    needed_fetch_outputs,
    num_retryable,
)
from data_catalog.images.workers import ImageWorkers
from data_catalog.schema import NATIVE
from data_catalog.settings import what_values
from data_catalog.stages import Counts
from data_catalog.storage.manifest import (
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
from data_catalog.storage.publish import WriteDocuments, make_current, write_carried, write_snapshot
from data_catalog.storage.shards import sweep_temporary
from data_catalog.storage.work import WorkStore
from data_catalog.tombstones import Matcher
from flows.build.engine import Engine, Step
from flows.build.execution import Executor
from flows.build.inputs import Tools, open_inputs
from flows.build.steps import STEPS, Build
from flows.recipe.recipe import Recipe, what_settings

_NOTHING: Counts = {"read": 0, "kept": 0, "dropped": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build came to.

    Args:
        snapshot: the committed snapshot.
        up_to_date: nothing was done, since the snapshot was there already.
        num_steps: calls of steps that were made, not found done.
        seconds_by_step: added up over the calls of each step, the slowest first.
    """

    snapshot: Snapshot
    up_to_date: bool
    num_steps: int = 0
    seconds_by_step: Mapping[str, float]


def build(
    recipe: Recipe,
    *,
    root: Path,
    executor: Executor,
    write_documents: WriteDocuments,
    serving: Callable[[], AbstractContextManager[object]] = nullcontext,
    retry_failed: bool = False,
) -> Built:
    """Build a recipe's dataset below `root`, or find that it is there. Call it with the writer's lock held.

    Args:
        recipe: what to build.
        root: of the catalog.
        executor: does the calls.
        write_documents: writes what a snapshot says of itself, for people, before it is committed.
        serving: what is held open while steps run, if any run: the server of the recipe's own images.
        retry_failed: ask once more for the images that failed for reasons that may have passed.

    Raises:
        SettingsError, InputError: settings or upstream files are wrong.
        PipelineError: a shard could not be done; run again after mending what it says.
    """
    work = WorkStore(root / "work" / recipe.name)
    work.sweep()
    folder = datasets_folder(root) / recipe.name
    sweep_temporary([root / "packages", root / "memory", root / "work", folder, folder / FETCH_LOGS])
    sweep_temporary([root], files_only=True)
    inputs = open_inputs(recipe, root, {step.name: step.version for step in STEPS})
    attempt = attempt_of(root, recipe.name)
    found = find_snapshot(root, recipe.name, inputs.build_key, attempt.number)
    if retry_failed and (attempt.is_under_way or _may_end_better(found, root, recipe.name)):
        attempt = begin_attempt(root, recipe.name)
        found = find_snapshot(root, recipe.name, inputs.build_key, attempt.number)
    if found is not None:
        make_current(root, found)
        _end(root, recipe.name, work, used=[])  # its build may have been killed before this
        return Built(snapshot=found, up_to_date=True, seconds_by_step={})
    fetching = Fetching(
        dataset=recipe.name,
        attempt=attempt.number,
        fetch=what_values(recipe.fetch),
        normalise=what_values(recipe.normalise),
    )
    with serving(), ImageWorkers(root / "work" / ".hosts") as workers:
        tools = Tools(
            recipe=recipe,
            root=root,
            inputs=inputs,
            workers=workers,
            fetching=fetching,
            log_folder=folder / FETCH_LOGS,
        )
        all_local = all(source.name in inputs.locations for source in recipe.sources)
        workers.prepare(  # they load their libraries while captions are cleaned and translated
            recipe.normalise,
            fetching=0 if all_local else recipe.build.fetch_workers,
            normalising=0 if executor.submits_elsewhere else recipe.build.workers,
        )
        build = Build(recipe=recipe, inputs=inputs, attempt=attempt.number)
        engine = Engine(STEPS, build, work=work, executor=executor, tools=tools)
        engine.run()
        tools.seal()
    snapshot = commit(engine, root, fetching, write_documents=write_documents)
    _end(root, recipe.name, work, used=[output.folder.name for output in engine.commits("fetch")])
    slowest = sorted(engine.seconds.items(), key=lambda item: -item[1])
    return Built(
        snapshot=snapshot,
        up_to_date=False,
        num_steps=engine.num_made,
        seconds_by_step={name: round(seconds, 2) for name, seconds in slowest},
    )


def _end(root: Path, dataset: str, work: WorkStore, *, used: Sequence[str]) -> None:
    """Show the snapshot to readers; remove what it has made superfluous.

    Args:
        root: of the catalog.
        dataset: that was built.
        work: its step outputs.
        used: keys of the fetch outputs that the snapshot was made of, as far as is known.
    """
    rebuild(root)
    work.empty(keep=needed_fetch_outputs(root, work, dataset, used=used))
    end_attempt(root, dataset)


def _may_end_better(found: Snapshot | None, root: Path, dataset: str) -> bool:
    """Tell whether a retry has anything to ask: failures of the build that is there, or of an earlier one."""
    return bool(snapshot_names(root, dataset)) if found is None else num_retryable(found) > 0


def commit(engine: Engine, root: Path, fetching: Fetching, *, write_documents: WriteDocuments) -> Snapshot:
    """Give a snapshot the files that the steps wrote, check the conservation laws on them, and commit it.

    Args:
        engine: has run the table.
        root: of the catalog.
        fetching: what the images were fetched by.
        write_documents: see `data_catalog.storage.publish.write_snapshot`.

    Raises:
        DefectError: a law does not hold; nothing is committed.
        DamagedError: what a step wrote is not what it was; run again.
    """
    matcher = Matcher(engine.build.inputs.tombstones)
    return write_snapshot(
        root,
        _facts(engine),
        engine.commits("publish"),
        carry=partial(write_carried, root, fetching, is_gone=lambda rows: (matcher.numbers(rows) >= 0).tolist()),
        write_documents=write_documents,
    )


def _facts(engine: Engine) -> BuildFacts:
    """Return what a manifest says of a build, whatever came of it."""
    build, inputs, recipe = engine.build, engine.build.inputs, engine.build.recipe
    counts = engine.commits("ingest")[0].facts["sources"]
    sources: dict[str, SourceEntry] = {}
    for source, settings in zip(inputs.sources, recipe.sources, strict=True):
        files = sorted(zip((file.name for file in source.files), source.file_hashes, strict=True))
        # Terms: the recipe's own words, or else what upstream says of the dataset.
        sources[source.name] = {
            "selected": counts[source.name]["selected"],
            "malformed": counts[source.name]["malformed"],
            "unselected": counts[source.name]["unselected"],
            "files": [{"name": name, "sha256": sha256} for name, sha256 in files],
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
        "tombstones": {"digest": inputs.tombstones.digest},
        "settings": what_settings(recipe),
        "target_lang": recipe.target_language,
        "translator": inputs.translator.fingerprint if inputs.translator else NATIVE,
        "sources": sources,
        "test_sets": test_sets,
        "steps": face([step for step in engine.steps if step.when(build)]),
        "funnel": funnel(engine),
    }


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
