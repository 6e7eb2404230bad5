"""How fast each host is asked, by all processes of a build together: concurrency, rate, and pauses that it asks for."""

import fcntl
import hashlib
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.images.bounds import require_between

_NUM_FILES = 1024
# How soon a place may be free on a host that another process keeps busy; one's own threads are told at once.
_BUSY_WAIT_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLimits:
    """How fast a host, or a domain with all hosts below it, may be asked.

    Args:
        concurrency: requests under way at once.
        requests_per_s: requests begun a second, evenly spaced, redirects and robots.txt included; 0: no limit.
    """

    concurrency: int = 8
    requests_per_s: float = 20.0

    def __post_init__(self) -> None:
        """Raise `ConfigError`, naming the field, if a value is out of range."""
        require_between("fetch.hosts.*.concurrency", self.concurrency, 1, 256)
        require_between("fetch.hosts.*.requests_per_s", self.requests_per_s, 0, 10_000)

    @property
    def interval_s(self) -> float:
        """Seconds between the beginnings of two requests."""
        return 1 / self.requests_per_s if self.requests_per_s else 0.0


# What operators ask for: Wikimedia's robot policy for media allows two connections and 25 Mbit/s.
KNOWN_HOSTS: Mapping[str, HostLimits] = {
    "upload.wikimedia.org": HostLimits(concurrency=2, requests_per_s=10),
    "thumb.wikimedia.org": HostLimits(concurrency=2, requests_per_s=10),
    "staticflickr.com": HostLimits(concurrency=8, requests_per_s=20),
    "images.cocodataset.org": HostLimits(concurrency=16, requests_per_s=50),
}


def group_of(host: str, named: Mapping[str, HostLimits]) -> str:
    """The longest name among `named` that is the host or a domain above it, else the host itself.

    A limit that is named for a domain holds for all its hosts together.
    """
    labels = host.lower().rstrip(".").split(".")
    domains = (".".join(labels[start:]) for start in range(len(labels)))
    return next((domain for domain in domains if domain in named), host.lower())


def check_host_names(names: Iterator[str]) -> None:
    """Raise `ConfigError` unless all are names of hosts: no scheme, no port, no path."""
    for name in names:
        if not name or name != name.lower().strip(". ") or set(name) & set("/:@*"):
            raise ConfigError(f"fetch.hosts names {name!r}: a host or domain such as example.org is wanted")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to make one request; until it is given back, or its process has ended, it counts."""

    group: str
    number: int


class HostLedger:
    """Who asks which host, and when it may be asked next: kept in files, since many processes ask.

    Args:
        folder: one for all processes that shall keep the limits together. What a killed process held is free again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        folder.mkdir(parents=True, exist_ok=True)

    def try_start(self, group: str, limits: HostLimits) -> Lease | float:
        """A lease for one request from now on, or seconds after which to ask again."""
        now = time.monotonic()
        with self._entry(group) as entry:
            entry["leases"] = [lease for lease in entry["leases"] if _is_alive(lease[0])]
            if entry["next"] > now:
                return float(entry["next"]) - now
            if len(entry["leases"]) >= limits.concurrency:
                return _BUSY_WAIT_S
            lease = Lease(group, next(self._numbers))
            entry["leases"].append([os.getpid(), lease.number])
            entry["next"] = now + limits.interval_s
            return lease

    def reserve(self, group: str, limits: HostLimits) -> float:
        """Seconds to wait before one more request that a lease has come to need: a redirect, a robots.txt."""
        now = time.monotonic()
        with self._entry(group) as entry:
            start = max(now, entry["next"])
            entry["next"] = start + limits.interval_s
            return float(start - now)

    def pause(self, group: str, seconds: float) -> None:
        """Let nobody ask a host for some time."""
        with self._entry(group) as entry:
            entry["next"] = max(entry["next"], time.monotonic() + seconds)

    def end(self, lease: Lease) -> None:
        """Give a lease back."""
        mine = [os.getpid(), lease.number]
        with self._entry(lease.group) as entry:
            entry["leases"] = [other for other in entry["leases"] if other != mine]

    @contextmanager
    def _entry(self, group: str) -> Iterator[dict[str, Any]]:
        """What is known of a group, to be changed in place; entries that say nothing any more are dropped."""
        number = int(hashlib.sha1(group.encode(), usedforsecurity=False).hexdigest()[:8], 16) % _NUM_FILES
        descriptor = os.open(self._folder / f"{number:04d}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            content = os.read(descriptor, os.fstat(descriptor).st_size)
            entries = _entries(content)
            yield entries.setdefault(group, {"next": 0.0, "leases": []})
            now = time.monotonic()
            kept = {name: entry for name, entry in entries.items() if entry["leases"] or entry["next"] > now}
            os.ftruncate(descriptor, os.pwrite(descriptor, json.dumps(kept).encode(), 0))
        finally:
            os.close(descriptor)


def _entries(content: bytes) -> dict[str, Any]:
    """A killed writer may leave half a file: its host is then as good as unknown."""
    try:
        found: dict[str, Any] = json.loads(content or b"{}")
    except ValueError:
        return {}
    return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class HostClock:
    """The limits of the hosts that one process asks, and the waits that keep them.

    Args:
        ledger: shared with all other processes of the build.
        named: limits by host or domain.
        default: limits of every other host.
    """

    def __init__(self, ledger: HostLedger, named: Mapping[str, HostLimits], default: HostLimits) -> None:
        self.ledger = ledger
        self._named = named
        self._default = default
        self._delays: dict[str, float] = {}
        self._lock = threading.Lock()

    def group_of(self, host: str) -> str:
        """The group whose limits hold for a host."""
        return group_of(host, self._named)

    def limits_of(self, group: str) -> HostLimits:
        """The limits of a group; a robots.txt may have made them stricter."""
        limits = self._named.get(group, self._default)
        with self._lock:
            delay_s = self._delays.get(group, 0.0)
        if delay_s <= limits.interval_s:
            return limits
        return HostLimits(concurrency=limits.concurrency, requests_per_s=1 / delay_s)

    def slow_down(self, group: str, delay_s: float) -> None:
        """Keep at least so many seconds between two requests, as a Crawl-delay asks."""
        with self._lock:
            self._delays[group] = max(delay_s, self._delays.get(group, 0.0))

    def try_start(self, group: str) -> Lease | float:
        """See `HostLedger.try_start`."""
        return self.ledger.try_start(group, self.limits_of(group))

    def wait_for(self, host: str, longest_s: float) -> bool:
        """Wait for one more request to a host; False, without waiting, if that would take too long."""
        group = self.group_of(host)
        wait_s = self.ledger.reserve(group, self.limits_of(group))
        if wait_s > longest_s:
            return False
        time.sleep(wait_s)
        return True
