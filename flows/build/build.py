"""The build of a dataset: upstream files in, a committed and queryable snapshot out, resumable at any moment."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.database.catalog import download_counts, rebuild
from data_catalog.errors import ConfigError
from data_catalog.fetch.diagnosis import Diagnosis, diagnose
from data_catalog.storage.disk_errors import disk_errors
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.manifest import Snapshot, datasets_folder, find_snapshot, require_snapshot
from data_catalog.storage.shards import sweep_temporary
from data_catalog.storage.work import WorkStore
from data_catalog.takedown import Matcher
from flows.build.build_order import FETCH_LOGS, BuildOrder
from flows.build.execution import Executor
from flows.build.inputs import open_inputs
from flows.build.publish import make_current
from flows.build.retry import open_retry
from flows.build.run_log import append_run
from flows.forgetting import clear_work, finish_forgetting
from flows.overview import ranked_reasons
from flows.recipe.recipe import Recipe
from flows.report.page import refresh_report, report_path

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build came to.

    Args:
        snapshot: the committed snapshot, which is the dataset's current one.
        up_to_date: nothing was done, since the snapshot was there already.
        num_steps: steps that were run, not found done.
        seconds: wall-clock time.
        downloads: what became of the images that were asked of the web.
    """

    snapshot: Snapshot
    up_to_date: bool
    num_steps: int
    seconds: float
    downloads: Diagnosis

    @property
    def funnel(self) -> list[dict[str, Any]]:
        """Rows of source, step, read, kept and dropped, in order."""
        names = ("source", "step", "read", "kept", "dropped")
        return [{name: row[name] for name in names} for row in self.snapshot.manifest["funnel"]]


def build_dataset(recipe: Recipe, *, root: Path, executor: Executor, retry_failed: bool = False) -> BuildReport:
    """Build a recipe's dataset below `root`, or find that it is there.

    Args:
        recipe: what to build.
        root: of the catalog.
        executor: runs the steps.
        retry_failed: of a dataset that is there, ask once more for the images that failed for reasons that may pass.

    Raises:
        ConfigError: settings or upstream files are wrong, another process writes below `root`, or nothing was kept;
            a snapshot without pairs does not take the place of one that has some.
        ShardError: a shard could not be done; run again after mending what it says.
    """
    started = time.monotonic()
    with disk_errors(root / "work"), writer_lock(root):
        work = _swept_work(root, recipe.name)
        tombstones = finish_forgetting(root).of(recipe.name)
        inputs = open_inputs(recipe, root)
        found = find_snapshot(root, recipe.name, inputs.build_key)
        if found is not None:
            make_current(root, found)
        retry = open_retry(root, recipe.name, found) if retry_failed else None
        if found is None or (retry is not None and retry.num_retryable()):
            snapshot = BuildOrder(recipe, root, executor, work, inputs, retry=retry).run()
        else:
            snapshot = found
        rebuild(root)
        work.sweep()  # a worker that died in this build may have left a step's folder
        if not recipe.build.keep_work:
            for name in (*snapshot.follows(), snapshot.snapshot):  # a build of those may have been killed before this
                work.remove_used(name)
        if retry is not None:
            retry.end(root)
        if tombstones.tombstones:
            clear_work(root / "work", Matcher(tombstones))
        report = BuildReport(
            snapshot=snapshot,
            up_to_date=found is not None and snapshot.snapshot == found.snapshot,
            num_steps=work.num_made,
            seconds=time.monotonic() - started,
            downloads=diagnose(download_counts(root, recipe.name)),
        )
        _log(report, root, recipe.name, executor)
        current = require_snapshot(root, recipe.name)
        refresh_report(root, current, has_run=report.num_steps > 0)
    _show(report, recipe.name, executor)
    _refuse_nothing(snapshot, current, root)
    return report


def _swept_work(root: Path, dataset: str) -> WorkStore:
    """The step outputs, without what killed processes left of them and elsewhere; with the writer's lock held."""
    work = WorkStore(root / "work")
    work.sweep()
    folder = datasets_folder(root) / dataset
    sweep_temporary([root / "packages", folder, folder / FETCH_LOGS])
    sweep_temporary([root], files_only=True)
    return work


def _log(report: BuildReport, root: Path, name: str, executor: Executor) -> None:
    append_run(
        root,
        name,
        snapshot=report.snapshot.snapshot,
        num_steps=report.num_steps,
        seconds=report.seconds,
        downloads=report.downloads.shares(),
        num_retryable=report.downloads.num_retryable,
        seconds_by_step=executor.clock.seconds_by_step(),
    )


def _refuse_nothing(snapshot: Snapshot, current: Snapshot, root: Path) -> None:
    """Fail where nothing was kept, with the most frequent reason, and where all of them are told."""
    if snapshot.num_pairs:
        return
    name = snapshot.dataset
    read = sum(row["read"] for row in snapshot.manifest["funnel"] if row["step_number"] == 1)
    why = [f"{row['step']} dropped {row['dropped']:,} as {row['drop_reason']}" for row in ranked_reasons(snapshot)[:1]]
    where = f"{report_path(root, name)} shows what became of each, `vernaclip why` tells of one"
    if current.snapshot != snapshot.snapshot:
        where = (
            f"snapshot {current.snapshot} stays the current one, and "
            f"`vernaclip diff {current.snapshot} {snapshot.snapshot} --root {root}` shows what became of each"
        )
    raise ConfigError("; ".join([f"{name} keeps none of {read:,} captions: {' '.join(why) or 'no row came'}", where]))


def _show(report: BuildReport, name: str, executor: Executor) -> None:
    text = f"Captions of {name} that each step read, kept and dropped."
    if images := report.downloads.rows():
        outcomes = ", ".join(f"{row['images']:,} {row['what']}" for row in images)
        text += f" What became of its images: {outcomes}."
    executor.artifact_table(f"funnel-{name}", report.funnel, text)
