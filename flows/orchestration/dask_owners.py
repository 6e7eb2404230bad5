"""The fetching processes of a Dask cluster, one for each machine, each of which alone requests the URLs of its hosts.

The flow watches the workers that have them, and renews their lease. When it has lost one, another worker of the machine
or, without one, other machines take over its hosts, as soon as its lease has surely ended.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from distributed import CancelledError, Client, KilledWorker, secede

from data_catalog.child_process import ChildDiedError
from data_catalog.fetch.lease import LEASE_S, RENEWED_S, renew
from data_catalog.fetch.owner import FetchingProcess, Task, Watch
from data_catalog.storage.shards import TEMPORARY_PREFIX

# A worker of which the scheduler has not heard for so long is given up. One that computes may be late.
SILENT_S = 15.0
_MARGIN_S = 1.5
_LOOK_S = 0.2

# Fetching processes of this worker, by lease.
_processes: dict[tuple[str, str], FetchingProcess] = {}


def fetch_here(hosts: Path, lease: Path, name: str, task: Task) -> None:
    """Fetch the URLs of a task, in the process of a worker."""
    secede()  # type: ignore[no-untyped-call]  # its thread goes on with other tasks
    process = _processes.setdefault((str(lease), name), FetchingProcess(hosts, str(lease), name))
    process.run(task, lambda num_done, num_failed: None)


class DaskOwners:
    """The fetching processes of a cluster; elected when the first shard is fetched. Safe for threads.

    Args:
        client: of the cluster.
        remote: wraps a call in the flow's environment.
        hosts: folder, which all machines share, for the state of hosts.
    """

    def __init__(self, client: Client, remote: Callable[[Callable[[], Any]], Callable[[], Any]], hosts: Path) -> None:
        self._client, self._remote, self._hosts = client, remote, hosts
        self._lease = hosts / f"{TEMPORARY_PREFIX}lease-{uuid4().hex}"
        self._workers: dict[str, str] = {}  # address by machine
        self._free_at: dict[str, float] = {}  # by machine: when the hosts of its lost worker may go to another one
        self._seen: dict[str, tuple[float, float]] = {}  # by address: its last heartbeat, and when it came
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None

    def names(self) -> Sequence[str]:
        """Return the machines that have a fetching process; wait for the first worker."""
        with self._lock:
            if self._watcher is None:
                while not (machines := self._look()):
                    time.sleep(RENEWED_S)
                self._workers = {machine: addresses[0] for machine, addresses in machines.items()}
                renew(self._lease, 0, [*self._workers.values()])
                self._watcher = threading.Thread(target=self._watch, daemon=True)
                self._watcher.start()
            return list(self._workers)

    def run(self, task: Task, watch: Watch) -> None:
        """Fetch URLs by the process of a machine.

        Raises:
            ChildDiedError: the process, or its worker, has ended, and makes no more requests.
        """
        address = self._workers.get(task.owner)
        if address is None or task.owner in self._free_at:
            self._wait_until_free(task.owner, address)
        call = self._remote(partial(fetch_here, self._hosts / task.owner, self._lease, str(address), task))
        future: Any = self._client.submit(call, workers=[address], allow_other_workers=False, pure=False)
        ended = threading.Event()
        future.add_done_callback(lambda _: ended.set())
        while not ended.wait(_LOOK_S):
            if task.owner in self._free_at or self._workers.get(task.owner) != address:
                with suppress(Exception):
                    future.cancel()
                self._wait_until_free(task.owner, address)
        try:
            future.result()
        except (KilledWorker, CancelledError) as error:
            raise ChildDiedError("its worker ended") from error
        watch(len(task.urls), 0)

    def _wait_until_free(self, machine: str, address: str | None) -> None:
        """Raise `ChildDiedError` as soon as the hosts of a lost worker may go to another one."""
        while self._workers.get(machine) == address is not None:
            time.sleep(_LOOK_S)
        raise ChildDiedError(f"the worker {address} is lost")

    def _watch(self) -> None:
        beat = 0
        while not self._closed.wait(RENEWED_S):
            beat += 1
            machines, now = self._look(), time.monotonic()
            alive = {address for addresses in machines.values() for address in addresses}
            for machine, address in [*self._workers.items()]:
                if address not in alive and machine not in self._free_at:
                    self._free_at[machine] = now + LEASE_S + _MARGIN_S
                if self._free_at.get(machine, math.inf) <= now:
                    heirs = [other for other in machines.get(machine, []) if other != address]
                    if heirs:
                        self._workers[machine] = heirs[0]
                    else:
                        del self._workers[machine]
                    del self._free_at[machine]
            leased = [address for machine, address in self._workers.items() if machine not in self._free_at]
            with suppress(OSError):
                renew(self._lease, beat, leased)

    def _look(self) -> dict[str, list[str]]:
        """Return the addresses of the workers that are alive, by machine."""
        try:
            found = self._client.scheduler_info()["workers"]
        except (OSError, ValueError, KeyError):
            found = {}
        now, machines = time.monotonic(), dict[str, list[str]]()
        for address, facts in sorted(found.items()):
            if self._seen.get(address, (0.0, 0.0))[0] != facts["last_seen"]:
                self._seen[address] = facts["last_seen"], now
            if now < self._seen[address][1] + SILENT_S:
                machines.setdefault(facts["host"], []).append(address)
        return machines

    def close(self) -> None:
        """Renew the lease no more, so that the processes end."""
        self._closed.set()
        if self._watcher is not None:
            self._watcher.join()
        self._lease.unlink(missing_ok=True)
