"""The Prefect flows, one for each job of the table.

When deployed, they are started by `prefect deployment run build-dataset -p recipe=italian`. Importing this module loads
Prefect; the jobs themselves are in `flows.jobs`, which does not.
"""

import inspect
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow, flow
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.states import Failed

from data_catalog.base.errors import DefectError, PipelineError
from data_catalog.base.progress import watched
from data_catalog.catalog.roots import open_root
from data_catalog.disk.barrier import running_job
from flows import PACKAGES
from flows.build.execution import Executor
from flows.build.steps import STEPS
from flows.jobs import JOBS, Run
from flows.orchestration.doctor import require_dask
from flows.orchestration.prefect_executor import PrefectExecutor, never_fatal
from flows.orchestration.run_processes import process_labels
from flows.recipe.recipe import DEFAULT_ROOT, SECTIONS, Dataset, Recipe, load_recipe
from flows.recipe.settings import schema
from flows.signals import exit_on_signals

# What a form says of the parameters that are no options of a job.
PARAMETERS = {
    "recipe": "name of a recipe, or a TOML file.",
    "root": "folder of the catalog, relative to the project's folder.",
    "settings": "settings that override those of the recipe.",
    "dask": "run the steps on a Dask cluster: that of build.dask_address, or one on this machine.",
}


def flow_of(name: str, loaded: Recipe | None = None) -> Flow[..., Any]:
    """Return the flow of a job, with the job's options as parameters; a run that fails shows only the message.

    Args:
        name: name of the job in `JOBS`.
        loaded: the recipe that the parameters name, if it need not be loaded again.
    """
    job = JOBS[name]

    def run(
        *,
        recipe: str = "scenes",
        root: str = str(DEFAULT_ROOT),
        settings: Any = None,
        dask: bool = False,
        **options: Any,
    ) -> Any:
        logging.getLogger("prefect.flow_runs").addFilter(_without_traceback)
        _record_process()
        place = Path(root)
        try:
            with running_job(place):
                open_root(place, writes=True)
                found = loaded or load_recipe(recipe, root=place, overrides=settings or {})
                if loaded is None:
                    job.require(found, place)
                with _executor(name, found, place, dask=dask) as executor:
                    return job.run(Run(recipe=found, root=place, executor=executor), **options)
        except PipelineError as error:
            return Failed(message=str(error), data=error)  # a caller in this process gets the error

    own = dict(inspect.signature(run).parameters)
    del own["options"]
    if job.makes != "dataset":  # only builds use a cluster
        del own["dask"]
    parameters = [*own.values(), *job.options.values()]
    text, _, told = (inspect.getdoc(job.run) or "").partition("\n\nArgs:\n")
    lines = [f"    {each}: {PARAMETERS[each]}" for each in own]
    run.__name__ = run.__qualname__ = job.flow.replace("-", "_")
    run.__doc__ = "\n".join([f"{text}\n\nArgs:", *lines, told])
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return flow(name=job.flow, flow_run_name="{recipe} in {root}", persist_result=False)(run)


@contextmanager
def _executor(name: str, recipe: Recipe, root: Path, *, dask: bool) -> Iterator[Executor]:
    """Yield the executor of a job's flow, which shows its progress through the job's phases, all of the same weight."""
    for package in PACKAGES:  # in a worker's process no level is set, and the default would hide log lines
        if logging.getLogger(package).level == logging.NOTSET:
            logging.getLogger(package).setLevel(logging.INFO)
    parts = JOBS[name].parts or (name,)
    steps = [step.name for step in STEPS]
    phases = [phase for part in parts for phase in (steps if JOBS[part].makes == "dataset" else [part])]
    key = f"progress-{JOBS[name].flow}-{recipe.name}"
    if dask:
        require_dask()
        from flows.orchestration.dask_executor import DaskExecutor

        build = recipe.build
        executor: PrefectExecutor = DaskExecutor(build.workers, build.dask_address, root, key, phases)
    else:
        executor = PrefectExecutor(key, phases)

    def watch(label: str, done: int, total: int) -> None:
        if label in JOBS and JOBS[label].makes == "model":
            executor.progress(label, done=done, total=total)

    with exit_on_signals(), executor, watched(watch):
        yield executor


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


def _form(config_type: type) -> dict[str, Any]:
    """Return the schema of a table of settings for Prefect's form, in which empty fields do not change the recipe."""
    found = schema(config_type)
    for field in found["properties"].values():
        if "default" in field:  # the form would fill it in and override the recipe
            field["description"] += f" (default: {json.dumps(field.pop('default'))})"
    return {name: value for name, value in found.items() if name != "required"}


FLOWS: dict[str, Flow[..., Any]] = {job.flow: flow_of(name) for name, job in JOBS.items()}


def __getattr__(name: str) -> Flow[..., Any]:
    """Return the flow of an entry point, such as `build_dataset`."""
    try:
        return FLOWS[name.replace("_", "-")]
    except KeyError:
        raise AttributeError(name) from None
