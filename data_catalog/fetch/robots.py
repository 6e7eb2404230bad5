"""What servers ask of robots: robots.txt by RFC 9309, asked once for each host, and X-Robots-Tag."""

import re
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from data_catalog.errors import ShardError
from data_catalog.fetch.connection import Deadline
from data_catalog.fetch.guard import TDM_RESERVATION, GuardedOpener, Hooks
from data_catalog.fetch.urls import FetchError, Target
from data_catalog.storage.disk_errors import raise_if_disk_fails

# The spellings of "User-agent" that Protego reads.
_AGENT_LINE = re.compile(r"\s*(?:user[- ]?agent\s*:|user(?:-|\s+)?agent\s)\s*([^#]*)", re.IGNORECASE)
# Our own name has no slash.
_OTHERS = "/others"


class Rules(Protocol):
    """As much of a parsed robots.txt as is asked."""

    def can_fetch(self, url: str, user_agent: str) -> bool:
        """True if the robot of that name may ask for the URL."""

    def crawl_delay(self, user_agent: str) -> float | None:
        """Seconds between two requests, if the file asks for some."""


def rules_of(body: str, robot: str) -> Rules:
    """The rules of a robots.txt for the robot of that name.

    All other robots become one: a file that names thousands of them before thousands of rules, which takes each rule
    for each robot, would otherwise fill the memory.
    """
    from protego import Protego

    rules: Rules = Protego.parse("\n".join(_for_robot(line, robot.lower()) for line in body.splitlines()))
    return rules


def _for_robot(line: str, robot: str) -> str:
    found = _AGENT_LINE.match(line)
    if found is None:
        return line
    name = found[1].strip().lower()
    if name not in ("", "*"):  # without a name, the line only ends the group before it
        name = name.replace("*", "")
        name = name if name and re.search(rf"(?<![\w-]){re.escape(name)}", robot) else _OTHERS
    return f"User-agent: {name}"


# Against indexing, against images in an index, and against use for training: what each means for a dataset is the same.
FORBIDDING = frozenset({"noai", "noimageai", "noindex", "noimageindex", "noml", "none"})
# Directives that hold a colon themselves, so that what stands before it is no robot's name.
_WITH_VALUE = frozenset(
    {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview", TDM_RESERVATION, *FORBIDDING}
)
_PREVIEW = re.compile(r"max-[a-z-]+\s*:\s*\S+")  # "none" is one of the values


def forbids(headers: Iterable[str], robot: str) -> bool:
    """Return True if one of the headers holds a forbidding directive for all robots or for the one of that name."""
    return any(_forbids(header.lower(), robot.lower()) for header in headers)


def _forbids(header: str, robot: str) -> bool:
    """Read directives that are separated by commas, semicolons or blanks; a robot's name holds up to the next one."""
    is_addressed = True
    for item in re.split("[,;]", header):
        name, colon, rest = (part.strip() for part in item.partition(":"))
        if (name, rest) == (TDM_RESERVATION, "1"):
            return True
        directives = item
        if colon and len(name.split()) == 1 and name not in _WITH_VALUE:
            is_addressed, directives = name == robot, rest
        if is_addressed and FORBIDDING.intersection(_PREVIEW.sub(" ", directives).replace(":", " ").split()):
            return True
    return False


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

    rules: Rules | FetchError
    came_at: float
    valid_until: float
    size: int


class RobotsCache:
    """The robots.txt of all hosts that are asked, kept in a file that several processes and runs share.

    Args:
        path: of the file, made when it is not there.
        opener: for the requests.
        robot: our name in robots.txt files.

    Raises:
        ShardError: here and in `check`: the file can't be used.
    """

    def __init__(self, path: Path, opener: GuardedOpener, robot: str) -> None:
        self._path = path
        self._opener = opener
        self._robot = robot
        self._known: OrderedDict[str, _Answer] = OrderedDict()
        self._size = 0
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._stored("")  # the file is made, or found to be unusable

    def check(self, target: Target, deadline: Deadline, hooks: Hooks) -> float:
        """Make sure that a URL may be asked for.

        Args:
            target: the URL.
            deadline: by when a robots.txt that is not known yet must have come.
            hooks: of the requests for it.

        Returns:
            Seconds that the host wants between two requests, 0 if it does not say.

        Raises:
            FetchError: `robots_txt` (it may not), `robots_unreachable` (the file can't be had, though the host is
                there), or why the host can't be reached at all.
        """
        rules = self._rules(target, deadline, hooks)
        if isinstance(rules, FetchError):
            raise _of_image(rules, target)
        if not rules.can_fetch(target.url, self._robot):
            raise _of_image(FetchError("robots_txt"), target)
        return min(_SLOWEST_DELAY_S, rules.crawl_delay(self._robot) or 0.0)

    def _rules(self, target: Target, deadline: Deadline, hooks: Hooks) -> Rules | FetchError:
        """The rules of a host. Those who come while it is being asked take the answer, be it that it can't be had."""
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

    def _found(self, target: Target, deadline: Deadline, hooks: Hooks) -> Rules | FetchError:
        body = self._stored(target.origin)
        if body is None:
            try:
                body = self._asked(target, deadline, hooks)
            except FetchError as error:
                return self._remember(target.origin, *_unreachable(error), size=_LEAST_TEXT)
            self._store(target.origin, body)
        return self._remember(target.origin, rules_of(body, self._robot), MAX_AGE_S, size=max(_LEAST_TEXT, len(body)))

    def _asked(self, target: Target, deadline: Deadline, hooks: Hooks) -> str:
        """The file's text; that of an empty file, which forbids nothing, where the host has none."""
        place = Target(scheme=target.scheme, host=target.host, port=target.port, path="/robots.txt")
        try:
            with self._opener.open(place.url, deadline=deadline, hooks=hooks) as response:
                return response.read_start(MAX_BYTES).decode("utf-8-sig", "replace")
        except FetchError as error:
            status = error.http_status
            if status is not None and 400 <= status < 500 and status != 429:
                return ""
            raise

    def _remember(self, origin: str, rules: Rules | FetchError, age_s: float, *, size: int) -> Rules | FetchError:
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

    def _stored(self, origin: str) -> str | None:
        query = "SELECT body FROM robots WHERE origin = ? AND time > ?"
        with self._connection() as connection:
            row = connection.execute(query, (origin, time.time() - MAX_AGE_S)).fetchone()
        return None if row is None else str(row[0])

    def _store(self, origin: str, body: str) -> None:
        with self._connection() as connection:
            connection.execute("INSERT OR REPLACE INTO robots VALUES (?, ?, ?)", (origin, time.time(), body))

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection for one question: SQLite's own locks keep threads and processes apart."""
        try:
            with closing(sqlite3.connect(self._path, timeout=60.0)) as connection, connection:
                connection.execute("CREATE TABLE IF NOT EXISTS robots (origin TEXT PRIMARY KEY, time REAL, body TEXT)")
                yield connection
        except sqlite3.Error as error:
            raise_if_disk_fails(error, self._path)
            raise ShardError(f"images: {self._path} can't be used ({error}); mend the disk, or delete it") from error


def _unreachable(error: FetchError) -> tuple[FetchError, float]:
    """What it means that the file could not be had, and for how many seconds that is remembered."""
    if error.reason in _HOST_FAILURES:
        return error, 0.0
    failure = FetchError(
        "robots_unreachable", str(error), http_status=error.http_status, retry_after_s=error.retry_after_s
    )
    return failure, _FAILURE_AGE_S


def _of_image(failure: FetchError, target: Target) -> FetchError:
    """A failure of a host as that of one image: many rows meet the same one."""
    error = FetchError(
        failure.reason, failure.detail, http_status=failure.http_status, retry_after_s=failure.retry_after_s
    )
    error.url = target.url
    return error
