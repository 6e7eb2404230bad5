"""The four flows: a recipe's name, a root and settings in, one of the main jobs done through Prefect.

Deployed, they are what `prefect deployment run build-dataset -p recipe=italian` starts. Importing this module loads
Prefect; what each job does is in `flows.runs`, without it.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from prefect import Flow, flow

from flows import runs
from flows.doctor import require_sound_environment
from flows.execution import Executor
from flows.parameters import Settings, overrides_of
from flows.prefect_env import OUR_LOGGERS
from flows.prefect_executor import PrefectExecutor
from flows.recipe import DEFAULT_ROOT, load_recipe

T = TypeVar("T")

DEFAULT_RECIPE = "scenes"
ROOT = str(DEFAULT_ROOT)
RUN_NAME = "{recipe} in {root}"


@flow(name="build-dataset", flow_run_name=RUN_NAME, persist_result=False)
def build_dataset(
    recipe: str = DEFAULT_RECIPE,
    root: str = ROOT,
    settings: Settings = Settings(),  # noqa: B008
    retry_failed: bool = False,
) -> Any:
    """Build the dataset of a recipe.

    Args:
        recipe: name of a recipe, or a TOML file.
        root: folder of the catalog, relative to the project's folder.
        settings: what differs from the recipe.
        retry_failed: ask once more for images that failed for reasons that may have passed.
    """
    with _executor(recipe, root, settings) as executor:
        return _do(partial(runs.build, retry_failed=retry_failed), recipe, root, settings, executor)


@flow(name="train-clip", flow_run_name=RUN_NAME, persist_result=False)
def train_clip(recipe: str = DEFAULT_RECIPE, root: str = ROOT, settings: Settings = Settings()) -> Any:  # noqa: B008
    """Train the model of a recipe on the dataset that was built.

    Args:
        recipe: name of a recipe, or a TOML file.
        root: folder of the catalog, relative to the project's folder.
        settings: what differs from the recipe.
    """
    with _executor(recipe, root, settings) as executor:
        return _do(runs.train, recipe, root, settings, executor)


@flow(name="evaluate-clip", flow_run_name=RUN_NAME, persist_result=False)
def evaluate_clip(recipe: str = DEFAULT_RECIPE, root: str = ROOT, settings: Settings = Settings()) -> Any:  # noqa: B008
    """Score the trained model of a recipe on the dataset's held-out images.

    Args:
        recipe: name of a recipe, or a TOML file.
        root: folder of the catalog, relative to the project's folder.
        settings: what differs from the recipe.
    """
    with _executor(recipe, root, settings) as executor:
        return _do(runs.evaluate, recipe, root, settings, executor)


@flow(name="build-and-train", flow_run_name=RUN_NAME, persist_result=False)
def build_and_train(recipe: str = DEFAULT_RECIPE, root: str = ROOT, settings: Settings = Settings()) -> Any:  # noqa: B008
    """Build the dataset of a recipe, train its model, score it.

    Args:
        recipe: name of a recipe, or a TOML file.
        root: folder of the catalog, relative to the project's folder.
        settings: what differs from the recipe.
    """
    with _executor(recipe, root, settings) as executor:
        return tuple(_do(job, recipe, root, settings, executor) for job in (runs.build, runs.train, runs.evaluate))


FLOWS: dict[str, Flow[..., Any]] = {
    found.name: found for found in (build_dataset, train_clip, evaluate_clip, build_and_train)
}


def _do(job: Callable[..., T], recipe: str, root: str, settings: Settings, executor: Executor) -> T:
    return job(recipe, root=Path(root), overrides=overrides_of(settings), executor=executor)


@contextmanager
def _executor(recipe: str, root: str, settings: Settings) -> Iterator[Executor]:
    require_sound_environment()
    _let_our_logs_through()
    workers = load_recipe(recipe, root=Path(root), overrides=overrides_of(settings)).build.workers
    with PrefectExecutor(workers) as executor:
        yield executor


def _let_our_logs_through() -> None:
    """In a worker's process nobody has set the level of our loggers, and the default would hide what goes on."""
    for name in OUR_LOGGERS:
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.INFO)
