"""`vernaclip up` and `down`: a Prefect server, a worker and our deployments, on this machine only.

`up` can be run any number of times and after any crash: it starts whatever is not running, and reports it. It deploys
each flow under its own name, so that `prefect deployment run build-dataset` is unique (our plugin adds the flow) and
takes the recipe as a parameter. It also deploys the build flow once for each built-in recipe, such as
`build-dataset/italian`, with the recipe as its default.
"""

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.base.errors import BusyError, InputError, SettingsError
from flows.orchestration import daemons
from flows.orchestration.daemons import Daemon
from flows.orchestration.doctor import SERVER_PORT, port_is_busy
from flows.orchestration.prefect_env import (
    HOST,
    START_TIMEOUT_S,
    Api,
    answers,
    configured_api,
    new_auth_string,
    prefect_environment,
    prepare_process,
    read_env_block,
    remove_env_block,
    server_environment,
    state_folder,
    wait_for,
    write_env_block,
)
from flows.orchestration.run_processes import give_up, process_of

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

logger = logging.getLogger(__name__)

WORK_POOL = "vernaclip"
NUM_PORTS = 100
END_TIMEOUT_S = 20.0

# Runs write the same catalog and use all processors, so only one runs at a time; later ones wait in order.
MAX_RUNS = 1

# The worker asks for runs every 3 s; Prefect's default of 10 s is meant for remote servers.
WORKER_ENVIRONMENT = {"PREFECT_LOGGING_LEVEL": "INFO", "PREFECT_WORKER_QUERY_SECONDS": "3"}
RUNS_POLL_S = 0.5
SECONDS_BETWEEN_LINES = 15.0

# Of earlier versions, which marked silent runs as crashed although their process lived.
AUTOMATION = "vernaclip: runs without a heartbeat have crashed"


def deploy_all(client: "SyncPrefectClient", project: Path, *, root: str) -> list[str]:
    """Create or update the work pool and the deployments.

    Args:
        client: client of the server.
        project: current folder of the runs.
        root: of the catalog, unless a run is given another one.

    Returns:
        The deployments as FLOW/DEPLOYMENT.
    """
    from flows.orchestration.prefect_flows import FLOWS
    from flows.recipe.recipe import recipe_names

    ensure_work_pool(client)
    for automation in client.read_automations_by_name(AUTOMATION):
        client.delete_automation(automation.id)
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
    """Create or update a deployment of a flow in our work pool.

    Args:
        client: client of the server.
        flow: a flow in an importable module.
        name: name of the deployment.
        parameters: parameters that differ from the defaults of the flow.
        project: absolute path of the current folder of its runs.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Result of `up`.

    Args:
        api: URL of the server, and the auth string that its pages ask for.
        started: processes that were started now: "server", "worker", both or none.
        ours: whether the server was started by `up`, so that `down` stops it.
        deployments: all deployments as FLOW/DEPLOYMENT.
    """

    api: Api
    started: tuple[str, ...]
    ours: bool
    deployments: tuple[str, ...]


Deploy = Callable[["SyncPrefectClient", Path], Sequence[str]]


def up(project: Path, *, deploy: Deploy, port: int | None = None) -> Services:
    """Start a server and a worker if they are not running, and create or update all deployments.

    Args:
        project: folder in which deployed flows run; its `.env` tells `prefect` commands the server.
        deploy: creates the deployments with a client, for the project's folder.
        port: port of a new server; None: 4200, or the next free one.

    Raises:
        BusyError: the port is taken, or another `up` or `down` is running.
        SettingsError: a configured server refuses our credentials, or a server answers at another port.
        InputError: a server or worker does not start; the message ends with its last output.
    """
    prepare_process()
    logger.info("loading Prefect")
    with _one_at_a_time(project):
        api, ours, server_started = _ensure_server(project, port)
        if port is not None and api.port != str(port):
            raise SettingsError(
                f"a server answers at {api.ui_url} already, so --port {port} has no effect: leave it out, or run "
                "`vernaclip down` first"
            )
        logger.info("the Prefect server at %s answers", api.ui_url)
        with _client(api) as client:
            logger.info("registering deployments")
            deployments = deploy(client, project)
            if ours:
                has_worker = daemons.running_pid(_daemon(project, "worker")) is not None
                give_up_lost_runs(client, has_worker=has_worker)
            set_paused(client, False)
            _ensure_watcher(project, api)
            worker_started = _ensure_worker(project, api, client)
    started = [name for name, new in (("server", server_started), ("worker", worker_started)) if new]
    return Services(api=api, started=tuple(started), ours=ours, deployments=tuple(deployments))


def down(project: Path, *, now: bool = False) -> tuple[str, ...]:
    """Stop the server and worker that `up` started, and remove the server's URL from `.env`.

    Active runs end first; with `now`, they are killed.

    Returns:
        The processes that were stopped, of "worker", "watcher" and "server".
    """
    prepare_process()
    stopped = []
    with _one_at_a_time(project):
        for name in ("worker", "watcher", "server"):
            daemon = _daemon(project, name)
            if daemons.running_pid(daemon) is not None:
                if name == "worker":
                    _end_runs(project, now=now)
                daemons.end(daemon, timeout_s=END_TIMEOUT_S)
                stopped.append(name)
        remove_env_block(project)
    return tuple(stopped)


def _end_runs(project: Path, *, now: bool) -> None:
    """Pause the work pool, then wait until all active runs have ended, or kill them with `now`."""
    api = read_env_block(project) or configured_api()
    if api is None or not api.is_up():
        return  # without a server, runs are unknown
    with _client(api) as client:
        set_paused(client, True)
        try:
            _await_end(client, now=now)
        except BaseException:  # after Ctrl-C the worker goes on, and takes runs again
            set_paused(client, False)
            raise


def _await_end(client: "SyncPrefectClient", *, now: bool) -> None:
    """Wait until all active runs have ended, or kill them with `now`."""
    last_logged = float("-inf")
    while runs := [(run, pid) for run in active_runs(client) if (pid := process_of(run)) is not None]:
        if now:
            for run, pid in runs:
                with suppress(ProcessLookupError):  # the run has ended meanwhile
                    os.killpg(pid, signal.SIGKILL)  # each run has its own process group
                logger.warning("killed the run %s", run.name)
            return
        if time.monotonic() - last_logged >= SECONDS_BETWEEN_LINES:
            last_logged = time.monotonic()
            names = ", ".join(run.name for run, _ in runs)
            logger.info("waiting for %s to end (`vernaclip down --now` kills it)", names)
        time.sleep(RUNS_POLL_S)


def _daemon(project: Path, name: str) -> Daemon:
    return Daemon(name=name, folder=state_folder(project))


@contextmanager
def _one_at_a_time(project: Path) -> Iterator[None]:
    """Hold the lock of `up` and `down` in a project.

    Raises:
        BusyError: another process holds it.
    """
    with (state_folder(project) / "up.lock").open("a", encoding="ascii") as lock:
        if not daemons.try_lock(lock.fileno()):
            raise BusyError(f"another `vernaclip up` or `down` is running in {project}: wait until it ends")
        yield


def _ensure_server(project: Path, port: int | None) -> tuple[Api, bool, bool]:
    """Return an API that answers, whether its server is ours, and whether it was started now."""
    written = read_env_block(project)
    server = _daemon(project, "server")
    if daemons.running_pid(server) is not None:
        if written is not None and wait_for(written, server) == "answers":
            return written, True, False
    else:
        configured = configured_api()
        if configured not in (None, written) and answers(configured, otherwise="starting one here"):
            return configured, False, False
    # Replace a server of ours that cannot be used any more, since its URL or auth string is lost.
    daemons.kill(server)
    # The new server gets the old port and auth string, if they are known.
    api = Api(
        url=f"http://{HOST}:{_free_port(port, written)}/api",
        auth_string=(written and written.auth_string) or new_auth_string(),
    )
    write_env_block(project, api)
    environment = server_environment(api, server.folder / "prefect.db")
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", api.port]
    logger.info("starting the Prefect server on %s", api.ui_url)
    daemons.start(server, [*command, "--analytics-off"], environment=environment, working_dir=project)
    if wait_for(api, server) != "answers":
        daemons.kill(server)
        remove_env_block(project)
        raise InputError(f"the Prefect server did not start. The end of {server.log_path}:\n{server.last_words()}")
    return api, True, True


def _free_port(port: int | None, written: Api | None) -> int:
    """Return the given port, or the first free one: the port of the last server, else from Prefect's port 4200 up.

    Raises:
        BusyError: the given port, or every port, is taken.
    """
    if port is not None:
        if port_is_busy(port):
            raise BusyError(f"port {port} is taken by another program: choose another port, or stop that program")
        return port
    last = SERVER_PORT + NUM_PORTS
    candidates = list(range(SERVER_PORT, last))
    if written:
        candidates.insert(0, int(written.port))
    for candidate in candidates:
        if not port_is_busy(candidate):
            return candidate
    raise BusyError(f"all ports from {SERVER_PORT} to {last - 1} are taken: choose another one with --port")


@contextmanager
def _client(api: Api) -> "Iterator[SyncPrefectClient]":
    """Yield a client of this API, whatever API the settings of this process name."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL, temporary_settings

    settings = {PREFECT_API_URL: api.url, PREFECT_API_AUTH_STRING: api.auth_string, PREFECT_API_KEY: api.key}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        yield client


def _runs_for(daemon: Daemon, api: Api) -> bool:
    """Return True if a daemon is running for this server; kill that of another server, and note the new one."""
    address = daemon.folder / f"{daemon.name}.api"
    if daemons.running_pid(daemon) is not None:
        if address.is_file() and address.read_text(encoding="utf-8") == api.url:
            return True
        daemons.kill(daemon)
    address.write_text(api.url, encoding="utf-8")
    return False


def _ensure_watcher(project: Path, api: Api) -> None:
    """Start the watcher of this machine's runs for this server, unless it is running already."""
    watcher = _daemon(project, "watcher")
    if not _runs_for(watcher, api):
        command = [sys.executable, "-m", "flows.orchestration.run_processes"]
        # The server is of our version, and may be away when the watcher looks.
        environment = {**prefect_environment(), **api.environment(), "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "0"}
        daemons.start(watcher, command, environment=environment, working_dir=project)


def _ensure_worker(project: Path, api: Api, client: "SyncPrefectClient") -> bool:
    """Start a worker for this server, or replace one of another server; return False if it was running already."""
    worker = _daemon(project, "worker")
    if _runs_for(worker, api):
        return False
    folder_name = re.sub(r"[^\w.-]+", "-", project.resolve().name)  # Prefect refuses some characters
    name = f"{WORK_POOL}-{folder_name}"
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", WORK_POOL, "--name", name]
    command += ["--type", "process", "--limit", str(MAX_RUNS), "--install-policy", "never"]
    environment = {**prefect_environment(), **api.environment(), **WORKER_ENVIRONMENT}
    began = datetime.now(UTC)

    def is_seen() -> bool:
        found = client.read_workers_for_work_pool(WORK_POOL)
        return any(
            each.name == name and each.last_heartbeat_time is not None and each.last_heartbeat_time >= began
            for each in found
        )

    logger.info("starting the worker")
    daemons.start(worker, command, environment=environment, working_dir=project)
    if not daemons.wait_until(is_seen, worker, timeout_s=START_TIMEOUT_S):
        daemons.kill(worker)
        raise InputError(f"the worker did not start. The end of {worker.log_path}:\n{worker.last_words()}")
    return True


def active_runs(client: "SyncPrefectClient") -> "list[FlowRun]":
    """Return the active runs of our work pool, those that have begun and not ended."""
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter

    begun = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate(begun),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [WORK_POOL]}}),
    )


def set_paused(client: "SyncPrefectClient", paused: bool) -> None:
    """Pause or resume the work pool, from which workers take runs."""
    from prefect.client.schemas.actions import WorkPoolUpdate

    client.update_work_pool(WORK_POOL, WorkPoolUpdate(is_paused=paused))


def give_up_lost_runs(client: "SyncPrefectClient", *, has_worker: bool) -> None:
    """Mark active runs as crashed if their process is gone.

    Args:
        client: client of the server.
        has_worker: whether a worker is running, which may be about to start a process for a run that has none.
    """
    for run in active_runs(client):
        pid = process_of(run)
        may_begin = run.state is None or run.state.is_pending() or not run.infrastructure_pid
        if pid is None and not (has_worker and may_begin):
            give_up(client, run)
        elif pid is not None and not has_worker:
            logger.warning("the run %s continues in process %d, but its worker is gone", run.name, pid)
