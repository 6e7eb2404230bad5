"""Trained models of a root: found by their dataset, listed; each dataset's newest is the one that commands take."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from data_catalog.errors import DamagedError, InputError, PipelineError, SettingsError
from data_catalog.plain_text import command
from data_catalog.storage.manifest import CURRENT_FILE, MODELS, TRAIN_AGAIN, Snapshot, model_pointer, read_snapshot
from data_catalog.storage.shards import read_json, sha256_of
from training.data.pairs import PairFiles
from training.towers.model import WEIGHTS_FILE

logger = logging.getLogger(__name__)

# What a run leaves beside its weights: what it was made of, what it came to, what it cost.
RUN_FILE = "run.json"
RESULT_FILE = "result.json"
EFFORT_FILE = "effort.json"
SCORES_FILE = "scores-{split}.json"
# The score by which models are listed: its name, caption mode and images.
HEADLINE = ("text_to_image_R@5", "distinct", "all")


def pair_files(snapshot: Snapshot) -> PairFiles:
    """Return a snapshot's pair shards by split."""
    return PairFiles(**{split: snapshot.pair_files(split) for split in ("train", "val", "test")})


def pair_hashes(snapshot: Snapshot) -> dict[Path, str]:
    """Return the sha256 of every pair shard of a snapshot, as its manifest has them."""
    return {snapshot.folder / entry["path"]: str(entry["sha256"]) for entry in snapshot.manifest["files"]["pairs"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """The newest model of a dataset, and the snapshot that it was trained on."""

    folder: Path
    snapshot: Snapshot


def current_model(root: Path, dataset: str | None, *, recipe: str = "RECIPE") -> TrainedModel:
    """Return the newest trained model of a dataset.

    Args:
        root: of the catalog.
        dataset: its name; None: of the one dataset that has a model.
        recipe: what was typed to name the recipe, where one was: for the error.

    Raises:
        InputError: none was trained.
        SettingsError: no dataset is named, and several have models.
        DamagedError: the snapshot that it saw is gone.
    """
    if dataset is None:
        names = sorted(pointer.parent.name for pointer in (root / MODELS).glob(f"*/{CURRENT_FILE}"))
        if not names:
            raise InputError(f"{root} holds no trained model: run `{command('run', 'RECIPE', '--root', root)}` first")
        if len(names) > 1:
            raise SettingsError(f"{root} holds models of {', '.join(names)}: say which with --dataset")
        dataset = names[0]
    pointer = root / MODELS / dataset / CURRENT_FILE
    if not pointer.is_file():
        raise InputError(
            f"{root} holds no model of {dataset!r}: run `{command('train', recipe, '--root', root)}` first"
        )
    found = model_pointer(root, dataset)
    if not all(isinstance(found.get(name), str) for name in ("model", "snapshot")):
        raise DamagedError(f"{pointer} is damaged (it names no model or no snapshot): remove it and {TRAIN_AGAIN}")
    snapshot = read_snapshot(root, dataset, found["snapshot"])
    if snapshot is None:
        raise DamagedError(f"the snapshot {found['snapshot']} that the model of {dataset!r} saw is gone: train again")
    return TrainedModel(folder=pointer.parent / found["model"], snapshot=snapshot)


def newest_model(root: Path, dataset: str) -> TrainedModel | None:
    """Return the newest trained model of a dataset; None where none was trained."""
    return current_model(root, dataset) if (root / MODELS / dataset / CURRENT_FILE).is_file() else None


def model_of_folder(folder: Path, root: Path) -> TrainedModel | None:
    """Return the newest model of a dataset that a folder is, or has the weights of; None where it is not known.

    Args:
        folder: in any root, or anywhere.
        root: whose newest models it may be a copy or an export of.

    Raises:
        DamagedError: it is a newest model, and is damaged, or its snapshot is gone.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        return None
    if len(folder.parents) >= 3 and folder.parents[1].name == MODELS:
        found = newest_model(folder.parents[2], folder.parent.name)
        if found is not None and found.folder.resolve() == folder:
            return found
    copies = [(file, file.stat().st_size) for file in sorted(folder.glob("*.safetensors")) if file.is_file()]
    for pointer in sorted((root / MODELS).glob(f"*/{CURRENT_FILE}")):
        try:
            own = current_model(root, pointer.parent.name)
        except PipelineError as error:
            logger.warning("whether %s is a copy of a model of %s is not known: %s", folder, pointer.parent.name, error)
            continue
        weights = own.folder / WEIGHTS_FILE
        size = weights.stat().st_size if weights.is_file() else None
        alike = [file for file, its_size in copies if its_size == size]
        if alike and sha256_of(weights) in map(sha256_of, alike):
            return own
    return None


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
        _listed(result.parent, model_pointer(root, result.parts[-3]))
        for result in sorted((root / MODELS).glob(f"*/*/{RESULT_FILE}"))
    ]
    return sorted(found, key=lambda model: (model.dataset, model.trained))


def _listed(folder: Path, pointer: Mapping[str, Any]) -> ListedModel:
    is_current = pointer.get("model") == folder.name
    scores = [
        (float(score["value"]), path.stem.removeprefix("scores-"))
        for path in folder.glob(SCORES_FILE.format(split="*"))
        for score in _record(path)["scores"]
        if (score["name"], score["captions"], score["images"]) == HEADLINE
    ]
    value, split = max(scores, default=(None, None))
    effort = folder / EFFORT_FILE
    if effort.is_file():
        last = _record(effort)["attempts"][-1]
        ended = datetime.fromisoformat(last["started"]) + timedelta(seconds=last["seconds"])
    else:  # the file that the run wrote last
        ended = datetime.fromtimestamp((folder / RESULT_FILE).stat().st_mtime, UTC)
    return ListedModel(
        dataset=folder.parent.name,
        folder=folder,
        is_current=is_current,
        snapshot=str(pointer["snapshot"]) if is_current else None,
        config=str(_record(folder / RUN_FILE)["settings"]["model"]),
        trained=ended.isoformat(timespec="seconds"),
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
