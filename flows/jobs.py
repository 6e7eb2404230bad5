"""The main jobs, build, train and evaluate, with any executor. Prefect flows and the command line call them."""

import importlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from cleaning.languages.engines import canonical_code
from data_catalog.base.errors import DamagedError, DiskError, InputError, Refusals, SettingsError
from data_catalog.base.plain_text import command
from data_catalog.base.precision import refuse_slow_precision, with_precision
from data_catalog.catalog.history import append_run
from data_catalog.catalog.manifest import (
    CURRENT_FILE,
    DATASET_FILE,
    RUN_FILE,
    UPSTREAM,
    Manifest,
    Snapshot,
    TestSetEntry,
    current_snapshot,
    require_snapshot,
    trained_on,
)
from data_catalog.catalog.overview import heavy_losses, ranked_reasons
from data_catalog.catalog.roots import FEATURE_STORES, open_root
from data_catalog.disk.disk_errors import disk_errors, nearest_existing
from data_catalog.disk.files import save_parquet, write_atomically, write_json
from data_catalog.disk.lock import writer_lock
from data_catalog.disk.records import record_folder, remove_folder_record, write_checksummed
from data_catalog.exports.documents import write_documents
from data_catalog.publish.takedown import clear_work, finish_forgetting
from data_catalog.report.contents import downloads_of
from data_catalog.report.page import refresh_report, report_path
from data_catalog.rows.fetch_reasons import Diagnosis
from data_catalog.sample.datasets import draw_upstream
from data_catalog.sample.server import serve
from data_catalog.sources.hashes import (
    FileHashes,
    entries_identity,
    file_entries,
    images_digest,
    open_hashes,
    save_hashes,
)
from flows.build import build as core
from flows.build.execution import Executor
from flows.build.inputs import require_buildable
from flows.recipe.language_packs import change_rules
from flows.recipe.recipe import Overrides, Recipe, load_recipe, require_sources
from flows.recipe.sources import TestSetSettings, test_set_settings
from training.config import DistilConfig, TrainConfig
from training.data.pairs import pair_files, seen_in_training, split_to_score
from training.runs.processes import process_rank
from training.scores.rows import Board
from training.scores.scoreboard import evaluate as score
from training.towers.trained_models import (
    EFFORT_FILE,
    SCORES_FILE,
    current_model,
    find_model,
    images_learned,
    model_of_folder,
    pair_hashes,
)
from translation.memory import forget_texts

if TYPE_CHECKING:
    from training.distil.distil import SentencePairs
    from training.runs.attempts import Result

logger = logging.getLogger(__name__)

C = TypeVar("C", TrainConfig, DistilConfig)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """A trained model: its folder, the snapshot that it was trained on, and the result of the training."""

    folder: Path
    snapshot: Snapshot
    result: "Result"

    def row(self) -> dict[str, object]:
        """Return the model as one row of a table."""
        return {
            "model": self.folder.name,
            "snapshot": self.snapshot.snapshot,
            "images": self.result.num_samples,
            "epochs": self.result.epochs,
            "best epoch": self.result.best_epoch,
            "validation loss": self.result.best_val_loss,
            "validation MRR@10": self.result.best_val_mrr,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignReport(TrainReport):
    """An aligned model, and the curve of scores by number of training images, if it was asked for."""

    curve: Board | None = None

    def curve_rows(self) -> list[dict[str, object]]:
        """Return the points of the curve as rows of a table, none without a curve."""
        from training.align.curve import curve_rows

        return [] if self.curve is None else curve_rows(self.curve)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilReport:
    """A distilled model: its folder, the dataset's snapshot if it is built, the pairs, and the result."""

    folder: Path
    snapshot: Snapshot | None
    result: "Result"
    pairs: "SentencePairs"

    def row(self) -> dict[str, object]:
        """Return the model as one row of a table."""
        return {
            "model": self.folder.name,
            "pairs": self.result.num_samples,
            "held out": len(self.pairs.held_out),
            "origins": ", ".join(self.pairs.origins),
            "epochs": self.result.epochs,
            "best epoch": self.result.best_epoch,
            "held-out MRR@10": self.result.best_val_mrr,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateReport:
    """Scores of a model on held-out images, and the file that contains them."""

    folder: Path
    path: Path
    scores: Board


def get_ready(flow: str, recipe: Recipe, root: Path) -> None:
    """Do what jobs of a flow need and Prefect does not: draw the scenes sample, load the libraries of training."""
    open_root(root, writes=True)
    if recipe.scenes is not None and flow.startswith("build"):
        draw_upstream(recipe.scenes)
    if flow != "build-dataset":
        importlib.import_module("training.fit.clip")


def build(
    recipe: str, *, root: Path, overrides: Overrides, executor: Executor, retry_failed: bool = False
) -> BuildReport:
    """Build the dataset of a recipe (a name or a file) below `root`; see `build_dataset`."""
    loaded = load_recipe(recipe, root=root, overrides=overrides)
    return build_dataset(loaded, root=root, executor=executor, retry_failed=retry_failed)


def build_dataset(recipe: Recipe, *, root: Path, executor: Executor, retry_failed: bool = False) -> BuildReport:
    """Build a recipe's dataset below `root` unless it is up to date, record the run, and write the report.

    An interrupted take-down is finished first. If the recipe has a scenes sample, its images are drawn, and served
    over HTTP while steps run.

    Args:
        recipe: recipe of the dataset.
        root: of the catalog.
        executor: runs the steps.
        retry_failed: fetch images again that failed for a temporary reason in an earlier build of the dataset.

    Raises:
        SettingsError: settings are wrong.
        InputError: upstream files are wrong, or nothing was kept. A snapshot without pairs does not replace one with
            pairs.
        BusyError: another process writes below `root`.
        PipelineError: a step failed. Correct the cause that the message states, and run again.
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
    text = f"Captions of {recipe.name} that each step read, kept and dropped."
    if images := report.downloads.rows():
        outcomes = ", ".join(f"{row['images']:,} {row['what']}" for row in images)
        text += f" Outcomes of its images: {outcomes}."
    text += "".join(f" Warning: {warning}." for warning in report.warnings)
    executor.artifact_table(f"funnel-{recipe.name}", report.funnel, text)
    if not built.snapshot.num_pairs:
        raise InputError(_nothing_kept(built.snapshot, current, root))
    return report


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


def train(recipe: str, *, root: Path, overrides: Overrides, executor: Executor) -> TrainReport | DistilReport:
    """Make the recipe's model on its dataset below `root`: train, align or distil it, as `[model]` says."""
    loaded = load_recipe(recipe, root=root, overrides=overrides)
    ways: Mapping[str, Callable[[Recipe, Path], TrainReport | DistilReport]]
    ways = {"train": train_model, "align": align_model, "distil": distil_model}
    report = executor.run("train", partial(ways[loaded.model.by], loaded, root))
    executor.artifact_table(f"training-{loaded.name}", [report.row()], f"The newest model of {loaded.name}.")
    return report


def align(
    recipe: str, *, root: Path, overrides: Overrides, executor: Executor, curve: Sequence[int] = ()
) -> "AlignReport":
    """Align the recipe's frozen towers on its dataset below `root`, and measure the curve at some sizes."""
    loaded = load_recipe(recipe, root=root, overrides=overrides)
    report = executor.run("align", partial(align_model, loaded, root, curve=curve))
    executor.artifact_table(f"training-{loaded.name}", [report.row()], f"The newest model of {loaded.name}.")
    if report.curve is not None:
        executor.artifact_table(
            f"curve-{loaded.name}", report.curve_rows(), f"Scores of {loaded.name} by number of training images."
        )
    return report


def distil(recipe: str, *, root: Path, overrides: Overrides, executor: Executor) -> DistilReport | AlignReport:
    """Train the recipe's student on parallel sentences, and join it with its teacher's image tower, below `root`."""
    loaded = load_recipe(recipe, root=root, overrides=overrides)
    report = executor.run("distil", partial(distil_model, loaded, root))
    executor.artifact_table(f"training-{loaded.name}", [report.row()], f"The newest model of {loaded.name}.")
    return report


def evaluate(recipe: str, *, root: Path, overrides: Overrides, executor: Executor) -> EvaluateReport:
    """Score the newest model of the recipe's dataset on its held-out images, and show the scoreboard."""
    loaded = load_recipe(recipe, root=root, overrides=overrides)
    report = executor.run("evaluate", partial(evaluate_model, loaded, root))
    executor.artifact_table(
        f"scores-{loaded.name}", report.scores.table(), f"Retrieval on held-out images of {loaded.name}."
    )
    return report


def train_model(recipe: Recipe, root: Path) -> TrainReport:
    """Train the recipe's model on the dataset's current snapshot; resume an interrupted training, skip a finished one.

    If several processes train together, only one writes and holds the lock.

    Raises:
        InputError: nothing was built, the splits overlap, or the dataset was not guarded against a test set.
        DamagedError: a shard is damaged.
    """
    from training.fit.clip import train as fit
    from training.fit.setup import model_and_key
    from training.runs.trackers import require_trackers

    require_trackers(recipe.train.log)
    _refuse_slow_precision(recipe.train, "train")
    snapshot = _trainable_snapshot(recipe, root)
    _require_unseen(_starts(recipe), root, snapshot, ("val", "test"), f"{_ALIKE}, or start from another model")
    files = pair_files(snapshot)
    hashes = pair_hashes(snapshot)
    rules = change_rules(recipe)

    def folder_of(config: TrainConfig) -> Path:
        _, key = model_and_key(config, files.hashes(hashes.__getitem__), rules)
        return root / "models" / recipe.name / key[:12]

    config = _with_precision(recipe.train, "train", folder_of)
    out = folder_of(config)
    writes = process_rank() == 0
    with writer_lock(out.parent) if writes else nullcontext():
        result = fit(files, config, out, sha256=hashes.__getitem__, rules=rules)
        if writes:
            _record_model(out, snapshot)
    return TrainReport(folder=out, snapshot=snapshot, result=result)


def _record_model(out: Path, snapshot: Snapshot | None) -> None:
    """Record the files of a finished model and its dataset, and make it the newest of that."""
    from training.fit.setup import MODEL_FILES

    path = out / DATASET_FILE
    # Another snapshot may have the same pairs: the model is then found again, and its own may be gone.
    if snapshot and not (path.is_file() and trained_on(out) == (snapshot.dataset, snapshot.snapshot)):
        remove_folder_record(out)
        write_json(path, {"dataset": snapshot.dataset, "snapshot": snapshot.snapshot})
    record_folder(out, (*MODEL_FILES, EFFORT_FILE, DATASET_FILE))
    if snapshot is not None:
        write_checksummed(out.parent / CURRENT_FILE, {"model": out.name})


def align_model(recipe: Recipe, root: Path, *, curve: Sequence[int] = ()) -> AlignReport:
    """Align the recipe's frozen towers on the dataset's current snapshot, or return at once if that was done.

    Args:
        recipe: recipe of the dataset.
        root: of the catalog.
        curve: numbers of training images at which to measure the curve.

    Raises:
        SettingsError: a tower would start from random weights.
        InputError: nothing was built, the splits overlap, or the dataset was not guarded against a test set.
        DamagedError: a shard is damaged.
    """
    from training.align.align import align
    from training.align.curve import measure_curve, require_sizes
    from training.align.frozen import aligned_model_and_key
    from training.runs.trackers import require_trackers

    require_trackers(recipe.align.log)
    snapshot = _trainable_snapshot(recipe, root)
    _require_unseen(_starts(recipe), root, snapshot, ("val", "test"), f"{_ALIKE}, or start from another model")
    files, hashes = pair_files(snapshot), pair_hashes(snapshot)
    _, key = aligned_model_and_key(recipe.train, recipe.align, files.hashes(hashes.__getitem__))
    out, cache = root / "models" / recipe.name / key[:12], root / FEATURE_STORES
    if curve:
        require_sizes(curve, files, recipe.align)
    with writer_lock(out.parent):
        result = align(files, recipe.train, recipe.align, out, cache=cache, sha256=hashes.__getitem__)
        _record_model(out, snapshot)
        measured = None
        if curve:
            measured = measure_curve(files, recipe.train, recipe.align, recipe.evaluate, out, cache=cache, sizes=curve)
    return AlignReport(folder=out, snapshot=snapshot, result=result, curve=measured)


def score_folds(recipe: Recipe, root: Path, *, num_folds: int, out: Path) -> int:
    """Write a file for `image_text.scores`, in which each caption is judged by heads that were not trained on it.

    Args:
        recipe: recipe of the dataset, whose frozen towers are aligned on all folds but one.
        root: of the catalog.
        num_folds: number of folds.
        out: the Parquet file.

    Returns:
        The number of captions.

    Raises:
        SettingsError, InputError: see `align_model`; or the dataset lacks captions that an earlier judgement dropped.
        DamagedError: a shard is damaged.
    """
    snapshot = _trainable_snapshot(recipe, root)
    dropped = sum(row["dropped"] for row in snapshot.manifest["funnel"] if row["step"] == "fit")
    if dropped:
        raise InputError(
            f"{recipe.name} lacks {dropped:,} captions that image_text dropped, so they would get no score: build it "
            "without image_text.min_score and image_text.max_drop first"
        )
    remedy = "set train.model and train.image_weights to towers that were trained on other images"
    _require_unseen(_starts(recipe), root, snapshot, ("train", "val", "test"), remedy)
    from training.align.folds import fold_scores

    table = fold_scores(
        pair_files(snapshot), recipe.train, recipe.align, cache=root / FEATURE_STORES, num_folds=num_folds
    )
    write_atomically(out, partial(save_parquet, table))
    return int(table.num_rows)


def distil_model(recipe: Recipe, root: Path) -> DistilReport | AlignReport:
    """Distil the recipe's student, or return at once if that was done.

    The dataset need not be built. If it is, the captions of its val and test splits are left out, and the model becomes
    its newest. A student of a text encoder is then aligned with the image tower, on the dataset.

    Raises:
        SettingsError: settings contradict each other.
        InputError: the sentences cannot be used, or files of teacher or student are missing.
        DamagedError: a shard is damaged.
    """
    from flows.sentences import sentence_pairs
    from training.distil.distil import distil, distil_key
    from training.distil.teacher import is_encoder, join_teacher
    from training.runs.trackers import require_trackers

    require_trackers(recipe.distil.log)
    _refuse_slow_precision(recipe.distil, "distil")
    is_joined, models = is_encoder(recipe.distil.teacher), root / "models" / recipe.name
    is_built = is_joined or current_snapshot(root, recipe.name) is not None
    snapshot = _trainable_snapshot(recipe, root) if is_built else None
    if is_joined:
        with writer_lock(models):
            teacher = join_teacher(recipe.distil.teacher, recipe.train, models)
        recipe = replace(recipe, distil=replace(recipe.distil, teacher=str(teacher)))
    pairs = sentence_pairs(recipe, snapshot)

    def folder_of(config: DistilConfig) -> Path:
        return models / distil_key(config, pairs)[:12]

    config = _with_precision(_with_teacher(recipe, root, snapshot), "distil", folder_of)
    out = folder_of(config)
    with writer_lock(models):
        result = distil(pairs, config, out, cache=root / FEATURE_STORES)
        _record_model(out, None if is_joined else snapshot)
    if is_joined:
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in pairs.left_out.items())
        sentence = "learned %s sentence pairs, MRR@10 of %s held-out ones %.3f; left out: %s"
        counts = (f"{result.num_samples:,}", f"{len(pairs.held_out):,}", result.best_val_mrr)
        logger.info(sentence, *counts, left_out or "none")
        return align_model(
            replace(recipe, train=TrainConfig(model=str(out), num_threads=recipe.train.num_threads)), root
        )
    return DistilReport(folder=out, snapshot=snapshot, result=result, pairs=pairs)


def _refuse_slow_precision(config: TrainConfig | DistilConfig, section: str) -> None:
    from training.runs.processes import chosen_device

    device = chosen_device(config.device, f"{section}.device").type
    refuse_slow_precision(config.precision, device, setting=f"{section}.precision")


def _with_precision(config: C, section: str, folder_of: Callable[[C], Path]) -> C:
    """Return settings with the precision of the run that has begun in their folder, or else that of the device."""
    from training.runs.processes import chosen_device

    device = chosen_device(config.device, f"{section}.device").type
    return with_precision(config, device, has_begun=lambda each: (folder_of(each) / RUN_FILE).is_file())


# How datasets and models are kept apart, for the text of errors.
_ALIKE = "split both datasets alike, align without align.refit"


def _with_teacher(recipe: Recipe, root: Path, snapshot: Snapshot | None) -> DistilConfig:
    """Return `[distil]` with the folder of a teacher that is named by its dataset.

    Raises:
        SettingsError: the teacher is the model of the recipe itself.
        InputError: the teacher was trained on images of the recipe's val or test split.
    """
    config, name = recipe.distil, Path(recipe.distil.teacher).name
    if name == recipe.name:
        raise SettingsError(f"distil.teacher is {name}, the recipe's own dataset: name another one, or a model folder")
    teacher = find_model(config.teacher, root)
    trained = model_of_folder(Path(teacher), root)
    learned = trained.snapshot.manifest["target_lang"] if trained is not None else recipe.source_language
    if canonical_code(learned) != canonical_code(recipe.source_language):
        logger.warning(
            "the teacher %s learned captions in %s, but source_language, in which it is to read, is %s: set "
            "source_language, and give sentences of that language, or name another teacher",
            name,
            learned,
            recipe.source_language,
        )
    config = replace(config, teacher=teacher)
    if snapshot is not None:
        remedy = f"{_ALIKE}, or distil with a recipe without sources"
        _require_unseen([Path(config.teacher)] if config.teacher else [], root, snapshot, ("val", "test"), remedy)
    return config


def _starts(recipe: Recipe) -> Sequence[Path]:
    """Return the folders with the weights that the recipe's training starts from."""
    from training.towers.plan import TowerPlan

    return TowerPlan.of(recipe.train, loss=recipe.train.loss).starts()


def _require_unseen(models: Sequence[Path], root: Path, snapshot: Snapshot, splits: Sequence[str], remedy: str) -> None:
    """Raise if a model, also through its start or teacher, was trained on images that scores need.

    Args:
        models: model folders. Other folders, and names on a hub, are not looked at.
        root: of the catalog.
        snapshot: that has the images.
        splits: of the snapshot, which the model must not have seen.
        remedy: for the error's text.

    Raises:
        InputError: the model was trained on some of these images.
    """
    images = [path for split in splits for path in snapshot.pair_files(split)]
    for model in models:
        learned = images_learned(model, root)
        found = seen_in_training(images, learned.files) if learned is not None else {}
        if found:
            raise InputError(
                f"the model {model} was trained on {len(found):,} images of the {' and '.join(splits)} "
                f"{'splits' if len(splits) > 1 else 'split'} of {snapshot.dataset}, so scores there would be too high: "
                f"{remedy}"
            )


def _trainable_snapshot(recipe: Recipe, root: Path) -> Snapshot:
    """Return the dataset's current snapshot, after it was verified and found to be guarded against all test sets."""
    snapshot = require_snapshot(root, recipe.name, recipe=recipe.reference)
    require_guarded(snapshot, recipe)
    logger.info("check the files of %s, snapshot %s, and load the model", recipe.name, snapshot.snapshot)
    problems = snapshot.verify()
    if problems:
        raise DamagedError(
            f"{problems[0]}: restore the file from a copy. Without one, remove {snapshot.folder} and build again, "
            "which fetches its images again"
        )
    return snapshot


def evaluate_model(recipe: Recipe, root: Path) -> EvaluateReport:
    """Score the newest model of the recipe's dataset on a held-out split of the snapshot that it was trained on.

    Raises:
        InputError: there is no trained model, no image is held out, or the model was fitted on the split.
    """
    model = current_model(root, recipe.name, recipe=recipe.reference)
    split = split_to_score(pair_files(model.snapshot), recipe.evaluate.split)
    refitted = "build a dataset with a test split, or align with align.refit=false"
    remedy = refitted if split == "val" else "start from another model"
    _require_unseen([model.folder], root, model.snapshot, (split,), remedy)
    scores = score(pair_files(model.snapshot), model.folder, recipe.evaluate)
    path = model.folder / SCORES_FILE.format(split=split)
    write_json(path, scores.to_json())
    return EvaluateReport(folder=model.folder, path=path, scores=scores)


def require_ready(recipe: Recipe, root: Path, *, split: str = "") -> None:
    """Refuse a recipe before its build, if training or scoring would refuse it after the build.

    Args:
        root: of the catalog.
        split: split to score; empty: the one of the recipe.

    Raises:
        SettingsError: no image would be held out, a test set would not be guarded against, the model is unknown, or the
            language has no rules for `train.hard_negatives`.
        DiskError: the disk has not enough free space.
    """
    refusals = Refusals()
    with refusals:
        _require_held_out(recipe, split)
    with refusals:
        require_guards(recipe)
    with refusals:
        _require_trainable(recipe, root)
    if refusals.errors and recipe.scenes is None:  # else the build asks; the files of scenes are drawn only there
        with refusals:
            require_buildable(recipe)
    refusals.raise_all()


def _require_held_out(recipe: Recipe, split: str) -> None:
    """Refuse a recipe whose shares hold out no images to score on."""
    scored = split or recipe.evaluate.split
    if recipe.split.by != UPSTREAM:  # upstream splits are known only after the build: see `require_scorable`
        shares = {"val": recipe.split.val, "test": recipe.split.test}
        if scored and not shares[scored]:
            raise SettingsError(
                f"evaluate.split is {scored} but split.{scored} is 0, so there would be nothing to score on: set it "
                "above 0, or score another split"
            )
        if not shares["val"] and not shares["test"]:
            raise SettingsError(
                "split.val and split.test are 0, so there would be nothing to score on: set one above 0, or run only "
                "`vernaclip build` and `vernaclip train`, without `vernaclip evaluate`"
            )


def _require_trainable(recipe: Recipe, root: Path) -> None:
    """Refuse a recipe whose model could not be trained, or not be written."""
    from training.fit.setup import require_trainable

    towers = recipe.train
    if recipe.model.by == "distil":
        from flows.sentences import sentence_pairs
        from training.align.frozen import aligned_model_and_key
        from training.distil.teacher import is_encoder, joined_towers, teacher_identity

        if is_encoder(recipe.distil.teacher):
            aligned_model_and_key(joined_towers(recipe.distil.teacher, towers), recipe.align, {})
        else:
            teacher_identity(_with_teacher(recipe, root, None).teacher)
        if recipe.distil.pairs:
            sentence_pairs(recipe, None)
        return
    if recipe.model.by == "align":
        from training.align.frozen import aligned_model_and_key

        plan, _ = aligned_model_and_key(towers, recipe.align, {})
        with TemporaryDirectory(prefix="vernaclip-") as folder:
            needed = plan.build(Path(folder)).num_bytes
    else:
        needed = require_trainable(towers, change_rules(recipe))
    free = shutil.disk_usage(nearest_existing(root)).free
    if free < needed:
        raise DiskError(
            f"training writes {needed:,} bytes, but only {free:,} bytes are free in {root}: free some space, or choose "
            "another --root"
        )


def require_scorable(recipe: Recipe, root: Path) -> None:
    """Refuse to train a model that is to be scored, if its dataset holds out no images."""
    split_to_score(pair_files(require_snapshot(root, recipe.name, recipe=recipe.reference)), recipe.evaluate.split)


def require_guards(recipe: Recipe) -> None:
    """Refuse a recipe with a test set if the leak guard is switched off.

    Raises:
        SettingsError: all switches of [leaks] are off.
    """
    leaks = recipe.leaks
    if recipe.test_sets and not (leaks.by_identity or leaks.by_caption or leaks.by_pixels):
        raise SettingsError(
            f"the leak guard is off, so the dataset may contain test set {recipe.test_sets[0].name} and no model is "
            "trained on it: set leaks.by_identity, leaks.by_caption or leaks.by_pixels to true, or remove the test set"
        )


def require_guarded(snapshot: Snapshot, recipe: Recipe) -> None:
    """Refuse a snapshot that was not guarded against the test sets of the recipe and of its own manifest.

    Raises:
        InputError: a test set was not guarded against; the message names it and the cause.
    """
    root = snapshot.folder.parents[2]
    hashes = open_hashes(root)
    problems = list(_problems(snapshot.manifest, recipe, hashes))
    save_hashes(hashes, root)
    if problems:
        raise InputError(
            f"{snapshot.dataset} (snapshot {snapshot.snapshot}) may contain data of its test sets: "
            f"{'; '.join(problems)}. Build it again with this recipe, or remove the test set from the recipe."
        )


def _problems(manifest: Manifest, recipe: Recipe, hashes: FileHashes) -> Iterator[str]:
    """Yield the reasons for which a snapshot may contain data of a test set."""
    guarded = manifest["test_sets"]
    for name, entry in sorted(guarded.items()):
        if not entry["guarded_by"]:
            yield f"test set {name} was not looked for ([leaks] had by_identity, by_caption and by_pixels off)"
    known = manifest["settings"]["test_sets"]
    for test_set in recipe.test_sets:
        if test_set.name not in guarded:
            yield f"it was built without test set {test_set.name}"
        elif _has_changed(test_set, guarded[test_set.name], known[test_set.name], hashes):
            yield f"test set {test_set.name} has changed since the build"
        elif recipe.leaks.by_pixels:
            yield from _image_problems(test_set, guarded[test_set.name], hashes)


def _has_changed(
    test_set: TestSetSettings, entry: TestSetEntry, settings: Mapping[str, Any], hashes: FileHashes
) -> bool:
    """Return True if the settings or files of a test set have changed since the build; missing files do not count."""
    now = test_set_settings(test_set)
    if any(now[name] != settings[name] for name in now if name != "has_images"):
        return True
    try:
        files = file_entries(test_set.upstream_files(), hashes.sha256)
    except InputError as error:
        logger.warning("test set %s is assumed to be unchanged since the build: %s", test_set.name, error)
        return False
    return entries_identity(files) != entries_identity(entry["files"])


def _image_problems(test_set: TestSetSettings, entry: TestSetEntry, hashes: FileHashes) -> Iterator[str]:
    """Yield the reasons for which the images of a test set are not those that the build compared, if it has images."""
    if test_set.config.images is None:
        return
    if entry.get("images") is None:
        yield f"the build did not compare images of test set {test_set.name}"
        return
    if "pixels" not in entry["guarded_by"]:
        yield f"the build found no readable image of test set {test_set.name}"
        return
    try:
        now = images_digest(test_set.kind, test_set.config, hashes)
    except InputError as error:
        logger.warning("the images of test set %s are assumed to be unchanged: %s", test_set.name, error)
        return
    if now != entry["images"]:
        yield f"the images of test set {test_set.name} have changed since the build"
