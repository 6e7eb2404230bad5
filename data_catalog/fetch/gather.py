"""The outcomes of a shard's URLs: from journals of an interrupted run, and from the processes that own their hosts."""

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from data_catalog.base.errors import InputError
from data_catalog.base.progress import Progress
from data_catalog.disk.child_process import MAX_EARLY_DEATHS, ChildDiedError
from data_catalog.fetch.config import FetchConfig, group_of
from data_catalog.fetch.frontier import SLOWEST_DELAY_S
from data_catalog.fetch.journal import JournalReader, Outcome, failed
from data_catalog.fetch.owner import Owners, Task
from data_catalog.fetch.urls import parse_url
from data_catalog.fetch.visits import Moved, Pause

logger = logging.getLogger(__name__)

# A URL is given up after three deaths of its process, one beside others and two alone, or nine losses of its machine.
_GIVEN_UP, _DEATH, _LOSS = 9, 3, 1
_SHOWN = 20
_MOST_TASKS = 256
_LOOK_S = 1.0
_HANDOVER_S = 10.0
# One suspect of all shards at a time, so that none is blamed for another's.
_alone = threading.Lock()


def fetch_by_owners(urls: Sequence[str], config: FetchConfig, folder: Path, owners: Owners) -> dict[str, Outcome]:
    """Return the outcome of every URL; those that a journal in the folder has are not requested.

    The URLs of a process that dies go to its heir at once. Those that were under way are requested at the end, one at a
    time; one at which a process then dies twice is rejected.
    """
    with Progress("fetch", total=len(urls), unit="images") as progress:
        shard = _Shard(config, folder, owners, progress)
        _open.append(shard)
        try:
            shard.fetch(urls)
            while suspects := [url for url in urls if url not in shard.outcomes and shard.guilt[url] < _GIVEN_UP]:
                with _alone:
                    shard.fetch(suspects[:1])
        finally:
            _open.remove(shard)
    return {url: shard.outcomes.get(url) or failed("fetch_crash") for url in urls}


class _Shard:
    """The URLs of a shard, until each has an outcome or is given up, and what its journals have."""

    def __init__(self, config: FetchConfig, folder: Path, owners: Owners, progress: Progress) -> None:
        self._config, self._folder, self._owners, self._progress = config, folder, owners, progress
        self._named = config.named_limits
        paces = (config.default_limits, *self._named.values())
        self._longest_interval_s = 2 * max(SLOWEST_DELAY_S, *(pace.interval_s for pace in paces))
        self._holders: dict[str, Task] = {}  # the last task that got a URL, while it may go on with it
        self._early_deaths = 0
        self.guilt = Counter[str]()  # of deaths, by URL
        # From journals:
        self.outcomes: dict[str, Outcome] = {}
        self._moved: dict[str, Moved] = {}  # URLs handed over
        self._under_way: set[str] = set()  # URLs whose request has begun and not ended, perhaps of a process that died
        self.starts: dict[str, float] = {}  # by host: the last request
        self.pauses: dict[str, Pause] = {}  # by host
        self.reading = threading.RLock()
        self._readers = {path: JournalReader(path) for path in sorted(folder.glob("*.journal"))}
        self._number = max((int(path.stem) for path in self._readers), default=-1)
        for path in [*self._readers]:
            self._close(path)

    def fetch(self, urls: Sequence[str]) -> None:
        """Have the owners of their hosts fetch URLs without an outcome; those that a death strikes stay without."""
        self._under_way.difference_update(urls)  # their processes have ended
        running: dict[Future[None], Task] = {}
        threads = ThreadPoolExecutor(_MOST_TASKS)
        assign_at = time.monotonic()
        try:
            while True:
                self.look()
                if new := len(self.outcomes) - self._progress.done:
                    # A copy, since threads of other shards add outcomes too (`_hosts_since`).
                    num_failed = sum(outcome["reason"] is not None for outcome in [*self.outcomes.values()])
                    self._progress.advance(new, failed=num_failed)
                # A redirect to another owner's host does not wait for the rest of its task.
                if time.monotonic() >= assign_at:
                    running |= {threads.submit(self._owners.run, task): task for task in self._tasks(urls)}
                    assign_at = time.monotonic() + _HANDOVER_S
                if not running:
                    return
                for ended in wait(running, min(_LOOK_S, _HANDOVER_S), FIRST_COMPLETED).done:
                    self._end(running.pop(ended), ended)
                    assign_at = time.monotonic()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def look(self) -> None:
        """Read what has come into the journals since the last look."""
        with self.reading:
            for reader in self._readers.values():
                self._read(reader)

    def _close(self, path: Path) -> None:
        """Read the rest of a journal whose task has ended."""
        with self.reading:
            self._read(self._readers.pop(path))

    def _read(self, reader: JournalReader) -> None:
        with suppress(FileNotFoundError):  # its process has not opened it, or never did
            for event, piece in reader:
                url = event.pop("url")
                if "pause" in event:
                    self.pauses[event["host"]] = event["pause"]
                    continue
                if "at" in event:
                    self.starts[event["host"]] = max(event["at"], self.starts.get(event["host"], 0.0))
                    if url not in self.outcomes:
                        self._under_way.add(url)
                    continue
                self._under_way.discard(url)
                if "moved" in event:
                    self._moved[url] = event["moved"]
                elif "reason" in event and url not in self.outcomes:
                    self.outcomes[url] = {**event, "piece": piece}

    def _tasks(self, urls: Sequence[str]) -> Iterator[Task]:
        """Yield tasks for the URLs that no process has, in their present state, by the owners of their hosts."""
        moved, left = self._moved, []
        for url in urls:
            holder = self._holders.get(url)
            is_held = holder is not None and holder.moved.get(url) == moved.get(url)
            if not is_held and url not in self.outcomes and url not in self._under_way:
                left.append(url)
        if not left:
            return
        hosts = [group_of(parse_url(moved[url]["to"] if url in moved else url).host, self._named) for url in left]
        owner_of = self._owners.assign(Counter(hosts))
        parts = defaultdict[str, list[str]](list)
        for url, host in zip(left, hosts, strict=True):
            parts[owner_of[host]].append(url)
        is_alone = len(self._owners.names()) == 1
        starts, pauses = _hosts_since(time.time() - self._longest_interval_s)
        for owner, part in parts.items():
            with self.reading:
                self._number += 1
                journal = self._folder / f"{self._number:05d}.journal"
                self._readers[journal] = JournalReader(journal)
            task = Task(
                urls=part,
                config=self._config,
                journal=journal,
                owner=owner,
                hosts=None if is_alone else [host for host in owner_of if owner_of[host] == owner],
                starts=starts,
                pauses=pauses,
                moved={url: moved[url] for url in part if url in moved},
            )
            self._holders.update(dict.fromkeys(part, task))
            yield task

    def _end(self, task: Task, ended: Future[None]) -> None:
        """Take back what is left of a task; if its process died, the URLs that were under way are suspects."""
        self._close(task.journal)
        left = [url for url in task.urls if self._holders.get(url) is task and url not in self.outcomes]
        for url in left:
            del self._holders[url]
        try:
            ended.result()
        except ChildDiedError as error:
            suspects = self._under_way.intersection(left)
            shown = f", while it requested {', '.join(sorted(suspects)[:_SHOWN])}" * bool(suspects)
            logger.warning("images: the fetching process ended (%s)%s; another takes over", error, shown)
            self.guilt.update(dict.fromkeys(suspects, _LOSS if error.is_lost else _DEATH))
            if error.is_lost:
                self._under_way -= {url for url in suspects if self.guilt[url] < _GIVEN_UP}
                return
            has_begun = error.has_begun or suspects or len(left) < len(task.urls)
            self._early_deaths = 0 if has_begun else self._early_deaths + 1
            if self._early_deaths == MAX_EARLY_DEATHS:
                raise InputError(f"images: the fetching process ends before it reaches a row: {error}") from error


# The shards that are being fetched.
_open: list[_Shard] = []


def _hosts_since(since: float) -> tuple[dict[str, float], dict[str, Pause]]:
    """Return the last requests that hosts got since then, and the pauses of those that are paused, from all shards."""
    starts: dict[str, float] = {}
    pauses: dict[str, Pause] = {}
    now = time.time()
    for shard in [*_open]:
        with shard.reading:
            shard.look()
            for host, at in shard.starts.items():
                if at > starts.get(host, since):
                    starts[host] = at
            for host, pause in shard.pauses.items():
                if pause[0] > pauses.get(host, (now,))[0]:
                    pauses[host] = pause
    return starts, pauses
