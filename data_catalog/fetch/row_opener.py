"""The opener that img2dataset's threads call: which row each call is for, how it is asked, and whether again.

What img2dataset takes for rows are turns here. Which row a turn is for is decided by `RowQueue` when a thread comes for
it; a row whose host asks to wait goes back, and the thread takes another. img2dataset itself tries nothing twice.
"""

import logging
import random
import re
import threading
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.message import Message
from functools import partial
from types import TracebackType
from typing import IO
from urllib.parse import urlsplit

from data_catalog.errors import PipelineError
from data_catalog.fetch.connection import Deadline
from data_catalog.fetch.fetch import FetchConfig
from data_catalog.fetch.guard import GuardedOpener, GuardedResponse, Hooks
from data_catalog.fetch.hosts import PATIENCE_S, ClosedHosts, HostClock, NotYetError, Visit, backoff_s
from data_catalog.fetch.reasons import is_retryable
from data_catalog.fetch.robots import RobotsCache, forbids
from data_catalog.fetch.row_queue import RowQueue, StoppedError, Turn
from data_catalog.fetch.urls import FetchError, Target, parse_url, thumbnail_url

logger = logging.getLogger(__name__)

# Names that hosts give to such files. Only a redirect is judged by them: a caption's own image may well be called so.
_NAMES = re.compile(
    r"(?:photo|image|img|picture|media|file)[-_]?(?:is[-_])?"
    r"(?:unavailable|not[-_]?(?:available|found)|missing|removed|deleted|coming[-_]?soon)"
    r"|(?<![a-z])no[-_]?(?:image|photo|picture|thumb(?:nail)?)(?:[-_]?available)?(?![a-z])"
    r"|^(?:removed|missing|404)(?:[-_]?(?:image|img|photo|picture|file))?$|^placeholder",
    re.IGNORECASE,
)


def is_placeholder(url: str, final_url: str) -> bool:
    """True if asking for `url` led to a file whose name says that it stands for a missing one."""
    stem = _stem(final_url)
    return stem != _stem(url) and _NAMES.search(stem) is not None


def _stem(url: str) -> str:
    """The file's name: the same before and after a redirect that only goes to HTTPS or to another host."""
    name = url.partition("?")[0].rpartition("/")[2]
    return name.rpartition(".")[0] or name


# Beyond its deadline, for its turn on hosts and for a slow resolver, a request is taken to hang.
SLACK_S = PATIENCE_S + 60.0


@dataclass(slots=True)
class RowState:
    """What became of a row's tries so far; touched by one thread at a time."""

    urls: deque[str]  # what is still to be asked: a thumbnail first, where there is one
    tries: int = 0
    first_start: float = 0.0
    asking_s: float = 0.0  # in all tries, waits between and in them left out
    failure: FetchError | None = None
    http_status: int | None = None
    final_url: str | None = None
    robots_tags: list[str] = field(default_factory=list)
    body: IO[bytes] | None = None  # to be closed by whoever takes it


class _Budget:
    """Counts the bytes that come for a shard's images, by group of hosts and in all."""

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._spent: Counter[str] = Counter()

    def spend(self, group: str, num_bytes: int) -> None:
        """Count bytes that came, whatever becomes of them."""
        with self._lock:
            self._spent[group] += num_bytes

    def failure_of(self, group: str) -> FetchError | None:
        """Return why nothing more may be asked of a host, or None."""
        with self._lock:
            of_host, of_all = self._spent[group], self._spent.total()
        if of_host >= self._config.max_host_bytes:
            return FetchError("byte_budget", f"{self._config.max_host_bytes} bytes of {group}")
        if of_all >= self._config.max_shard_bytes:
            return FetchError("byte_budget", f"{self._config.max_shard_bytes} bytes of the shard")
        return None


class RowOpener:
    """Stands in for the opener of `urllib.request`, for the rows of one shard; safe to use from several threads.

    Args:
        urls: canonical URLs of the rows.
        config: limits and manners.
        guarded: makes the requests.
        clock: when which host may be asked.
        closed: hosts that are left alone.
        robots: what robots.txt files say; None: they are not asked.
        on_begin: called with a row when it is asked.
        on_back: called with a row that will be asked again, later.
        on_wait: called now and then while all threads wait for hosts.
        new_body: makes a file for one body; many are open at once, and some are large.
    """

    def __init__(
        self,
        urls: Sequence[str],
        config: FetchConfig,
        *,
        guarded: GuardedOpener,
        clock: HostClock,
        closed: ClosedHosts,
        robots: RobotsCache | None,
        on_begin: Callable[[int], None],
        on_back: Callable[[int], None],
        on_wait: Callable[[], None],
        new_body: Callable[[], IO[bytes]],
    ) -> None:
        self.rows = [RowState(_candidates(url, config)) for url in urls]
        self.row_of_turn: dict[int, int] = {}
        self.failure: Exception | None = None
        self._config = config
        self._guarded = guarded
        self._clock = clock
        self._closed = closed
        self._robots = robots
        self._on_begin = on_begin
        self._on_back = on_back
        self._new_body = new_body
        self._budget = _Budget(config)
        self._groups = [clock.group_of(parse_url(url).host) for url in urls]
        stuck_s = config.deadline_s + config.timeout_s + SLACK_S
        self._queue = RowQueue(self._groups, clock, stuck_s=stuck_s, on_wait=on_wait)
        self._rng = random.Random()
        self._lock = threading.Lock()

    def open(self, request: urllib.request.Request, data: None = None, timeout: float | None = None) -> "_Body":
        """Bring the next row that comes to an end; its body is in its state, and img2dataset gets an empty one.

        Raises `FetchError`, which img2dataset takes down as a failure.
        """
        number = int(urlsplit(request.full_url).fragment)
        try:
            index = self._next_finished()
        except StoppedError:
            raise
        except Exception as error:
            self.stop(error)
            raise
        self.row_of_turn[number] = index
        if self.rows[index].body is None:
            raise self.rows[index].failure or FetchError("fetch_lost")
        return _Body()

    def stop(self, failure: Exception) -> None:
        """Begin no other row: the shard has failed, for the first reason that is given."""
        self.failure = self.failure or failure
        self._queue.stop()

    def _next_finished(self) -> int:
        """Ask one row after another until one of them is done for good: its body, or its failure, is in its state."""
        while True:
            turn = self._queue.take()
            try:
                wait_s = self._ask_row(turn)
                if wait_s is not None:
                    self._on_back(turn.row)
            finally:
                self._queue.finish(turn)
            if wait_s is None:
                return turn.row
            self._queue.put_back(turn.row, wait_s)

    def _ask_row(self, turn: Turn) -> float | None:
        """Ask for a row; seconds after which that is to be done again, None if it is done for good."""
        state = self.rows[turn.row]
        state.first_start = state.first_start or time.monotonic()
        self._on_begin(turn.row)
        try:
            state.body = self._try(state, turn)
        except NotYetError:
            state.tries -= 1
            return 0.0  # the queue knows when the host may be asked
        return None if state.body is not None else self._wait_before_next(state, self._groups[turn.row])

    def _try(self, state: RowState, turn: Turn) -> IO[bytes] | None:
        """Ask once; None, with the failure in `state`, where no image came."""
        started = time.monotonic()
        state.tries += 1
        state.failure, state.http_status, state.final_url, state.robots_tags = None, None, None, []
        deadline = Deadline(self._config.deadline_s)
        home = self._groups[turn.row]
        visit = Visit(self._clock, deadline, home=home, leave=partial(self._queue.leave, turn))
        try:
            return self._ask(state, state.urls[0], deadline, visit)
        except FetchError as error:
            state.failure = error
            state.http_status, state.final_url = error.http_status, error.url
            return None
        except (NotYetError, OSError, PipelineError):
            raise  # no row is to blame for it: a host's pace, trouble of this machine
        except Exception as error:
            # The one boundary around parsers of what strangers send: an answer that trips one of them costs one row.
            logger.exception("images: %s", state.urls[0])
            state.failure = FetchError("fetch_lost", type(error).__name__)
            return None
        finally:
            visit.close()
            state.asking_s += time.monotonic() - started - visit.waited_s

    def _ask(self, state: RowState, url: str, deadline: Deadline, visit: Visit) -> IO[bytes]:
        of_robots = Hooks(before_hop=visit.follow, before_connect=visit.wait_for_robots)

        def before_hop(target: Target) -> None:
            self._raise_if_closed(target)
            visit.go_to(target)
            if self._robots is not None:
                delay_s = self._robots.check(target, deadline, of_robots)
                if delay_s:
                    self._clock.slow_down(self._clock.group_of(target.host), delay_s)
                visit.go_to(target)  # a robots.txt that lies elsewhere has led away

        def before_connect(target: Target) -> None:
            visit.begin(target)
            self._raise_if_closed(target)  # it may have said so while we waited

        before_hop(parse_url(url))
        hooks = Hooks(before_hop=before_hop, before_connect=before_connect)
        with self._guarded.open(url, deadline=deadline, hooks=hooks) as response:
            state.http_status, state.final_url = response.status, response.url
            state.robots_tags = response.robots_tags
            if self._config.respect_robots_tag and forbids(response.robots_tags, self._config.robot):
                raise self._refused(state, "robots_tag", "; ".join(response.robots_tags)[:200])
            if is_placeholder(url, response.url):
                raise self._refused(state, "placeholder", response.url[:200])
            return self._body_of(response)

    def _body_of(self, response: GuardedResponse) -> IO[bytes]:
        body, group = self._new_body(), self._clock.group_of(parse_url(response.url).host)
        try:
            try:
                response.copy_to(body)
            finally:
                self._budget.spend(group, body.tell())
        except BaseException:
            body.close()
            raise
        return body

    def _raise_if_closed(self, target: Target) -> None:
        group = self._clock.group_of(target.host)
        failure = self._closed.failure_of(group) or self._budget.failure_of(group)
        if failure is not None:
            failure.url = target.url
            raise failure

    def _refused(self, state: RowState, reason: str, detail: str) -> FetchError:
        error = FetchError(reason, detail, http_status=state.http_status)
        error.url = state.final_url
        return error

    def _wait_before_next(self, state: RowState, group: str) -> float | None:
        """Seconds after which a row that failed is asked again; None if it is not."""
        assert state.failure is not None
        if len(state.urls) > 1 and (state.http_status or 0) in range(400, 500) and state.http_status != 429:
            state.urls.popleft()  # no thumbnail of that width: the original is smaller
            state.tries -= 1
            return 0.0
        if state.final_url is not None:
            group = self._clock.group_of(parse_url(state.final_url).host)  # a redirect may have led elsewhere
        if not is_retryable(state.failure.reason) or self._closed.failure_of(group):
            return None
        wait_s = self._wait_after(state, group)
        return None if state.tries > self._config.retries or wait_s > self._config.max_wait_s else wait_s

    def _wait_after(self, state: RowState, group: str) -> float:
        """Seconds until the next try; a host that asks for time gets it from all rows, or is closed to all."""
        assert state.failure is not None
        with self._lock:
            wait_s = backoff_s(self._config.backoff_s, state.tries, self._rng)
        asked_s = state.failure.retry_after_s
        if asked_s is None or state.http_status not in (429, 503):
            return wait_s
        if asked_s > self._config.max_wait_s:
            self._closed.add(group, state.failure, asked_s)
            return asked_s
        self._clock.ledger.pause(group, asked_s)
        return max(wait_s, asked_s)


def _candidates(url: str, config: FetchConfig) -> deque[str]:
    thumbnail = thumbnail_url(url, config.wikimedia_width)
    return deque([url] if thumbnail is None else [thumbnail, url])


class _Body:
    """A response as img2dataset reads it: whatever has to be judged has been, and the bytes lie elsewhere."""

    def __init__(self) -> None:
        self.headers = Message()

    def __enter__(self) -> "_Body":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open."""

    def read(self) -> bytes:
        """Nothing: what img2dataset holds it holds in memory, two bodies for each thread."""
        return b""
