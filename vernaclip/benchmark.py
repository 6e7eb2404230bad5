"""Run models on our test sets under mteb, the Massive Text Embedding Benchmark."""

import json
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.base.errors import SettingsError
from data_catalog.catalog.roots import open_root
from data_catalog.disk.barrier import reading
from flows.recipe.recipe import load_recipe
from flows.scoreboard import make_mteb_tasks, require_mteb
from training.runs.processes import prepare_for_torch
from training.scores.encoders import open_encoder

if TYPE_CHECKING:
    from training.scores.mteb_tasks import GalleryTask, MtebEncoder

Place = str | PathLike[str]


def mteb_tasks(
    recipe: Place | None = None,
    root: Place = "catalog",
    *,
    test_sets: Mapping[str, Mapping[str, Any]] | None = None,
    language: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> "list[GalleryTask]":
    """Return tasks of mteb over a recipe's held-out images and test sets: text to image, then image to text, of each.

    They read local files only. mteb does not check if a model was trained on their images; `vernaclip scoreboard` does.

    >>> import mteb, vernaclip
    >>> tasks = vernaclip.mteb_tasks("scenes.toml", "catalog")
    >>> found = mteb.evaluate(vernaclip.mteb_model("model"), tasks, cache=None, show_progress_bar=False)
    >>> [result.task_name for result in found]
    ['scenes-val-T2IRetrieval', 'scenes-val-I2TRetrieval']

    Args:
        recipe: name of a recipe that comes with vernaclip, or path of a TOML file. None: only `test_sets`.
        root: folder of the catalog.
        test_sets: more test sets, with settings as in a recipe's `[test_sets.NAME]`.
        language: code of the captions' language, if no recipe is given.
        settings: settings that replace those of the recipe, as {"evaluate.split": "val"}.

    Raises:
        SettingsError: there are no captioned images, or a setting is wrong.
        InputError: files cannot be read, or mteb is not installed.
    """
    place = Path(root)
    if recipe is None and settings:
        raise SettingsError("settings replace those of a recipe: name one, or leave them out")
    if recipe is not None:
        open_root(place, writes=False)
    loaded = None if recipe is None else load_recipe(fspath(recipe), root=place, overrides=settings or {})
    tables = {name: _plain(name, values) for name, values in (test_sets or {}).items()}
    with reading():
        return make_mteb_tasks(loaded, place, tables, language)


def _plain(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as a recipe has them: paths are texts, and tuples lists."""
    for key, value in values.items():
        if value is None:
            raise SettingsError(f"the test set {name}: {key} is None: leave it out")
    found: dict[str, Any] = json.loads(json.dumps(dict(values), default=fspath))
    return found


def mteb_model(source: Place) -> "MtebEncoder":
    """Return a model for `mteb.evaluate`, on the processor and in 32-bit floats.

    >>> import vernaclip
    >>> vernaclip.mteb_model("model").mteb_model_meta.name
    'local/model'

    Args:
        source: folder of a trained model or an export, or a name on open_clip's list or Hugging Face's hub.

    Raises:
        SettingsError: there is no such model.
        InputError: it cannot be read or fetched, or mteb is not installed.
    """
    require_mteb("models of mteb")
    from training.scores.mteb_tasks import MtebEncoder

    prepare_for_torch()
    return MtebEncoder(open_encoder(fspath(source)))
