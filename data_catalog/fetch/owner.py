"""A fetching process, which alone requests the URLs of the hosts that it owns; its client, and its lease.

`python -m data_catalog.fetch.owner SOCKET HOSTS_FOLDER [LEASE NAME]` works on the jobs of several shards at a time
until the socket closes. A job's outcomes are in its journal.
"""

import json
import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from data_catalog.base.boundary import raise_if_disk_fails
from data_catalog.base.errors import KINDS, DefectError, DiskError, InputError, PipelineError
from data_catalog.disk.child_process import CLOSED, START_S, ChildDiedError, ChildProcess
from data_catalog.disk.failpoints import kill_with_parent
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.journal import Journal
from data_catalog.fetch.robots import HostStore
from data_catalog.fetch.urls import FetchError
from data_catalog.fetch.visits import SLACK_S, Fetcher, Job, Moved, Pause

# A process that has not seen its lease renewed for so long begins no request. So a flow that cannot reach a process
# knows when its hosts may go to another one.
LEASE_S = 10.0
RENEWED_S = 1.0
_BEAT_S = 0.5
_LOST = 3  # exit status of a process whose lease has ended
_ERRORS: dict[str, type[PipelineError]] = {kind.__name__: kind for kind in KINDS}
# A library that is missing or incompatible, or a machine that can start no more threads.
_ERRORS |= dict.fromkeys(("ImportError", "ModuleNotFoundError", "RuntimeError"), InputError)


def renew(path: Path, beat: int, names: Sequence[str]) -> None:
    """Renew the lease of the processes that are believed alive."""
    from data_catalog.disk.files import write_json  # fetching processes need no pyarrow

    write_json(path, {"beat": beat, "names": list(names)})


class Lease:
    """The lease by which a flow keeps a process of another machine at work, in a file that all machines share."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._beat: int | None = None
        self._lock = threading.Lock()
        self._seen_at = self._looked_at = -math.inf

    def holds(self) -> bool:
        """Return whether the process may begin requests."""
        with self._lock:
            now = time.monotonic()
            if now > self._looked_at + RENEWED_S:
                with suppress(OSError, ValueError, KeyError):
                    content = json.loads(self._path.read_text(encoding="utf-8"))
                    if self._name in content["names"] and (self._beat is None or content["beat"] > self._beat):
                        # What is seen first may be old.
                        self._seen_at = -math.inf if self._beat is None else now
                        self._beat = content["beat"]
                self._looked_at = now
            return now < self._seen_at + LEASE_S

    def wait(self) -> bool:
        """Wait for the first renewal; return False if none comes in time."""
        end = time.monotonic() + LEASE_S
        while not (found := self.holds()) and time.monotonic() < end:
            time.sleep(RENEWED_S / 4)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """URLs that a process is to fetch into a new journal, and what other processes know of them and of hosts."""

    urls: Sequence[str]  # canonical and distinct
    config: FetchConfig
    journal: Path  # its folder gets large bodies, for a while
    owner: str  # name of the process
    hosts: Collection[str] | None  # hosts that the process owns from now on; None: all
    starts: Mapping[str, float]  # by host: when the last request began, in seconds since 1970
    pauses: Mapping[str, Pause]  # by host
    moved: Mapping[str, Moved]  # by URL: the state of those that another process has handed over


class Owners:
    """Fetching processes, each of which alone requests the URLs of its hosts; by default there is only one."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}  # by host
        self._num_urls = Counter[str]()  # by owner
        self._assigning = threading.Lock()

    def names(self) -> Sequence[str]:
        """Return the names of those that are alive; none joins them."""
        return [""]

    def assign(self, num_urls: Mapping[str, int]) -> dict[str, str]:
        """Return the owners of hosts: one that is new, or whose owner ended, goes to the process with fewest URLs."""
        with self._assigning:
            names = self.names()
            if not names:
                raise InputError("images: all fetching processes have ended. Run the same command again")
            for host in sorted(num_urls, key=lambda host: -num_urls[host]):
                if self._owners.get(host) not in names:
                    self._owners[host] = min(names, key=lambda name: self._num_urls[name])
                self._num_urls[self._owners[host]] += num_urls[host]
            return {host: self._owners[host] for host in num_urls}

    def run(self, task: Task) -> None:
        """Fetch the URLs of a task by its owner. Raise `ChildDiedError` if the owner ends, or hangs and is killed."""
        raise NotImplementedError


class Owner:
    """The fetching process, as it serves its parent; with a lease, it begins no request without it."""

    def __init__(self, parent: Connection, hosts: Path, lease: Lease | None = None) -> None:
        self._parent, self._hosts, self._lease = parent, hosts, lease
        self._sending = threading.Lock()
        self._store: HostStore | None = None
        self._fetchers: dict[str, Fetcher] = {}  # by settings
        self._owned: set[str] = set()  # hosts
        self._has_begun = False

    def serve(self) -> None:
        """Work on jobs until the socket closes."""
        threading.Thread(target=self._beat, daemon=True).start()
        with suppress(EOFError, ConnectionError):
            while True:
                number, task = self._parent.recv()
                try:
                    self._start(number, task)
                except Exception as error:  # noqa: BLE001  the parent raises it as its own
                    self._fail(error)

    def _start(self, number: int, task: Task) -> None:
        by, now = repr(task.config), time.time()
        if by not in self._fetchers:
            self._store = self._store or HostStore(self._hosts)
            self._fetchers[by] = Fetcher(task.config, self._store, self._fail, permit=self._permit)
        fetcher = self._fetchers[by]
        for name, started in task.starts.items():
            fetcher.frontier.note_start(name, now - started)
        for name, (until, reason, detail, status) in task.pauses.items():
            fetcher.frontier.pause(name, FetchError(reason, detail, http_status=status), until - now)
        journal = Journal(task.journal)

        def ended() -> None:
            journal.close()
            self._tell(ended=number)

        self._owned.update(task.hosts or ())

        def owns(host: str) -> bool:
            return task.hosts is None or host in self._owned

        fetcher.start(Job(journal, task.journal.parent, len(task.urls), ended, owns), task.urls, task.moved)

    def _permit(self) -> None:
        """Note that a request begins; end the process if its lease forbids it."""
        self._require_lease()
        if not self._has_begun:
            self._has_begun = True
            self._tell(begun=True)

    def _require_lease(self) -> None:
        """End the process, with all its requests, if its hosts may belong to another one."""
        if self._lease is not None and not self._lease.holds():
            os._exit(_LOST)

    def _beat(self) -> None:
        """Tell that no request hangs."""
        while True:
            time.sleep(_BEAT_S)
            self._require_lease()
            if not any(fetcher.hangs() for fetcher in [*self._fetchers.values()]):
                self._tell()

    def _fail(self, error: Exception) -> None:
        """Tell an error of this machine, which the parent raises by its kind."""
        kind = type(error).__name__
        text = f"{kind}: {error}"
        try:
            raise_if_disk_fails(error, self._hosts)
        except DiskError as failure:
            text = str(failure)
        self._tell(error=text, kind=DiskError.__name__ if isinstance(error, OSError) else kind)

    def _tell(self, **event: Any) -> None:
        with self._sending, suppress(ConnectionError):
            self._parent.send_bytes(json.dumps(event).encode())


class FetchingProcess(Owners):
    """A fetching process, for its parent: started by the first job, and again after it died. Safe for threads.

    `hosts` is the folder of its `HostStore`, `lease` the file of its lease and its name in it, or nothing.
    """

    def __init__(self, hosts: Path, *lease: str) -> None:
        super().__init__()
        self._hosts, self._lease = hosts, lease
        self._lock = threading.Lock()
        self._child: ChildProcess | None = None
        self._jobs: dict[int, Future[None]] = {}
        self._number = 0
        self._is_closed = False

    def start(self) -> None:
        """Start the process before its first job, so that it loads libraries during other work."""
        with self._lock:
            if self._is_closed:
                raise DefectError(CLOSED)
            if self._child is None:
                self._child = ChildProcess("data_catalog.fetch.owner", str(self._hosts.absolute()), *self._lease)
                threading.Thread(target=self._listen, args=(self._child,), daemon=True).start()

    def run(self, task: Task) -> None:
        """Fetch URLs into a new journal. An error of the machine is raised as that of its kind."""
        self.start()
        done: Future[None] = Future()
        with self._lock:
            if self._child is None:
                raise ChildDiedError("it ended before it got the job")
            self._number += 1
            self._jobs[self._number] = done
            with suppress(ConnectionError):  # `_listen` notices the death
                self._child.socket.send((self._number, replace(task, journal=task.journal.absolute())))
        done.result()

    def _listen(self, child: ChildProcess) -> None:
        """Take the events of a process until it ends; then its jobs fail."""
        error: Exception | None = None
        has_begun, patience_s = False, START_S
        try:
            while error is None and child.socket.poll(patience_s):
                event = json.loads(child.socket.recv_bytes())
                patience_s = SLACK_S
                has_begun |= "begun" in event
                if "ended" in event:
                    self._jobs.pop(event["ended"]).set_result(None)
                elif "error" in event:
                    kind = _ERRORS.get(event["kind"], DefectError)
                    error = kind(f"images: the fetching process can't go on: {event['error']}")
            error = error or ChildDiedError(f"silent for {patience_s:g} s")
        except (EOFError, OSError):
            error = ChildDiedError(child.cause_of_death())
        if isinstance(error, ChildDiedError):
            error.has_begun = has_begun
        child.kill()  # another thread may hold the lock while the process takes a job
        with self._lock:
            child.close()
            jobs, self._jobs, self._child = self._jobs, {}, None
        for done in jobs.values():
            done.set_exception(DefectError(CLOSED) if self._is_closed else error)

    def close(self) -> None:
        """End the process; jobs that run fail."""
        with self._lock:
            self._is_closed = True
            if self._child is not None:
                self._child.kill()


def main(arguments: list[str]) -> None:
    """Serve the parent."""
    kill_with_parent()
    parent, hosts, *leased = arguments
    lease = Lease(Path(leased[0]), leased[1]) if leased else None
    if lease is not None and not lease.wait():
        os._exit(_LOST)
    with suppress(KeyboardInterrupt):
        Owner(Connection(int(parent)), Path(hosts), lease).serve()
    os._exit(0)  # threads may be at work


if __name__ == "__main__":
    main(sys.argv[1:])
