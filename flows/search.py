"""Search images by an image or by a text, which may be translated into the language of the model first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cleaning.languages.engines import canonical_code
from data_catalog.base.errors import InputError, SettingsError
from data_catalog.catalog.manifest import require_snapshot
from flows.recipe.engines import open_one_way
from training.towers.model import require_texts
from training.towers.trained_models import current_model, model_of_folder, pair_hashes
from training.use.search import SearchResult, check_query, folder_gallery, shard_gallery


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchedImages:
    """The images to search, and the model that searches them.

    Args:
        dataset: dataset whose newest model is used. None takes the only one that has a model.
        folder: folder of image files to search instead of the dataset.
        model: model folder to use instead of the dataset's model; only with `folder`.
        split: split of the dataset to search. None searches all.
    """

    root: Path
    dataset: str | None = None
    folder: Path | None = None
    model: Path | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryTranslation:
    """The translation of a query, by the settings of `[translate]`; without `to_code` into the model's language."""

    from_code: str
    to_code: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    language_packs: Sequence[str] = ()
    memory: Path | None = None


def search_images(
    query: str | Path, searched: SearchedImages, *, num_hits: int, translation: QueryTranslation | None = None
) -> SearchResult:
    """Return the images that are most similar to a text, which is translated first if asked, or to an image file.

    The images of a dataset are those of its newest snapshot, also those that were added since its model was trained.
    """
    root, folder = searched.root, searched.folder
    if isinstance(query, Path) and translation is not None:
        raise SettingsError("--from translates a text, but the query is an image: leave --from out")
    if folder is not None and searched.split is not None:
        raise SettingsError("--split belongs to a dataset, but --images searches a folder: use one of the two")
    if folder is None and searched.model is not None:
        raise SettingsError("--model can be used only with --images: a dataset is searched with its own model")
    model = chosen_model(root, searched.dataset, searched.model)
    if translation is not None:
        query = _translated(str(query), translation, model, root)
    check_query(query, num_hits)
    if folder is not None:
        fallback = root if root.is_dir() else None  # caches features if the folder is not writable
        return folder_gallery(folder, model, root=fallback).search(query, num_hits)
    snapshot = require_snapshot(root, current_model(root, searched.dataset).snapshot.dataset)
    shards = None if searched.split is None else snapshot.pair_files(searched.split)
    return shard_gallery(pair_hashes(snapshot), model, searched=shards).search(query, num_hits)


def chosen_model(root: Path, dataset: str | None, model: Path | None) -> Path:
    """Return the folder of `--model`, or of the newest model of a dataset."""
    if model is None:
        return current_model(root, dataset).folder
    if dataset is not None:
        raise SettingsError("--model and --dataset both choose a model: use one of the two")
    return model


def _translated(text: str, translation: QueryTranslation, model: Path, root: Path) -> str:
    """Return the query in the language of the model."""
    require_texts([text])
    from_code, to_code = translation.from_code, translation.to_code
    if to_code is None:
        found = model_of_folder(model, root)
        if found is None:
            raise SettingsError(f"--to is missing: {root} does not say in which language {model} was trained")
        to_code = str(found.snapshot.manifest["target_lang"])
    if canonical_code(from_code) == canonical_code(to_code):
        raise SettingsError(f"the query is translated from {from_code} to {to_code}: leave --from out")
    packs, memory = translation.language_packs, translation.memory
    with TemporaryDirectory(prefix="vernaclip-") as cache:
        engine = open_one_way(
            translation.settings, from_code, to_code, language_packs=packs, memory=memory, cache_dir=Path(cache)
        )
        (result,) = engine.translate([text])
    if not result.text.strip():
        raise InputError(f"{engine.fingerprint} has no translation of {text!r}: use other words, or leave --from out")
    return str(result.text)
