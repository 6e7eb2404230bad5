"""The outcomes of a shard's URLs: from journals of an interrupted run, and from the processes that own their hosts."""

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Protocol, cast

from data_catalog.child_process import MAX_EARLY_DEATHS, ChildDiedError
from data_catalog.errors import InputError
from data_catalog.fetch.config import FetchConfig, group_of
from data_catalog.fetch.journal import read_journal
from data_catalog.fetch.owner import FetchingProcess, Task, Watch, owner_of
from data_catalog.fetch.urls import parse_url
from data_catalog.fetch.visits import Moved, Pause
from data_catalog.images.tables import Outcome, failed
from data_catalog.progress import Progress

logger = logging.getLogger(__name__)

# Deaths of fetching processes at a URL: one beside others, two alone. A process may be killed for another reason.
_MOST_DEATHS = 3
_SHOWN = 20
_MOST_TASKS = 256
_HANDOVER_S = 10.0
# One suspect of all shards at a time, so that none is blamed for another's.
_alone = threading.Lock()


class Owners(Protocol):
    """Fetching processes, each of which alone requests the URLs of its hosts."""

    def names(self) -> Sequence[str]:
        """Return the names of those that are alive."""

    def run(self, task: Task, watch: Watch) -> None:
        """Fetch URLs by the owner of their hosts; see `FetchingProcess.run`."""


class LocalOwner:
    """The fetching process of this machine, which owns all hosts."""

    def __init__(self, process: FetchingProcess) -> None:
        self.run = process.run

    def names(self) -> Sequence[str]:
        """Return its name, which is never another one."""
        return [""]


@dataclass(slots=True)
class _Found:
    """The content of a shard's journals: outcomes, URLs handed over or under way, last starts and pauses by host."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    moved: dict[str, Moved] = field(default_factory=dict)
    under_way: set[str] = field(default_factory=set)
    starts: dict[str, float] = field(default_factory=dict)
    pauses: dict[str, Pause] = field(default_factory=dict)


def _read_journals(folder: Path) -> _Found:
    found = _Found()
    for path in sorted(folder.glob("*.journal")):
        for event, piece in read_journal(path):
            url = event.pop("url")
            if "reason" in event:
                found.outcomes.setdefault(url, cast("Outcome", {**event, "piece": piece}))
                found.under_way.discard(url)
            elif "moved" in event:
                found.moved[url] = event["moved"]
                found.under_way.discard(url)
            elif "pause" in event:
                found.pauses[event["host"]] = event["pause"]
            else:
                found.starts[event["host"]] = max(event["at"], found.starts.get(event["host"], 0.0))
                if url not in found.outcomes:
                    found.under_way.add(url)
    return found


def fetch_by_owners(urls: Sequence[str], config: FetchConfig, folder: Path, owners: Owners) -> dict[str, Outcome]:
    """Return the outcome of every URL; those that a journal in the folder has are not requested.

    The URLs of a process that dies go to its heir at once. Those that were under way are requested at the end, one at a
    time; one at which a process then dies twice is rejected.

    Raises:
        InputError: processes die before they reach a row.
    """
    with Progress("fetch", total=len(urls), unit="images") as progress:
        shard = _Shard(config, folder, owners, progress)
        shard.fetch(urls)
        while suspects := shard.suspects(urls):
            with _alone:
                shard.fetch(suspects[:1])
    outcomes = _read_journals(folder).outcomes
    return {url: outcomes.get(url) or failed("fetch_crash") for url in urls}


class _Shard:
    """The URLs of a shard, until each has an outcome or is given up."""

    def __init__(self, config: FetchConfig, folder: Path, owners: Owners, progress: Progress) -> None:
        self._config, self._folder, self._owners, self._progress = config, folder, owners, progress
        self._named = config.named_limits
        self._numbers = count(1 + max((int(path.stem) for path in folder.glob("*.journal")), default=-1))
        self._deaths = Counter[str]()
        self._holders: dict[str, Task] = {}  # the last task that got a URL
        self._given: dict[str, Moved] = {}  # the state with which it got it
        self._early_deaths = self._num_failed = 0
        self._lock = threading.Lock()

    def suspects(self, urls: Sequence[str]) -> list[str]:
        """Return the URLs without an outcome that may be tried again."""
        outcomes = _read_journals(self._folder).outcomes
        return [url for url in urls if url not in outcomes and self._deaths[url] < _MOST_DEATHS]

    def fetch(self, urls: Sequence[str]) -> None:
        """Have the owners of their hosts fetch URLs without an outcome; those that a death strikes stay without."""
        self._note(len(_read_journals(self._folder).outcomes.keys() & {*urls}), 0)
        running: dict[Future[list[str]], Task] = {}
        threads = ThreadPoolExecutor(_MOST_TASKS)
        try:
            self._start(urls, threads, running)
            while running:
                # A redirect to another owner's host does not wait for the rest of its task.
                patience_s = _HANDOVER_S if len(self._owners.names()) > 1 else None
                done = wait(running, timeout=patience_s, return_when=FIRST_COMPLETED).done
                left = [url for ended in done for url in ended.result()]
                for ended in done:
                    del running[ended]
                self._start([*left, *self._handed_over()], threads, running)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _handed_over(self) -> list[str]:
        """Return the URLs that another owner is to go on with."""
        found = _read_journals(self._folder)
        left = found.moved.keys() - found.outcomes.keys() - found.under_way
        return [url for url in left if self._given.get(url) != found.moved[url]]

    def _start(self, urls: Sequence[str], threads: ThreadPoolExecutor, running: dict[Future[list[str]], Task]) -> None:
        """Start tasks for the URLs without an outcome."""
        found, by_owner = _read_journals(self._folder), dict[str, list[str]]()
        left = [url for url in dict.fromkeys(urls) if url not in found.outcomes]
        names = tuple(self._owners.names()) if left else ()
        if left and not names:
            raise InputError("images: all fetching processes have ended. Run the same command again")
        for url in left:
            place = found.moved[url]["to"] if url in found.moved else url
            by_owner.setdefault(owner_of(group_of(parse_url(place).host, self._named), names), []).append(url)
        for owner, part in by_owner.items():
            task = self._task(owner, part, names, found)
            self._holders.update(dict.fromkeys(part, task))
            self._given.update(task.moved)
            running[threads.submit(self._run, task)] = task

    def _task(self, owner: str, urls: list[str], names: tuple[str, ...], found: _Found) -> Task:
        return Task(
            urls=urls,
            config=self._config,
            journal=self._folder / f"{next(self._numbers):05d}.journal",
            owner=owner,
            owners=names,
            starts=found.starts,
            pauses=found.pauses,
            moved={url: found.moved[url] for url in urls if url in found.moved},
        )

    def _run(self, task: Task) -> list[str]:
        """Have a task done; return the URLs that a process that died had not begun."""
        seen = [0, 0]

        def watch(num_done: int, num_failed: int) -> None:
            self._note(num_done - seen[0], num_failed - seen[1])
            seen[:] = num_done, num_failed

        try:
            self._owners.run(task, watch)
        except ChildDiedError as error:
            found, urls = _read_journals(self._folder), task.urls
            under_way = found.under_way.intersection(urls)
            logger.warning("images: the fetching process ended (%s) at %s", error, sorted(under_way)[:_SHOWN])
            self._deaths.update(under_way)
            mine = [url for url in urls if self._holders[url] is task]
            left = [url for url in mine if url not in found.outcomes and url not in under_way]
            self._early_deaths = 0 if error.has_begun or len(left) < len(urls) else self._early_deaths + 1
            if self._early_deaths == MAX_EARLY_DEATHS:
                raise InputError(f"images: the fetching process ends before it reaches a row: {error}") from error
            self._note(len(urls) - len(left) - len(under_way) - seen[0], 0)
            return left
        return []

    def _note(self, num_done: int, num_failed: int) -> None:
        with self._lock:
            self._num_failed += num_failed
            self._progress.advance(num_done, failed=self._num_failed)
