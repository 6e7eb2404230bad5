"""Search images by an image or by a text, which may be translated into the language of the model first."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cleaning.languages.engines import canonical_code
from data_catalog.base.errors import InputError, SettingsError
from data_catalog.catalog.manifest import require_snapshot
from flows.recipe.engines import open_one_way
from training.towers.lineage import languages_of
from training.towers.model import require_texts
from training.towers.trained_models import current_model, model_of_folder, newest_folder, pair_hashes
from training.use.search import SearchResult, check_query, folder_gallery, shard_gallery


def search_images(
    query: str | Path,
    root: Path,
    *,
    num_hits: int,
    dataset: str | None = None,
    folder: Path | None = None,
    model: Path | None = None,
    split: str | None = None,
) -> SearchResult:
    """Return the images that are most similar to a text or to an image file.

    They are those of `folder`, or of the newest snapshot of a dataset, also if they were added after its model was
    trained. `model` replaces the dataset's own model; only with `folder`.
    """
    if folder is not None and split is not None:
        raise SettingsError("--split belongs to a dataset, but --images searches a folder: use one of the two")
    if folder is None and model is not None:
        raise SettingsError("--model can be used only with --images: a dataset is searched with its own model")
    chosen = chosen_model(root, dataset, model)
    check_query(query, num_hits)
    if folder is not None:
        fallback = root if root.is_dir() else None  # caches features if the folder is not writable
        return folder_gallery(folder, chosen, root=fallback).search(query, num_hits)
    snapshot = require_snapshot(root, current_model(root, dataset).snapshot.dataset)
    shards = None if split is None else snapshot.pair_files(split)
    return shard_gallery(pair_hashes(snapshot), chosen, searched=shards).search(query, num_hits)


def chosen_model(root: Path, dataset: str | None, model: Path | None) -> Path:
    """Return the folder of `--model`, or of the newest model of a dataset."""
    if model is None:
        return newest_folder(root, dataset)
    if dataset is not None:
        raise SettingsError("--model and --dataset both choose a model: use one of the two")
    return model


def translated_query(
    query: str | Path,
    codes: tuple[str, str | None],
    model: Path,
    root: Path,
    settings: Mapping[str, Any],
    *,
    language_packs: Sequence[str] = (),
    memory: Path | None = None,
) -> str:
    """Return a query in another language, by settings of `[translate]`; without `--to` in the language of the model."""
    if isinstance(query, Path):
        raise SettingsError("--from translates a text, but the query is an image: leave --from out")
    require_texts([query])
    from_code, to_code = codes
    if to_code is None:
        found, learned = model_of_folder(model, root), languages_of(model)
        if found is None and not learned:
            raise SettingsError(f"--to is missing: {root} does not say in which language {model} was trained")
        is_read = canonical_code(from_code) in map(canonical_code, learned)
        to_code = str(found.snapshot.manifest["target_lang"]) if found is not None else learned[0]
        to_code = from_code if is_read else to_code
    if canonical_code(from_code) == canonical_code(to_code):
        raise SettingsError(f"the query is translated from {from_code} to {to_code}: leave --from out")
    with TemporaryDirectory(prefix="vernaclip-") as cache:
        engine = open_one_way(
            settings, from_code, to_code, language_packs=language_packs, memory=memory, cache_dir=Path(cache)
        )
        (result,) = engine.translate([query])
    if not result.text.strip():
        raise InputError(f"{engine.fingerprint} has no translation of {query!r}: use other words, or leave --from out")
    return str(result.text)
