"""Find the process of a run, and give up runs whose process is gone.

Only the machine of a run can tell a run that is gone from one that is slow, and says nothing for minutes. Each run
therefore records its process on the server, and `vernaclip up` starts a watcher, `python -m
flows.orchestration.run_processes`, which looks at the processes of this machine's runs. It marks those runs as crashed
that no worker can report, because it was killed with them, or because they are commands.
"""

import logging
import socket
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

logger = logging.getLogger(__name__)

# A run is given up at the second look that misses its process: whoever ended or retried it had time to say so before.
LOOK_S = 15.0

# Labels of a run on the server.
_HOST, _PID, _STARTED = "vernaclip.host", "vernaclip.pid", "vernaclip.started"
_PROC = Path("/proc")  # without it, as on macOS, a recorded run counts as alive until it ends


def process_labels(pid: int) -> dict[str, Any]:
    """Return the labels of a run that is a process of this machine."""
    return {_HOST: socket.gethostname(), _PID: pid, _STARTED: _started(pid) or ""}


def _started(pid: int) -> str | None:
    """Return when a process started, which tells processes with one id apart; None if it has ended."""
    if not _PROC.joinpath("self").exists():
        return ""
    with suppress(FileNotFoundError, ProcessLookupError):
        state, *fields = (_PROC / f"{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return None if state == "Z" else f"{fields[18]} clock ticks after the boot {boot}"
    return None


def process_of(run: "FlowRun") -> int | None:
    """Return the process id of a run on this machine, or None if it has no process (any more).

    An id may now belong to another process. One that a worker has started has the run in its environment.
    """
    if (run.infrastructure_pid or "").isdigit():
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            environment = (_PROC / f"{run.infrastructure_pid}/environ").read_bytes().split(b"\0")
            if f"PREFECT__FLOW_RUN_ID={run.id}".encode() in environment:
                return int(run.infrastructure_pid or 0)
    labels = run.labels
    is_here = labels.get(_HOST) == socket.gethostname() and _started(int(labels[_PID])) == labels[_STARTED]
    return int(labels[_PID]) if is_here else None


def runs_in(client: "SyncPrefectClient", states: Collection[str], *, pool: str | None = None) -> "list[FlowRun]":
    """Return the runs in some types of states, such as RUNNING, of a work pool or of all."""
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter

    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": list(states)}}}),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [pool]}}) if pool else None,
    )


def give_up(client: "SyncPrefectClient", run: "FlowRun") -> None:
    """Mark a run as crashed whose process was looked for and is gone."""
    from prefect.states import Crashed

    client.set_flow_run_state(run.id, Crashed(message="its process is gone"), force=True)
    logger.warning(
        "the process of the run %s is gone: resume the run with `prefect flow-run retry %s`", run.name, run.id
    )


def give_up_gone_runs(client: "SyncPrefectClient", missing: Collection[UUID | None]) -> set[UUID | None]:
    """Mark this machine's running runs as crashed if their process is gone, and was at the last look.

    `missing` is what the last look returned: the states of the runs without a process. A run that is retried gets
    another state.
    """
    here = [run for run in runs_in(client, ["RUNNING"]) if run.labels.get(_HOST) == socket.gethostname()]
    gone = [run for run in here if process_of(run) is None]
    for run in gone:
        if run.state_id in missing:
            give_up(client, run)
    return {run.state_id for run in gone}


def watch() -> None:
    """Look at the processes of this machine's runs until this process is ended; the server may be away meanwhile."""
    missing: set[UUID | None] = set()
    while True:
        time.sleep(LOOK_S)  # first: others are starting, and Prefect takes a while to load
        from prefect.client.orchestration import get_client

        try:
            with get_client(sync_client=True) as client:
                missing = give_up_gone_runs(client, missing)
        except Exception as error:  # noqa: BLE001  neither a server that is away nor an odd run ends the watch
            logger.warning("a look at the processes of the runs failed: %r", error)


if __name__ == "__main__":
    logging.basicConfig()
    watch()
