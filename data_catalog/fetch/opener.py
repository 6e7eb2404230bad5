"""The opener for img2dataset's threads: it checks robots.txt, evaluates the answer, and schedules retries.

The robots.txt of every host is fetched once (RFC 9309) and cached for a day.
"""

import io
import logging
import random
import re
import threading
import time
import urllib.request
import zlib
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import IO

from data_catalog.errors import PipelineError
from data_catalog.fetch.client import GZIP, GZIP_CODINGS, Deadline, GuardedClient, Hooks, Response
from data_catalog.fetch.config import MAX_BACKOFF_S, FetchConfig
from data_catalog.fetch.consent import ROBOTS_TXT, OptOutSignals, RobotsTxt, Usage, opt_out_signals
from data_catalog.fetch.hosts import LONG_WAIT_S, Hosts, LaterError, Visit
from data_catalog.fetch.reasons import is_retryable
from data_catalog.fetch.urls import FetchError, Target, parse_url, thumbnail_url

MAX_AGE_S = 24 * 3600.0
# RFC 9309 requires at least 500 KiB to be read. The rest of a file is ignored.
MAX_BYTES = 512 * 1024
_FAILURE_AGE_S = 60.0
# Parsed rules take about thirty times the memory of their text.
_TEXT_IN_MEMORY = 4 * 1024 * 1024
# Smallest size that a host's rules are counted with, in bytes of text.
_LEAST_TEXT = 500
# Failures to reach a host. They become the reason of its images, instead of `robots_unreachable`.
_HOST_FAILURES = frozenset({"dns", "connect", "tls", "timeout", "private_address", "port"})
_SLOWEST_DELAY_S = 60.0
# Some servers announce gzip and send plain text.
_PLAIN_CODINGS = ("", "identity", *GZIP_CODINGS)


@dataclass(frozen=True, slots=True)
class _Answer:
    """A cached robots.txt, or the last of some failures, of a host; times are of the monotonic clock."""

    rules: RobotsTxt | FetchError
    came_at: float
    valid_until: float
    size: int
    failures: int = 0


def _plain(body: bytes, response: Response) -> bytes:
    """Return the first `MAX_BYTES` of a file that some servers compress unasked; its rules would be missed otherwise.

    Raises:
        FetchError: `not_http`: it is damaged, or compressed in another way than gzip.
    """
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if not body.startswith(GZIP):
        if coding not in _PLAIN_CODINGS:
            raise FetchError("not_http", f"Content-Encoding: {coding[:20]}")
        return body
    try:
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(body, MAX_BYTES)
    except zlib.error as error:
        raise FetchError("not_http", "damaged gzip") from error


class RobotsCache:
    """A cache of the rules of all hosts. The files are stored with the limits of hosts, for all processes and runs.

    Args:
        hosts: stores the files.
        client: makes the requests.
        robot: our name in robots.txt files.
        waits_s: for how many seconds the first failures of a host are cached: no longer than its rows wait for retries.
            Later failures are cached longer.
    """

    def __init__(self, hosts: Hosts, client: GuardedClient, robot: str, waits_s: Sequence[float] = ()) -> None:
        self._waits_s = waits_s
        self._hosts = hosts
        self._client = client
        self._robot = robot
        self._known: OrderedDict[str, _Answer] = OrderedDict()
        self._size = 0
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def check(self, target: Target, deadline: Deadline, hooks: Hooks) -> RobotsTxt:
        """Check that robots.txt allows a URL, and apply its Crawl-delay to the host. Return the rules.

        Args:
            target: the URL.
            deadline: for fetching a robots.txt that is not in the cache.
            hooks: of the requests for it.

        Raises:
            FetchError: `robots_txt` (the URL is forbidden), `robots_unreachable` (the host can be reached, but the file
                can't be fetched), or the reason why the host can't be reached.
            DamagedError, DiskError: the file of hosts cannot be used.
        """
        rules = self._rules(target, deadline, hooks)
        if isinstance(rules, RobotsTxt) and not rules.allows(target.url):
            rules = FetchError("robots_txt")
        if isinstance(rules, FetchError):
            # A cached failure is raised for many rows: each gets an error of its own.
            error = FetchError(
                rules.reason, rules.detail, http_status=rules.http_status, retry_after_s=rules.retry_after_s
            )
            error.url = target.url
            raise error
        if rules.crawl_delay:
            self._hosts.slow_down(self._hosts.group_of(target.host), min(_SLOWEST_DELAY_S, rules.crawl_delay))
        return rules

    def _rules(self, target: Target, deadline: Deadline, hooks: Hooks) -> RobotsTxt | FetchError:
        """Return the rules of a host, or its failure; wait for the result if another thread is requesting them."""
        origin = target.origin
        came_at = time.monotonic()
        with self._lock:
            answer = self._known.get(origin)
            if answer is not None and came_at < answer.valid_until:
                self._known.move_to_end(origin)
                return answer.rules
            asking = self._locks.setdefault(origin, threading.Lock())
        if not asking.acquire(timeout=deadline.left()):
            return FetchError("timeout", "no answer in time")
        try:
            with self._lock:
                answer = self._known.get(origin)
            if answer is not None and (answer.came_at >= came_at or time.monotonic() < answer.valid_until):
                return answer.rules
            return self._load_rules(target, deadline, hooks)
        finally:
            asking.release()

    def _load_rules(self, target: Target, deadline: Deadline, hooks: Hooks) -> RobotsTxt | FetchError:
        body = self._hosts.robots(target.origin, MAX_AGE_S)
        if body is None:
            try:
                body = self._request_file(target, deadline, hooks)
            except FetchError as error:
                return self._cache_failure(target.origin, error)
            self._hosts.store_robots(target.origin, body)
        rules = RobotsTxt(body, self._robot)
        return self._cache(target.origin, rules, MAX_AGE_S, size=max(_LEAST_TEXT, len(body)))

    def _request_file(self, target: Target, deadline: Deadline, hooks: Hooks) -> str:
        """Return the file's text; "", which forbids nothing, if the host has no such file."""
        place = replace(target, path="/robots.txt")
        try:
            with self._client.get(place.url, deadline=deadline, hooks=hooks) as response:
                return _plain(response.read_start(MAX_BYTES), response).decode("utf-8-sig", "replace")
        except FetchError as error:
            status = error.http_status
            if status in (204, 205) or (status is not None and 400 <= status < 500 and status != 429):
                return ""
            raise

    def _cache_failure(self, origin: str, error: FetchError) -> FetchError:
        with self._lock:
            before = self._known[origin].failures if origin in self._known else 0
        if error.reason in _HOST_FAILURES:
            failure, age_s = error, 0.0
        else:
            failure = FetchError(
                "robots_unreachable", str(error), http_status=error.http_status, retry_after_s=error.retry_after_s
            )
            age_s = self._waits_s[before] if before < len(self._waits_s) else _FAILURE_AGE_S
        if error.retry_after_s is not None:
            age_s = 0.0  # the host is paused, so that its robots.txt is not requested meanwhile
        self._cache(origin, failure, age_s, size=_LEAST_TEXT, failures=before + 1)
        return failure

    def _cache(
        self, origin: str, rules: RobotsTxt | FetchError, age_s: float, *, size: int, failures: int = 0
    ) -> RobotsTxt | FetchError:
        now = time.monotonic()
        with self._lock:
            old = self._known.pop(origin, None)
            self._known[origin] = _Answer(rules, now, now + age_s, size, failures)
            self._size += size - (old.size if old else 0)
            while self._size > _TEXT_IN_MEMORY and len(self._known) > 1:
                oldest, answer = self._known.popitem(last=False)
                self._size -= answer.size
                # A thread that waits for this lock then reads the stored file, or requests it, itself.
                self._locks.pop(oldest, None)
        return rules


logger = logging.getLogger(__name__)

# A request hangs if it takes this much longer than its deadline, which leaves time for waits and a slow resolver.
SLACK_S = 3 * LONG_WAIT_S
# A redirect may lead to a host that is always busy.
_MOST_TURNED_AWAY = 20

# Names of placeholder files. Only targets of redirects are compared: a caption's own image may have such a name.
_NAMES = re.compile(
    r"(?:photo|image|img|picture|media|file)[-_]?(?:is[-_])?"
    r"(?:unavailable|not[-_]?(?:available|found)|missing|removed|deleted|coming[-_]?soon)"
    r"|(?<![a-z])no[-_]?(?:image|photo|picture|thumb(?:nail)?)(?:[-_]?available)?(?![a-z])"
    r"|^(?:removed|missing|404)(?:[-_]?(?:image|img|photo|picture|file))?$|^placeholder",
    re.IGNORECASE,
)


def is_placeholder(url: str, final_url: str) -> bool:
    """Return whether a request for `url` was redirected to a file with the name of a placeholder."""
    stem = _stem(final_url)
    return stem != _stem(url) and _NAMES.search(stem) is not None


def _stem(url: str) -> str:
    """Return the file's name without suffix, which is equal after a redirect to HTTPS or to another host."""
    name = url.partition("?")[0].rpartition("/")[2]
    return name.rpartition(".")[0] or name


@dataclass(slots=True)
class FetchState:
    """The state of a URL that img2dataset does not store: tries and the last answer. One thread uses it at a time."""

    urls: deque[str]  # to be requested in order: the thumbnail first, if there is one
    group: str  # of the host that it waits for: its own, or one that a redirect led to
    due: float = 0.0  # time of the next request, by the monotonic clock; 0: new or finished
    tries: int = 0
    turned_away: int = 0  # waits for a host that a redirect led to; they do not count as tries
    since: float = 0.0  # start of the first try, by the monotonic clock
    asked_at: float | None = None  # time of the first request, in seconds since 1970
    asking_s: float = 0.0  # seconds in all tries, without waits
    failure: FetchError | None = None
    http_status: int | None = None
    final_url: str | None = None
    signals: OptOutSignals = field(default_factory=OptOutSignals)  # opt-out signals of the answer
    body: IO[bytes] | None = None  # the caller that takes it must close it


class _ClosedError(FetchError):
    """A failure of a host that gets no more requests, so that nothing is retried."""


class Opener:
    """A replacement for the opener of `urllib.request`, for the URLs of one shard; safe to use from several threads.

    Args:
        urls: canonical and distinct.
        config: settings of `[fetch]`.
        client: makes the requests.
        hosts: the limits of hosts.
        on_begin: called with a URL when a try begins.
        new_body: makes a file for one body; many are open at once, and some are large.
    """

    def __init__(
        self,
        urls: Iterable[str],
        config: FetchConfig,
        client: GuardedClient,
        hosts: Hosts,
        *,
        on_begin: Callable[[str], None],
        new_body: Callable[[], IO[bytes]],
    ) -> None:
        self.states = {url: FetchState(_candidates(url, config), hosts.group_of(parse_url(url).host)) for url in urls}
        self.failure: Exception | None = None
        self.own_thread_groups: set[str] = set()  # groups of hosts that have threads of their own
        self._config = config
        self._client = client
        self._hosts = hosts
        waits_s = [self._backoff_s(tries) for tries in range(1, config.retries + 1)]
        respects = config.consent.respects(ROBOTS_TXT)
        self._robots = RobotsCache(hosts, client, config.robot, waits_s) if respects else None
        self._on_begin = on_begin
        self._new_body = new_body
        self._budget = _Budget(config)
        self._refusals: Counter[str] = Counter()  # by group, since it last sent an image
        self._given_up: dict[str, FetchError] = {}  # groups that refused too often, with their last failure
        self._under_way: dict[str, float] = {}
        self._rng = random.Random()

    def open(self, request: urllib.request.Request, data: None = None, timeout: float | None = None) -> IO[bytes]:
        """Fetch a URL. The body is stored in `states`: img2dataset would hold two bodies per thread in memory.

        Returns:
            An empty body.

        Raises:
            FetchError: it failed and is not retried; img2dataset records the text as the row's error message.
            LaterError: it is to be requested again, at the time `states[url].due`.
        """
        url = request.full_url
        state = self.states[url]
        if self.failure is not None:
            raise self.failure
        self._under_way[url] = time.monotonic()
        state.due, state.failure = 0.0, None
        try:
            self._on_begin(url)
            state.body = self._try(state)
        except LaterError as later:
            state.due = time.monotonic() + later.wait_s
            raise
        except FetchError as error:
            state.failure = error
            raise
        except Exception as error:
            self.failure = self.failure or error  # an error of this machine: the shard has failed
            raise
        finally:
            del self._under_way[url]
        return io.BytesIO()

    def is_stuck(self) -> bool:
        """Return whether a request takes longer than its deadline and all waits allow."""
        stuck_s = self._config.deadline_s + self._config.timeout_s + SLACK_S
        return any(time.monotonic() - started > stuck_s for started in list(self._under_way.values()))

    def _try(self, state: FetchState) -> IO[bytes]:
        """Try once to fetch the thumbnail or, if there is none, the original."""
        started = time.monotonic()
        state.since = state.since or started
        state.tries += 1
        visit = Visit(
            self._hosts, Deadline(self._config.deadline_s), can_wait_long=state.group in self.own_thread_groups
        )
        try:
            while True:
                state.http_status, state.final_url, state.signals = None, None, OptOutSignals()
                try:
                    return self._request_next(state, visit)
                except FetchError as error:
                    state.http_status, state.final_url = error.http_status, error.url
                    if isinstance(error, _ClosedError):
                        raise
                    if len(state.urls) == 1 or error.http_status not in range(400, 500) or error.http_status == 429:
                        raise self._retry_or_failure(state, error) from error
                state.urls.popleft()  # there is no thumbnail of that width, since the original is smaller
        except (FetchError, LaterError, OSError, PipelineError):
            raise
        except Exception as error:
            # The boundary around parsers of answers: an answer that makes one of them fail costs only its row.
            logger.exception("images: %s", state.urls[0])
            raise self._retry_or_failure(state, FetchError("fetch_lost", type(error).__name__)) from error
        finally:
            visit.close()
            state.asking_s += time.monotonic() - started - visit.waited_s

    def _request_next(self, state: FetchState, visit: Visit) -> IO[bytes]:
        """Request the next of a row's URLs, if its host, and any host of a redirect, has a free slot in time.

        Raises:
            LaterError: a host has none; this does not count as a try.
            FetchError: the request failed. It is a `_ClosedError` if the host refuses more requests, or if hosts behind
                redirects were busy too often.
        """
        try:
            return self._request(state, state.urls[0], visit)
        except LaterError as later:
            target = later.target or parse_url(state.urls[0])
            self._raise_if_closed(target)
            state.tries -= 1
            state.group = self._hosts.group_of(target.host)
            state.turned_away += visit.has_begun
            if state.turned_away > _MOST_TURNED_AWAY:
                raise _ClosedError("timeout", "the host may not be asked in time") from later
            raise

    def _request(self, state: FetchState, url: str, visit: Visit) -> IO[bytes]:
        usages: list[Usage] = []

        def before_robots(target: Target) -> None:
            visit.wait_for_robots(target)
            state.asked_at = state.asked_at or time.time()

        def before_hop(target: Target) -> None:
            self._raise_if_closed(target)
            visit.go_to(target)
            if self._robots is not None:
                of_robots = Hooks(before_hop=visit.go_to, before_connect=before_robots)
                usages.extend(self._robots.check(target, visit.deadline, of_robots).content_usage(target.path))
                visit.go_to(target)  # a redirect of robots.txt may have moved the slot to another host

        def before_connect(target: Target) -> None:
            visit.begin(target)
            self._raise_if_closed(target)  # the host may have been closed during the wait
            state.asked_at = state.asked_at or time.time()

        before_hop(parse_url(url))
        hooks = Hooks(before_hop=before_hop, before_connect=before_connect)
        with self._client.get(url, deadline=visit.deadline, hooks=hooks) as response:
            state.http_status, state.final_url = response.status, response.url
            state.signals = opt_out_signals(response.headers, usages)
            refusal = state.signals.refusal(self._config.consent, self._config.robot)
            if refusal is None and is_placeholder(url, response.url):
                refusal = "placeholder", response.url[:200]
            if refusal is not None:
                error = FetchError(*refusal, http_status=response.status)
                error.url = response.url
                raise error
            return self._body_of(response)

    def _body_of(self, response: Response) -> IO[bytes]:
        body, group = self._new_body(), self._hosts.group_of(parse_url(response.url).host)
        try:
            try:
                response.copy_to(body)
            finally:
                self._budget.spend(group, body.tell())
        except BaseException:
            body.close()
            raise
        self._refusals.pop(group, None)
        return body

    def _raise_if_closed(self, target: Target) -> None:
        group = self._hosts.group_of(target.host)
        try:
            self._hosts.raise_if_paused(group, self._config.max_wait_s)
            self._budget.raise_if_spent(group)
            if group in self._given_up:
                raise self._given_up[group]
        except FetchError as closed:
            failure = _ClosedError(closed.reason, closed.detail, http_status=closed.http_status)
            failure.url = target.url
            raise failure from None

    def _retry_or_failure(self, state: FetchState, failure: FetchError) -> FetchError | LaterError:
        """Return a `LaterError` if a failed URL is to be retried, else the failure.

        A Retry-After pauses all rows of the host.
        """
        # The random factor spreads the retries of rows that failed together.
        wait_s = self._backoff_s(state.tries) * self._rng.uniform(1.0, 1.5)
        requested_s = (failure.retry_after_s or 0.0) if failure.http_status in (429, 503) else 0.0
        if requested_s or failure.http_status == 429:
            # A redirect may have led to another host than the URL's own.
            group = self._hosts.group_of(parse_url(failure.url or state.urls[0]).host)
            self._refusals[group] += 1
            # The limit is the number of all tries of as many rows as are requested at once.
            if self._refusals[group] >= (1 + self._config.retries) * self._hosts.pace_of(group).concurrency:
                self._given_up[group] = failure
            self._hosts.pause(group, failure, requested_s or min(wait_s, self._config.max_wait_s))
        may_pass = is_retryable(failure.reason) and requested_s <= self._config.max_wait_s
        return LaterError(max(wait_s, requested_s)) if may_pass and state.tries <= self._config.retries else failure

    def _backoff_s(self, tries: int) -> float:
        """Return the least wait for a retry after some tries, in seconds."""
        return min(MAX_BACKOFF_S, self._config.backoff_s * 2.0 ** (tries - 1))


def _candidates(url: str, config: FetchConfig) -> deque[str]:
    thumbnail = thumbnail_url(url, config.wikimedia_width)
    return deque([url] if thumbnail is None else [thumbnail, url])


class _Budget:
    """A counter of the bytes that a shard's images have taken, by group of hosts and in total."""

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._spent: Counter[str] = Counter()

    def spend(self, group: str, num_bytes: int) -> None:
        """Count received bytes, also of images that are rejected later."""
        with self._lock:
            self._spent[group] += num_bytes

    def raise_if_spent(self, group: str) -> None:
        """Raise `FetchError` if the byte limit of a host, or of the shard, is reached."""
        with self._lock:
            of_host, of_all = self._spent[group], self._spent.total()
        if of_host >= self._config.max_host_bytes:
            raise FetchError("byte_budget", f"{self._config.max_host_bytes} bytes of {group}")
        if of_all >= self._config.max_shard_bytes:
            raise FetchError("byte_budget", f"{self._config.max_shard_bytes} bytes of the shard")
