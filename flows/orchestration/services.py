"""`vernaclip up` and `down`: a Prefect server, a worker and our deployments, on this machine only.

`up` can be run any number of times and after any crash: it starts whatever is not running, and reports it. It deploys
each flow under its own name, so that `prefect deployment run build-dataset` is unique (our plugin adds the flow) and
takes the recipe as a parameter. It also deploys the build flow once for each built-in recipe, such as
`build-dataset/italian`, with the recipe as its default.
"""

import importlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.base.errors import BusyError
from data_catalog.disk.lock import writer_lock
from flows.orchestration.daemons import START_TIMEOUT_S, Daemon
from flows.orchestration.prefect_env import (
    ANSWERS,
    HOST,
    REFUSES,
    Api,
    answers,
    configured_api,
    new_api,
    prefect_environment,
    prepare_process,
    probe,
    read_env_block,
    state_folder,
    write_env_block,
)
from flows.orchestration.run_processes import give_up, process_of, runs_in
from flows.orchestration.server import start_server

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

logger = logging.getLogger(__name__)

WORK_POOL = "vernaclip"
PORTS = range(4200, 4300)  # from Prefect's own port up
END_TIMEOUT_S = 20.0

# Runs write the same catalog and use all processors, so only one runs at a time; later ones wait in order.
MAX_RUNS = 1

# The worker asks for runs every 3 s; Prefect's default of 10 s is meant for remote servers.
WORKER_ENVIRONMENT = {"PREFECT_LOGGING_LEVEL": "INFO", "PREFECT_WORKER_QUERY_SECONDS": "3"}
# The server is of our version, and may be away when the watcher looks.
WATCHER_ENVIRONMENT = {"PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "0"}
RUNS_POLL_S = 0.5


def deploy_all(client: "SyncPrefectClient", project: Path, *, root: str) -> list[str]:
    """Create or update the work pool and the deployments, which have a root unless a run is given another one.

    Return the deployments as FLOW/DEPLOYMENT.
    """
    from flows.orchestration.prefect_flows import FLOWS
    from flows.recipe.recipe import recipe_names

    ensure_work_pool(client)
    made: list[tuple[str, str, dict[str, str]]] = [(flow, flow, {}) for flow in FLOWS]
    made += [("build-dataset", recipe, {"recipe": recipe}) for recipe in recipe_names()]
    for flow, name, parameters in made:
        deploy(client, FLOWS[flow], name=name, parameters={"root": root, **parameters}, project=project.resolve())
    return [f"{flow}/{name}" for flow, name, _ in made]


def ensure_work_pool(client: "SyncPrefectClient") -> None:
    """Create the work pool for processes on this machine, unless it exists."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type=ProcessWorker.type, base_job_template=template))


def deploy(client: "SyncPrefectClient", flow: "Flow[..., Any]", *, name: str, parameters: Any, project: Path) -> None:
    """Create or update a deployment of a flow, with parameters that differ from its defaults, in our work pool.

    The flow stands in an importable module; its runs have the project, an absolute path, for their current folder.
    """
    from prefect.utilities.callables import parameter_schema

    from flows.orchestration.prefect_flows import settings_form

    schema = parameter_schema(flow.fn).model_dump()
    if "settings" in schema["properties"]:
        schema["properties"]["settings"] = {**settings_form(), **schema["properties"]["settings"]}
    client.create_deployment(
        flow_id=client.create_flow_from_name(flow.name),
        name=name,
        description=flow.description,
        parameters=parameters,
        # The server then refuses a misspelt parameter at once; otherwise the run would crash.
        parameter_openapi_schema={**schema, "additionalProperties": False},
        enforce_parameter_schema=True,
        work_pool_name=WORK_POOL,
        # A module, not a file: Prefect would put the file's folder first on the path, where it could hide packages.
        entrypoint=f"{flow.fn.__module__}.{flow.fn.__name__}",
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(project)}}],
    )


Deploy = Callable[["SyncPrefectClient", Path], Sequence[str]]


def up(project: Path, *, deploy: Deploy, port: int | None = None) -> tuple[Api, list[str], list[str]]:
    """Start a server and a worker if they are not running, and create or update all deployments.

    Args:
        project: folder in which deployed flows run; its `.env` tells `prefect` commands the server.
        deploy: creates the deployments with a client, for the project's folder.
        port: port of a new server; None: 4200, or the next free one.

    Returns:
        The API; what was started now, of "server" and "worker"; all deployments as FLOW/DEPLOYMENT.
    """
    prepare_process()
    logger.info("loading Prefect")
    with writer_lock(state_folder(project)):
        api, has_new_server = _ensure_server(project, port)
        if port is not None and not api.ui_url.endswith(f":{port}"):
            logger.warning("a server runs already, so --port %d has no effect: run `vernaclip down` first", port)
        logger.info("the Prefect server at %s answers", api.ui_url)
        with _client(api) as client:
            logger.info("registering deployments")
            deployments = deploy(client, project)
            if _daemon(project, "server").pid() is not None and _daemon(project, "worker").pid() is None:
                for run in _active_runs(client):  # of which no worker will tell
                    if process_of(run) is None:
                        give_up(client, run)
            _set_paused(client, False)
            _ensure(_daemon(project, "watcher"), api, ["flows.orchestration.run_processes"], WATCHER_ENVIRONMENT)
            has_new_worker = _ensure_worker(project, api, client)
    started = {"server": has_new_server, "worker": has_new_worker}
    return api, [name for name, is_new in started.items() if is_new], list(deployments)


def down(project: Path, *, now: bool = False) -> tuple[str, ...]:
    """Stop the server and worker that `up` started, and remove the server's URL from `.env`.

    Active runs end first; with `now`, they are killed. Return what was stopped, of "worker", "watcher" and "server".
    """
    prepare_process()
    stopped = []
    with writer_lock(state_folder(project)):
        for name in ("worker", "watcher", "server"):
            daemon = _daemon(project, name)
            if daemon.pid() is not None:
                if name == "worker":
                    _end_runs(project, now=now)
                daemon.end(timeout_s=END_TIMEOUT_S)
                stopped.append(name)
        write_env_block(project, None)
    return tuple(stopped)


def _end_runs(project: Path, *, now: bool) -> None:
    """Pause the work pool, then wait until all active runs have ended, or kill them with `now`."""
    api = read_env_block(project) or configured_api()
    if api is None or probe(api) != ANSWERS:
        return  # without a server, runs are unknown
    with _client(api) as client:
        _set_paused(client, True)
        try:
            _await_end(client, now=now)
        except BaseException:  # after Ctrl-C the worker goes on, and takes runs again
            _set_paused(client, False)
            raise


def _await_end(client: "SyncPrefectClient", *, now: bool) -> None:
    """Wait until all active runs have ended, or kill them with `now`."""
    told = ""
    while runs := [(run, pid) for run in _active_runs(client) if (pid := process_of(run)) is not None]:
        if now:
            for run, pid in runs:
                with suppress(ProcessLookupError):  # the run has ended meanwhile
                    os.killpg(pid, signal.SIGKILL)  # each run has its own process group
                logger.warning("killed the run %s", run.name)
            return
        if (names := ", ".join(run.name for run, _ in runs)) != told:
            logger.info("waiting for %s to end (`vernaclip down --now` kills it)", names)
            told = names
        time.sleep(RUNS_POLL_S)


def _daemon(project: Path, name: str) -> Daemon:
    return Daemon(name=name, folder=state_folder(project))


def _client(api: Api) -> "SyncPrefectClient":
    from prefect.client.orchestration import SyncPrefectClient

    return SyncPrefectClient(api.url, auth_string=api.auth_string, api_key=api.key)


def _ensure_server(project: Path, port: int | None) -> tuple[Api, bool]:
    """Return an API that answers, and whether its server was started now."""
    written, server = read_env_block(project), _daemon(project, "server")
    if written is not None and server.pid() is not None:
        server.wait_until(lambda: probe(written) in (ANSWERS, *REFUSES), timeout_s=START_TIMEOUT_S)
        if probe(written) == ANSWERS:
            return written, False
    elif server.pid() is None:
        configured = configured_api()
        if configured not in (None, written) and answers(configured, otherwise="starting one here"):
            return configured, False
    # Replace a server of ours that cannot be used any more, since its URL or auth string is lost. The new server gets
    # the old port and auth string, if they are known.
    server.end(timeout_s=0)
    if written is None or not written.auth_string:
        for name in ("worker", "watcher"):  # which know only the lost one
            _daemon(project, name).end(timeout_s=0)
    logger.info("starting the server")
    before = [int(written.ui_url.rpartition(":")[2])] if written else []
    with _bound([port] if port is not None else [*before, *PORTS]) as listener:
        api = new_api(listener.getsockname()[1], written.auth_string if written else None)
        start_server(server, api, listener, server.folder / "prefect.db")
    importlib.import_module("flows.orchestration.prefect_flows")  # meanwhile
    server.require(lambda: probe(api) == ANSWERS)
    write_env_block(project, api)
    return api, True


def _bound(ports: Sequence[int]) -> socket.socket:
    """Return a socket at the first of these ports that is free."""
    for port in ports:
        with suppress(OSError):
            return socket.create_server((HOST, port))
    raise BusyError(f"port {ports[-1]} is taken by another program: choose one with --port, or stop that program")


def _ensure_worker(project: Path, api: Api, client: "SyncPrefectClient") -> bool:
    """Start the worker, and wait until the server has heard of it; return False if it was running."""
    began, worker = datetime.now(UTC), _daemon(project, "worker")
    command = ["prefect", "worker", "start", "--pool", WORK_POOL, "--name", f"{WORK_POOL}-{socket.gethostname()}"]
    command += ["--type", "process", "--limit", str(MAX_RUNS), "--install-policy", "never"]

    def is_seen() -> bool:
        beats = [each.last_heartbeat_time for each in client.read_workers_for_work_pool(WORK_POOL)]
        return any(beat is not None and beat >= began for beat in beats)

    if is_new := _ensure(worker, api, command, WORKER_ENVIRONMENT):
        worker.require(is_seen)
    return is_new


def _ensure(daemon: Daemon, api: Api, command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Start a daemon for this server, in place of one for another; return False if it was running."""
    if daemon.is_for(api.url):
        return False
    daemon.end(timeout_s=0)
    logger.info("starting the %s", daemon.name)
    own = {**prefect_environment(), **api.environment(), **environment}
    daemon.start(command, api_url=api.url, environment=own)
    return True


def _active_runs(client: "SyncPrefectClient") -> "list[FlowRun]":
    """Return the runs of our work pool that have begun and not ended."""
    return runs_in(client, ["RUNNING", "PENDING", "CANCELLING"], pool=WORK_POOL)


def _set_paused(client: "SyncPrefectClient", paused: bool) -> None:
    """Pause or resume the work pool, from which workers take runs."""
    from prefect.client.schemas.actions import WorkPoolUpdate

    client.update_work_pool(WORK_POOL, WorkPoolUpdate(is_paused=paused))
