"""Running a flow here and now, through Prefect: what `vernaclip run|build|train|evaluate` do by default."""

import logging
import signal
from pathlib import Path
from typing import Any

from flows.doctor import require_sound_environment
from flows.orchestration.prefect_env import prepare_process
from flows.orchestration.temporary_server import use_answering_api
from flows.recipe.recipe import Overrides, load_recipe, override_values


def run_flow(name: str, recipe: str, *, root: Path, overrides: Overrides, project: Path, **parameters: bool) -> Any:
    """Run one of the flows in this process, with the server that is up or a temporary one.

    Args:
        name: "build-dataset", "train-clip", "evaluate-clip" or "build-and-train".
        recipe: name or file of a recipe.
        root: folder of the catalog.
        overrides: settings that differ from the recipe's.
        project: folder that keeps the history of runs, in a hidden folder of its own; usually the current one.
        parameters: further ones of the flow.

    Returns:
        What the jobs of `flows.jobs` return: one report, or for "build-and-train" a tuple of three.

    Raises:
        PipelineError: whatever the job raises; InputError where this environment breaks Prefect.
    """
    require_sound_environment()
    load_recipe(recipe, root=root, overrides=overrides)  # what is wrong with it is said before Prefect's long start
    prepare_process()
    use_answering_api(project)
    from prefect.exceptions import TerminationSignal

    from flows.orchestration.prefect_flows import FLOWS

    _keep_tracebacks_off_the_terminal()
    try:
        return FLOWS[name](recipe=recipe, root=str(root), settings=override_values(overrides), **parameters)
    except TerminationSignal as error:  # the run is marked as crashed: no traceback says more
        raise SystemExit(128 + signal.SIGTERM) from error


def _keep_tracebacks_off_the_terminal() -> None:
    """Prefect logs a failure's traceback: that belongs on its own pages; our caller gets the exception itself."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).propagate = False
