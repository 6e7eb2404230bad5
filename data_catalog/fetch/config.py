"""How images are fetched: the settings of `[fetch]`, with what each of them may be."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from data_catalog.errors import SettingsError
from data_catalog.fetch.addresses import USUAL_PORTS
from data_catalog.fetch.client import Limits
from data_catalog.fetch.consent import ConsentConfig
from data_catalog.fetch.urls import check_width
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
    """What a recipe says of a host, or of a domain with all hosts below it; what it leaves out stays as it is.

    Args:
        concurrency: requests under way at once.
        requests_per_s: requests begun a second, evenly spaced, redirects and robots.txt included; 0: no limit.
    """

    concurrency: int | None = None
    requests_per_s: float | None = None

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
    """How images are fetched.

    Args:
        timeout_s: of one connect, and of one wait for the next bytes.
        deadline_s: of one try in all: robots.txt, redirects and body.
        max_bytes: larger files are rejected; holds for local files too.
        max_host_bytes: of all images of one shard from one host, or a domain named in `hosts`, what is thrown away
            included; what is under way when they are spent comes to its end, and nothing more is asked.
        max_shard_bytes: likewise, from all hosts.
        max_redirects: followed for one image.
        retries: further tries after a failure that may pass (`reasons.is_retryable`).
        backoff_s: wait before the first further try, doubled for each next one, with some chance in it.
        max_wait_s: longest wait that a server may ask for with Retry-After; one that asks for more is given up.
        threads: images of one shard that are fetched at once; a host that has more images than its limits let these
            fetch gets threads of its own beside them, as many as its `concurrency`, and all such hosts as many again.
        host_concurrency: requests to one host at once, by all shards together.
        host_requests_per_s: requests to one host a second, by all shards together; 0: no limit.
        hosts: other limits for hosts, or for domains with all their hosts, by name; what is left out is as it comes
            with us for that host, or as for every host.
        ports: that may be asked.
        user_agent: name of the program; its first word, up to the slash, is the name that robots.txt and X-Robots-Tag
            may address.
        contact: URL or mail address that servers' operators may write to; some hosts refuse clients without one.
        allow_loopback: also fetch from this machine, on any port; other private addresses stay refused.
        consent: section `[consent]`: what is heeded of what servers say about use.
        wikimedia_width: width in pixels of the thumbnails that are taken for Wikimedia's originals; 0: originals.
    """

    timeout_s: float = how(10.0)
    deadline_s: float = how(60.0)
    max_bytes: int = 32 * 1024 * 1024
    max_host_bytes: int = 16 * 1024**3
    max_shard_bytes: int = 32 * 1024**3
    max_redirects: int = 5
    retries: int = how(2)
    backoff_s: float = how(1.0)
    max_wait_s: float = how(300.0)
    threads: int = how(32)
    host_concurrency: int = how(8)
    host_requests_per_s: float = how(20.0)
    hosts: Mapping[str, HostLimits] = field(default_factory=dict, metadata=HOW)
    ports: tuple[int, ...] = tuple(sorted(USUAL_PORTS))
    user_agent: str = "vernaclip/0.1 (image-caption dataset builder)"
    contact: str | None = how(None)
    allow_loopback: bool = False
    consent: ConsentConfig = field(default_factory=ConsentConfig)
    wikimedia_width: int = 500

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
