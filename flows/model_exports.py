"""Which model an export is of: the newest of a dataset, by its name or its recipe, or one by its folder."""

from dataclasses import dataclass
from pathlib import Path

from data_catalog.errors import ConfigError
from flows.models import current_model
from flows.recipe.recipe import load_recipe
from training.exports.card_data import SeenData, seen_data


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
        ConfigError: both are given, or neither; or there is no such model.
    """
    if (dataset is None) == (folder is None):
        raise ConfigError("name one model: a dataset or recipe whose newest it is, or its folder with --model")
    if folder is not None:
        return ChosenModel(folder=folder, name=folder.resolve().name, seen=None)
    assert dataset is not None
    if not root.is_dir():
        raise ConfigError(f"{root} does not exist: give the root of a catalog with --root")
    name = load_recipe(dataset, root=root).name if dataset.endswith(".toml") else dataset
    model = current_model(root, name)
    return ChosenModel(folder=model.folder, name=f"{name} {model.folder.name}", seen=seen_data(model.snapshot))
