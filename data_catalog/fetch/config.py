"""How images are fetched: the settings of `[fetch]`, with what each of them may be."""

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from data_catalog.errors import SettingsError
from data_catalog.fetch.client import Limits
from data_catalog.fetch.consent import ConsentConfig
from data_catalog.fetch.urls import USUAL_PORTS, check_width
from data_catalog.settings import HOW, how, require_between

MAX_BACKOFF_S = 300.0
MAX_REQUESTS_PER_S = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPace:
    """How fast a host, or a domain with all hosts below it, is asked; see `HostLimits`."""

    concurrency: int = 8
    requests_per_s: float = 20.0

    @property
    def interval_s(self) -> float:
        """Return the seconds between the beginnings of two requests."""
        return 1 / self.requests_per_s if self.requests_per_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLimits:
    """Limits of one host, or of a domain with all hosts below it; what is left out stays as it is."""

    concurrency: int | None = None
    """Requests to the host that are under way at once."""
    requests_per_s: float | None = None
    """Requests to the host that begin in each second, evenly spaced, redirects and robots.txt included. 0 sets no
    limit."""

    def __post_init__(self) -> None:
        """Raise `SettingsError`, naming the field, if a value is out of range."""
        if self.concurrency is not None:
            require_between("fetch.hosts.*.concurrency", self.concurrency, 1, 256)
        if self.requests_per_s is not None:
            require_between("fetch.hosts.*.requests_per_s", self.requests_per_s, 0, MAX_REQUESTS_PER_S)

    def over(self, pace: HostPace) -> HostPace:
        """Return a pace with the fields that are given here."""
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


def group_of(host: str, named: Mapping[str, HostPace]) -> str:
    """Return the longest name among `named` that is the host or a domain above it, else the host itself.

    A limit that is named for a domain holds for all its hosts together.
    """
    host = host.lower().rstrip(".")
    labels = host.split(".")
    domains = (".".join(labels[start:]) for start in range(len(labels)))
    return next((domain for domain in domains if domain in named), host)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchConfig:
    """Settings of fetching images: hosts, limits, pace, and who is asking."""

    timeout_s: float = how(10.0)
    """Seconds that one connection, and one wait for the next bytes, may take."""
    deadline_s: float = how(60.0)
    """Seconds that one try may take in all: robots.txt, redirects and body."""
    max_bytes: int = 32 * 1024 * 1024
    """Bytes of the largest image file that is taken; larger ones are rejected. It holds for local files too. The
    default is 32 MiB."""
    max_host_bytes: int = 16 * 1024**3
    """Bytes that one shard may take from one host, or from a domain named in `hosts`, what is thrown away included.
    When they are spent, what is under way comes to its end, nothing more is asked, and the rows that are left end as
    `byte_budget`; which ones depends on the order in which they came. The default is 16 GiB."""
    max_shard_bytes: int = 32 * 1024**3
    """Bytes that one shard may take from all hosts, counted in the same way. The default is 32 GiB."""
    max_redirects: int = 5
    """Redirects that are followed for one image."""
    retries: int = how(2)
    """Further tries, within the build, after a failure that may pass. `--retry-failed` tries again later."""
    backoff_s: float = how(1.0)
    """Seconds before the first further try. The wait doubles for each next one, with some chance in it."""
    max_wait_s: float = how(300.0)
    """Longest wait in seconds that a server may ask for with Retry-After. A host that asks for more is given up until
    its time is over."""
    threads: int = how(32)
    """Images of one shard that are fetched at once. A host that has more images than its limits let these threads fetch
    gets threads of its own beside them, as many as its `concurrency`; all such hosts together get at most as many
    again."""
    host_concurrency: int = how(8)
    """Requests to one host that are under way at once, by all shards together."""
    host_requests_per_s: float = how(20.0)
    """Requests to one host that begin in each second, by all shards together: evenly spaced, with 5 % to spare so that
    no second sees more, redirects and robots.txt included. 0 sets no limit."""
    hosts: Mapping[str, HostLimits] = field(default_factory=dict, metadata=HOW)
    """Other limits for hosts, or for domains with all their hosts together, by name. What is left out is as vernaclip
    has it for that host (Wikimedia, Flickr and COCO come with limits), else as for every host."""
    ports: tuple[int, ...] = tuple(sorted(USUAL_PORTS))
    """Ports that may be asked."""
    user_agent: str = "vernaclip/0.1 (image-caption dataset builder)"
    """Name of the program in requests. Its first word, up to the slash, is the name that robots.txt and X-Robots-Tag
    may address."""
    contact: str | None = how(None)
    """URL or mail address that operators of servers may write to. Some hosts refuse clients without one, and sources on
    Wikimedia or Flickr are not asked without it."""
    allow_loopback: bool = False
    """Fetch from this machine too, on any port, as samples and tests do. Other private addresses stay refused."""
    consent: ConsentConfig = field(default_factory=ConsentConfig)
    """Section `[consent]`: what is heeded of what servers say about use."""
    wikimedia_width: int = 500
    """Width in pixels of the thumbnails that are taken in the place of Wikimedia's originals, one of those that it
    serves. 0 takes originals."""

    def __post_init__(self) -> None:
        """Raise `SettingsError`, naming the field, if a value is out of range."""
        for name, (low, high) in _BOUNDS.items():
            require_between(f"fetch.{name}", getattr(self, name), low, high)
        for host in self.hosts:
            if not host or host != host.lower().strip(". ") or set(host) & set("/:@*"):
                raise SettingsError(f"fetch.hosts names {host!r}: a host or domain such as example.org is wanted")
        check_width(self.wikimedia_width)
        for port in self.ports:
            require_between("fetch.ports", port, 1, 65535)
        for name, text in (("user_agent", self.user_agent), ("contact", self.contact)):
            if text is not None and (not text.strip() or not text.isascii() or not text.isprintable()):
                raise SettingsError(f"fetch.{name} must be printable ASCII, got {text!r}")
        if self.contact is not None and "@" not in self.contact and "://" not in self.contact:
            raise SettingsError(f"fetch.contact must be a mail address or a URL, got {self.contact!r}")

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "FetchConfig":
        """Return the settings that `to_values` gave."""
        hosts = {name: HostLimits(**limits) for name, limits in values["hosts"].items()}
        consent = ConsentConfig(ignore=tuple(values["consent"]["ignore"]))
        return cls(**{**values, "hosts": hosts, "ports": tuple(values["ports"]), "consent": consent})

    def to_values(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)

    @property
    def robot(self) -> str:
        """Return our name in robots.txt and X-Robots-Tag."""
        return self.user_agent.split("/")[0].split(" ")[0]

    @property
    def named_limits(self) -> Mapping[str, HostPace]:
        """Return limits by host or domain: those that operators ask for, and the recipe's, which take precedence."""
        known = {name: KNOWN_HOSTS.get(group_of(name, KNOWN_HOSTS), self.default_limits) for name in self.hosts}
        return {**KNOWN_HOSTS, **{name: limits.over(known[name]) for name, limits in self.hosts.items()}}

    @property
    def default_limits(self) -> HostPace:
        """Return the limits of every host that is not named."""
        return HostPace(concurrency=self.host_concurrency, requests_per_s=self.host_requests_per_s)

    def limits(self) -> Limits:
        """Return the part of the settings that the HTTP client keeps."""
        return Limits(
            timeout_s=self.timeout_s,
            deadline_s=self.deadline_s,
            max_bytes=self.max_bytes,
            max_redirects=self.max_redirects,
            user_agent=f"{self.user_agent} {self.contact}" if self.contact else self.user_agent,
            allow_loopback=self.allow_loopback,
            ports=self.ports,
        )


_BOUNDS: Mapping[str, tuple[float, float]] = {
    "timeout_s": (0.01, 3600),
    "deadline_s": (0.01, 86400),
    "max_bytes": (1, 2**30),
    "max_host_bytes": (1, 2**50),
    "max_shard_bytes": (1, 2**50),
    "max_redirects": (0, 30),
    "retries": (0, 20),
    "backoff_s": (0, MAX_BACKOFF_S),
    "max_wait_s": (0, 86400),
    "threads": (1, 256),
    "host_concurrency": (1, 256),
    "host_requests_per_s": (0, MAX_REQUESTS_PER_S),
}


def slow_host(urls: Collection[str], config: FetchConfig) -> str | None:
    """Return the host, or group of them, that at least half of a shard's URLs are on, if it is slow; None without one.

    A host is slow here if its limits are tighter than what one shard would ask of it.
    """
    named, hosts = config.named_limits, Counter[str]()
    for url in urls:
        with suppress(ValueError):  # it is no URL
            if host := urlsplit(url).hostname:
                hosts[group_of(host, named)] += 1
    if not hosts:
        return None
    ((group, count),) = hosts.most_common(1)
    limits = named.get(group, config.default_limits)
    is_slow = limits.requests_per_s > 0 or limits.concurrency < config.threads
    return group if is_slow and 2 * count >= len(urls) else None
