"""The Prefect flows, each of which runs main jobs for a recipe, a root and settings.

When deployed, they are started by `prefect deployment run build-dataset -p recipe=italian`. Importing this module loads
Prefect; the jobs themselves are in `flows.jobs`, which does not.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec
from uuid import UUID

from prefect import Flow, flow
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.states import Failed

from data_catalog.base.errors import DefectError, PipelineError
from data_catalog.base.progress import watched
from data_catalog.catalog.roots import open_root
from data_catalog.disk.barrier import running_job
from data_catalog.disk.disk_errors import access_errors
from flows import PACKAGES
from flows import jobs as runs
from flows.build.execution import Executor
from flows.build.steps import STEPS
from flows.jobs import require_ready, require_scorable
from flows.orchestration.doctor import require_dask
from flows.orchestration.prefect_executor import FlowArtifacts, PrefectExecutor, never_fatal
from flows.orchestration.run_processes import process_labels
from flows.recipe.recipe import DEFAULT_ROOT, SECTIONS, Dataset, load_recipe
from flows.recipe.settings import schema
from flows.signals import exit_on_signals

P = ParamSpec("P")

DEFAULT_RECIPE = "scenes"
ROOT = str(DEFAULT_ROOT)
RUN_NAME = "{recipe} in {root}"


def _form(config_type: type) -> dict[str, Any]:
    """Return the schema of a table of settings for Prefect's form, in which empty fields do not change the recipe."""
    found = schema(config_type)
    for field in found["properties"].values():
        if "default" in field:  # the form would fill it in and override the recipe
            field["description"] += f" (default: {json.dumps(field.pop('default'))})"
    return {name: value for name, value in found.items() if name != "required"}


@cache
def settings_form() -> dict[str, Any]:
    """Return the schema of a recipe's settings, with which the Prefect server makes a form and refuses other values.

    It is no annotation of the flows, since the process of each run would then parse the source code of the settings.
    """
    tables = {"type": "object", "additionalProperties": {"type": "object"}}
    found = _form(Dataset)
    found["properties"] |= {
        "sources": {**tables, "title": "Sources", "description": "Settings of each source, by its name."},
        "test_sets": {**tables, "title": "Test sets", "description": "Settings of each test set, by its name."},
        **{name: {**_form(kind), "title": name} for name, kind in SECTIONS.items()},
    }
    return found


BUILD_PHASES = tuple(step.name for step in STEPS)


def _flow(name: str) -> Callable[[Callable[P, Any]], Flow[P, Any]]:
    """Return a decorator that makes a job a flow; a run that fails with a `PipelineError` shows only its message."""

    def made(job: Callable[P, Any]) -> Flow[P, Any]:
        @flow(name=name, flow_run_name=RUN_NAME, persist_result=False)
        @wraps(job)
        def run(*args: P.args, **kwargs: P.kwargs) -> Any:
            logging.getLogger("prefect.flow_runs").addFilter(_without_traceback)
            _record_process()
            try:
                with access_errors():
                    return job(*args, **kwargs)
            except PipelineError as error:
                return Failed(message=str(error), data=error)  # a caller in this process gets the error

        return run

    return made


def _record_process() -> None:
    """Record on the server which process the current run is, so that it is not given up while that lives."""
    if flow_run.id is not None:
        with never_fatal("the process of the run"), get_client(sync_client=True) as client:
            client.update_flow_run_labels(UUID(flow_run.id), process_labels(os.getpid()))


def _without_traceback(record: logging.LogRecord) -> bool:
    """Remove the traceback from Prefect's log of a `PipelineError`, unless it is a `DefectError`."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, PipelineError) and not isinstance(error, DefectError):
        record.msg, record.args, record.exc_info = str(error), (), None
    return True


@_flow("build-dataset")
def build_dataset(
    recipe: str = DEFAULT_RECIPE,
    root: str = ROOT,
    settings: Any = None,
    retry_failed: bool = False,
    dask: bool = False,
) -> Any:
    """Build the dataset of a recipe.

    Args:
        recipe: name of a recipe, or a TOML file.
        root: folder of the catalog, relative to the project's folder.
        settings: settings that override those of the recipe.
        retry_failed: fetch images again that failed for a temporary reason in an earlier build of the dataset.
        dask: run the steps on a Dask cluster: that of build.dask_address, or one on this machine.
    """
    with _executor("build-dataset", BUILD_PHASES, recipe, root, settings, dask=dask) as executor:
        return runs.build(
            recipe, root=Path(root), overrides=settings or {}, executor=executor, retry_failed=retry_failed
        )


@_flow("train-clip")
def train_clip(recipe: str = DEFAULT_RECIPE, root: str = ROOT, settings: Any = None) -> Any:
    """Train the model of a recipe on its dataset, which must have been built.

    Args:
        recipe: name of a recipe, or a TOML file.
        root: folder of the catalog, relative to the project's folder.
        settings: settings that override those of the recipe.
    """
    with _executor("train-clip", ["train"], recipe, root, settings) as executor:
        return runs.train(recipe, root=Path(root), overrides=settings or {}, executor=executor)


@_flow("align-clip")
def align_clip(
    recipe: str = DEFAULT_RECIPE, root: str = ROOT, settings: Any = None, curve: list[int] | None = None
) -> Any:
    """Align the frozen towers of a recipe on its dataset, which must have been built.

    Args:
        recipe: name of a recipe, or a TOML file.
        root: folder of the catalog, relative to the project's folder.
        settings: settings that override those of the recipe.
        curve: numbers of training images at which to measure the score.
    """
    with _executor("align-clip", ["align"], recipe, root, settings) as executor:
        return runs.align(recipe, root=Path(root), overrides=settings or {}, executor=executor, curve=curve or ())


@_flow("distil-clip")
def distil_clip(recipe: str = DEFAULT_RECIPE, root: str = ROOT, settings: Any = None) -> Any:
    """Distil the student of a recipe from parallel sentences. The dataset need not be built.

    Args:
        recipe: name of a recipe, or a TOML file.
        root: folder of the catalog, relative to the project's folder.
        settings: settings that override those of the recipe.
    """
    with _executor("distil-clip", ["distil"], recipe, root, settings) as executor:
        return runs.distil(recipe, root=Path(root), overrides=settings or {}, executor=executor)


@_flow("evaluate-clip")
def evaluate_clip(recipe: str = DEFAULT_RECIPE, root: str = ROOT, settings: Any = None) -> Any:
    """Score the trained model of a recipe on the dataset's held-out images.

    Args:
        recipe: name of a recipe, or a TOML file.
        root: folder of the catalog, relative to the project's folder.
        settings: settings that override those of the recipe.
    """
    with _executor("evaluate-clip", ["evaluate"], recipe, root, settings) as executor:
        return runs.evaluate(recipe, root=Path(root), overrides=settings or {}, executor=executor)


@_flow("build-and-train")
def build_and_train(recipe: str = DEFAULT_RECIPE, root: str = ROOT, settings: Any = None) -> Any:
    """Build the dataset of a recipe, train its model, and score the model.

    Args:
        recipe: name of a recipe, or a TOML file.
        root: folder of the catalog, relative to the project's folder.
        settings: settings that override those of the recipe.
    """
    phases = [*BUILD_PHASES, "train", "evaluate"]
    with _executor("build-and-train", phases, recipe, root, settings) as executor:
        place, overrides = Path(root), settings or {}
        loaded = load_recipe(recipe, root=place, overrides=overrides)
        require_ready(loaded, place)
        built = runs.build(recipe, root=place, overrides=overrides, executor=executor)
        require_scorable(loaded, place)
        jobs = (runs.train, runs.evaluate)
        return built, *(job(recipe, root=place, overrides=overrides, executor=executor) for job in jobs)


FLOWS: dict[str, Flow[..., Any]] = {
    found.name: found for found in (build_dataset, train_clip, align_clip, distil_clip, evaluate_clip, build_and_train)
}


@contextmanager
def _executor(
    name: str, phases: Sequence[str], recipe: str, root: str, settings: Any, *, dask: bool = False
) -> Iterator[Executor]:
    """Yield the executor for the flow `name`, which shows its progress through `phases`, all of the same weight."""
    for package in PACKAGES:  # in a worker's process no level is set, and the default would hide log lines
        if logging.getLogger(package).level == logging.NOTSET:
            logging.getLogger(package).setLevel(logging.INFO)
    open_root(Path(root), writes=True)
    loaded = load_recipe(recipe, root=Path(root), overrides=settings or {})
    artifacts = FlowArtifacts(f"progress-{name}-{loaded.name}", phases)

    def watch(label: str, done: int, total: int) -> None:
        if label in ("train", "align", "distil"):
            artifacts.progress(label, done=done, total=total)

    if dask:
        require_dask()
        from flows.orchestration.dask_executor import DaskExecutor

        build = loaded.build
        executor: PrefectExecutor = DaskExecutor(
            build.workers, root=Path(root), address=build.dask_address, artifacts=artifacts
        )
    else:
        executor = PrefectExecutor(artifacts=artifacts)
    with running_job(Path(root)), exit_on_signals(), executor, watched(watch):
        yield executor
