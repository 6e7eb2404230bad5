"""The build of a dataset: upstream files in, a committed and queryable snapshot out, resumable at any moment."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from data_catalog.database.catalog import rebuild
from data_catalog.storage.manifest import Snapshot, datasets_folder, find_snapshot
from data_catalog.storage.shards import sweep_temporary
from data_catalog.storage.work import WorkStore
from flows.build.build_order import FETCH_LOGS, BuildOrder
from flows.build.execution import Executor
from flows.build.inputs import open_inputs
from flows.build.publish import WriteDocuments, make_current
from flows.build.retry import open_retry
from flows.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build came to.

    Args:
        snapshot: the committed snapshot.
        up_to_date: nothing was done, since the snapshot was there already.
        num_steps: steps that were run, not found done.
    """

    snapshot: Snapshot
    up_to_date: bool
    num_steps: int


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
        executor: runs the steps.
        write_documents: writes what a snapshot says of itself, for people, before it is committed.
        serving: what is held open while steps run, if any run: the server of the recipe's own images.
        retry_failed: of a dataset that is there, ask once more for the images that failed for reasons that may pass.

    Raises:
        ConfigError: settings or upstream files are wrong.
        ShardError: a shard could not be done; run again after mending what it says.
    """
    work = _swept_work(root, recipe.name)
    inputs = open_inputs(recipe, root)
    found = find_snapshot(root, recipe.name, inputs.build_key)
    if found is not None:
        make_current(root, found)
    retry = open_retry(root, recipe.name, found) if retry_failed else None
    if found is None or (retry is not None and retry.num_retryable()):
        with serving():
            order = BuildOrder(recipe, root, executor, work, inputs, retry=retry, write_documents=write_documents)
            snapshot = order.run()
    else:
        snapshot = found
    rebuild(root)
    work.sweep()  # a worker that died in this build may have left a step's folder
    if not recipe.build.keep_work:
        for name in (*snapshot.follows(), snapshot.snapshot):  # a build of those may have been killed before this
            work.remove_used(name)
    if retry is not None:
        retry.end(root)
    up_to_date = found is not None and snapshot.snapshot == found.snapshot
    return Built(snapshot=snapshot, up_to_date=up_to_date, num_steps=work.num_made)


def _swept_work(root: Path, dataset: str) -> WorkStore:
    """The step outputs, without what killed processes left of them and elsewhere."""
    work = WorkStore(root / "work")
    work.sweep()
    folder = datasets_folder(root) / dataset
    sweep_temporary([root / "packages", folder, folder / FETCH_LOGS])
    sweep_temporary([root], files_only=True)
    return work
