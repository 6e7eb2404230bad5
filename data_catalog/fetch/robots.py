"""The robots.txt of every host that is asked: had once, by RFC 9309, and remembered for a day."""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace

from data_catalog.fetch.client import Deadline, GuardedClient, Hooks
from data_catalog.fetch.consent import RobotsTxt
from data_catalog.fetch.hosts import Hosts
from data_catalog.fetch.urls import FetchError, Target

MAX_AGE_S = 24 * 3600.0
# RFC 9309 asks for at least 500 KiB to be read; what comes behind is ignored.
MAX_BYTES = 512 * 1024
_FAILURE_AGE_S = 60.0
# Rules take some thirty times the memory of their text.
_TEXT_IN_MEMORY = 4 * 1024 * 1024
# What a host's rules take at least, however short.
_LEAST_TEXT = 500
# A host that cannot be reached says nothing about robots: its own failure is the truth about the image, too.
_HOST_FAILURES = frozenset({"dns", "connect", "tls", "timeout", "private_address", "port"})
_SLOWEST_DELAY_S = 60.0


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a host said; times are of the monotonic clock."""

    rules: RobotsTxt | FetchError
    came_at: float
    valid_until: float
    size: int


class RobotsCache:
    """The rules of all hosts that are asked, kept with their limits, which several processes and runs share.

    Args:
        hosts: keeps the files.
        client: for the requests.
        robot: our name in robots.txt files.
    """

    def __init__(self, hosts: Hosts, client: GuardedClient, robot: str) -> None:
        self._hosts = hosts
        self._client = client
        self._robot = robot
        self._known: OrderedDict[str, _Answer] = OrderedDict()
        self._size = 0
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def check(self, target: Target, deadline: Deadline, hooks: Hooks) -> RobotsTxt:
        """Make sure that a URL may be asked for, and that its host is asked no faster than it wants.

        Args:
            target: the URL.
            deadline: by when a robots.txt that is not known yet must have come.
            hooks: of the requests for it.

        Raises:
            FetchError: `robots_txt` (it may not), `robots_unreachable` (the file cannot be had, though the host is
                there), or why the host cannot be reached at all.
            DamagedError, DiskError: the file of hosts cannot be used.
        """
        rules = self._rules(target, deadline, hooks)
        if isinstance(rules, RobotsTxt) and not rules.allows(target.url):
            rules = FetchError("robots_txt")
        if isinstance(rules, FetchError):
            # Many rows meet the same failure of a host: each gets one of its own.
            error = FetchError(
                rules.reason, rules.detail, http_status=rules.http_status, retry_after_s=rules.retry_after_s
            )
            error.url = target.url
            raise error
        if rules.crawl_delay:
            self._hosts.slow_down(self._hosts.group_of(target.host), min(_SLOWEST_DELAY_S, rules.crawl_delay))
        return rules

    def _rules(self, target: Target, deadline: Deadline, hooks: Hooks) -> RobotsTxt | FetchError:
        """Return the rules of a host. Those who come while it is asked take the answer, be it that there is none."""
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
            return self._found(target, deadline, hooks)
        finally:
            asking.release()

    def _found(self, target: Target, deadline: Deadline, hooks: Hooks) -> RobotsTxt | FetchError:
        body = self._hosts.robots(target.origin, MAX_AGE_S)
        if body is None:
            try:
                body = self._asked(target, deadline, hooks)
            except FetchError as error:
                return self._remember(target.origin, *_unreachable(error), size=_LEAST_TEXT)
            self._hosts.keep_robots(target.origin, body)
        rules = RobotsTxt(body, self._robot)
        return self._remember(target.origin, rules, MAX_AGE_S, size=max(_LEAST_TEXT, len(body)))

    def _asked(self, target: Target, deadline: Deadline, hooks: Hooks) -> str:
        """Return the file's text; that of an empty file, which forbids nothing, where the host has none."""
        place = replace(target, path="/robots.txt")
        try:
            with self._client.get(place.url, deadline=deadline, hooks=hooks) as response:
                return response.read_start(MAX_BYTES).decode("utf-8-sig", "replace")
        except FetchError as error:
            status = error.http_status
            if status is not None and 400 <= status < 500 and status != 429:
                return ""
            raise

    def _remember(
        self, origin: str, rules: RobotsTxt | FetchError, age_s: float, *, size: int
    ) -> RobotsTxt | FetchError:
        now = time.monotonic()
        with self._lock:
            old = self._known.pop(origin, None)
            self._known[origin] = _Answer(rules, now, now + age_s, size)
            self._size += size - (old.size if old else 0)
            while self._size > _TEXT_IN_MEMORY and len(self._known) > 1:
                oldest, answer = self._known.popitem(last=False)
                self._size -= answer.size
                # Who waits for this lock asks the file or the host by himself, which is as good.
                self._locks.pop(oldest, None)
        return rules


def _unreachable(error: FetchError) -> tuple[FetchError, float]:
    """Return what it means that the file could not be had, and for how many seconds that is remembered."""
    if error.reason in _HOST_FAILURES:
        return error, 0.0
    # A host that says for how long it wants to be left alone is: nobody comes as far as its robots.txt meanwhile.
    age_s = _FAILURE_AGE_S if error.retry_after_s is None else 0.0
    failure = FetchError(
        "robots_unreachable", str(error), http_status=error.http_status, retry_after_s=error.retry_after_s
    )
    return failure, age_s
