"""The jobs that make models of a dataset and score them, and what they refuse first.

Training, aligning and distilling do the same around their work: refuse early, check the snapshot, keep the precision of
an interrupted run, lock the folder of models, and record the new one as the dataset's newest.
"""

import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from cleaning.languages.engines import canonical_code
from data_catalog.base.errors import DamagedError, DiskError, Refusals, SettingsError
from data_catalog.base.language_pack import Sides
from data_catalog.base.precision import refuse_slow_precision, with_precision
from data_catalog.catalog.manifest import (
    CURRENT_FILE,
    DATASET_FILE,
    MODELS,
    RUN_FILE,
    UPSTREAM,
    Snapshot,
    current_snapshot,
    require_snapshot,
    trained_on,
)
from data_catalog.catalog.roots import FEATURE_STORES
from data_catalog.disk.disk_errors import nearest_existing
from data_catalog.disk.files import write_json
from data_catalog.disk.lock import writer_lock
from data_catalog.disk.records import record_folder, remove_folder_record, write_checksummed
from flows.build.inputs import require_buildable
from flows.guards import ALIKE, require_guarded, require_guards, require_unseen
from flows.recipe.language_packs import language_pack, named_language_packs
from flows.recipe.recipe import Recipe
from training.config import DistilConfig, TrainConfig
from training.data.pairs import pair_files, split_to_score
from training.runs.processes import chosen_device, process_rank
from training.scores.rows import Board
from training.scores.scoreboard import evaluate as score
from training.towers.lineage import languages_of
from training.towers.trained_models import (
    EFFORT_FILE,
    SCORES_FILE,
    current_model,
    find_model,
    model_of_folder,
    pair_hashes,
)

if TYPE_CHECKING:
    from training.distil.distil import SentencePairs
    from training.runs.attempts import Result

logger = logging.getLogger(__name__)

C = TypeVar("C", TrainConfig, DistilConfig)
_HELD_OUT = ("val", "test")


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
            "held out": self.pairs.num_held_out,
            "origins": ", ".join(dict.fromkeys(origin for each in self.pairs.lessons for origin in each.origins)),
            "epochs": self.result.epochs,
            "best epoch": self.result.best_epoch,
            "held-out MRR@10": self.result.best_val_mrr,
        }

    def language_rows(self) -> list[dict[str, object]]:
        """Return the languages as rows of a table; none if there is only one."""
        from training.runs.attempts import best_record

        best, lessons = best_record(self.folder, self.result), self.pairs.lessons if self.pairs.others else ()
        return [
            {
                "language": code,
                "pairs": len(each.training),
                "held out": len(each.held_out),
                "MRR@10": best[f"val_mrr@10_{code}"],
            }
            for each in lessons
            for code in each.languages[1:]
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateReport:
    """Scores of a model on held-out images, and the file that contains them."""

    folder: Path
    path: Path
    scores: Board


def train_model(recipe: Recipe, root: Path) -> TrainReport:
    """Train the recipe's model on the dataset's current snapshot; resume an interrupted training, skip a finished one.

    If several processes train together, only one writes and holds the lock.
    """
    from training.fit.clip import train
    from training.fit.setup import model_and_key

    require_start(recipe, root, "train")
    snapshot = _trainable_snapshot(recipe, root)
    files, hashes, sides = pair_files(snapshot), pair_hashes(snapshot), _sides(recipe)
    shards = files.hashes(hashes.__getitem__)

    def folder_of(config: TrainConfig) -> Path:
        return _folder(recipe, root, model_and_key(config, shards, sides)[1])

    config = _with_precision(recipe.train, "train", folder_of)
    out = folder_of(config)
    fit = partial(train, files, config, out, sha256=hashes.__getitem__, sides=sides)
    return TrainReport(folder=out, snapshot=snapshot, result=_recorded(fit, out, snapshot))


def _sides(recipe: Recipe) -> Sides | None:
    is_needed = "mirror" in recipe.train.augmentations
    return language_pack(recipe.target_language, named_language_packs(recipe)).sides if is_needed else None


def align_model(recipe: Recipe, root: Path) -> TrainReport:
    """Align the recipe's frozen towers on the dataset's current snapshot, or return at once if that was done."""
    from training.align.align import align
    from training.align.frozen import aligned_model_and_key

    require_start(recipe, root, "align")
    snapshot = _trainable_snapshot(recipe, root)
    files, hashes, cache = pair_files(snapshot), pair_hashes(snapshot), root / FEATURE_STORES
    towers, config = recipe.train, recipe.align
    out = _folder(recipe, root, aligned_model_and_key(towers, config, files.hashes(hashes.__getitem__))[1])
    fit = partial(align, files, towers, config, out, cache=cache, sha256=hashes.__getitem__)
    return TrainReport(folder=out, snapshot=snapshot, result=_recorded(fit, out, snapshot))


def distil_model(recipe: Recipe, root: Path) -> DistilReport | TrainReport:
    """Distil the recipe's student, or return at once if that was done.

    The dataset need not be built. If it is, the captions of its val and test splits are left out, and the model becomes
    its newest. A student of a text encoder is then aligned with the image tower, on the dataset.
    """
    from flows.sentences import sentence_pairs
    from training.distil.distil import distil, distil_key
    from training.distil.teacher import is_encoder, join_teacher

    require_start(recipe, root, "distil")
    is_joined, models = is_encoder(recipe.distil.teacher), root / MODELS / recipe.name
    is_built = is_joined or current_snapshot(root, recipe.name) is not None
    snapshot = _verified_snapshot(recipe, root) if is_built else None
    if is_joined:
        with writer_lock(models):
            teacher = join_teacher(recipe.distil.teacher, recipe.train, models)
        recipe = replace(recipe, distil=replace(recipe.distil, teacher=str(teacher)))
    pairs = sentence_pairs(recipe, snapshot)

    def folder_of(config: DistilConfig) -> Path:
        return _folder(recipe, root, distil_key(config, pairs))

    config = _with_precision(_with_teacher(recipe, root, snapshot), "distil", folder_of)
    out = folder_of(config)
    fit = partial(distil, pairs, config, out, cache=root / FEATURE_STORES)
    result = _recorded(fit, out, None if is_joined else snapshot)
    if not is_joined:
        return DistilReport(folder=out, snapshot=snapshot, result=result, pairs=pairs)
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in pairs.left_out.items())
    sentence = "learned %s sentence pairs, MRR@10 of %s held-out ones %.3f; left out: %s"
    counts = (f"{result.num_samples:,}", f"{pairs.num_held_out:,}", result.best_val_mrr)
    logger.info(sentence, *counts, left_out or "none")
    return align_model(replace(recipe, train=TrainConfig(model=str(out), num_threads=recipe.train.num_threads)), root)


# By `model.by`.
MAKERS: Mapping[str, Callable[..., TrainReport | DistilReport]] = {
    "train": train_model,
    "align": align_model,
    "distil": distil_model,
}


def evaluate_model(recipe: Recipe, root: Path) -> EvaluateReport:
    """Score the newest model of the recipe's dataset on a held-out split of the snapshot that it was trained on."""
    model = current_model(root, recipe.name, recipe=recipe.reference)
    split = split_to_score(pair_files(model.snapshot), recipe.evaluate.split)
    refitted = "build a dataset with a test split, or align with align.refit=false"
    remedy = refitted if split == "val" else "start from another model"
    require_unseen([model.folder], root, model.snapshot, (split,), remedy)
    scores = score(pair_files(model.snapshot), model.folder, recipe.evaluate)
    path = model.folder / SCORES_FILE.format(split=split)
    write_json(path, scores.to_json())
    return EvaluateReport(folder=model.folder, path=path, scores=scores)


def _verified_snapshot(recipe: Recipe, root: Path) -> Snapshot:
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


def _trainable_snapshot(recipe: Recipe, root: Path) -> Snapshot:
    """Return the verified snapshot, after a check that the weights to start from have not seen the held-out splits."""
    from training.towers.plan import TowerPlan

    snapshot = _verified_snapshot(recipe, root)
    starts, remedy = (
        TowerPlan.of(recipe.train, loss=recipe.train.loss).starts(),
        f"{ALIKE}, or start from another model",
    )
    require_unseen(starts, root, snapshot, _HELD_OUT, remedy)
    return snapshot


def _folder(recipe: Recipe, root: Path, key: str) -> Path:
    return root / MODELS / recipe.name / key[:12]


def _recorded(fit: "Callable[[], Result]", out: Path, snapshot: Snapshot | None) -> "Result":
    """Fit a model in its folder, record its files and dataset, and make it the dataset's newest.

    Of several processes that train together, only the first one locks and writes.
    """
    from training.fit.setup import MODEL_FILES

    writes = process_rank() == 0
    with writer_lock(out.parent) if writes else nullcontext():
        result = fit()
        if not writes:
            return result
        path = out / DATASET_FILE
        # Another snapshot may have the same pairs: the model is then found again, and its own may be gone.
        if snapshot and not (path.is_file() and trained_on(out) == (snapshot.dataset, snapshot.snapshot)):
            remove_folder_record(out)
            write_json(path, {"dataset": snapshot.dataset, "snapshot": snapshot.snapshot})
        record_folder(out, (*MODEL_FILES, EFFORT_FILE, DATASET_FILE))
        if snapshot is not None:
            write_checksummed(out.parent / CURRENT_FILE, {"model": out.name})
    return result


def _with_precision(config: C, section: str, folder_of: Callable[[C], Path]) -> C:
    """Return settings with the precision of the run that has begun in their folder, or else that of the device."""
    device = chosen_device(config.device, f"{section}.device").type
    return with_precision(config, device, has_begun=lambda each: (folder_of(each) / RUN_FILE).is_file())


def _with_teacher(recipe: Recipe, root: Path, snapshot: Snapshot | None) -> DistilConfig:
    """Return `[distil]` with the folder of a teacher that is named by its dataset, and has not seen held-out images."""
    config, name = recipe.distil, Path(recipe.distil.teacher).name
    if name == recipe.name:
        raise SettingsError(f"distil.teacher is {name}, the recipe's own dataset: name another one, or a model folder")
    teacher = find_model(config.teacher, root)
    trained = model_of_folder(Path(teacher), root)
    learned = [str(trained.snapshot.manifest["target_lang"])] if trained is not None else []
    learned += [code for code in languages_of(Path(teacher)) if code not in learned]
    if learned and canonical_code(recipe.source_language) not in map(canonical_code, learned):
        logger.warning(
            "the teacher %s learned captions in %s, but source_language, in which it is to read, is %s: set "
            "source_language, and give sentences of that language, or name another teacher",
            name,
            ", ".join(learned),
            recipe.source_language,
        )
    if snapshot is not None and teacher:
        remedy = f"{ALIKE}, or distil with a recipe without sources"
        require_unseen([Path(teacher)], root, snapshot, _HELD_OUT, remedy)
    return replace(config, teacher=teacher)


def require_start(recipe: Recipe, root: Path, by: str) -> None:
    """Refuse what a training by "train", "align" or "distil" could not begin with: tools, or a dataset not built."""
    _require_tools(recipe, by)
    if by != "distil":
        require_snapshot(root, recipe.name, recipe=recipe.reference)


def _require_tools(recipe: Recipe, by: str) -> None:
    """Refuse trackers that are not installed, and a precision that the device does not compute natively."""
    from training.runs.trackers import require_trackers

    config: Any = getattr(recipe, by)
    require_trackers(config.log)
    precision, device = getattr(config, "precision", ""), getattr(config, "device", "")
    if precision == "bf16" or device == "cuda":  # else torch, which is slow to import, is not needed
        refuse_slow_precision(precision, chosen_device(device, f"{by}.device").type, setting=f"{by}.precision")


def require_ready(recipe: Recipe, root: Path) -> None:
    """Refuse a recipe before its build, if training, or scoring its split, would refuse it after it."""
    refusals = Refusals()
    with refusals:
        _require_held_out(recipe)
    with refusals:
        require_guards(recipe)
    with refusals:
        _require_makeable(recipe, root)
    if refusals.errors and recipe.scenes is None:  # else the build asks; the files of scenes are drawn only there
        with refusals:
            require_buildable(recipe)
    refusals.raise_all()


def _require_held_out(recipe: Recipe) -> None:
    """Refuse a recipe whose shares hold out no images to score on."""
    if recipe.split.by == UPSTREAM:  # upstream splits are known only after the build: see `require_scorable`
        return
    scored = recipe.evaluate.split
    if not any(getattr(recipe.split, name) for name in ((scored,) if scored else _HELD_OUT)):
        zero = f"evaluate.split is {scored} but split.{scored} is 0" if scored else "split.val and split.test are 0"
        raise SettingsError(
            f"{zero}, so there would be nothing to score on: set it above 0, score another split, or run only "
            "`vernaclip build` and `vernaclip train`, without `vernaclip evaluate`"
        )


def _require_makeable(recipe: Recipe, root: Path) -> None:
    """Refuse a recipe whose model could not be trained, or not be written."""
    from training.align.frozen import aligned_model_and_key
    from training.fit.setup import require_trainable

    _require_tools(recipe, recipe.model.by)
    towers = recipe.train
    if recipe.model.by == "distil":
        from flows.sentences import sentence_pairs
        from training.distil.teacher import is_encoder, joined_towers, teacher_identity

        if is_encoder(recipe.distil.teacher):
            aligned_model_and_key(joined_towers(recipe.distil.teacher, towers), recipe.align, {})
        else:
            teacher_identity(_with_teacher(recipe, root, None).teacher)
        if recipe.distil.pairs:
            sentence_pairs(recipe, None)
        return
    if recipe.model.by == "align":
        plan, _ = aligned_model_and_key(towers, recipe.align, {})
        with TemporaryDirectory(prefix="vernaclip-") as folder:
            needed = plan.build(Path(folder)).num_bytes
    else:
        needed = require_trainable(towers, _sides(recipe))
    free = shutil.disk_usage(nearest_existing(root)).free
    if free < needed:
        raise DiskError(
            f"training writes {needed:,} bytes, but only {free:,} bytes are free in {root}: free some space, or choose "
            "another --root"
        )


def require_scorable(recipe: Recipe, root: Path) -> None:
    """Refuse to train a model that is to be scored, if its dataset holds out no images."""
    split_to_score(pair_files(require_snapshot(root, recipe.name, recipe=recipe.reference)), recipe.evaluate.split)
