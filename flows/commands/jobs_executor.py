"""Which executor does a job: Prefect in this process, or threads without it."""

from argparse import Namespace
from pathlib import Path
from typing import Any

FLOW_NAMES = {"build": "build-dataset", "train": "train-clip", "evaluate": "evaluate-clip"}


def with_executor(job: str, options: Namespace) -> Any:
    """Do one of the jobs of `flows.runs` ("build", "train", "evaluate") as the options say; returns its report."""
    more = {"retry_failed": options.retry_failed} if job == "build" else {}
    if options.executor == "prefect":
        return _through_prefect(job, options, more)
    from flows import runs
    from flows.execution import LocalExecutor
    from flows.recipe import load_recipe

    workers = load_recipe(options.recipe, root=options.root, overrides=options.overrides).build.workers
    with LocalExecutor(workers) as executor:
        run = getattr(runs, job)
        return run(options.recipe, root=options.root, overrides=options.overrides, executor=executor, **more)


def _through_prefect(job: str, options: Namespace, more: dict[str, bool]) -> Any:
    from flows.in_process import run_flow

    name, project = FLOW_NAMES[job], Path.cwd()
    return run_flow(name, options.recipe, root=options.root, overrides=options.overrides, project=project, **more)
