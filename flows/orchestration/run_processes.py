"""Find the process of a run, and give up runs whose process is gone.

Only the machine of a run can tell a run that is gone from one that is slow, and says nothing for minutes. Each run
therefore records its process on the server, and `vernaclip up` starts a watcher, `python -m
flows.orchestration.run_processes`, which looks at the processes of this machine's runs. It marks those runs as crashed
that no worker can report, because it was killed with them, or because they are commands.
"""

import logging
import socket
import subprocess
import time
from collections.abc import Collection
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


def process_labels(pid: int) -> dict[str, Any]:
    """Return the labels of a run that is a process of this machine."""
    return {_HOST: socket.gethostname(), _PID: pid, _STARTED: _started(pid) or ""}


def _started(pid: int) -> str | None:
    """Return when a process of this machine started, or None if it has ended: it tells processes with one id apart."""
    if not Path("/proc/self/stat").is_file():
        return _ps(str(pid), "lstart=") or None
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return None if state == "Z" else f"{fields[18]} clock ticks after the boot {boot}"


def _ps(pid: str, column: str) -> str:
    """Return a column of `ps` for a process, on systems without /proc."""
    return subprocess.run(["ps", "-p", pid, "-o", column], check=False, capture_output=True, text=True).stdout.strip()


def process_of(run: "FlowRun") -> int | None:
    """Return the process id of a run on this machine, or None if it has no process (any more).

    The process is checked, too, since its id may now belong to another process, even to one of Prefect.
    """
    pid, labels = run.infrastructure_pid or "", run.labels
    if pid.isdigit() and _belongs_to(pid, run):
        return int(pid)
    is_recorded_here = labels.get(_HOST) == socket.gethostname()
    return int(labels[_PID]) if is_recorded_here and _started(int(labels[_PID])) == labels[_STARTED] else None


def _belongs_to(pid: str, run: "FlowRun") -> bool:
    """Return True if a worker has started the process for the run."""
    if not Path("/proc/self/environ").is_file():
        return "prefect" in _ps(pid, "command=")
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return f"PREFECT__FLOW_RUN_ID={run.id}".encode() in environment


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
    from prefect.client.orchestration import get_client

    missing: set[UUID | None] = set()
    while True:
        time.sleep(LOOK_S)
        try:
            with get_client(sync_client=True) as client:
                missing = give_up_gone_runs(client, missing)
        except Exception as error:  # noqa: BLE001  neither a server that is away nor an odd run ends the watch
            logger.warning("a look at the processes of the runs failed: %r", error)


if __name__ == "__main__":
    logging.basicConfig()
    watch()
