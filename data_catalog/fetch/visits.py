"""What becomes of each URL: its turns, robots.txt, redirects, opt-outs, limits and retries, until its outcome."""

import logging
import random
import re
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from data_catalog.base.errors import PipelineError
from data_catalog.fetch.client import REDIRECTS, Deadline, GuardedClient, Response
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.consent import ROBOTS_TXT, OptOutSignals, RobotsTxt, Usage, opt_out_signals
from data_catalog.fetch.frontier import Frontier, Host, Turn
from data_catalog.fetch.journal import Journal
from data_catalog.fetch.robots import HOST_FAILURES, HostStore, Robots, RobotsVisit, backoff_s, robots_text
from data_catalog.fetch.urls import FetchError, Target, parse_url, redirect_target, thumbnail_url
from data_catalog.rows.fetch_reasons import is_retryable

logger = logging.getLogger(__name__)

Moved = dict[str, Any]  # the state of a visit that another process goes on with
# The end of a host's pause, in seconds since 1970, and reason, detail and status of the failure that caused it.
Pause = tuple[float, str, str | None, int | None]

_KEPT = ("hops", "tries", "asked_at", "asking_s")  # attributes of a visit that another process goes on with
SLACK_S = 180.0  # a request hangs if it takes this much longer than its deadline
_BODY_IN_MEMORY = 1024 * 1024  # larger bodies are spooled to the disk, since each thread has one
_LONGEST_TAG = 1000
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
    # Names without suffix are equal after a redirect to HTTPS or to another host.
    names = [each.partition("?")[0].rpartition("/")[2] for each in (url, final_url)]
    asked_for, stem = (name.rpartition(".")[0] or name for name in names)
    return stem != asked_for and _NAMES.search(stem) is not None


@dataclass(slots=True)
class Job:
    """The URLs of a task. A shard has a task for each owner, and more after deaths: each has limits of its own."""

    journal: Journal
    scratch: Path  # folder for large bodies
    num_left: int  # URLs without an outcome
    ended: Callable[[], object]  # called when there are none left
    # Returns whether this process requests the URLs of a host. A URL that a redirect leads to a host of another process
    # is handed over, by an event in the journal.
    owns: Callable[[str], bool] = lambda group: True
    spent: Counter[str] = field(default_factory=Counter)  # bytes by host, those of rejected images too
    refusals: Counter[str] = field(default_factory=Counter)  # by host, since it last sent an image
    given_up: dict[str, FetchError] = field(default_factory=dict)  # hosts that refused too often


@dataclass(slots=True, eq=False)
class Visit:
    """A URL of a job, between its requests; one thread uses it at a time."""

    url: str
    job: Job
    candidates: deque[str]  # to be requested in order: the thumbnail first, if there is one
    target: Target
    left_s: float  # of the try's deadline; waits for turns do not count
    hops: int = 0
    tries: int = 1
    usages: list[Usage] = field(default_factory=list)
    signals: OptOutSignals = field(default_factory=OptOutSignals)
    asked_at: float | None = None  # time of the first request, in seconds since 1970
    since: float = field(default_factory=time.monotonic)
    asking_s: float = 0.0
    order: int = 0


class Fetcher:
    """Threads that make the requests of all jobs of a process.

    `fail` is called with an error of this machine, which ends all jobs, and `permit` right before each request; it may
    end the process.
    """

    def __init__(
        self,
        config: FetchConfig,
        store: HostStore,
        fail: Callable[[Exception], object],
        *,
        client: GuardedClient | None = None,
        permit: Callable[[], object] = lambda: None,
    ) -> None:
        self.frontier = Frontier(config.named_limits, config.default_limits, config.max_wait_s)
        self._config, self._store, self._fail, self._permit = config, store, fail, permit
        self._client = client or GuardedClient(config)
        self._robots = Robots(config, store, self.frontier) if config.consent.respects(ROBOTS_TXT) else None
        self._lock = threading.Lock()  # of the counters of jobs
        self._under_way: dict[int, float] = {}  # by thread: since when
        for name, seconds, failure in store.pauses():
            self.frontier.pause(name, failure, seconds)
        for _ in range(config.threads):
            threading.Thread(target=self._work, daemon=True).start()

    def start(self, job: Job, urls: Sequence[str], moved: Mapping[str, Moved] = MappingProxyType({})) -> None:
        """Queue the URLs of a job, canonical and distinct; `moved` has those that another process has handed over."""
        for url in urls:
            thumbnail = thumbnail_url(url, self._config.wikimedia_width)
            candidates = deque([url] if thumbnail is None else [thumbnail, url])
            visit = Visit(url, job, candidates, parse_url(candidates[0]), self._config.deadline_s)
            wait_s = 0.0
            if state := moved.get(url):
                visit.target = parse_url(state["to"])
                visit.usages = [Usage(each["value"], each["where"], bool(each["denied"])) for each in state["usages"]]
                visit.candidates = deque([*candidates][-state["num_candidates"] :])
                for name in _KEPT:
                    setattr(visit, name, state[name])
                wait_s = max(0.0, state["due"] - time.time())
            self._queue(visit, wait_s=wait_s)

    def hangs(self) -> bool:
        """Return whether a request has been under way for much longer than it may."""
        longest_s = self._config.deadline_s + self._config.timeout_s + SLACK_S
        return any(time.monotonic() - since > longest_s for since in [*self._under_way.values()])

    def _queue(self, visit: Visit | RobotsVisit, *, wait_s: float = 0.0) -> None:
        # A robots.txt may lead to a host of another process: once a day and host.
        if isinstance(visit, RobotsVisit) or visit.job.owns(self.frontier.host_of(visit.target.host).name):
            if isinstance(visit, Visit) and visit.asked_at is not None:  # none of its requests is under way
                visit.job.journal.append({"url": visit.url, "waits": True})
            self.frontier.add(visit, visit.target.host, wait_s=wait_s)
            return
        moved: Moved = {
            **{name: getattr(visit, name) for name in _KEPT},
            "to": visit.target.url,
            "usages": [usage._asdict() for usage in visit.usages],
            "num_candidates": len(visit.candidates),
            "due": time.time() + wait_s,
        }
        self._leave(visit, {"url": visit.url, "moved": moved})

    def _work(self) -> None:
        while True:
            visit, turn = self.frontier.next()
            self._under_way[threading.get_ident()] = time.monotonic()
            try:
                if isinstance(visit, RobotsVisit):
                    self._ask_for_robots(visit, turn)
                else:
                    self._step(visit, turn)
            except Exception as error:  # noqa: BLE001  of this machine, such as its disk
                self._fail(error)
            finally:
                self._under_way.pop(threading.get_ident(), None)
                self.frontier.end(turn)

    def _step(self, visit: Visit, turn: Turn) -> None:
        """Make one request, if nothing forbids it; then queue the visit again, or end it."""
        if (closed := self._closed(visit, turn.host)) is not None:
            self._end(visit, closed)
            return
        if self._robots is not None:
            rules = self._robots.rules_for(visit)
            if rules is None:
                return
            if isinstance(rules, RobotsVisit):
                self._ask_for_robots(rules, turn)
                return
            if isinstance(rules, RobotsTxt) and not rules.allows(visit.target.url):
                rules = FetchError("robots_txt")
            if isinstance(rules, FetchError):
                self._retry_or_end(visit, rules)
                return
            visit.usages += rules.content_usage(visit.target.path)
        self._ask(visit, turn)

    def _closed(self, visit: Visit, host: Host) -> FetchError | None:
        """Return the failure of a URL whose host gets no more requests of its job."""
        job, config = visit.job, self._config
        if (paused := self._too_long_paused(host)) is not None:
            return paused
        with self._lock:
            of_host, of_all = job.spent[host.name], job.spent.total()
        if of_host >= config.max_host_bytes:
            return FetchError("byte_budget", f"{config.max_host_bytes} bytes of {host.name}")
        if of_all >= config.max_shard_bytes:
            return FetchError("byte_budget", f"{config.max_shard_bytes} bytes of the shard")
        return job.given_up.get(host.name)

    def _too_long_paused(self, host: Host) -> FetchError | None:
        """Return the failure that paused a host for longer than its URLs wait."""
        return host.paused_by if host.paused_until > time.monotonic() + self._config.max_wait_s else None

    @contextmanager
    def _answer(self, visit: Visit | RobotsVisit, turn: Turn) -> Iterator[Response]:
        """Request a visit's present target, when its host's pace permits it."""
        asked_for: Visit = visit if isinstance(visit, Visit) else visit.parked[0]
        deadline = Deadline(visit.left_s)

        def begin() -> None:
            wait_s = self.frontier.begin(turn)
            if wait_s > 0:
                time.sleep(wait_s)
                deadline.extend(wait_s)
            self._permit()
            now = time.time()
            asked_for.asked_at = asked_for.asked_at or now
            asked_for.job.journal.append({"url": asked_for.url, "host": turn.host.name, "at": now})

        @contextmanager
        def sending() -> Iterator[None]:
            waited_since = time.monotonic()
            with self.frontier.sending(turn):
                deadline.extend(time.monotonic() - waited_since)
                yield

        try:
            client = self._client
            with client.get(visit.target, deadline=deadline, before_connect=begin, sending=sending) as response:
                yield response
        except (OSError, PipelineError, MemoryError):
            raise
        except Exception as error:
            if "start new thread" in str(error):
                raise  # trouble of this machine
            # A parser that trips over an answer which nobody foresaw costs its row alone.
            logger.exception("images: %s", visit.target.url)
            raise FetchError("fetch_lost", type(error).__name__) from error
        finally:
            visit.left_s = deadline.left()

    def _ask(self, visit: Visit, turn: Turn) -> None:
        started = time.monotonic()
        found: Response | FetchError
        with tempfile.SpooledTemporaryFile(_BODY_IN_MEMORY, dir=str(visit.job.scratch)) as sink:
            try:
                with self._answer(visit, turn) as found:
                    if found.status in REDIRECTS:
                        self._follow(visit, found)
                    else:
                        self._take(visit, found, sink, turn.host)
            except FetchError as error:
                found = error
            visit.asking_s += time.monotonic() - started
            if isinstance(found, FetchError):
                self._retry_or_end(visit, found)
            elif found.status in REDIRECTS:
                self._queue(visit)
            else:
                self._end(visit, found, sink)

    def _follow(self, visit: Visit | RobotsVisit, response: Response) -> None:
        """Set a visit's next target to that of a redirect."""
        location = response.headers.get("Location")
        if location is None:
            raise response.failure("http_3xx", f"HTTP {response.status}")
        if visit.hops == self._config.max_redirects:
            raise response.failure("redirects", f"more than {self._config.max_redirects}")
        visit.target = redirect_target(visit.target, location)
        visit.hops += 1

    def _take(self, visit: Visit, response: Response, sink: IO[bytes], host: Host) -> None:
        """Read the body, unless an opt-out forbids its use."""
        visit.signals = opt_out_signals(response.headers, visit.usages)
        refusal = visit.signals.refusal(self._config.consent, self._config.robot)
        if refusal is None and is_placeholder(visit.candidates[0], visit.target.url):
            refusal = "placeholder", visit.target.url[:200]
        if refusal is not None:
            raise response.failure(*refusal)
        try:
            response.copy_to(sink)
        finally:
            with self._lock:
                visit.job.spent[host.name] += sink.tell()
        with self._lock:
            visit.job.refusals.pop(host.name, None)

    def _retry_or_end(self, visit: Visit, failure: FetchError) -> None:
        """Queue a failed visit again, or end it. A Retry-After pauses its host for all."""
        status = failure.http_status
        if len(visit.candidates) > 1 and status in range(400, 500) and status != 429:
            visit.candidates.popleft()  # there is no thumbnail of that width, since the original is smaller
            self._restart(visit)
            return
        # The random factor spreads the retries of rows that failed together.
        wait_s = backoff_s(self._config, visit.tries) * random.uniform(1.0, 1.5)
        requested_s = (failure.retry_after_s or 0.0) if status in (429, 503) else 0.0
        if requested_s or status == 429:
            self._pause(visit, failure, requested_s or min(wait_s, self._config.max_wait_s))
        may_pass = is_retryable(failure.reason) and requested_s <= self._config.max_wait_s
        if may_pass and visit.tries <= self._config.retries:
            visit.tries += 1
            self._restart(visit, wait_s=max(wait_s, requested_s))
        else:
            self._end(visit, failure)

    def _pause(self, visit: Visit, failure: FetchError, seconds: float) -> None:
        """Pause the host that refused a visit; one that refuses all that is requested is given up for the job."""
        # A redirect may have led to another host than the URL's own.
        host, job = self.frontier.host_of(visit.target.host), visit.job
        with self._lock:
            job.refusals[host.name] += 1
            # The limit is the number of all tries of as many rows as are requested at once.
            if job.refusals[host.name] >= (1 + self._config.retries) * host.concurrency:
                job.given_up[host.name] = failure
        self.frontier.pause(host.name, failure, seconds)
        self._store.store_pause(host.name, failure, seconds)
        pause: Pause = (time.time() + seconds, failure.reason, failure.detail, failure.http_status)
        job.journal.append({"url": visit.url, "host": host.name, "pause": pause})

    def _restart(self, visit: Visit, *, wait_s: float = 0.0) -> None:
        visit.target, visit.hops, visit.usages = parse_url(visit.candidates[0]), 0, []
        visit.signals, visit.left_s = OptOutSignals(), self._config.deadline_s
        self._queue(visit, wait_s=wait_s)

    def _end(self, visit: Visit, found: Response | FetchError, body: IO[bytes] | None = None) -> None:
        """Write the outcome of a visit: an answer with its body, or a failure."""
        failure = found if isinstance(found, FetchError) else None
        event = {
            "url": visit.url,
            "reason": failure and failure.reason,
            "detail": failure and failure.detail,
            "http_status": found.http_status if isinstance(found, FetchError) else found.status,
            "final_url": visit.target.url,
            "robots_tag": "; ".join(visit.signals.robots_tags)[:_LONGEST_TAG] or None,
            "content_usage": visit.signals.content_usage,
            "tries": visit.tries,
            "asked_at": visit.asked_at,
            "asking_s": round(visit.asking_s, 3),
            "waiting_s": round(max(0.0, time.monotonic() - visit.since - visit.asking_s), 3),
        }
        self._leave(visit, event, body)

    def _leave(self, visit: Visit, event: dict[str, Any], body: IO[bytes] | None = None) -> None:
        """Write the last event of a visit at this process."""
        job = visit.job
        job.journal.append(event, body)
        with self._lock:
            job.num_left -= 1
            is_last = not job.num_left
        if is_last:
            job.ended()

    def _ask_for_robots(self, visit: RobotsVisit, turn: Turn) -> None:
        found: str | FetchError | None = self._too_long_paused(turn.host)
        if found is None:
            try:
                with self._answer(visit, turn) as response:
                    if response.status in REDIRECTS:
                        self._follow(visit, response)
                    else:
                        found = robots_text(response)
            except FetchError as error:
                status = error.http_status
                is_missing = status in (204, 205) or (status in range(400, 500) and status != 429)
                found = "" if is_missing else error  # a file that is not there forbids nothing
        if found is None:
            self._queue(visit)
            return
        assert self._robots is not None
        failure = self._robots.note(visit, found)
        for number, parked in enumerate(visit.parked):
            # A host that cannot be reached has failed for all; one that asks for a rest is asked again after it.
            if failure is not None and (number == 0 or failure.reason in HOST_FAILURES):
                self._retry_or_end(parked, failure)
            else:
                self._queue(parked)
