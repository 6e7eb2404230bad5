"""An executor that runs steps on a Dask cluster, on this machine or on several, with byte-equal outputs.

The cluster gets the name of a function and references to files, and windows of captions to translate. Steps that wait
for web hosts, and work of the flow itself, stay in the flow's process.

The Prefect tasks also stay in the flow's process and wait there. The task runner of prefect-dask would run them on the
workers, which usually cannot reach the flow's Prefect server on loopback, and would give each worker its credentials.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future as ConcurrentFuture
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

import dask
from dask.utils import parse_timedelta
from distributed import CancelledError, Client, KilledWorker, Security
from distributed.client import ClosedClientError
from distributed.comm.core import connect
from distributed.protocol import pickle
from prefect_dask.task_runners import DaskTaskRunner

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError
from data_catalog.disk.files import TEMPORARY_PREFIX, write_json
from data_catalog.fetch.workers import end_process_workers
from flows import PACKAGES
from flows.build.execution import Future
from flows.orchestration.dask_owners import DaskOwners
from flows.orchestration.dask_workers import FlowEnvironment, run_remotely, versions
from flows.orchestration.prefect_executor import PrefectExecutor

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Calls on an existing cluster, each with a thread that waits for it; its number of workers may change.
_MOST_WAITING = 256
# Errors of a client when the scheduler or the workers are gone.
_GONE_ERRORS = (OSError, RuntimeError, ClosedClientError)
# On a busy machine, a worker that died may need more than Dask's 15 s to restart. Dask would then remove it for good,
# and a build without workers would wait for ever.
_DASK_SETTINGS = {"distributed.deploy.lost-worker-timeout": "1 day"}


class DaskExecutor(PrefectExecutor):
    """An executor that runs steps on Dask, each as a task of the current flow; use it as a context manager.

    Without the address of an existing cluster, it has one of `max_workers` processes on this machine.
    """

    runs_remotely = True

    def __init__(self, max_workers: int, address: str | None, root: Path, *artifact: Any, **more: Any) -> None:
        super().__init__(*artifact, **more)
        self.max_remote_calls = _MOST_WAITING if address else None
        self._address = address
        self._cluster = DaskTaskRunner(address=address) if address else local_cluster(max_workers)
        self._work = root.absolute() / "work"
        self._environment: FlowEnvironment | None = None
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        logging.getLogger("distributed").setLevel(logging.WARNING)
        if self._address is not None:
            require_scheduler(self._address)
        with ExitStack() as exits:
            exits.enter_context(dask.config.set(_DASK_SETTINGS))
            client = exits.enter_context(self._cluster).client
            if not client.scheduler_info()["workers"]:
                logger.warning("the Dask cluster has no workers yet: start some (`dask worker ADDRESS`)")
            exits.enter_context(_forwarded_logs(client))
            if self._address is not None:
                self.owners = DaskOwners(client, self._remote, self._work / ".hosts")
                exits.callback(self.owners.close)
            super().__enter__()
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()
        super().__exit__(kind, error, trace)

    def submit(self, name: str, call: Callable[[], T], *, remote: bool = False) -> Future[T]:
        """Start a call on the cluster if it may run remotely; a task in a thread of the flow waits for its result."""
        if not remote:
            return super().submit(name, call)
        there = self._remote(call)

        def wait() -> T:
            found: T = _result(name, self._cluster.client.submit(there, pure=False))  # type: ignore[no-untyped-call]
            return found

        return super().submit(name, wait)

    def spread(self, call: Callable[[], T]) -> ConcurrentFuture[T]:
        """Start a call on the cluster, without a task or a thread of the flow."""
        return spread_on(self._cluster.client, self._remote(call))

    def _remote(self, call: Callable[[], T]) -> Callable[[], T]:
        """Return a call in the flow's environment."""
        if self._environment is None:  # the first step is submitted with the writer's lock held
            mark = self._work / f"{TEMPORARY_PREFIX}flow-{uuid4().hex}"
            write_json(mark, {})
            self._exits.callback(mark.unlink, missing_ok=True)
            found = versions() if self._address else None  # local processes always have the same versions
            self._environment = FlowEnvironment(folder=Path.cwd(), mark=mark, versions=found)
        return partial(run_remotely, self._environment, pickle.dumps(call))  # type: ignore[no-untyped-call]


def spread_on(client: Client, call: Callable[[], T]) -> ConcurrentFuture[T]:
    """Start a call on a cluster; the future waits in no thread."""
    found = ConcurrentFuture[T]()

    def pass_on(ended: Any) -> None:
        try:
            found.set_result(_result("translate", ended))
        except BaseException as error:  # noqa: BLE001  whoever waits raises it
            found.set_exception(error)

    client.submit(call, pure=False).add_done_callback(pass_on)  # type: ignore[no-untyped-call]
    return found


def _result(name: str, future: Any) -> Any:
    """Return the result of a call on the cluster, or raise an error that says what to do."""
    try:
        return future.result()
    except KilledWorker as error:
        raise InputError(
            f"{name}: several Dask workers died during this step, perhaps of too little memory: give them more "
            "memory, or run fewer steps at once (--set build.workers=N), then run the same command again"
        ) from error
    except CancelledError as error:
        raise InputError(f"{name}: the Dask cluster has ended: run the same command again") from error


def local_cluster(num_processes: int) -> DaskTaskRunner:
    """Return a new cluster on this machine, which listens on loopback, by TLS, and ends with this process."""
    local = {
        "host": "127.0.0.1",
        "n_workers": num_processes,
        "threads_per_worker": 1,
        "processes": True,
        # Dask would pause a worker whose memory does not shrink, and the build would wait for ever. Memory is limited
        # in the processes that decode images.
        "memory_limit": 0,
        "dashboard_address": "127.0.0.1:0",
        "worker_dashboard_address": None,
        # A terminal sends Ctrl-C to all processes of a command; the flow alone ends the cluster, without tracebacks.
        "preload": "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",
        # Our Prefect plugin serves only the command line, and the flow alone prints errors on the terminal.
        "env": {"PREFECT_PLUGINS_ENABLED": "false", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"},
        "security": True,
        "silence_logs": logging.ERROR,
    }
    return DaskTaskRunner(cluster_kwargs=local)


def require_scheduler(address: str) -> None:
    """Refuse an address where no Dask scheduler answers; Dask's own client would wait for ever."""
    timeout_s = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))

    async def greet() -> None:
        comm = await connect(address, timeout=timeout_s, **Security().get_connection_args("client"))  # type: ignore[no-untyped-call]
        await comm.close()

    remedy = "start one with `dask scheduler`, or leave build.dask_address out to use a cluster on this machine"
    with about(f"no Dask scheduler answers at {address}", remedy=remedy):
        asyncio.run(asyncio.wait_for(greet(), timeout_s))


@contextmanager
def _forwarded_logs(client: Client) -> Iterator[None]:
    """Forward the log lines of workers to this process; on exit, end the image processes of the workers."""
    for name in PACKAGES:
        client.forward_logging(name, logging.getLogger(name).level)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        with suppress(*_GONE_ERRORS):  # workers of an existing cluster go on without this flow
            client.run(end_process_workers, on_error="ignore")
        for name in PACKAGES:
            # ValueError: another flow has already done it; AttributeError: the scheduler is gone.
            with suppress(*_GONE_ERRORS, ValueError, AttributeError):
                client.unforward_logging(name)  # type: ignore[no-untyped-call]
