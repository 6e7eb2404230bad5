"""The main jobs, with any executor: build, train, evaluate; what flows and the command line both call."""

import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.database.catalog import download_counts
from data_catalog.database.overview import ranked_reasons
from data_catalog.errors import DamagedError, DiskError, InputError, SettingsError
from data_catalog.exports.documents import write_documents
from data_catalog.fetch.reasons import Diagnosis, diagnose
from data_catalog.plain_text import command
from data_catalog.report.page import refresh_report, report_path
from data_catalog.sample.datasets import draw_upstream
from data_catalog.sample.server import serve
from data_catalog.storage.disk_errors import disk_errors, nearest_existing
from data_catalog.storage.history import append_run
from data_catalog.storage.integrity import record_folder, write_checksummed
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.manifest import CURRENT_FILE, Manifest, Snapshot, TestSetEntry, require_snapshot
from data_catalog.storage.publish import UPSTREAM
from data_catalog.storage.shards import write_json
from data_catalog.storage.upstream_hashes import (
    FileHashes,
    entries_identity,
    file_entries,
    images_digest,
    open_hashes,
    save_hashes,
)
from data_catalog.takedown import clear_work, finish_forgetting
from flows.build import build as core
from flows.build.execution import Executor
from flows.recipe.recipe import Overrides, Recipe, load_recipe
from flows.recipe.sources import TestSetSettings, test_set_settings
from training.data.pairs import split_to_score
from training.processes import process_rank
from training.scores.evaluation import evaluate as score
from training.scores.score import Scores
from training.trained_models import EFFORT_FILE, SCORES_FILE, current_model, pair_files, pair_hashes
from translation.memory import forget_texts

if TYPE_CHECKING:
    from training.fit.loop import TrainResult


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
        """Return rows of source, step, read, kept and dropped, in order."""
        names = ("source", "step", "read", "kept", "dropped")
        rows: Sequence[Mapping[str, Any]] = self.snapshot.manifest["funnel"]
        return [{name: row[name] for name in names} for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """A trained model: its folder, the snapshot that it saw, and what the run made."""

    folder: Path
    snapshot: Snapshot
    result: "TrainResult"

    def row(self) -> dict[str, object]:
        """Return the model in one row of a table."""
        return {
            "model": self.folder.name,
            "snapshot": self.snapshot.snapshot,
            "images": self.result.num_samples,
            "epochs": self.result.epochs,
            "best epoch": self.result.best_epoch,
            "validation loss": self.result.best_val_loss,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateReport:
    """Scores of a model on held-out images, and where they are kept."""

    folder: Path
    path: Path
    scores: Scores


def build(
    recipe: str, *, root: Path, overrides: Overrides, executor: Executor, retry_failed: bool = False
) -> BuildReport:
    """Build the dataset of a recipe (a name or a file) below `root`; see `build_dataset`."""
    loaded = load_recipe(recipe, root=root, overrides=overrides)
    return build_dataset(loaded, root=root, executor=executor, retry_failed=retry_failed)


def build_dataset(recipe: Recipe, *, root: Path, executor: Executor, retry_failed: bool = False) -> BuildReport:
    """Build a recipe's dataset below `root`, or find that it is there; then log the run and write the report's page.

    The sample that a recipe asks for is drawn, and served while steps run; a take-down that was killed is ended first.

    Args:
        recipe: what to build.
        root: of the catalog.
        executor: runs the steps.
        retry_failed: of a dataset that is there, ask once more for the images that failed for reasons that may pass.

    Raises:
        SettingsError: settings are wrong.
        InputError: upstream files are wrong, or nothing was kept; a snapshot without pairs does not take the place of
            one that has some.
        BusyError: another process writes below `root`.
        PipelineError: a step could not be done; run again after mending what it says.
    """
    started = time.monotonic()

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
            downloads=diagnose(download_counts(root, recipe.name)),
        )
        append_run(
            root,
            recipe.name,
            snapshot=built.snapshot.snapshot,
            num_steps=report.num_steps,
            seconds=report.seconds,
            downloads=report.downloads.shares(),
            num_retryable=report.downloads.num_retryable,
            seconds_by_step=dict(built.seconds_by_step),
        )
        current = require_snapshot(root, recipe.name, recipe=recipe.called)
        refresh_report(root, current, has_run=report.num_steps > 0)
    text = f"Captions of {recipe.name} that each step read, kept and dropped."
    if images := report.downloads.rows():
        outcomes = ", ".join(f"{row['images']:,} {row['what']}" for row in images)
        text += f" What became of its images: {outcomes}."
    executor.artifact_table(f"funnel-{recipe.name}", report.funnel, text)
    if not built.snapshot.num_pairs:
        raise InputError(_why_nothing(built.snapshot, current, root))
    return report


def _why_nothing(snapshot: Snapshot, current: Snapshot, root: Path) -> str:
    """Say that nothing was kept, with the most frequent reason, and where all of them are told."""
    name = snapshot.dataset
    read = sum(row["read"] for row in snapshot.manifest["funnel"] if row["step_number"] == 1)
    why = [f"{row['step']} dropped {row['dropped']:,} as {row['drop_reason']}" for row in ranked_reasons(snapshot)[:1]]
    where = f"{report_path(root, name)} shows what became of each, `vernaclip why` tells of one"
    if current.snapshot != snapshot.snapshot:
        where = (
            f"snapshot {current.snapshot} stays the current one, and "
            f"`{command('diff', current.snapshot, snapshot.snapshot, '--root', root)}` shows what became of each"
        )
    return f"{name} keeps none of {read:,} captions: {' '.join(why) or 'no row came'}; {where}"


def train(recipe: str, *, root: Path, overrides: Overrides, executor: Executor) -> TrainReport:
    """Train the recipe's model on the dataset that was built below `root`."""
    loaded = load_recipe(recipe, root=root, overrides=overrides)
    report = executor.run("train", partial(train_model, loaded, root))
    executor.artifact_table(f"training-{loaded.name}", [report.row()], f"The newest model of {loaded.name}.")
    return report


def evaluate(recipe: str, *, root: Path, overrides: Overrides, executor: Executor) -> EvaluateReport:
    """Score the newest model of the recipe's dataset on its held-out images, and show the scoreboard."""
    loaded = load_recipe(recipe, root=root, overrides=overrides)
    report = executor.run("evaluate", partial(evaluate_model, loaded, root))
    executor.artifact_table(
        f"scores-{loaded.name}", report.scores.rows(), f"Retrieval on held-out images of {loaded.name}."
    )
    return report


def train_model(recipe: Recipe, root: Path) -> TrainReport:
    """Train the recipe's model on the dataset's current snapshot, or go on with an interrupted run, or find it done.

    Of several processes that train together one writes, and has the lock.

    Raises:
        InputError: nothing was built, the splits overlap, or the dataset was not guarded against a test set.
        DamagedError: a shard is damaged.
    """
    snapshot = require_snapshot(root, recipe.name, recipe=recipe.called)
    require_guarded(snapshot, recipe)
    problems = snapshot.verify()
    if problems:
        raise DamagedError(f"the dataset is damaged: {problems[0]}; remove {snapshot.folder} and build it again")
    from training.fit.loop import train as fit
    from training.fit.run import MODEL_FILES, model_and_key

    files = pair_files(snapshot)
    hashes = pair_hashes(snapshot)
    _, key = model_and_key(recipe.train, files.hashes(hashes.__getitem__))
    models = root / "models" / recipe.name
    writes = process_rank() == 0
    with writer_lock(models) if writes else nullcontext():
        result = fit(files, recipe.train, models / key[:12], sha256=hashes.__getitem__)
        if writes:
            record_folder(models / key[:12], (*MODEL_FILES, EFFORT_FILE))
            write_checksummed(models / CURRENT_FILE, {"model": key[:12], "snapshot": snapshot.snapshot})
    return TrainReport(folder=models / key[:12], snapshot=snapshot, result=result)


def evaluate_model(recipe: Recipe, root: Path) -> EvaluateReport:
    """Score the newest model of the recipe's dataset on a held-out split of the snapshot that it was trained on.

    Raises:
        InputError: nothing was trained or held out.
    """
    model = current_model(root, recipe.name, recipe=recipe.called)
    scores = score(pair_files(model.snapshot), model.folder, recipe.evaluate)
    path = model.folder / SCORES_FILE.format(split=scores.split)
    write_json(path, scores.to_json())
    return EvaluateReport(folder=model.folder, path=path, scores=scores)


def require_ready(recipe: Recipe, root: Path, *, split: str = "") -> None:
    """Refuse a recipe that can be built, and that training or scoring would refuse then.

    Args:
        root: of the catalog.
        split: whose images are to be scored; empty: as the recipe says.

    Raises:
        SettingsError: nothing would be held out, no test set be guarded against, or there is no such model.
        DiskError: there is no room.
    """
    asked = split or recipe.evaluate.split
    if recipe.split.by != UPSTREAM:  # which splits upstream fills is known when its rows are read: `require_scorable`
        shares = {"train": 1.0, "val": recipe.split.val, "test": recipe.split.test}
        if asked and not shares[asked]:
            raise SettingsError(
                f"evaluate.split is {asked}, and split.{asked} is 0, so that there would be nothing to score on: set "
                "it above 0, or name another split"
            )
        if not shares["val"] and not shares["test"]:
            raise SettingsError(
                "split.val and split.test are 0, so that there would be nothing to score on: set one above 0, or run "
                "`vernaclip build`, then `vernaclip train`, without `vernaclip evaluate`"
            )
    require_guards(recipe)
    from training.fit.run import require_trainable

    needed, free = require_trainable(recipe.train), shutil.disk_usage(nearest_existing(root)).free
    if free < needed:
        raise DiskError(
            f"training writes {needed:,} bytes, and {free:,} bytes are free below {root}: free space, or name another "
            "--root"
        )


def require_scorable(recipe: Recipe, root: Path) -> None:
    """Refuse to train a model that is to be scored, where the dataset that was built holds out no images."""
    split_to_score(pair_files(require_snapshot(root, recipe.name, recipe=recipe.called)), recipe.evaluate.split)


logger = logging.getLogger(__name__)


def require_guards(recipe: Recipe) -> None:
    """Refuse a recipe with a test set whose switches would have nothing of it looked for.

    Raises:
        SettingsError: they are all off.
    """
    leaks = recipe.leaks
    if recipe.test_sets and not (leaks.by_identity or leaks.by_caption or leaks.by_pixels):
        raise SettingsError(
            f"nothing of test set {recipe.test_sets[0].name} would be looked for, and no model be trained on what may "
            "hold it: set one of leaks.by_identity, leaks.by_caption and leaks.by_pixels to true, or take it out"
        )


def require_guarded(snapshot: Snapshot, recipe: Recipe) -> None:
    """Refuse a snapshot that was not guarded against a test set that the recipe, or the snapshot itself, declares.

    Raises:
        InputError: says which test sets, and why.
    """
    root = snapshot.folder.parents[2]
    hashes = open_hashes(root)
    problems = list(_problems(snapshot.manifest, recipe, hashes))
    save_hashes(hashes, root)
    if problems:
        raise InputError(
            f"{snapshot.dataset} (snapshot {snapshot.snapshot}) may hold what the model is to be measured on: "
            f"{'; '.join(problems)}. Build it again with this recipe, or take the test set out of it"
        )


def _problems(manifest: Manifest, recipe: Recipe, hashes: FileHashes) -> Iterator[str]:
    guarded = manifest["test_sets"]
    for name, entry in sorted(guarded.items()):
        if not entry["guarded_by"]:
            yield f"nothing of test set {name} was looked for ([leaks] switches by_identity, by_caption, by_pixels off)"
    known = manifest["settings"]["test_sets"]
    for test_set in recipe.test_sets:
        if test_set.name not in guarded:
            yield f"it was built without test set {test_set.name}"
        elif _is_another(test_set, guarded[test_set.name], known[test_set.name], hashes):
            yield f"test set {test_set.name} was another one when it was built"
        elif recipe.leaks.by_pixels:
            yield from _image_problems(test_set, guarded[test_set.name], hashes)


def _is_another(
    test_set: TestSetSettings, entry: TestSetEntry, settings: Mapping[str, Any], hashes: FileHashes
) -> bool:
    """Whether settings or files differ; files that are gone since have been looked at."""
    now = test_set_settings(test_set)
    if any(now[name] != settings[name] for name in now if name != "has_images"):
        return True
    try:
        files = file_entries(test_set.upstream_files(), hashes)
    except InputError as error:
        logger.warning("test set %s is taken for the one that was guarded against: %s", test_set.name, error)
        return False
    return entries_identity(files) != entries_identity(entry["files"])


def _image_problems(test_set: TestSetSettings, entry: TestSetEntry, hashes: FileHashes) -> Iterator[str]:
    """What keeps the set's images, where the recipe has some, from being those that were looked at."""
    if test_set.config.images is None:
        return
    if entry.get("images") is None:
        yield f"no images of test set {test_set.name} were looked at when it was built"
        return
    if "pixels" not in entry["guarded_by"]:
        yield f"none of the images of test set {test_set.name} was found, or was a picture, when it was built"
        return
    try:
        now = images_digest(test_set.kind, test_set.config, hashes)
    except InputError as error:
        logger.warning("the images of test set %s are taken for those looked at: %s", test_set.name, error)
        return
    if now != entry["images"]:
        yield f"the images of test set {test_set.name} were others when it was built"
