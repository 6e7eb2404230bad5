"""The main jobs by recipe name, with any executor: what flows and the command line both call."""

from collections.abc import Sequence
from pathlib import Path

from flows.build import BuildReport, build_dataset
from flows.execution import Executor
from flows.recipe import load_recipe


def build(recipe: str, *, root: Path, overrides: Sequence[str], executor: Executor) -> BuildReport:
    """Build the dataset of a recipe (a name or a file) below `root`."""
    return build_dataset(load_recipe(recipe, root=root, overrides=overrides), root=root, executor=executor)
