"""The main jobs by recipe name, with any executor: what flows and the command line both call."""

from collections.abc import Sequence
from pathlib import Path

from flows.build.build import BuildReport, build_dataset
from flows.build.execution import Executor
from flows.models import EvaluateReport, TrainReport, evaluate_model, train_model
from flows.recipe.recipe import load_recipe


def build(
    recipe: str, *, root: Path, overrides: Sequence[str], executor: Executor, retry_failed: bool = False
) -> BuildReport:
    """Build the dataset of a recipe (a name or a file) below `root`; see `flows.build.build.build_dataset`."""
    loaded = load_recipe(recipe, root=root, overrides=overrides)
    return build_dataset(loaded, root=root, executor=executor, retry_failed=retry_failed)


def train(recipe: str, *, root: Path, overrides: Sequence[str], executor: Executor) -> TrainReport:
    """Train the recipe's model on the dataset that was built below `root`."""
    loaded = load_recipe(recipe, root=root, overrides=overrides)
    report = executor.run("train", train_model, loaded, root)
    executor.artifact_table(f"training-{loaded.name}", [report.row()], f"The newest model of {loaded.name}.")
    return report


def evaluate(recipe: str, *, root: Path, overrides: Sequence[str], executor: Executor) -> EvaluateReport:
    """Score the newest model of the recipe's dataset on its held-out images, and show the scoreboard."""
    loaded = load_recipe(recipe, root=root, overrides=overrides)
    report = executor.run("evaluate", evaluate_model, loaded, root)
    executor.artifact_table(
        f"scores-{loaded.name}", report.scores.rows(), f"Retrieval on held-out images of {loaded.name}."
    )
    return report
