"""Models of a root: trained from a committed snapshot, found again by dataset, scored."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from data_catalog.errors import DamagedError, InputError, SettingsError
from data_catalog.storage.integrity import read_checksummed, record_folder, write_checksummed
from data_catalog.storage.lock import writer_lock
from data_catalog.storage.manifest import Snapshot, read_snapshot, require_snapshot
from data_catalog.storage.shards import read_json, write_json
from flows.guarded import require_guarded
from flows.recipe.recipe import Recipe, load_recipe
from training.data import PairFiles
from training.effort import EFFORT_FILE
from training.evaluation import evaluate
from training.exports.card_data import SeenData, seen_data
from training.loop import TrainResult, train
from training.processes import process_rank
from training.run import MODEL_FILES, RESULT_FILE, RUN_FILE, model_and_key
from training.scores import Scores

CURRENT_FILE = "current.json"
POINTER_REMEDY = "remove it and train again, which finds the trained model"
SCORES_FILE = "scores-{split}.json"
# The score by which models are listed: its name, caption mode and images.
HEADLINE = ("text_to_image_R@5", "distinct", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """A trained model: its folder, the snapshot that it saw, and what the run made."""

    folder: Path
    snapshot: Snapshot
    result: TrainResult

    def row(self) -> dict[str, object]:
        """The model in one row of a table."""
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


def pair_files(snapshot: Snapshot) -> PairFiles:
    """A snapshot's pair shards by split."""
    return PairFiles(**{split: snapshot.pair_files(split) for split in ("train", "val", "test")})


def train_model(recipe: Recipe, root: Path) -> TrainReport:
    """Train the recipe's model on the dataset's current snapshot, or go on with an interrupted run, or find it done.

    Of several processes that train together one writes, and has the lock.

    Raises:
        InputError: nothing was built, the splits overlap, or the dataset was not guarded against a test set.
        DamagedError: a shard is damaged.
    """
    snapshot = require_snapshot(root, recipe.name)
    require_guarded(snapshot, recipe)
    problems = snapshot.verify()
    if problems:
        raise DamagedError(f"the dataset is damaged: {problems[0]}; remove {snapshot.folder} and build it again")
    files = pair_files(snapshot)
    entries = snapshot.manifest["files"]["pairs"]
    hashes = {snapshot.folder / entry["path"]: str(entry["sha256"]) for entry in entries}
    _, key = model_and_key(recipe.train, files.hashes(hashes.__getitem__))
    models = root / "models" / recipe.name
    writes = process_rank() == 0
    with writer_lock(models) if writes else nullcontext():
        result = train(files, recipe.train, models / key[:12], sha256=hashes.__getitem__)
        if writes:
            record_folder(models / key[:12], (*MODEL_FILES, EFFORT_FILE))
            write_checksummed(models / CURRENT_FILE, {"model": key[:12], "snapshot": snapshot.snapshot})
    return TrainReport(folder=models / key[:12], snapshot=snapshot, result=result)


def named_snapshot(root: Path, dataset: str) -> str | None:
    """The id of the snapshot that the newest model of a dataset was trained on; None where none was trained.

    Raises:
        DamagedError: the pointer to that model is damaged.
    """
    pointer = root / "models" / dataset / CURRENT_FILE
    if not pointer.is_file():
        return None
    found = read_checksummed(pointer, remedy=POINTER_REMEDY)
    return str(found.get("snapshot"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """The newest model of a dataset, and the snapshot that it was trained on."""

    folder: Path
    snapshot: Snapshot


def current_model(root: Path, dataset: str) -> TrainedModel:
    """The newest trained model of a dataset.

    Raises:
        InputError: none was trained.
        DamagedError: the snapshot that it saw is gone.
    """
    pointer = root / "models" / dataset / CURRENT_FILE
    if not pointer.is_file():
        raise InputError(f"{root} holds no model of {dataset!r}: run `vernaclip train {dataset} --root {root}` first")
    found = read_checksummed(pointer, remedy=POINTER_REMEDY)
    if not all(isinstance(found.get(name), str) for name in ("model", "snapshot")):
        raise DamagedError(f"{pointer} is damaged (it names no model or no snapshot): {POINTER_REMEDY}")
    snapshot = read_snapshot(root, dataset, found["snapshot"])
    if snapshot is None:
        raise DamagedError(f"the snapshot {found['snapshot']} that the model of {dataset!r} saw is gone: train again")
    return TrainedModel(folder=pointer.parent / found["model"], snapshot=snapshot)


def evaluate_model(recipe: Recipe, root: Path) -> EvaluateReport:
    """Score the newest model of the recipe's dataset on a held-out split of the snapshot that it was trained on.

    Raises:
        InputError: nothing was trained or held out.
    """
    model = current_model(root, recipe.name)
    scores = evaluate(pair_files(model.snapshot), model.folder, recipe.evaluate)
    path = model.folder / SCORES_FILE.format(split=scores.split)
    write_json(path, scores.to_json())
    return EvaluateReport(folder=model.folder, path=path, scores=scores)


def only_dataset(root: Path) -> str:
    """Name of the one dataset of a root that has a model.

    Raises:
        InputError: there is none.
        SettingsError: there are several.
    """
    names = sorted(pointer.parent.name for pointer in (root / "models").glob(f"*/{CURRENT_FILE}"))
    if not names:
        raise InputError(f"{root} holds no trained model: run `vernaclip run RECIPE --root {root}` first")
    if len(names) > 1:
        raise SettingsError(f"{root} holds models of {', '.join(names)}: say which with --dataset")
    return names[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenModel:
    """A trained model.

    Args:
        folder: where it lies.
        name: for its card.
        seen: what it was trained on; None where only its folder is known.
    """

    folder: Path
    name: str
    seen: SeenData | None


def chosen_model(dataset: str | None, folder: Path | None, root: Path) -> ChosenModel:
    """The model that the command line names.

    Args:
        dataset: name of a dataset, or a recipe's TOML file.
        folder: of a model, instead.

    Raises:
        SettingsError: both are given, or neither.
        InputError: there is no such model.
    """
    if (dataset is None) == (folder is None):
        raise SettingsError("name one model: a dataset or recipe whose newest it is, or its folder with --model")
    if folder is not None:
        return ChosenModel(folder=folder, name=folder.resolve().name, seen=None)
    assert dataset is not None
    if not root.is_dir():
        raise InputError(f"{root} does not exist: give the root of a catalog with --root")
    name = load_recipe(dataset, root=root).name if dataset.endswith(".toml") else dataset
    model = current_model(root, name)
    return ChosenModel(folder=model.folder, name=f"{name} {model.folder.name}", seen=seen_data(model.snapshot))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """A trained model as `vernaclip models` lists it.

    Args:
        dataset: whose model it is.
        folder: where it lies.
        is_current: the newest of its dataset, which commands take.
        snapshot: that it was trained on; known of the newest model alone.
        config: name of its model config.
        trained: date and time at which its training ended.
        split: of which the best score is; None where the model was not scored.
        score: recall at 5 of that split, texts to images, among distinct captions.
    """

    dataset: str
    folder: Path
    is_current: bool
    snapshot: str | None
    config: str
    trained: str
    split: str | None
    score: float | None


def list_models(root: Path) -> list[ListedModel]:
    """Return the models below a root whose training has ended, by dataset, the newest last.

    Raises:
        DamagedError: a record of one of them is damaged.
    """
    found = [
        _listed(result.parent, _pointer(result.parent.parent))
        for result in sorted((root / "models").glob(f"*/*/{RESULT_FILE}"))
    ]
    return sorted(found, key=lambda model: (model.dataset, model.trained))


def _pointer(models: Path) -> dict[str, Any]:
    path = models / CURRENT_FILE
    return read_checksummed(path, remedy=POINTER_REMEDY) if path.is_file() else {}


def _listed(folder: Path, pointer: Mapping[str, Any]) -> ListedModel:
    is_current = pointer.get("model") == folder.name
    scores = [
        (float(score["value"]), path.stem.removeprefix("scores-"))
        for path in folder.glob(SCORES_FILE.format(split="*"))
        for score in _record(path)["scores"]
        if (score["name"], score["captions"], score["images"]) == HEADLINE
    ]
    value, split = max(scores, default=(None, None))
    return ListedModel(
        dataset=folder.parent.name,
        folder=folder,
        is_current=is_current,
        snapshot=str(pointer["snapshot"]) if is_current else None,
        config=str(_record(folder / RUN_FILE)["settings"]["model"]),
        trained=_trained(folder),
        split=split,
        score=value,
    )


def _record(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise DamagedError(
            f"{path} cannot be read ({error}): train the model again, or remove {path.parent}"
        ) from error


def _trained(folder: Path) -> str:
    """Return when training ended, by what the run noted, else by the file that it wrote last."""
    effort = folder / EFFORT_FILE
    if effort.is_file():
        last = _record(effort)["attempts"][-1]
        ended = datetime.fromisoformat(last["started"]) + timedelta(seconds=last["seconds"])
    else:
        ended = datetime.fromtimestamp((folder / RESULT_FILE).stat().st_mtime, UTC)
    return ended.isoformat(timespec="seconds")
