"""How images are fetched from the web: the settings, with what each of them may be."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from data_catalog.errors import ConfigError
from data_catalog.fetch.addresses import USUAL_PORTS
from data_catalog.fetch.guard import Limits
from data_catalog.fetch.hosts import MAX_BACKOFF_S, HostLimits, HostPace, check_host_names, named_paces
from data_catalog.fetch.urls import check_width
from data_catalog.settings import HOW, how, require_between


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
        threads: images of one shard that are fetched at once, from all hosts.
        host_concurrency: requests to one host at once, by all shards together.
        host_requests_per_s: requests to one host a second, by all shards together; 0: no limit.
        hosts: other limits for hosts, or for domains with all their hosts, by name; what is left out is as it comes
            with us for that host, or as for every host.
        ports: that may be asked.
        user_agent: name of the program; its first word, up to the slash, is the name that robots.txt and X-Robots-Tag
            may address.
        contact: URL or mail address that servers' operators may write to; some hosts refuse clients without one.
        allow_loopback: also fetch from this machine, on any port; other private addresses stay refused.
        respect_robots_tag: reject images whose X-Robots-Tag says noai, noimageai, noindex, noimageindex, noml or none,
            or whose TDM-Reservation is 1.
        respect_robots_txt: reject images that the host's robots.txt forbids us to ask for.
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
    respect_robots_tag: bool = True
    respect_robots_txt: bool = True
    wikimedia_width: int = 500

    def __post_init__(self) -> None:
        """Raise `ConfigError`, naming the field, if a value is out of range."""
        require_between("fetch.timeout_s", self.timeout_s, 0.01, 3600)
        require_between("fetch.deadline_s", self.deadline_s, 0.01, 86400)
        require_between("fetch.max_bytes", self.max_bytes, 1, 2**30)
        require_between("fetch.max_host_bytes", self.max_host_bytes, 1, 2**50)
        require_between("fetch.max_shard_bytes", self.max_shard_bytes, 1, 2**50)
        require_between("fetch.max_redirects", self.max_redirects, 0, 30)
        require_between("fetch.retries", self.retries, 0, 20)
        require_between("fetch.backoff_s", self.backoff_s, 0, MAX_BACKOFF_S)
        require_between("fetch.max_wait_s", self.max_wait_s, 0, 86400)
        require_between("fetch.threads", self.threads, 1, 256)
        require_between("fetch.host_concurrency", self.host_concurrency, 1, 256)
        require_between("fetch.host_requests_per_s", self.host_requests_per_s, 0, 10_000)
        check_host_names(iter(self.hosts))
        check_width(self.wikimedia_width)
        for port in self.ports:
            require_between("fetch.ports", port, 1, 65535)
        for name, text in (("user_agent", self.user_agent), ("contact", self.contact)):
            if text is not None and (not text.strip() or not text.isascii() or not text.isprintable()):
                raise ConfigError(f"fetch.{name} must be printable ASCII, got {text!r}")
        if self.contact is not None and "@" not in self.contact and "://" not in self.contact:
            raise ConfigError(f"fetch.contact must be a mail address or a URL, got {self.contact!r}")

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "FetchConfig":
        """The inverse of `to_values`."""
        hosts = {name: HostLimits(**limits) for name, limits in values["hosts"].items()}
        return cls(**{**values, "hosts": hosts, "ports": tuple(values["ports"])})

    def to_values(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self)

    @property
    def user_agent_header(self) -> str:
        """The User-Agent as sent."""
        return f"{self.user_agent} {self.contact}" if self.contact else self.user_agent

    @property
    def robot(self) -> str:
        """Our name in robots.txt and X-Robots-Tag."""
        return self.user_agent.split("/")[0].split(" ")[0]

    @property
    def named_limits(self) -> Mapping[str, HostPace]:
        """Limits by host or domain: those that operators ask for, and the recipe's, which take precedence."""
        return named_paces(self.hosts, self.default_limits)

    @property
    def default_limits(self) -> HostPace:
        """Limits of every host that is not named."""
        return HostPace(concurrency=self.host_concurrency, requests_per_s=self.host_requests_per_s)

    def limits(self) -> Limits:
        """The part of the settings that the guard enforces."""
        return Limits(
            timeout_s=self.timeout_s,
            deadline_s=self.deadline_s,
            max_bytes=self.max_bytes,
            max_redirects=self.max_redirects,
            user_agent=self.user_agent_header,
            allow_loopback=self.allow_loopback,
            ports=self.ports,
        )
