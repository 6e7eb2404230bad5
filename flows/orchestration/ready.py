"""What would fail after the build, or after training, and is known before: refused then, for all jobs together."""

import shutil
from pathlib import Path

from data_catalog.errors import ConfigError
from data_catalog.publish import UPSTREAM
from data_catalog.storage.disk_errors import nearest_existing
from data_catalog.storage.manifest import require_snapshot
from flows.guarded import require_guards
from flows.models import pair_files
from flows.recipe.recipe import Recipe
from training.data import split_to_score
from training.run import require_trainable


def require_ready(recipe: Recipe, root: Path, *, split: str = "") -> None:
    """Refuse a recipe that can be built, and that training or scoring would refuse then.

    Args:
        root: of the catalog.
        split: whose images are to be scored; empty: as the recipe says.

    Raises:
        ConfigError: nothing would be held out, no test set be guarded against, there is no such model, or no room.
    """
    _require_shares(recipe, split or recipe.evaluate.split)
    require_guards(recipe)
    needed, free = require_trainable(recipe.train), shutil.disk_usage(nearest_existing(root)).free
    if free < needed:
        raise ConfigError(
            f"training writes {needed:,} bytes, and {free:,} bytes are free below {root}: free space, or name another "
            "--root"
        )


def require_scorable(recipe: Recipe, root: Path) -> None:
    """Refuse to train a model that is to be scored, where the dataset that was built holds out no images."""
    split_to_score(pair_files(require_snapshot(root, recipe.name)), recipe.evaluate.split)


def _require_shares(recipe: Recipe, asked: str) -> None:
    if recipe.split.by == UPSTREAM:
        return  # which splits upstream fills is known when its rows are read: `require_scorable` looks at them
    shares = {"train": 1.0, "val": recipe.split.val, "test": recipe.split.test}
    if asked and not shares[asked]:
        raise ConfigError(
            f"evaluate.split is {asked}, and split.{asked} is 0, so that there would be nothing to score on: set it "
            "above 0, or name another split"
        )
    if not shares["val"] and not shares["test"]:
        raise ConfigError(
            "split.val and split.test are 0, so that there would be nothing to score on: set one above 0, or run "
            "`vernaclip build`, then `vernaclip train`, without `vernaclip evaluate`"
        )
