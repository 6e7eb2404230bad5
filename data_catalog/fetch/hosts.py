"""How fast each host is asked, by all processes of a build together: concurrency, rate, and pauses that it asks for."""

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from data_catalog.errors import ConfigError
from data_catalog.fetch.ledger import HostLedger, Lease
from data_catalog.images.bounds import require_between

_MOST_REQUESTS_PER_S = 10_000
# Intervals are so much longer: a host counts requests when they come, and some are 50 ms longer on the way than others.
_MARGIN = 1.05
# How often a thread that a redirect has led to a busy host looks whether there is a place.
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPace:
    """How fast a host, or a domain with all hosts below it, is asked.

    Args:
        concurrency: requests under way at once.
        requests_per_s: requests begun a second, evenly spaced, redirects and robots.txt included; 0: no limit.
    """

    concurrency: int = 8
    requests_per_s: float = 20.0

    @property
    def interval_s(self) -> float:
        """Seconds between the beginnings of two requests."""
        return 1 / self.requests_per_s if self.requests_per_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLimits:
    """What a recipe says of a host, or of a domain with all hosts below it; what it leaves out stays as it is.

    Args:
        concurrency: requests under way at once.
        requests_per_s: requests begun a second, evenly spaced, redirects and robots.txt included; 0: no limit.
    """

    concurrency: int | None = None
    requests_per_s: float | None = None

    def __post_init__(self) -> None:
        """Raise `ConfigError`, naming the field, if a value is out of range."""
        if self.concurrency is not None:
            require_between("fetch.hosts.*.concurrency", self.concurrency, 1, 256)
        if self.requests_per_s is not None:
            require_between("fetch.hosts.*.requests_per_s", self.requests_per_s, 0, _MOST_REQUESTS_PER_S)

    def over(self, pace: HostPace) -> HostPace:
        """A pace with the fields that are given here."""
        return HostPace(
            concurrency=pace.concurrency if self.concurrency is None else self.concurrency,
            requests_per_s=pace.requests_per_s if self.requests_per_s is None else self.requests_per_s,
        )


# What operators ask for: Wikimedia's robot policy for media allows two connections and 25 Mbit/s.
KNOWN_HOSTS: Mapping[str, HostPace] = {
    "upload.wikimedia.org": HostPace(concurrency=2, requests_per_s=10),
    "thumb.wikimedia.org": HostPace(concurrency=2, requests_per_s=10),
    "staticflickr.com": HostPace(concurrency=8, requests_per_s=20),
    "images.cocodataset.org": HostPace(concurrency=16, requests_per_s=50),
}


def named_paces(hosts: Mapping[str, HostLimits], default: HostPace) -> Mapping[str, HostPace]:
    """The known hosts and those that a recipe names; what it leaves out is as known of the host, or as by default."""
    known = {name: KNOWN_HOSTS.get(group_of(name, KNOWN_HOSTS), default) for name in hosts}
    return {**KNOWN_HOSTS, **{name: limits.over(known[name]) for name, limits in hosts.items()}}


def group_of(host: str, named: Mapping[str, HostPace]) -> str:
    """The longest name among `named` that is the host or a domain above it, else the host itself.

    A limit that is named for a domain holds for all its hosts together.
    """
    host = host.lower().rstrip(".")
    labels = host.split(".")
    domains = (".".join(labels[start:]) for start in range(len(labels)))
    return next((domain for domain in domains if domain in named), host)


def check_host_names(names: Iterator[str]) -> None:
    """Raise `ConfigError` unless all are names of hosts: no scheme, no port, no path."""
    for name in names:
        if not name or name != name.lower().strip(". ") or set(name) & set("/:@*"):
            raise ConfigError(f"fetch.hosts names {name!r}: a host or domain such as example.org is wanted")


class HostClock:
    """The limits of the hosts that one process asks, and the waits that keep them.

    Args:
        ledger: shared with all other processes of the build.
        named: limits by host or domain.
        default: limits of every other host.
    """

    def __init__(self, ledger: HostLedger, named: Mapping[str, HostPace], default: HostPace) -> None:
        self.ledger = ledger
        self._named = named
        self._default = default
        self._delays: dict[str, float] = {}
        self._lock = threading.Lock()

    def group_of(self, host: str) -> str:
        """The group whose limits hold for a host."""
        return group_of(host, self._named)

    def limits_of(self, group: str) -> HostPace:
        """The limits of a group; a robots.txt may have made them stricter."""
        limits = self._named.get(group, self._default)
        with self._lock:
            delay_s = self._delays.get(group, 0.0)
        if delay_s <= limits.interval_s:
            return limits
        return HostPace(concurrency=limits.concurrency, requests_per_s=min(_MOST_REQUESTS_PER_S, 1 / delay_s))

    def slow_down(self, group: str, delay_s: float) -> None:
        """Keep at least so many seconds between two requests, as a Crawl-delay asks.

        Other processes, and later shards, come to know it before their first request as this one did: `RobotsCache`.
        """
        with self._lock:
            self._delays[group] = max(delay_s, self._delays.get(group, 0.0))

    def may_go_on(self, group: str) -> bool:
        """Whether a lease that ends now may serve another request at once: the host has no rate, and no pause."""
        return not self.limits_of(group).interval_s and self.ledger.may_hand_over(group)

    def try_start(self, group: str, *, urgent: bool = False) -> Lease | float:
        """See `HostLedger.try_start`."""
        limits = self.limits_of(group)
        interval_s = _MARGIN * limits.interval_s
        return self.ledger.try_start(group, concurrency=limits.concurrency, interval_s=interval_s, urgent=urgent)

    def wait_to_start(self, group: str, longest_s: float) -> Lease | None:
        """Wait for a lease, holding none; None if that takes too long, without waiting where it is known before."""
        end = time.monotonic() + longest_s
        while True:
            found = self.try_start(group, urgent=True)
            if isinstance(found, Lease):
                return found
            if found > end - time.monotonic():
                return None
            time.sleep(max(found, _POLL_S))

    def wait_for(self, host: str, longest_s: float, *, sets_rate: bool = False) -> float | None:
        """Wait for the moment of a request to a host one has a lease on; to be called right before the request.

        Args:
            host: its name.
            longest_s: see below.
            sets_rate: its answer may give a rate to a host that has none, and then counts as a request before.

        Returns:
            Seconds that it took; None if it would take longer than `longest_s`.
        """
        group = self.group_of(host)
        interval_s = _MARGIN * self.limits_of(group).interval_s
        if not (interval_s or sets_rate) and not self.ledger.is_paused(group):
            return 0.0
        waited_s = 0.0
        while True:
            wait_s = self.ledger.reserve(group, interval_s=interval_s, longest_s=longest_s - waited_s)
            if wait_s is None:
                return None
            time.sleep(wait_s)
            waited_s += wait_s
            if not wait_s or not self.ledger.is_paused(group):  # others may have been told to wait meanwhile
                return waited_s
