"""`vernaclip up` and `down`: Prefect's server, a worker and our deployments, on this machine only.

`up` may be given any number of times, after any crash: it starts what does not run, and says so. It deploys each flow
under its own name, so that `prefect deployment run build-dataset` is unique (our plugin fills in the flow) and takes
the recipe as a parameter; and the dataset's flow once more under each recipe's name: `build-dataset/italian` has it
filled in.
"""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.errors import BusyError, InputError
from flows.doctor import SERVER_PORT, port_is_busy, require_sound_environment
from flows.orchestration import daemons
from flows.orchestration.daemons import Daemon
from flows.orchestration.prefect_env import (
    HOST,
    Api,
    answers,
    configured_api,
    new_auth_string,
    prefect_environment,
    prepare_process,
    probe,
    read_env_block,
    remove_env_block,
    server_environment,
    state_folder,
    write_env_block,
)

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

logger = logging.getLogger(__name__)

WORK_POOL = "vernaclip"
NUM_PORTS = 100
START_TIMEOUT_S = 120.0
END_TIMEOUT_S = 20.0

# One run at a time: runs write the same catalog and use all processors; later ones wait in order.
MAX_RUNS = 1

# Prefect's default, 10 s, would let a person wait for nothing: the server is on the same machine.
WORKER_ENVIRONMENT = {"PREFECT_LOGGING_LEVEL": "INFO", "PREFECT_WORKER_QUERY_SECONDS": "3"}
RUNS_POLL_S = 0.5
SECONDS_BETWEEN_LINES = 15.0

AUTOMATION = "vernaclip: runs without a heartbeat have crashed"

# Silence after which a run counts as dead: three heartbeats may be lost, or one C call may keep all other threads out
# for a minute and a half. `vernaclip up` finds dead runs of this machine at once, so nobody has to wait for this.
SILENCE_S = 120

_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed")


def ensure_automation(client: "SyncPrefectClient", flows: Iterable[str]) -> None:
    """Make the automation, or bring it up to date; one that a user has switched off stays off.

    Args:
        client: of the server.
        flows: names of our flows, whose runs it looks at, deployed or not: others on the same server are none of its
            business.
    """
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    trigger = EventTrigger(
        after={_HEARTBEAT},
        expect={_HEARTBEAT, *(f"prefect.flow-run.{state}" for state in _ENDS)},
        match={"prefect.resource.id": ["prefect.flow-run.*"]},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": sorted(flows)},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=SILENCE_S),
    )
    message = f"no heartbeat for {SILENCE_S} s: its process is gone"
    crashed = ChangeFlowRunState(state=StateType.CRASHED, name=None, message=message, force=False)
    wanted = AutomationCore(
        name=AUTOMATION, description="Made by `vernaclip up`.", enabled=True, trigger=trigger, actions=[crashed]
    )

    def meaning(automation: AutomationCore) -> dict[str, Any]:
        # As Python values: in JSON its sets are lists, whose order is of chance.
        return automation.model_dump(include={"trigger", "actions"}, exclude={"trigger": {"id"}})

    found = client.read_automations_by_name(AUTOMATION)
    if not found:
        client.create_automation(wanted)
        return
    first, *more = found
    for each in more:
        client.delete_automation(each.id)
    # Not without need: a changed automation forgets which runs it was waiting for.
    if meaning(first) != meaning(wanted):
        client.update_automation(first.id, wanted.model_copy(update={"enabled": first.enabled}))


def deploy_all(client: "SyncPrefectClient", project: Path) -> list[str]:
    """Create or renew all that the server needs to know; runs will have `project` as their current folder.

    That is the work pool, the deployments, and the automation that finds runs without a heartbeat.

    Returns:
        The deployments as Prefect writes them: FLOW/DEPLOYMENT.
    """
    from flows.orchestration.prefect_flows import FLOWS
    from flows.recipe.recipe import recipe_names

    ensure_work_pool(client)
    ensure_automation(client, FLOWS)
    made: list[tuple[str, str, dict[str, str]]] = [(flow, flow, {}) for flow in FLOWS]
    made += [("build-dataset", recipe, {"recipe": recipe}) for recipe in recipe_names()]
    for flow, name, parameters in made:
        deploy(client, FLOWS[flow], name=name, parameters=parameters, project=project.resolve())
    return [f"{flow}/{name}" for flow, name, _ in made]


def ensure_work_pool(client: "SyncPrefectClient") -> None:
    """Create the work pool, of processes on this machine, unless it is there."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type=ProcessWorker.type, base_job_template=template))


def deploy(client: "SyncPrefectClient", flow: "Flow[..., Any]", *, name: str, parameters: Any, project: Path) -> None:
    """Create a deployment of a flow on our work pool, or renew it.

    Args:
        client: of the server.
        flow: a function of an importable module.
        name: of the deployment.
        parameters: those that differ from the flow's own defaults.
        project: absolute path of the current folder of its runs.
    """
    from prefect.utilities.callables import parameter_schema

    client.create_deployment(
        flow_id=client.create_flow_from_name(flow.name),
        name=name,
        description=flow.description,
        parameters=parameters,
        # Of a misspelt parameter the server says so at once; the run would crash.
        parameter_openapi_schema={**parameter_schema(flow.fn).model_dump(), "additionalProperties": False},
        enforce_parameter_schema=True,
        work_pool_name=WORK_POOL,
        # A module, not a file: Prefect would put the file's folder on the path, in front of packages of other names.
        entrypoint=f"{flow.fn.__module__}.{flow.fn.__name__}",
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(project)}}],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What `up` came to.

    Args:
        api: where the server is, and the auth string that its pages ask for.
        started: what was not running: "server", "worker", both or nothing.
        ours: whether the server is one that `up` started, and `down` stops.
        deployments: all that can be run by name: FLOW/DEPLOYMENT.
    """

    api: Api
    started: tuple[str, ...]
    ours: bool
    deployments: tuple[str, ...]


Deploy = Callable[["SyncPrefectClient", Path], Sequence[str]]


def up(project: Path, *, port: int | None = None, deploy: Deploy = deploy_all) -> Services:
    """Make sure that a server answers, all deployments are there and a worker waits for runs.

    Args:
        project: the folder whose `.env` plain `prefect` will read, and in which deployed flows run.
        port: where a new server listens; None for 4200, or the next free one.
        deploy: makes the deployments, given a client and the project's folder.

    Raises:
        BusyError: the port is taken, or another `up` or `down` is at work.
        SettingsError: a configured server refuses us.
        InputError: the environment breaks Prefect, or a server or worker does not start; the text ends with its last
            words.
    """
    require_sound_environment()
    prepare_process()
    with _one_at_a_time(project):
        api, ours, server_started = _ensure_server(project, port)
        with _client(api) as client:
            deployments = deploy(client, project)
            if ours:
                has_worker = daemons.running_pid(_daemon(project, "worker")) is not None
                give_up_lost_runs(client, has_worker=has_worker)
            set_paused(client, False)
            worker_started = _ensure_worker(project, api, client)
    started = [name for name, new in (("server", server_started), ("worker", worker_started)) if new]
    return Services(api=api, started=tuple(started), ours=ours, deployments=tuple(deployments))


def down(project: Path, *, now: bool = False) -> tuple[str, ...]:
    """Stop what `up` started, and take its address out of `.env`.

    Runs that have begun may end first; `now` kills them instead.

    Returns:
        What was running: "worker", "server", both or nothing.
    """
    prepare_process()
    stopped = []
    with _one_at_a_time(project):
        for name in ("worker", "server"):
            daemon = _daemon(project, name)
            if daemons.running_pid(daemon) is not None:
                if name == "worker":
                    _end_runs(project, now=now)
                daemons.end(daemon, timeout_s=END_TIMEOUT_S)
                stopped.append(name)
        remove_env_block(project)
    return tuple(stopped)


def _end_runs(project: Path, *, now: bool) -> None:
    """Let no further run begin, and wait, however long that takes, for those that have begun; or kill these `now`."""
    api = read_env_block(project) or configured_api()
    if api is None or not api.is_up():
        return  # without a server nobody knows of any
    with _client(api) as client:
        set_paused(client, True)
        said = float("-inf")
        while runs := [(run, pid) for run in active_runs(client) if (pid := process_of(run)) is not None]:
            if now:
                for run, pid in runs:
                    with suppress(ProcessLookupError):  # it has ended meanwhile
                        os.killpg(pid, signal.SIGKILL)  # each leads a process group of its own
                    logger.warning("killed the run %s", run.name)
                return
            if time.monotonic() - said >= SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                names = ", ".join(run.name for run, _ in runs)
                logger.info("waiting for %s to end (`vernaclip down --now` kills it)", names)
            time.sleep(RUNS_POLL_S)


def _daemon(project: Path, name: str) -> Daemon:
    return Daemon(name=name, folder=state_folder(project))


@contextmanager
def _one_at_a_time(project: Path) -> Iterator[None]:
    with (state_folder(project) / "up.lock").open("a", encoding="ascii") as lock:
        if not daemons.try_lock(lock.fileno()):
            raise BusyError(f"another `vernaclip up` or `down` is at work in {project}: wait for it")
        yield


def _ensure_server(project: Path, port: int | None) -> tuple[Api, bool, bool]:
    """Return an API that answers; whether its server is ours; whether it was started now."""
    written = read_env_block(project)
    server = _daemon(project, "server")
    running = daemons.running_pid(server) is not None
    if running and written is not None:
        daemons.wait_until(lambda: probe(written) != "silent", server, timeout_s=START_TIMEOUT_S)
        if written.is_up():
            return written, True, False
    elif not running:
        configured = configured_api()
        if configured not in (None, written) and answers(configured, otherwise="starting one here"):
            return configured, False, False
    # A server of ours that nobody can talk to any more (its address or auth string is lost) makes room for a new one.
    daemons.kill(server)
    # The new one is at the old address, with the old secret, where there was one.
    api = Api(
        url=f"http://{HOST}:{_free_port(port, written)}/api",
        auth_string=(written and written.auth_string) or new_auth_string(),
    )
    write_env_block(project, api)
    environment = server_environment(api, server.folder / "prefect.db")
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", api.port]
    daemons.start(server, [*command, "--analytics-off"], environment=environment, working_dir=project)
    logger.info("starting Prefect's server on %s", api.ui_url)
    if not daemons.wait_until(api.is_up, server, timeout_s=START_TIMEOUT_S):
        daemons.kill(server)
        remove_env_block(project)
        raise InputError(f"Prefect's server did not start; the end of {server.log_path}:\n{server.last_words()}")
    return api, True, True


def _free_port(port: int | None, written: Api | None) -> int:
    """Return the port that is asked for, or the first that is free: the one of before, then Prefect's own and up."""
    if port is not None:
        if port_is_busy(port):
            raise BusyError(f"port {port} is taken by another program: choose another, or stop that program")
        return port
    last = SERVER_PORT + NUM_PORTS
    candidates = list(range(SERVER_PORT, last))
    if written:
        candidates.insert(0, int(written.port))
    for candidate in candidates:
        if not port_is_busy(candidate):
            return candidate
    raise BusyError(f"ports {SERVER_PORT} to {last - 1} are all taken: give another with --port")


@contextmanager
def _client(api: Api) -> "Iterator[SyncPrefectClient]":
    """Yield a client of this API, whatever this process's settings name."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL, temporary_settings

    settings = {PREFECT_API_URL: api.url, PREFECT_API_AUTH_STRING: api.auth_string, PREFECT_API_KEY: api.key}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        yield client


def _ensure_worker(project: Path, api: Api, client: "SyncPrefectClient") -> bool:
    """Start a worker of this server, or replace one that knows another address; False if it was there."""
    worker = _daemon(project, "worker")
    address = worker.folder / "worker.api"
    if daemons.running_pid(worker) is not None:
        if address.is_file() and address.read_text(encoding="utf-8") == api.url:
            return False
        daemons.kill(worker)
    address.write_text(api.url, encoding="utf-8")
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

    daemons.start(worker, command, environment=environment, working_dir=project)
    if not daemons.wait_until(is_seen, worker, timeout_s=START_TIMEOUT_S):
        daemons.kill(worker)
        raise InputError(f"the worker did not start; the end of {worker.log_path}:\n{worker.last_words()}")
    return True


def active_runs(client: "SyncPrefectClient") -> "list[FlowRun]":
    """Return runs of our work pool that have begun and not ended."""
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter

    begun = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate(begun),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [WORK_POOL]}}),
    )


def set_paused(client: "SyncPrefectClient", paused: bool) -> None:
    """Let workers begin no more runs, or let them again."""
    from prefect.client.schemas.actions import WorkPoolUpdate

    client.update_work_pool(WORK_POOL, WorkPoolUpdate(is_paused=paused))


def give_up_lost_runs(client: "SyncPrefectClient", *, has_worker: bool) -> None:
    """Mark as crashed the active runs whose process is gone.

    Args:
        has_worker: a worker is at work: then runs that have no process yet may just be about to get one.
    """
    from prefect.states import Crashed

    for run in active_runs(client):
        pid = process_of(run)
        may_begin = run.state is None or run.state.is_pending() or not run.infrastructure_pid
        if pid is None and not (has_worker and may_begin):
            client.set_flow_run_state(run.id, Crashed(message="its process is gone"), force=True)
            logger.warning(
                "the run %s has lost its process: `prefect flow-run retry %s` goes on with it", run.name, run.id
            )
        elif pid is not None and not has_worker:
            logger.warning("the run %s goes on in process %d, though its worker is gone", run.name, pid)


def process_of(run: "FlowRun") -> int | None:
    """Return the process id of a run on this machine, or None where it has none (any more).

    The id alone may belong to another process by now, even to one of Prefect's.
    """
    text = run.infrastructure_pid or ""
    if not text.isdigit():
        return None
    if Path("/proc/self/environ").is_file():
        try:
            environment = Path(f"/proc/{text}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return None
        return int(text) if f"PREFECT__FLOW_RUN_ID={run.id}".encode() in environment else None
    listed = subprocess.run(["ps", "-p", text, "-o", "command="], check=False, capture_output=True, text=True)
    return int(text) if "prefect" in listed.stdout else None
