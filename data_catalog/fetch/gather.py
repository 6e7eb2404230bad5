"""The outcomes of a shard's URLs: from journals of an interrupted run, and from the processes that own their hosts."""

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import cast

from data_catalog.child_process import MAX_EARLY_DEATHS, ChildDiedError
from data_catalog.errors import InputError
from data_catalog.fetch.config import FetchConfig, group_of
from data_catalog.fetch.frontier import SLOWEST_DELAY_S
from data_catalog.fetch.journal import JournalReader
from data_catalog.fetch.owner import Owners, Task, owner_of
from data_catalog.fetch.urls import parse_url
from data_catalog.fetch.visits import Moved, Pause
from data_catalog.images.tables import Outcome, failed
from data_catalog.progress import Progress

logger = logging.getLogger(__name__)

# Deaths of fetching processes at a URL: one beside others, two alone. A process may be killed for another reason.
_MOST_DEATHS = 3
_SHOWN = 20
_MOST_TASKS = 256
_LOOK_S = 1.0
_HANDOVER_S = 10.0
# One suspect of all shards at a time, so that none is blamed for another's.
_alone = threading.Lock()


class _Journals:
    """What the journals of a shard say, read on at each look; other shards look too, for what concerns hosts."""

    def __init__(self, folder: Path) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.moved: dict[str, Moved] = {}  # URLs handed over
        self.under_way: set[str] = set()
        self._starts: dict[str, float] = {}  # the last one, by host
        self._pauses: dict[str, Pause] = {}
        self.num_failed = 0
        self._folder, self._lock = folder, threading.Lock()
        paths = sorted(folder.glob("*.journal"))
        self._number = max((int(path.stem) for path in paths), default=-1)
        self._readers = {path: JournalReader(path) for path in paths}
        for path in paths:
            self.close(path)

    def new(self) -> Path:
        """Return the path of a further journal."""
        with self._lock:
            self._number += 1
            path = self._folder / f"{self._number:05d}.journal"
            self._readers[path] = JournalReader(path)
            return path

    def look(self) -> None:
        """Read what has come since the last look."""
        with self._lock:
            for reader in self._readers.values():
                self._read(reader)

    def close(self, path: Path) -> None:
        """Read the rest of a journal whose task has ended."""
        with self._lock:
            self._read(self._readers.pop(path))

    def _read(self, reader: JournalReader) -> None:
        with suppress(FileNotFoundError):  # its process has not opened it, or never did
            for event, piece in reader:
                url = event.pop("url")
                if "reason" in event:
                    self.num_failed += url not in self.outcomes and event["reason"] is not None
                    self.outcomes.setdefault(url, cast("Outcome", {**event, "piece": piece}))
                    self.under_way.discard(url)
                elif "moved" in event:
                    self.moved[url] = event["moved"]
                    self.under_way.discard(url)
                elif "pause" in event:
                    self._pauses[event["host"]] = event["pause"]
                else:
                    self._starts[event["host"]] = max(event["at"], self._starts.get(event["host"], 0.0))
                    if url not in self.outcomes:
                        self.under_way.add(url)

    def hosts_since(self, since: float) -> tuple[dict[str, float], dict[str, Pause]]:
        """Return hosts with their last request, if it began later, and those that are still paused."""
        self.look()
        now = time.time()
        with self._lock:
            starts = {host: at for host, at in self._starts.items() if at > since}
            return starts, {host: pause for host, pause in self._pauses.items() if _until(pause) > now}


def _until(pause: Pause) -> float:
    return pause[0]


# The journals of all shards that are being fetched.
_open: list[_Journals] = []


def fetch_by_owners(urls: Sequence[str], config: FetchConfig, folder: Path, owners: Owners) -> dict[str, Outcome]:
    """Return the outcome of every URL; those that a journal in the folder has are not requested.

    The URLs of a process that dies go to its heir at once. Those that were under way are requested at the end, one at a
    time; one at which a process then dies twice is rejected.
    """
    journals = _Journals(folder)
    _open.append(journals)
    try:
        with Progress("fetch", total=len(urls), unit="images") as progress:
            shard = _Shard(config, journals, owners, progress)
            shard.fetch(urls)
            while suspects := shard.suspects(urls):
                with _alone:
                    shard.fetch(suspects[:1])
    finally:
        _open.remove(journals)
    return {url: journals.outcomes.get(url) or failed("fetch_crash") for url in urls}


class _Shard:
    """The URLs of a shard, until each has an outcome or is given up."""

    def __init__(self, config: FetchConfig, journals: _Journals, owners: Owners, progress: Progress) -> None:
        self._config, self._journals, self._owners, self._progress = config, journals, owners, progress
        self._named = config.named_limits
        paces = (config.default_limits, *self._named.values())
        self._longest_interval_s = 2 * max(SLOWEST_DELAY_S, *(pace.interval_s for pace in paces))
        self._holders: dict[str, Task] = {}  # the last task that got a URL
        self._deaths = Counter[str]()
        self._early_deaths = 0

    def suspects(self, urls: Sequence[str]) -> list[str]:
        """Return the URLs without an outcome that may be tried again."""
        return [url for url in urls if url not in self._journals.outcomes and self._deaths[url] < _MOST_DEATHS]

    def fetch(self, urls: Sequence[str]) -> None:
        """Have the owners of their hosts fetch URLs without an outcome; those that a death strikes stay without."""
        running: dict[Future[None], Task] = {}
        threads = ThreadPoolExecutor(_MOST_TASKS)
        left, handover_at = [*urls], time.monotonic() + _HANDOVER_S
        try:
            while left or running:
                for task in self._tasks(left):
                    running[threads.submit(self._owners.run, task)] = task
                done = wait(running, min(_LOOK_S, _HANDOVER_S), FIRST_COMPLETED).done
                self._look()
                left = [url for ended in done for url in self._urls_left(ended, running.pop(ended))]
                # A redirect to another owner's host does not wait for the rest of its task.
                if done or time.monotonic() > handover_at:
                    left += self._handed_over()
                    handover_at = time.monotonic() + _HANDOVER_S
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _tasks(self, urls: Sequence[str]) -> Iterator[Task]:
        """Yield the tasks of the owners of URLs that have no outcome."""
        journals, by_owner = self._journals, defaultdict[str, list[str]](list)
        left = [url for url in dict.fromkeys(urls) if url not in journals.outcomes]
        if not left:
            return
        names = tuple(self._owners.names())
        if not names:
            raise InputError("images: all fetching processes have ended. Run the same command again")
        for url in left:
            place = journals.moved[url]["to"] if url in journals.moved else url
            by_owner[owner_of(group_of(parse_url(place).host, self._named), names)].append(url)
        starts, pauses = self._hosts()
        for owner, part in by_owner.items():
            task = Task(
                urls=part,
                config=self._config,
                journal=journals.new(),
                owner=owner,
                owners=names,
                starts=starts,
                pauses=pauses,
                moved={url: journals.moved[url] for url in part if url in journals.moved},
            )
            self._holders.update(dict.fromkeys(part, task))
            yield task

    def _hosts(self) -> tuple[dict[str, float], dict[str, Pause]]:
        """Return what an heir has to know of hosts: recent requests of all shards, and pauses."""
        starts: dict[str, float] = {}
        pauses: dict[str, Pause] = {}
        for journals in [*_open]:
            theirs, paused = journals.hosts_since(time.time() - self._longest_interval_s)
            starts |= {host: max(at, starts.get(host, at)) for host, at in theirs.items()}
            pauses |= {host: max(pause, pauses.get(host, pause), key=_until) for host, pause in paused.items()}
        return starts, pauses

    def _look(self) -> None:
        """Read the journals, and show the progress."""
        self._journals.look()
        new = len(self._journals.outcomes) - self._progress.done
        if new:
            self._progress.advance(new, failed=self._journals.num_failed)

    def _handed_over(self) -> list[str]:
        """Return the URLs that another owner is to go on with."""
        journals, holders = self._journals, self._holders
        left = [url for url in [*journals.moved] if url not in journals.outcomes and url not in journals.under_way]
        return [url for url in left if url in holders and holders[url].moved.get(url) != journals.moved[url]]

    def _urls_left(self, ended: Future[None], task: Task) -> list[str]:
        """Return the URLs of a task that a process that died had not begun."""
        self._journals.close(task.journal)
        try:
            ended.result()
        except ChildDiedError as error:
            journals = self._journals
            mine = [url for url in task.urls if self._holders[url] is task]
            under_way = journals.under_way.intersection(mine)
            logger.warning("images: the fetching process ended (%s) at %s", error, sorted(under_way)[:_SHOWN])
            self._deaths.update(under_way)
            left = [url for url in mine if url not in journals.outcomes and url not in under_way]
            self._early_deaths = 0 if error.has_begun or len(left) < len(task.urls) else self._early_deaths + 1
            if self._early_deaths == MAX_EARLY_DEATHS:
                raise InputError(f"images: the fetching process ends before it reaches a row: {error}") from error
            return left
        return []
