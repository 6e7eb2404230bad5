"""Find, list, note and remove the trained models of a root. Commands use each dataset's newest model."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from data_catalog.base.errors import DamagedError, InputError, SettingsError
from data_catalog.base.plain_text import command
from data_catalog.catalog.manifest import (
    CURRENT_FILE,
    EXPORT_RECORD,
    MODELS,
    RUN_FILE,
    Snapshot,
    committed_snapshots,
    dataset_names,
    model_pointer,
    read_snapshot,
    snapshot_names,
    trained_on,
)
from data_catalog.disk.files import rename_for_removal, sha256_of, sweep_temporary, sync, write_bytes
from data_catalog.disk.lock import writer_lock
from data_catalog.disk.records import write_checksummed
from training.config import HELD_OUT
from training.runs.attempts import EFFORT_FILE as EFFORT_FILE
from training.runs.attempts import RESULT_FILE as RESULT_FILE
from training.towers.lineage import read_lineage
from training.towers.model import ENCODER_CONFIG_FILE, OPEN_CLIP_CONFIG_FILE, WEIGHTS_FILE, read_object

logger = logging.getLogger(__name__)

# Files of a run beside its weights: its scores, a person's note.
SCORES_FILE = "scores-{split}.json"
NOTE_FILE = "note.txt"
# Name, caption mode and image choice of the score by which models are listed.
HEADLINE = ("text_to_image_R@5", "distinct", "all")


def pair_hashes(snapshot: Snapshot) -> dict[Path, str]:
    """Return the sha256 of every pair shard of a snapshot, from its manifest."""
    return {snapshot.folder / entry["path"]: str(entry["sha256"]) for entry in snapshot.manifest["files"]["pairs"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A model of a dataset, and the snapshot that it was trained on."""

    folder: Path
    snapshot: Snapshot


def current_model(root: Path, dataset: str | None, *, recipe: str = "RECIPE") -> TrainedModel:
    """Return the newest trained model of a dataset; None takes the only dataset that has a model.

    The recipe as the user typed it is for the command in the error message.
    """
    if dataset is None:
        names = sorted(pointer.parent.name for pointer in (root / MODELS).glob(f"*/{CURRENT_FILE}"))
        if len(names) > 1:
            raise SettingsError(f"{root} contains models of {', '.join(names)}: choose one with --dataset")
        dataset = next(iter(names), None)
    if dataset is None or not (root / MODELS / dataset / CURRENT_FILE).is_file():
        what, job = ("trained model", "run") if dataset is None else (f"model of {dataset!r}", "train")
        raise InputError(f"{root} contains no {what}: run `{command(job, recipe, '--root', root)}` first")
    folder = root / MODELS / dataset / str(model_pointer(root, dataset).get("model"))
    found = _with_snapshot(folder)
    if found is None:
        raise DamagedError(f"the snapshot that the model {folder} was trained on is missing, or unknown: train again")
    return found


def _with_snapshot(folder: Path) -> TrainedModel | None:
    """Return the model of a folder in a root; None if its snapshot is lost."""
    stated = trained_on(folder)
    snapshot = read_snapshot(folder.parents[2], *stated) if stated is not None else None
    return TrainedModel(folder=folder, snapshot=snapshot) if snapshot is not None else None


def newest_model(root: Path, dataset: str) -> TrainedModel | None:
    """Return the newest trained model of a dataset, or None if there is none."""
    return current_model(root, dataset) if (root / MODELS / dataset / CURRENT_FILE).is_file() else None


def newest_folder(root: Path, dataset: str | None) -> Path:
    """Return the folder of the newest model of a dataset, or of a recipe that learned from sentence pairs alone.

    None takes the only one that has models.
    """
    finished = _finished(root)
    if dataset is None and len(names := {folder.parent.name for folder in finished}) == 1:
        (dataset,) = names
    alone = [folder for folder in finished if folder.parent.name == dataset and trained_on(folder) is None]
    if dataset is None or not alone or snapshot_names(root, dataset):
        return current_model(root, dataset).folder
    return max(alone, key=lambda folder: (folder / RESULT_FILE).stat().st_mtime_ns)


def find_model(name: str, root: Path) -> str:
    """Return the folder of a model; its name is that folder, a dataset of the root, or a name on a hub, which stays."""
    if any((Path(name) / file).is_file() for file in (OPEN_CLIP_CONFIG_FILE, ENCODER_CONFIG_FILE)):
        return name
    dataset = Path(name).name  # a recipe's folder may contain a folder of this name, which is then a path
    found = newest_model(root, dataset) if dataset else None
    return name if found is None else str(found.folder)


def model_of_folder(folder: Path, root: Path) -> TrainedModel | None:
    """Return the model that a folder is or has the weights of (`own_folder`); None if it or its snapshot is lost."""
    own = own_folder(folder, root)
    return _with_snapshot(own) if own is not None else None


def own_folder(folder: Path, root: Path) -> Path | None:
    """Return the model folder, also an older one, that a folder is or has the weights of; None if there is none.

    A model folder may be of any root. Exports and copies are compared with the models of `root`.
    """
    folder = folder.resolve()
    export = folder / EXPORT_RECORD
    is_ours = len(folder.parents) >= 3 and folder.parents[1].name == MODELS and (folder / RUN_FILE).is_file()
    if is_ours and not export.is_file():
        return folder
    models: dict[str, Path] = {}
    for each in _finished(root.resolve()):
        try:
            models.setdefault(str(read_object(each / RESULT_FILE).get("model_sha256")), each)
        except DamagedError as error:
            logger.warning("cannot check if %s is a copy of the model %s: %s", folder, each, error)
    stated = read_object(export).get("model_sha256") if export.is_file() else None
    if stated in models:
        return models[stated]
    weights = [path for each in models.values() if (path := each / WEIGHTS_FILE).is_file()]
    sizes = {path.stat().st_size for path in weights}
    copies = [path for path in sorted(folder.glob("*.safetensors")) if path.is_file() and path.stat().st_size in sizes]
    return next((models[found] for found in map(sha256_of, copies) if found in models), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedImages:
    """The pairs that decided the weights of a model, also through the model that it started from and its teacher.

    These are train splits, and val splits on which heads were fitted again.
    """

    files: Sequence[Path]  # pair shards, as far as they still exist
    snapshots: Sequence[Snapshot]  # that have these shards
    is_complete: bool  # every shard exists


def images_learned(source: Path, root: Path) -> LearnedImages | None:
    """Return what decided the weights of a model; None if it learned from no dataset, as other people's models.

    The source is a model folder or an export, whose records tell it, a folder with the weights of a model of the root,
    or a name on a hub. Shards are looked for in the folder's own catalog, then in `root`.
    """
    folder = source.resolve()
    if not (folder / RUN_FILE).is_file():
        folder = own_folder(folder, root) or folder
    missing = set(read_lineage(folder).learned or ())
    if not missing:
        return None
    files, snapshots = list[Path](), list[Snapshot]()
    for snapshot in _places_of(folder, root):
        if found := {sha256: path for path, sha256 in pair_hashes(snapshot).items() if sha256 in missing}:
            files += found.values()
            snapshots.append(snapshot)
            missing -= found.keys()
        if not missing:
            break
    else:
        logger.warning("%s learned from images that %s does not have: it is not known which", folder, root)
    return LearnedImages(files=files, snapshots=snapshots, is_complete=not missing)


def _places_of(folder: Path, root: Path) -> Iterator[Snapshot]:
    """Yield the snapshots that may have the shards of a model, if it is known, first the one that it was trained on."""
    roots = [root]
    if len(folder.parents) > 2 and folder.parents[1].name == MODELS:
        if (own := _with_snapshot(folder)) is not None:
            yield own.snapshot
        roots = [folder.parents[2], *([root] if root.resolve() != folder.parents[2] else [])]
    for place in roots:
        for name in dataset_names(place):
            yield from committed_snapshots(place, name)


def _finished(root: Path, dataset: str = "*") -> list[Path]:
    """Return the folders of finished models, without the remains of a killed removal."""
    return [result.parent for result in sorted((root / MODELS).glob(f"{dataset}/[!.]*/{RESULT_FILE}"))]


def list_models(root: Path) -> list[dict[str, Any]]:
    """Return the finished models of a root by dataset, the newest last: the rows of `vernaclip models`.

    `trained` is the time at which the training ended. `score` is text-to-image recall at 5 among distinct captions on
    `split`: test if the model was scored on it, else val. `snapshot` is None if the model learned from no dataset.
    """
    # `trained` is in seconds; of one second, the file's time decides.
    finished = sorted(_finished(root), key=lambda folder: (folder / RESULT_FILE).stat().st_mtime_ns)
    return sorted(map(_listed, finished), key=lambda model: (model["dataset"], model["trained"]))


def model_folder(name: str, root: Path) -> Path:
    """Return the folder of a model, finished or not, by its name, such as "italian/0123456789ab", or by its path."""
    for run in sorted((root / MODELS).glob(f"*/[!.]*/{RUN_FILE}")):
        folder = run.parent
        if name == f"{folder.parent.name}/{folder.name}" or Path(name).resolve() == folder.resolve():
            return folder
    raise InputError(f"{root} has no model {name}: `{command('models', '--root', root)}` lists those that it has")


def write_note(folder: Path, text: str) -> None:
    """Write a note of a model, which replaces an earlier one."""
    write_bytes(folder / NOTE_FILE, text.encode(errors="backslashreplace"))


def remove_model(folder: Path, *, newest: bool, dry_run: bool = False) -> None:
    """Remove a model of a root, unless it is a dry run; the newest of its dataset only if `newest`.

    The pointer names the newest other model before one rename takes the folder from readers. The next removal removes
    what a kill leaves.
    """
    root, dataset, pointer = folder.parents[2], folder.parent.name, folder.with_name(CURRENT_FILE)
    with writer_lock(folder.parent):
        is_newest = model_pointer(root, dataset).get("model") == folder.name
        if is_newest and not newest:
            raise SettingsError(f"{folder} is the newest model of {dataset}, which commands use: add --newest")
        if dry_run:
            return
        sweep_temporary([folder.parent])
        if is_newest:
            others = [_listed(each) for each in _finished(root, dataset) if each != folder]
            if left := [other for other in others if other["snapshot"] is not None]:
                newest_left = max(left, key=lambda other: (other["trained"], other["folder"].name))
                write_checksummed(pointer, {"model": newest_left["folder"].name})
            else:
                pointer.unlink()
                sync(pointer.parent)
        shutil.rmtree(rename_for_removal(folder))


def _listed(folder: Path) -> dict[str, Any]:
    remedy = f"train the model again, or remove {folder}"
    run, result = (read_object(folder / name, remedy=remedy) for name in (RUN_FILE, RESULT_FILE))
    note, stated = folder / NOTE_FILE, trained_on(folder)
    paths = {split: folder / SCORES_FILE.format(split=split) for split in HELD_OUT}
    boards = [(split, read_object(path, remedy=remedy)) for split, path in paths.items() if path.is_file()]
    scores = (
        (float(score["value"]), split)
        for split, board in boards
        for score in board.get("rows", ())  # other keys: scored by an earlier version
        if (score["metric"], score["captions"], score["images"]) == HEADLINE
    )
    value, split = next(scores, (None, None))
    if (effort := folder / EFFORT_FILE).is_file():
        last = read_object(effort, remedy=remedy)["attempts"][-1]
        ended = datetime.fromisoformat(last["started"]) + timedelta(seconds=last["seconds"])
    else:  # use the time of the file that a run writes last
        ended = datetime.fromtimestamp((folder / RESULT_FILE).stat().st_mtime, UTC)
    return {
        "dataset": folder.parent.name,
        "folder": folder,
        "is_current": model_pointer(folder.parents[2], folder.parent.name).get("model") == folder.name,
        "snapshot": stated[1] if stated is not None else None,
        "config": str(run["settings"]["model"]),
        "trained": ended.isoformat(timespec="seconds"),
        "split": split,
        "score": value,
        "model_sha256": str(result.get("model_sha256", "")),
        "learned": run.get("learned", []),
        "borrowed": run.get("borrowed", []),
        "note": note.read_text("utf-8", errors="replace").strip() if note.is_file() else "",
    }
