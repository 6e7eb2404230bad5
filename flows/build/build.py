"""The build of a dataset: upstream files in, a committed and queryable snapshot out, resumable at any moment."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from data_catalog.database.catalog import rebuild
from data_catalog.fetch.outcomes import Fetching, attempt_of, begin_attempt, end_attempt, num_retryable, still_needed
from data_catalog.images.workers import ImageWorkers
from data_catalog.publish import WriteDocuments, make_current
from data_catalog.settings import what
from data_catalog.storage.manifest import FETCH_LOGS, Snapshot, datasets_folder, find_snapshot, snapshot_names
from data_catalog.storage.shards import sweep_temporary
from data_catalog.storage.work import WorkStore
from flows.build.engine import Engine
from flows.build.execution import Executor
from flows.build.inputs import Tools, open_inputs
from flows.build.publish import commit
from flows.build.steps import STEPS, Build
from flows.recipe.recipe import Recipe


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
    work = _swept_work(root, recipe.name)
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
        dataset=recipe.name, attempt=attempt.number, fetch=what(recipe.fetch), normalise=what(recipe.normalise)
    )
    with serving(), ImageWorkers(root / "work" / ".hosts") as workers:
        tools = Tools(
            recipe=recipe,
            root=root,
            inputs=inputs,
            workers=workers,
            fetching=fetching,
            log_folder=datasets_folder(root) / recipe.name / FETCH_LOGS,
        )
        _prepare(recipe, inputs.locations, workers, executor)
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
    work.empty(keep=still_needed(root, work, dataset, used=used))
    end_attempt(root, dataset)


def _may_end_better(found: Snapshot | None, root: Path, dataset: str) -> bool:
    """Tell whether a retry has anything to ask: failures of the build that is there, or of an earlier one."""
    return bool(snapshot_names(root, dataset)) if found is None else num_retryable(found) > 0


def _prepare(recipe: Recipe, locations: Mapping[str, str], workers: ImageWorkers, executor: Executor) -> None:
    """Let the processes for images load their libraries while captions are cleaned and translated."""
    all_local = all(source.name in locations for source in recipe.sources)
    workers.prepare(
        recipe.normalise,
        fetching=0 if all_local else recipe.build.fetch_workers,
        normalising=0 if executor.submits_elsewhere else recipe.build.workers,
    )


def _swept_work(root: Path, dataset: str) -> WorkStore:
    """Return the dataset's step outputs, without what killed processes left of them and elsewhere."""
    work = WorkStore(root / "work" / dataset)
    work.sweep()
    folder = datasets_folder(root) / dataset
    sweep_temporary([root / "packages", root / "work", folder, folder / FETCH_LOGS])
    sweep_temporary([root], files_only=True)
    return work
