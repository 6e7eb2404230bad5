"""Flow runs that have begun and not ended: waiting for them, killing them, and telling which have lost their process.

A worker that ends, even by SIGTERM, leaves the processes of its runs to themselves; one that is killed leaves runs that
Prefect shows as running for ever and will not retry. So `down` waits or kills by itself, and `up` cleans up.
"""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flows.orchestration.deployments import WORK_POOL

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

logger = logging.getLogger(__name__)

POLL_S = 0.5
SECONDS_BETWEEN_LINES = 15.0


def active_runs(client: "SyncPrefectClient") -> "list[FlowRun]":
    """Runs of our work pool that have begun and not ended."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import StateType

    begun = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=begun))),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL])),
    )


def set_paused(client: "SyncPrefectClient", paused: bool) -> None:
    """Let workers begin no more runs, or let them again."""
    from prefect.client.schemas.actions import WorkPoolUpdate

    client.update_work_pool(WORK_POOL, WorkPoolUpdate(is_paused=paused))


def wait_for_runs(client: "SyncPrefectClient") -> None:
    """Wait until no run that has a process is left, however long that takes."""
    _until(lambda: [run for run in active_runs(client) if process_of(run) is not None])


def _until(left: "Callable[[], list[FlowRun]]") -> None:
    said = float("-inf")
    while runs := left():
        if time.monotonic() - said >= SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            names = ", ".join(run.name for run in runs)
            logger.info("waiting for %s to end (`vernaclip down --now` kills it)", names)
        time.sleep(POLL_S)


def kill_runs(client: "SyncPrefectClient") -> None:
    """Kill the processes of all active runs; each leads a process group of its own."""
    for run in active_runs(client):
        pid = process_of(run)
        if pid is not None:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.killpg(pid, signal.SIGKILL)
            logger.warning("killed the run %s", run.name)


def give_up_lost_runs(client: "SyncPrefectClient", *, has_worker: bool) -> None:
    """Mark as crashed the active runs whose process is gone.

    Args:
        has_worker: a worker is at work: then runs that have no process yet may just be about to get one.
    """
    from prefect.states import Crashed

    for run in active_runs(client):
        pid = process_of(run)
        if pid is None and not (has_worker and _may_begin(run)):
            client.set_flow_run_state(run.id, Crashed(message="its process is gone"), force=True)
            logger.warning(
                "the run %s has lost its process: `prefect flow-run retry %s` goes on with it", run.name, run.id
            )
        elif pid is not None and not has_worker:
            logger.warning("the run %s goes on in process %d, though its worker is gone", run.name, pid)


def _may_begin(run: "FlowRun") -> bool:
    return run.state is None or run.state.is_pending() or not run.infrastructure_pid


def process_of(run: "FlowRun") -> int | None:
    """The process id of a run on this machine, or None where it has none (any more)."""
    text = run.infrastructure_pid or ""
    return int(text) if text.isdigit() and _does(int(text), run) else None


def _does(pid: int, run: "FlowRun") -> bool:
    """Whether a process does a run: its id alone may belong to another one by now, even to one of Prefect's."""
    if Path("/proc/self/environ").is_file():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False
        return f"PREFECT__FLOW_RUN_ID={run.id}".encode() in environment
    listed = subprocess.run(["ps", "-p", str(pid), "-o", "command="], check=False, capture_output=True, text=True)
    return "prefect" in listed.stdout
