"""Which executor does a job: Prefect in this process, a Dask cluster beside it, or threads without it."""

from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError, extra_to_install
from training.processes import process_count

FLOW_NAMES = {"build": "build-dataset", "train": "train-clip", "evaluate": "evaluate-clip"}


def with_executor(job: str, options: Namespace) -> Any:
    """Do one of the jobs of `flows.jobs` ("build", "train", "evaluate") as the options say; returns its report.

    Only builds have steps for a cluster: the other jobs of a run with `--executor dask` go through Prefect as ever.

    Raises:
        ConfigError: there is no Dask, or an address is given for another executor.
    """
    _require_dask(options)
    if process_count() > 1 and (job != "train" or options.executor != "local"):
        raise ConfigError("several processes can only train, without Prefect: vernaclip train --executor local")
    more = {"retry_failed": options.retry_failed} if job == "build" else {}
    if options.executor == "dask" and job == "build":
        more["dask"] = True
    if options.executor != "local":
        return _through_prefect(job, options, more)
    from flows import jobs as runs
    from flows.build.execution import LocalExecutor
    from flows.ending import ended_by_signals

    with ended_by_signals(), LocalExecutor() as executor:
        run = getattr(runs, job)
        return run(options.recipe, root=options.root, overrides=options.overrides, executor=executor, **more)


def _require_dask(options: Namespace) -> None:
    if options.executor == "dask":
        if find_spec("prefect_dask") is None:
            raise ConfigError(f"--executor dask needs the extra: {extra_to_install('dask')}")
    elif getattr(options, "dask_address", None) is not None:
        raise ConfigError("--dask-address: only with --executor dask")


def _through_prefect(job: str, options: Namespace, more: dict[str, bool]) -> Any:
    from flows.orchestration.in_process import run_flow

    name, project = FLOW_NAMES[job], Path.cwd()
    overrides = list(options.overrides)
    if options.executor == "dask" and options.dask_address is not None:
        overrides.append(f'build.dask_address="{options.dask_address}"')
    return run_flow(name, options.recipe, root=options.root, overrides=overrides, project=project, **more)
