"""Which files a host's robots.txt forbids, by RFC 9309: asked once for each host, remembered for a day."""

import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol

from data_catalog.images.guard import Deadline, GuardedOpener
from data_catalog.images.urls import FetchError, Target

MAX_AGE_S = 24 * 3600.0
# RFC 9309 asks for at least 500 KiB to be read; what comes behind is ignored.
MAX_BYTES = 512 * 1024
_FAILURE_AGE_S = 60.0
_NUM_IN_MEMORY = 5_000
# A host that cannot be reached says nothing about robots: its own failure is the truth about the image, too.
_HOST_FAILURES = frozenset({"dns", "connect", "tls", "timeout", "private_address", "port"})
_SLOWEST_DELAY_S = 60.0


class Rules(Protocol):
    """As much of a parsed robots.txt as is asked."""

    def can_fetch(self, url: str, user_agent: str) -> bool:
        """True if the robot of that name may ask for the URL."""

    def crawl_delay(self, user_agent: str) -> float | None:
        """Seconds between two requests, if the file asks for some."""


class RobotsCache:
    """The robots.txt of all hosts that are asked, kept in a file that several processes and runs share.

    Args:
        path: of the file, made when it is not there.
        opener: for the requests.
        robot: our name in robots.txt files.
    """

    def __init__(self, path: Path, opener: GuardedOpener, robot: str) -> None:
        self._path = path
        self._opener = opener
        self._robot = robot
        self._known: OrderedDict[str, tuple[Rules | FetchError, float]] = OrderedDict()
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        with closing(self._connect()) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS robots (origin TEXT PRIMARY KEY, time REAL, body TEXT)")

    def check(self, target: Target, deadline: Deadline, before_request: Callable[[Target], None]) -> float:
        """Make sure that a URL may be asked for.

        Args:
            target: the URL.
            deadline: by when a robots.txt that is not known yet must have come.
            before_request: called with its URL before it is asked for, and before each redirect.

        Returns:
            Seconds that the host wants between two requests, 0 if it does not say.

        Raises:
            FetchError: `robots_txt` (it may not), `robots_unreachable` (the file can't be had, though the host is
                there), or why the host can't be reached at all.
        """
        rules = self._rules(target, deadline, before_request)
        if isinstance(rules, FetchError):
            raise _of_image(rules, target)
        if not rules.can_fetch(target.url, self._robot):
            raise _of_image(FetchError("robots_txt"), target)
        return min(_SLOWEST_DELAY_S, rules.crawl_delay(self._robot) or 0.0)

    def _rules(
        self, target: Target, deadline: Deadline, before_request: Callable[[Target], None]
    ) -> Rules | FetchError:
        with self._lock:
            asking = self._locks.setdefault(target.origin, threading.Lock())
        with asking:  # whoever else wants it waits for the one who asks
            found = self._remembered(target.origin)
            if found is None:
                found = self._load(target, deadline, before_request)
        with self._lock:
            self._locks.pop(target.origin, None)
        return found

    def _remembered(self, origin: str) -> Rules | FetchError | None:
        with self._lock:
            rules, until = self._known.get(origin, (None, 0.0))
        if rules is not None and time.monotonic() < until:
            return rules
        body = self._stored(origin)
        return None if body is None else self._remember(origin, _parsed(body), MAX_AGE_S)

    def _load(self, target: Target, deadline: Deadline, before_request: Callable[[Target], None]) -> Rules | FetchError:
        try:
            body = self._asked(target, deadline, before_request)
        except FetchError as error:
            if error.reason in _HOST_FAILURES:
                return error
            unreachable = FetchError("robots_unreachable", str(error), http_status=error.http_status)
            unreachable.retry_after_s = error.retry_after_s
            return self._remember(target.origin, unreachable, _FAILURE_AGE_S)
        self._store(target.origin, body)
        return self._remember(target.origin, _parsed(body), MAX_AGE_S)

    def _asked(self, target: Target, deadline: Deadline, before_request: Callable[[Target], None]) -> str:
        """The file's text; that of an empty file, which forbids nothing, where the host has none."""
        place = Target(scheme=target.scheme, host=target.host, port=target.port, path="/robots.txt")
        before_request(place)
        try:
            with self._opener.open(place.url, deadline=deadline, before_hop=before_request) as response:
                return response.read_start(MAX_BYTES).decode("utf-8", "replace")
        except FetchError as error:
            status = error.http_status
            if status is not None and 400 <= status < 500 and status != 429:
                return ""
            raise

    def _remember(self, origin: str, rules: Rules | FetchError, age_s: float) -> Rules | FetchError:
        with self._lock:
            self._known[origin] = rules, time.monotonic() + age_s
            self._known.move_to_end(origin)
            while len(self._known) > _NUM_IN_MEMORY:
                self._known.popitem(last=False)
        return rules

    def _stored(self, origin: str) -> str | None:
        query = "SELECT body FROM robots WHERE origin = ? AND time > ?"
        with closing(self._connect()) as connection:
            row = connection.execute(query, (origin, time.time() - MAX_AGE_S)).fetchone()
        return None if row is None else str(row[0])

    def _store(self, origin: str, body: str) -> None:
        with closing(self._connect()) as connection, connection:
            connection.execute("INSERT OR REPLACE INTO robots VALUES (?, ?, ?)", (origin, time.time(), body))

    def _connect(self) -> sqlite3.Connection:
        """A connection for one question: SQLite's own locks keep threads and processes apart."""
        return sqlite3.connect(self._path, timeout=60.0)


def _of_image(failure: FetchError, target: Target) -> FetchError:
    """A failure of a host as that of one image: many rows meet the same one."""
    error = FetchError(
        failure.reason, failure.detail, http_status=failure.http_status, retry_after_s=failure.retry_after_s
    )
    error.url = target.url
    return error


def _parsed(body: str) -> Rules:
    from protego import Protego

    rules: Rules = Protego.parse(body)
    return rules
