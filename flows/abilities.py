"""What a trained model can do for a user: search a dataset or a folder, classify an image, find a text in it."""

from pathlib import Path

from data_catalog.errors import InputError, SettingsError
from flows.models import current_model, only_dataset
from training.search import SearchResult, search
from training.search_folder import search_folder


def chosen_model(root: Path, dataset: str | None, model: Path | None) -> Path:
    """The folder of the model that was named, or of the newest one of a dataset, or of the root's only one.

    Raises:
        SettingsError: two are named.
        PipelineError: there is none; see `current_model`.
    """
    if model is not None and dataset is not None:
        raise SettingsError("--model names a model, and --dataset another: give one of the two")
    return model if model is not None else current_model(root, dataset or only_dataset(root)).folder


def search_dataset(
    root: Path, dataset: str | None, text: str, *, num_hits: int, split: str | None = None
) -> SearchResult:
    """The images of a dataset, or of one of its splits, that fit a text best, by its newest model."""
    model = current_model(root, dataset or only_dataset(root))
    entries = model.snapshot.manifest["files"]["pairs"]
    hashes = {model.snapshot.folder / entry["path"]: str(entry["sha256"]) for entry in entries}
    files = list(hashes) if split is None else model.snapshot.pair_files(split)
    if not files:
        raise InputError(f"the {split} split has no images: search another one")
    return search(text, files, model.folder, k=num_hits, sha256=hashes.__getitem__)


def search_images(root: Path, folder: Path, text: str, model: Path, *, num_hits: int) -> SearchResult:
    """The images of a folder that fit a text best; a root, if there is one, keeps what such a folder cannot."""
    return search_folder(text, folder, model, k=num_hits, root=root if root.is_dir() else None)
