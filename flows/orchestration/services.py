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
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.base.errors import BusyError, InputError, SettingsError
from flows.orchestration.daemons import Daemon, try_lock
from flows.orchestration.prefect_env import (
    HOST,
    START_TIMEOUT_S,
    Api,
    answers,
    configured_api,
    prefect_environment,
    prepare_process,
    probe,
    read_env_block,
    server_environment,
    state_folder,
    write_env_block,
)
from flows.orchestration.run_processes import give_up, process_of, runs_in

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
RUNS_POLL_S = 0.5
SECONDS_BETWEEN_LINES = 15.0

# Of earlier versions, which marked silent runs as crashed although their process lived.
AUTOMATION = "vernaclip: runs without a heartbeat have crashed"


def deploy_all(client: "SyncPrefectClient", project: Path, *, root: str) -> list[str]:
    """Create or update the work pool and the deployments, which have a root unless a run is given another one.

    Return the deployments as FLOW/DEPLOYMENT.
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
    with _one_at_a_time(project):
        api, has_new_server = _ensure_server(project, port)
        if port is not None and api.port != str(port):
            raise SettingsError(
                f"a server answers at {api.ui_url} already, so --port {port} has no effect: leave it out, or run "
                "`vernaclip down` first"
            )
        logger.info("the Prefect server at %s answers", api.ui_url)
        with _client(api) as client:
            logger.info("registering deployments")
            deployments = deploy(client, project)
            if _daemon(project, "server").pid() is not None:
                _give_up_lost_runs(client, has_worker=_daemon(project, "worker").pid() is not None)
            _set_paused(client, False)
            _ensure_watcher(project, api)
            has_new_worker = _ensure_worker(project, api, client)
    started = [name for name, is_new in (("server", has_new_server), ("worker", has_new_worker)) if is_new]
    return api, started, list(deployments)


def down(project: Path, *, now: bool = False) -> tuple[str, ...]:
    """Stop the server and worker that `up` started, and remove the server's URL from `.env`.

    Active runs end first; with `now`, they are killed. Return what was stopped, of "worker", "watcher" and "server".
    """
    prepare_process()
    stopped = []
    with _one_at_a_time(project):
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
    if api is None or probe(api) != "answers":
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
    last_logged = float("-inf")
    while runs := [(run, pid) for run in _active_runs(client) if (pid := process_of(run)) is not None]:
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
    """Hold the lock of `up` and `down` in a project."""
    with (state_folder(project) / "up.lock").open("a", encoding="ascii") as lock:
        if not try_lock(lock.fileno()):
            raise BusyError(f"another `vernaclip up` or `down` is running in {project}: wait until it ends")
        yield


@contextmanager
def _client(api: Api) -> "Iterator[SyncPrefectClient]":
    """Yield a client of this API, whatever API the settings of this process name."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL, temporary_settings

    settings = {PREFECT_API_URL: api.url, PREFECT_API_AUTH_STRING: api.auth_string, PREFECT_API_KEY: api.key}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        yield client


def _ensure_server(project: Path, port: int | None) -> tuple[Api, bool]:
    """Return an API that answers, and whether its server was started now."""
    written = read_env_block(project)
    server = _daemon(project, "server")
    if written is not None and server.pid() is not None:
        server.wait_until(lambda: probe(written) in ("answers", "refuses"), timeout_s=START_TIMEOUT_S)
        if probe(written) == "answers":
            return written, False
    elif server.pid() is None:
        configured = configured_api()
        if configured not in (None, written) and answers(configured, otherwise="starting one here"):
            return configured, False
    # Replace a server of ours that cannot be used any more, since its URL or auth string is lost. The new server gets
    # the old port and auth string, if they are known.
    server.end(timeout_s=0)
    api = Api.of_ours(_free_port(port, written), written.auth_string if written else None)
    write_env_block(project, api)
    command = ["prefect", "server", "start", "--host", HOST, "--port", api.port, "--analytics-off"]
    environment = server_environment(api, server.folder / "prefect.db")
    try:
        return api, _ensure(server, api, command, environment, lambda: probe(api) == "answers")
    except InputError:
        write_env_block(project, None)
        raise


def _ensure(
    daemon: Daemon,
    api: Api,
    command: Sequence[str],
    environment: Mapping[str, str],
    ready: Callable[[], bool] = lambda: True,
) -> bool:
    """Start a module as a daemon for this server, in place of one for another; return False if it was running."""
    address = daemon.folder / f"{daemon.name}.api"
    if daemon.pid() is not None and address.is_file() and address.read_text(encoding="utf-8") == api.url:
        return False
    daemon.end(timeout_s=0)
    address.write_text(api.url, encoding="utf-8")
    logger.info("starting the %s", daemon.name)
    daemon.start([sys.executable, "-m", *command], environment=environment, working_dir=daemon.folder.parent)
    if not daemon.wait_until(ready, timeout_s=START_TIMEOUT_S):
        daemon.end(timeout_s=0)
        raise InputError(f"the {daemon.name} did not start. The end of {daemon.log_path}:\n{daemon.last_words()}")
    return True


def _free_port(port: int | None, written: Api | None) -> int:
    """Return the given port, or else that of the last server or the first free one."""
    candidates = [port] if port is not None else [*([int(written.port)] if written else []), *PORTS]
    for candidate in candidates:
        with socket.socket() as probing:
            probing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probing.bind((HOST, candidate))
                return candidate
    taken = f"port {port} is" if port is not None else f"all ports from {PORTS[0]} to {PORTS[-1]} are"
    raise BusyError(f"{taken} taken by another program: choose another port with --port, or stop that program")


def _ensure_watcher(project: Path, api: Api) -> None:
    """Start the watcher of this machine's runs."""
    # The server is of our version, and may be away when the watcher looks.
    environment = {**prefect_environment(), **api.environment(), "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "0"}
    _ensure(_daemon(project, "watcher"), api, ["flows.orchestration.run_processes"], environment)


def _ensure_worker(project: Path, api: Api, client: "SyncPrefectClient") -> bool:
    """Start the worker, and wait until the server has heard of it; return False if it was running."""
    folder_name = re.sub(r"[^\w.-]+", "-", project.resolve().name)  # Prefect refuses some characters
    name = f"{WORK_POOL}-{folder_name}"
    command = ["prefect", "worker", "start", "--pool", WORK_POOL, "--name", name]
    command += ["--type", "process", "--limit", str(MAX_RUNS), "--install-policy", "never"]
    environment = {**prefect_environment(), **api.environment(), **WORKER_ENVIRONMENT}
    began = datetime.now(UTC)

    def is_seen() -> bool:
        beats = {each.name: each.last_heartbeat_time for each in client.read_workers_for_work_pool(WORK_POOL)}
        return (beats.get(name) or datetime.min.replace(tzinfo=UTC)) >= began

    return _ensure(_daemon(project, "worker"), api, command, environment, is_seen)


def _active_runs(client: "SyncPrefectClient") -> "list[FlowRun]":
    """Return the runs of our work pool that have begun and not ended."""
    return runs_in(client, ["RUNNING", "PENDING", "CANCELLING"], pool=WORK_POOL)


def _set_paused(client: "SyncPrefectClient", paused: bool) -> None:
    """Pause or resume the work pool, from which workers take runs."""
    from prefect.client.schemas.actions import WorkPoolUpdate

    client.update_work_pool(WORK_POOL, WorkPoolUpdate(is_paused=paused))


def _give_up_lost_runs(client: "SyncPrefectClient", *, has_worker: bool) -> None:
    """Mark active runs as crashed if their process is gone; a worker may be about to start one for a run without."""
    for run in _active_runs(client):
        pid = process_of(run)
        may_begin = run.state is None or run.state.is_pending() or not run.infrastructure_pid
        if pid is None and not (has_worker and may_begin):
            give_up(client, run)
        elif pid is not None and not has_worker:
            logger.warning("the run %s continues in process %d, but its worker is gone", run.name, pid)
