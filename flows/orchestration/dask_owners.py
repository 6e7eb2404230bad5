"""The fetching processes of a Dask cluster, one for each machine, each of which alone requests the URLs of its hosts.

The flow watches the workers that have them, and renews their lease. When it has lost one, another worker of the machine
or, without one, other machines take over its hosts, as soon as its lease has surely ended.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from distributed import CancelledError, Client, KilledWorker, secede

from data_catalog.base.errors import PipelineError
from data_catalog.disk.child_process import ChildDiedError
from data_catalog.disk.files import TEMPORARY_PREFIX, read_json, write_json
from data_catalog.fetch.owner import LEASE_S, RENEWED_S, FetchingProcess, Owners, Task, renew

logger = logging.getLogger(__name__)

# A worker of which the scheduler has not heard for so long is given up. One that computes may be late.
SILENT_S = 15.0
_ENDED_S = LEASE_S + 1.5  # after which a lease that is not renewed has surely ended
_LOOK_S = 0.2
_LEASE = f"{TEMPORARY_PREFIX}lease-"
_OWNERS = "owners.json"
_STORED_BEATS = 10

# Fetching processes of this worker, by lease.
_processes: dict[tuple[str, str], FetchingProcess] = {}


def fetch_here(hosts: Path, lease: Path, name: str, task: Task) -> None:
    """Fetch the URLs of a task, in the process of a worker."""
    secede()  # type: ignore[no-untyped-call]  # its thread goes on with other tasks
    process = _processes.setdefault((str(lease), name), FetchingProcess(hosts, str(lease), name))
    process.run(task)


@dataclass(slots=True, eq=False)
class _Elected:
    """The worker of a machine that has its fetching process."""

    address: str
    free_at: float = math.inf  # when the hosts of a lost worker may go to another one
    # In the lease: one that was lost and comes back is another one.
    name: str = field(default_factory=lambda: uuid4().hex)


class DaskOwners(Owners):
    """The fetching processes of a cluster; elected when the first shard is fetched. Safe for threads.

    `remote` wraps a call in the flow's environment; all machines share the folder for the state of hosts.
    """

    def __init__(self, client: Client, remote: Callable[[Callable[[], Any]], Callable[[], Any]], hosts: Path) -> None:
        super().__init__()
        self._client, self._remote, self._hosts = client, remote, hosts
        self._lease = hosts / f"{_LEASE}{uuid4().hex}"
        self._workers: dict[str, _Elected] = {}  # by machine
        self._known: dict[str, Any] = {}  # by address: what the scheduler last said of its workers
        self._seen: dict[str, tuple[float, float]] = {}  # by address: its last heartbeat, and when it came
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None
        self._failure: PipelineError | None = None
        # A host stays with the machine that knows its robots.txt and until when it asked for a rest.
        with suppress(OSError, ValueError):
            self._owners.update(read_json(hosts / _OWNERS))

    def names(self) -> Sequence[str]:
        """Return the machines that have a fetching process; wait for the first worker."""
        with self._lock:
            if self._watcher is None:
                while not (machines := self._look()):
                    time.sleep(RENEWED_S)
                self._workers = {machine: _Elected(addresses[0]) for machine, addresses in machines.items()}
                self._renew(0)
                self._wait_for_earlier_flows()
                self._watcher = threading.Thread(target=self._watch, daemon=True)
                self._watcher.start()
            if self._failure is not None:
                raise self._failure
            return list(self._workers)

    def run(self, task: Task) -> None:
        """Fetch URLs by the process of a machine; once `ChildDiedError` is raised, it makes no more requests."""
        elected = self._workers.get(task.owner)
        if elected is None:
            raise _lost("its machine")
        if not self._is_lost(task.owner, elected):
            call = self._remote(partial(fetch_here, self._hosts / task.owner, self._lease, elected.name, task))
            future: Any = self._client.submit(call, workers=[elected.address], allow_other_workers=False, pure=False)
            ended = threading.Event()
            future.add_done_callback(lambda _: ended.set())
            while not ended.wait(_LOOK_S) and not self._is_lost(task.owner, elected):
                pass
            if ended.is_set():
                try:
                    future.result()
                    return
                except (KilledWorker, CancelledError) as error:
                    raise _lost(f"the worker {elected.address}") from error
            with suppress(Exception):
                future.cancel()
        while self._workers.get(task.owner) is elected and self._failure is None:
            time.sleep(_LOOK_S)  # until its hosts may go to another one
        raise _lost(f"the worker {elected.address}")

    def close(self) -> None:
        """Renew the lease no more, so that the processes end."""
        self._closed.set()
        if self._watcher is not None:
            self._watcher.join()
            with suppress(PipelineError, OSError):
                self._store_owners()

    def _is_lost(self, machine: str, elected: _Elected) -> bool:
        return elected.free_at < math.inf or self._workers.get(machine) is not elected

    def _renew(self, beat: int) -> None:
        """Renew the lease of the processes that are not lost."""
        renew(self._lease, beat, [each.name for each in self._workers.values() if each.free_at == math.inf])

    def _wait_for_earlier_flows(self) -> None:
        """Wait until the processes of a flow that was killed have surely ended."""
        now = self._lease.stat().st_mtime
        for path in self._hosts.glob(f"{_LEASE}*"):
            if path != self._lease:
                time.sleep(max(0.0, path.stat().st_mtime + _ENDED_S - now))
                path.unlink()

    def _watch(self) -> None:
        """Elect other workers in place of lost ones, and renew the lease of the others, until the flow ends."""
        beat = 0
        while not self._closed.wait(RENEWED_S):
            beat += 1
            machines, now = self._look(), time.monotonic()
            for machine, elected in [*self._workers.items()]:
                alive = machines.get(machine, [])
                if elected.address not in alive:
                    if elected.free_at == math.inf:
                        silent_s = now - self._seen.get(elected.address, (0.0, now))[1]
                        logger.warning(
                            "the worker %s is lost; the scheduler last heard of it %.0f s ago",
                            elected.address,
                            silent_s,
                        )
                    elected.free_at = min(elected.free_at, now + _ENDED_S)
                if elected.free_at <= now and alive:
                    self._workers[machine] = _Elected(elected.address if elected.address in alive else alive[0])
                elif elected.free_at <= now:
                    del self._workers[machine]
            try:
                if beat % _STORED_BEATS == 0:
                    self._store_owners()
                self._renew(beat)
            except PipelineError as error:
                self._failure = error
                return
            except OSError:
                continue

    def _look(self) -> dict[str, list[str]]:
        """Return the addresses of the workers that are alive, by machine."""
        asked, machines = time.monotonic(), dict[str, list[str]]()
        with suppress(OSError, ValueError, KeyError):  # the scheduler is away, which says nothing of its workers
            self._known = self._client.scheduler_info(n_workers=-1)["workers"]
        came = time.monotonic()
        for address, facts in sorted(self._known.items()):
            if self._seen.get(address, (0.0, 0.0))[0] != facts["last_seen"]:
                self._seen[address] = facts["last_seen"], came
            if asked < self._seen[address][1] + SILENT_S:
                machines.setdefault(facts["host"], []).append(address)
        return machines

    def _store_owners(self) -> None:
        with self._assigning:
            owners = dict(self._owners)
        write_json(self._hosts / _OWNERS, owners)


def _lost(what: str) -> ChildDiedError:
    error = ChildDiedError(f"{what} is lost")
    error.is_lost = True
    return error
