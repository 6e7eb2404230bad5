"""The table of jobs: what the command line, Prefect and the Python API can do with a recipe.

A job is a function of a run and its options. Its docstring becomes the help of its command and the description of its
deployment, and each of its keywords an option of both. Importing this module is fast: each job loads what it needs.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.build.execution import Executor
    from flows.datasets import BuildReport
    from flows.models import DistilReport, EvaluateReport, TrainReport
    from flows.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A recipe, which is loaded once, with the root of the catalog and the executor of the steps."""

    recipe: "Recipe"
    root: Path
    executor: "Executor"


def build(run: Run, *, retry_failed: bool = False) -> "BuildReport":
    """Build the dataset of a recipe. After an interruption, run the same command again to resume.

    Args:
        retry_failed: Fetch again the images that failed for a temporary reason in an earlier build of the dataset.
    """
    from flows.datasets import build_dataset

    return build_dataset(run.recipe, root=run.root, executor=run.executor, retry_failed=retry_failed)


def train(run: Run) -> "TrainReport | DistilReport":
    """Make the recipe's model on its dataset, which must have been built: train, align or distil it, as [model] says.

    After an interruption, run the same command again to resume.
    """
    report: TrainReport | DistilReport = _make(run, "train", run.recipe.model.by)
    return report


def align(run: Run) -> "TrainReport":
    """Train only the projections over the frozen, pretrained towers that the recipe's [train] names. Takes minutes.

    Features of all images and captions are computed once and kept. The result is an ordinary model.
    """
    report: TrainReport = _make(run, "align", "align")
    return report


def distil(run: Run) -> "DistilReport | TrainReport":
    """Train a text tower on parallel sentences, without images, and join it with the image tower of a teacher.

    The recipe's [distil] names teacher and sentences. The dataset need not be built, unless the teacher is a text
    encoder, whose student is then aligned on it. After an interruption, run the same command again to resume.
    """
    report: DistilReport | TrainReport = _make(run, "distil", "distil")
    return report


def evaluate(run: Run) -> "EvaluateReport":
    """Score the trained model on the dataset's held-out images."""
    from flows.models import evaluate_model

    report = run.executor.run("evaluate", partial(evaluate_model, run.recipe, run.root))
    name = run.recipe.name
    run.executor.artifact_table(f"scores-{name}", report.scores.table(), f"Retrieval on held-out images of {name}.")
    return report


def build_train_evaluate(
    run: Run, *, retry_failed: bool = False
) -> "tuple[BuildReport, TrainReport | DistilReport, EvaluateReport]":
    """Build the dataset of a recipe, train a model on it, and evaluate the model.

    Args:
        retry_failed: Fetch again the images that failed for a temporary reason in an earlier build of the dataset.
    """
    from flows.models import require_scorable

    built = build(run, retry_failed=retry_failed)
    require_scorable(run.recipe, run.root)
    return built, train(run), evaluate(run)


def _make(run: Run, job: str, by: str) -> Any:
    """Make a model by "train", "align" or "distil" as a phase named like the job, and return its report."""
    from flows.models import MAKERS

    report = run.executor.run(job, partial(MAKERS[by], run.recipe, run.root))
    name = run.recipe.name
    run.executor.artifact_table(f"training-{name}", [report.row()], f"The newest model of {name}.")
    return report


def _require_sources(recipe: "Recipe", _: Path) -> None:
    from flows.recipe.recipe import require_sources

    require_sources(recipe)


def _require_start(by: str, recipe: "Recipe", root: Path) -> None:
    from flows.models import require_start

    require_start(recipe, root, by or recipe.model.by)


def _require_model(recipe: "Recipe", root: Path) -> None:
    from training.towers.trained_models import current_model

    current_model(root, recipe.name, recipe=recipe.reference)


def _require_ready(recipe: "Recipe", root: Path) -> None:
    from flows.models import require_ready

    require_ready(recipe, root)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job of a recipe.

    Args:
        flow: name of its Prefect flow, and of the flow's deployment.
        run: does the job; its keywords are the job's options.
        require: refuses a recipe before any work, with its root.
        makes: "dataset", "model" or "scores", or "" for a job that consists of others.
        parts: the jobs that it consists of, in their order.
        executors: those that the command line can choose.
    """

    flow: str
    run: Callable[..., Any]
    require: Callable[["Recipe", Path], None]
    makes: str = ""
    parts: tuple[str, ...] = ()
    executors: tuple[str, ...] = ("prefect", "local")

    @property
    def options(self) -> Mapping[str, inspect.Parameter]:
        """Return the options by name."""
        found = inspect.signature(self.run).parameters
        return {name: option for name, option in found.items() if option.kind is option.KEYWORD_ONLY}


# The jobs by name, in the order of the help.
JOBS: dict[str, Job] = {
    "run": Job(
        flow="build-and-train",
        run=build_train_evaluate,
        require=_require_ready,
        parts=("build", "train", "evaluate"),
        executors=("prefect", "local", "dask"),
    ),
    "build": Job(
        flow="build-dataset",
        run=build,
        require=_require_sources,
        makes="dataset",
        executors=("prefect", "local", "dask"),
    ),
    "train": Job(flow="train-clip", run=train, require=partial(_require_start, ""), makes="model"),
    "align": Job(flow="align-clip", run=align, require=partial(_require_start, "align"), makes="model"),
    "distil": Job(flow="distil-clip", run=distil, require=partial(_require_start, "distil"), makes="model"),
    "evaluate": Job(flow="evaluate-clip", run=evaluate, require=_require_model, makes="scores"),
}


def call(name: str, recipe: "Recipe", root: Path, **options: Any) -> Any:
    """Do a job in threads of this process, without Prefect, and return its report."""
    from flows.build.execution import LocalExecutor

    JOBS[name].require(recipe, root)
    with LocalExecutor() as executor:
        return JOBS[name].run(Run(recipe=recipe, root=root, executor=executor), **options)


def get_ready(name: str, recipe: "Recipe", root: Path) -> None:
    """Do what a job needs and Prefect does not: draw the scenes sample, load the libraries of training."""
    from data_catalog.catalog.roots import open_root
    from data_catalog.sample.datasets import draw_upstream

    open_root(root, writes=True)
    made = [JOBS[part].makes for part in JOBS[name].parts or (name,)]
    if recipe.scenes is not None and "dataset" in made:
        draw_upstream(recipe.scenes)
    if made != ["dataset"]:
        importlib.import_module("training.fit.clip")
