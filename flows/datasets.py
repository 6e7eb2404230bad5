"""The job that builds a dataset: takes the root's lock, finishes what was interrupted, builds, records and reports."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.base.errors import InputError
from data_catalog.base.plain_text import command
from data_catalog.catalog.history import append_run
from data_catalog.catalog.manifest import Snapshot, require_snapshot
from data_catalog.catalog.overview import heavy_losses, ranked_reasons
from data_catalog.disk.disk_errors import disk_errors
from data_catalog.disk.lock import writer_lock
from data_catalog.exports.documents import write_documents
from data_catalog.publish.takedown import clear_work, finish_forgetting
from data_catalog.report.contents import downloads_of
from data_catalog.report.page import refresh_report, report_path
from data_catalog.rows.fetch_reasons import Diagnosis
from data_catalog.sample.datasets import draw_upstream
from data_catalog.sample.server import serve
from flows.build import build as core
from flows.build.execution import Executor
from flows.recipe.recipe import Recipe, require_sources
from translation.memory import forget_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """Result of a build.

    Args:
        snapshot: the committed snapshot, which is the dataset's current one unless it has no pairs.
        up_to_date: the snapshot existed already, so nothing was done.
        num_steps: number of steps that ran; finished ones are not counted.
        seconds: wall-clock time.
        downloads: outcomes of the images that were fetched from the web.
    """

    snapshot: Snapshot
    up_to_date: bool
    num_steps: int
    seconds: float
    downloads: Diagnosis

    @property
    def funnel(self) -> list[dict[str, Any]]:
        """Return rows of source, step, read, kept and dropped, in order."""
        names = ("source", "step", "read", "kept", "dropped")
        rows: Sequence[Mapping[str, Any]] = self.snapshot.manifest["funnel"]
        return [{name: row[name] for name in names} for row in rows]

    @property
    def warnings(self) -> list[str]:
        """Return a sentence for each step that dropped nearly all captions of some sources."""
        return heavy_losses(self.snapshot.manifest)


def build_dataset(recipe: Recipe, *, root: Path, executor: Executor, retry_failed: bool = False) -> BuildReport:
    """Build a recipe's dataset below `root` unless it is up to date, record the run, and write the report.

    An interrupted take-down is finished first. If the recipe has a scenes sample, its images are drawn, and served
    over HTTP while steps run. A snapshot without pairs does not replace one with pairs.
    """
    started = time.monotonic()
    require_sources(recipe)

    def serving() -> AbstractContextManager[object]:
        return serve(recipe.serve.folder, recipe.serve.port) if recipe.serve else nullcontext()

    with disk_errors(root / "work"), writer_lock(root):
        tombstones = finish_forgetting(root, forget_texts=forget_texts).of(recipe.name)
        if recipe.scenes is not None:
            draw_upstream(recipe.scenes)
        built = core.build(
            recipe,
            root=root,
            executor=executor,
            write_documents=write_documents,
            serving=serving,
            retry_failed=retry_failed,
        )
        if tombstones.tombstones:
            clear_work(root / "work" / recipe.name, tombstones)
        report = BuildReport(
            snapshot=built.snapshot,
            up_to_date=built.up_to_date,
            num_steps=built.num_steps,
            seconds=time.monotonic() - started,
            downloads=downloads_of(built.snapshot),
        )
        current = require_snapshot(root, recipe.name, recipe=recipe.reference)
        append_run(
            root,
            recipe.name,
            snapshot=built.snapshot.snapshot,
            is_current=built.snapshot.snapshot == current.snapshot,
            num_steps=report.num_steps,
            seconds=report.seconds,
            downloads=report.downloads.shares(),
            num_retryable=report.downloads.num_retryable,
            seconds_by_step=dict(built.seconds_by_step),
        )
        refresh_report(root, current, has_run=report.num_steps > 0)
    executor.artifact_table(f"funnel-{recipe.name}", report.funnel, _summary(report))
    if not built.snapshot.num_pairs:
        raise InputError(_nothing_kept(built.snapshot, current, root))
    return report


def _summary(report: BuildReport) -> str:
    """Return what the table of a build's funnel shows, with the outcomes of images and the warnings."""
    text = f"Captions of {report.snapshot.dataset} that each step read, kept and dropped."
    if images := report.downloads.rows():
        outcomes = ", ".join(f"{row['images']:,} {row['what']}" for row in images)
        text += f" Outcomes of its images: {outcomes}."
    return text + "".join(f" Warning: {warning}." for warning in report.warnings)


def _nothing_kept(snapshot: Snapshot, current: Snapshot, root: Path) -> str:
    """Return the error message for a build that kept nothing: the most frequent drop reason, and where to read more."""
    name = snapshot.dataset
    read = sum(row["read"] for row in snapshot.manifest["funnel"] if row["step_number"] == 1)
    why = [f"{row['step']} dropped {row['dropped']:,} as {row['drop_reason']}" for row in ranked_reasons(snapshot)[:1]]
    where = f"{report_path(root, name)} lists all drop reasons, `vernaclip why ID` explains one row."
    if current.snapshot != snapshot.snapshot:
        where = (
            f"snapshot {current.snapshot} remains the current one; compare them with "
            f"`{command('diff', current.snapshot, snapshot.snapshot, '--root', root)}`."
        )
    return f"{name} keeps none of {read:,} captions: {' '.join(why) or 'the sources have no rows'}. See: {where}"
