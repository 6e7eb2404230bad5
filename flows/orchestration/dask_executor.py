"""Steps on a Dask cluster: Prefect's tasks, done by processes of this machine or of many; the same bytes.

What is submitted goes to the cluster as a function's name and references to files. What waits for hosts of the web, and
what the flow does itself, stays in the flow's process.

The tasks stay there as well, and wait. Those of prefect-dask run on the workers, and fail where these do not reach the
flow's Prefect server, which as a rule listens on loopback only; and each worker would be given what opens it.
"""

import asyncio
import functools
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from uuid import uuid4

import dask
from dask.utils import parse_timedelta
from distributed import CancelledError, Client, KilledWorker, Security
from distributed.client import ClosedClientError
from distributed.comm.core import connect
from packaging.requirements import Requirement
from prefect_dask.task_runners import DaskTaskRunner

from data_catalog.errors import InputError
from data_catalog.images.workers import end_process_workers
from data_catalog.storage.shards import TEMPORARY_PREFIX, digest, sha256_of, write_json
from flows import PACKAGES
from flows.build.execution import RETRY_DELAYS_S, Future
from flows.orchestration.prefect_executor import FlowArtifacts, PrefectExecutor

logger = logging.getLogger(__name__)

T = TypeVar("T")

_DISTRIBUTION = "vernaclip"
_PACKAGES = ("flows", "translation", "cleaning", "data_catalog")
# Calls on a cluster that is there, each with a thread that waits for it; how many workers it has may change.
_MOST_WAITING = 256
# What a client says where the scheduler or the workers are gone.
_GONE = (OSError, RuntimeError, ClosedClientError)
# On a busy machine a worker that died may take longer to come back than Dask waits for it by itself (15 s): it would be
# taken off the cluster for good, and a build without workers would wait for ever.
_PATIENCE = {"distributed.deploy.lost-worker-timeout": "1 day"}


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """Where a flow runs, as far as whoever does its steps must agree with it.

    Args:
        folder: the flow's current folder, to which a recipe's paths are relative.
        mark: a file below the root that this flow alone has made; absolute.
        versions: see `versions`; None where they cannot differ.
    """

    folder: Path
    mark: Path
    versions: Mapping[str, str] | None


@functools.lru_cache(maxsize=1)
def versions() -> Mapping[str, str]:
    """Return, by name, what the bytes that this process writes depend on: machine, Python, our code, packages."""
    base = Path(__file__).parents[2]
    files = (path for package in _PACKAGES for path in (base / package).rglob("*.py"))
    code = digest({path.relative_to(base).as_posix(): sha256_of(path) for path in files})[:12]
    found = {"the kind of machine": platform.machine(), "Python": sys.version.split()[0], "vernaclip's own code": code}
    for requirement in requires(_DISTRIBUTION) or []:
        if "extra ==" not in requirement:
            name = Requirement(requirement).name
            with suppress(PackageNotFoundError):
                found[name] = version(name)
    return found


# Marks of the flows whose steps this process does.
_entered: set[Path] = set()


def enter(house: House) -> None:
    """Make sure, once for each flow, that this process may do its steps, and go to its folder, from another's perhaps.

    Raises:
        InputError: this process sees other files, or has other versions; the text says which.
    """
    if house.mark not in _entered:
        here = f"the worker on {platform.node()}"
        if not house.mark.is_file() or not house.folder.is_dir():
            missing = house.folder if house.mark.is_file() else house.mark.parent
            raise InputError(
                f"{here} does not see {missing} as the flow does: put the root, and the folder that the build is "
                "started in, on a file system that all machines share under the same names"
            )
        wanted = house.versions or {}
        own = versions() if wanted else {}
        for name in sorted({*own, *wanted}):
            if own.get(name) != wanted.get(name):
                raise InputError(
                    f"{here} has {name} {own.get(name, 'not at all')}, the flow {wanted.get(name, 'not at all')}: "
                    "install the same on all machines and start the workers again, or the bytes would differ"
                )
        _entered.add(house.mark)
    os.chdir(house.folder)


class DaskExecutor(PrefectExecutor):
    """Steps as tasks of the flow that is running, done by Dask; use it as a context manager.

    Args:
        max_workers: processes of the cluster on this machine, each with one thread; must be positive.
        root: of the catalog; the workers must see it under the same name.
        address: of the scheduler of a cluster that is there; None: one on this machine, which ends with the executor.
        artifacts: what the run shows of its progress.

    Raises:
        InputError: no scheduler answers at `address`.
    """

    submits_elsewhere = True

    def __init__(
        self,
        max_workers: int,
        *,
        root: Path,
        address: str | None = None,
        retry_delays_s: Sequence[float] = RETRY_DELAYS_S,
        artifacts: FlowArtifacts | None = None,
    ) -> None:
        super().__init__(retry_delays_s=retry_delays_s, artifacts=artifacts)
        self.most_elsewhere = _MOST_WAITING if address else None
        self._address = address
        self._cluster = DaskTaskRunner(address=address) if address else _local_cluster(max_workers)
        self._mark = root.absolute() / "work" / f"{TEMPORARY_PREFIX}flow-{uuid4().hex}"
        self._house: House | None = None
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        logging.getLogger("distributed").setLevel(logging.WARNING)
        if self._address is not None:
            _require_scheduler(self._address)
        self._exits.enter_context(dask.config.set(_PATIENCE))
        self._exits.enter_context(self._cluster)
        try:
            client = self._cluster.client
            if not client.scheduler_info()["workers"]:
                logger.warning(
                    "the Dask cluster has no workers yet: steps wait until some come (`dask worker ADDRESS`)"
                )
            self._exits.enter_context(_working(client))
            self._exits.callback(self._mark.unlink, missing_ok=True)
        except BaseException:
            self._exits.close()
            raise
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()
        super().__exit__(kind, error, trace)

    def submit(self, name: str, call: Callable[[], T], *, elsewhere: bool = False) -> Future[T]:
        """Start a call on the cluster, if it may be done there; a thread of the flow waits for it, as a task."""
        if not elsewhere:
            return super().submit(name, call)
        if self._house is None:  # the first step is submitted with the writer's lock held
            write_json(self._mark, {})
            found = versions() if self._address else None  # processes of our own start from the same files
            self._house = House(folder=Path.cwd(), mark=self._mark, versions=found)
        there = partial(_do_there, self._house, call)

        def wait() -> T:
            try:
                result: T = self._cluster.client.submit(there, pure=False).result()  # type: ignore[no-untyped-call]
            except KilledWorker as error:
                raise InputError(
                    f"{name}: several Dask workers died over it, perhaps for lack of memory: give them more of it, or "
                    "fewer steps at once (--set build.workers=N), and run the same command again"
                ) from error
            except CancelledError as error:
                raise InputError(f"{name}: the Dask cluster is gone: run the same command again") from error
            return result

        return self._runner.submit(self._task(name, wait), parameters={})


def _do_there(house: House, call: Callable[[], T]) -> T:
    """Do a call in a worker's process."""
    enter(house)
    return call()


def _local_cluster(num_processes: int) -> DaskTaskRunner:
    """Make a cluster on this machine, on loopback, closed to all who have not its key, that ends with this process.

    Its workers have no memory limit: Dask would pause one whose memory does not shrink, and the build would wait for
    ever. Memory is bounded where it matters, in the processes that decode images.
    """
    local = {
        "host": "127.0.0.1",
        "n_workers": num_processes,
        "threads_per_worker": 1,
        "processes": True,
        "memory_limit": 0,
        "dashboard_address": "127.0.0.1:0",
        "worker_dashboard_address": None,
        # Our plugin is for the command line, and what goes wrong is told on the terminal once, by the flow.
        "env": {"PREFECT_PLUGINS_ENABLED": "false", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"},
        "security": True,
        "silence_logs": logging.ERROR,
    }
    return DaskTaskRunner(cluster_kwargs=local)


def _require_scheduler(address: str) -> None:
    """Refuse an address where nothing speaks as a scheduler does: Dask's own client would wait for ever for that."""
    timeout_s = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))

    async def greet() -> None:
        comm = await connect(address, timeout=timeout_s, **Security().get_connection_args("client"))  # type: ignore[no-untyped-call]
        await comm.close()

    try:
        asyncio.run(asyncio.wait_for(greet(), timeout_s))
    except (OSError, ValueError) as error:
        what = str(error) or "what listens there says nothing that Dask understands"
        raise InputError(
            f"no Dask scheduler answers at {address} ({what}): "
            "start one with `dask scheduler`, or leave build.dask_address out for a cluster on this machine"
        ) from error


@contextmanager
def _working(client: Client) -> Iterator[None]:
    """Have what our code logs on workers logged here; in the end let workers end the processes that decoded images."""
    for name in PACKAGES:
        client.forward_logging(name, logging.getLogger(name).level)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        with suppress(*_GONE):  # workers that go on without us
            client.run(end_process_workers, on_error="ignore")
        for name in PACKAGES:
            with suppress(*_GONE, ValueError):  # the last: another flow has done so
                client.unforward_logging(name)  # type: ignore[no-untyped-call]
