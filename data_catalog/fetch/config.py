"""Settings of `[fetch]`: limits, hosts, retries and identification, with their checks."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from data_catalog.base.errors import SettingsError
from data_catalog.base.settings import HOW, how
from data_catalog.fetch.consent import ConsentConfig
from data_catalog.fetch.urls import USUAL_PORTS, WIDTHS, fetchable_url, parse_url
from data_catalog.rows.image_formats import MAX_IMAGE_BYTES

MAX_BACKOFF_S = 300.0
MAX_REQUESTS_PER_S = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPace:
    """The limits in force for a host, or for a domain with all its hosts; see `HostLimits`."""

    concurrency: int = 8
    requests_per_s: float = 20.0

    @property
    def interval_s(self) -> float:
        """Return the seconds between the starts of two requests; 0 without a limit."""
        return 1 / self.requests_per_s if self.requests_per_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLimits:
    """Limits that a recipe sets for a host, or for a domain with all its hosts; None leaves the default."""

    concurrency: Annotated[int, Interval(ge=1, le=256)] | None = None
    """Maximum concurrent requests."""
    requests_per_s: Annotated[float, Interval(ge=0, le=MAX_REQUESTS_PER_S)] | None = None
    """Maximum requests per second, as `host_requests_per_s`."""


# Limits that operators ask for. Wikimedia's robot policy for media allows two connections and 25 Mbit/s.
KNOWN_HOSTS: Mapping[str, HostPace] = {
    "upload.wikimedia.org": HostPace(concurrency=2, requests_per_s=10),
    "thumb.wikimedia.org": HostPace(concurrency=2, requests_per_s=10),
    "staticflickr.com": HostPace(concurrency=8, requests_per_s=20),
    "images.cocodataset.org": HostPace(concurrency=16, requests_per_s=50),
}


def group_of(host: str, named: Mapping[str, HostPace]) -> str:
    """Return the longest name in `named` that is the host or a domain above it, else the host itself.

    The limit of a domain holds for all its hosts together.
    """
    host = host.lower().rstrip(".")
    labels = host.split(".")
    domains = (".".join(labels[start:]) for start in range(len(labels)))
    return next((domain for domain in domains if domain in named), host)


POLITE, IMG2DATASET = "polite", "img2dataset"
IMG2DATASET_LIMITS = (
    "Images are fetched by img2dataset: it reads no robots.txt, keeps no pace of a host, also asks addresses of this "
    "network, and begins an interrupted shard again."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchConfig:
    """Settings of fetching images: limits, hosts, retries, and the identification of the client."""

    engine: Literal["polite", "img2dataset"] = "polite"
    """"polite", or "img2dataset", which only heeds `timeout_s`, `retries`, `threads` (of each process), `max_bytes` and
    X-Robots-Tag."""
    distributor: Literal["multiprocessing", "pyspark", "ray"] = how("multiprocessing")
    """img2dataset's: "multiprocessing", "pyspark" or "ray", as they are configured."""
    processes: Annotated[int, Ge(1)] = how(2)
    """Processes of img2dataset."""
    timeout_s: Annotated[float, Interval(ge=0.01, le=3600)] = how(10.0)
    """Maximum seconds to connect, or to wait for the next bytes."""
    deadline_s: Annotated[float, Interval(ge=0.01, le=86400)] = how(60.0)
    """Maximum seconds for one try, redirects and body included, and as many for robots.txt."""
    max_bytes: Annotated[int, Interval(ge=1, le=MAX_IMAGE_BYTES)] = 32 * 1024 * 1024
    """Maximum bytes of an image file, from the web or local; larger ones are rejected. Default: 32 MiB."""
    max_host_bytes: Annotated[int, Interval(ge=1, le=2**50)] = 16 * 1024**3
    """Maximum bytes per shard from one host, or from a domain named in `hosts`, rejected images included. Then the
    remaining rows are rejected (`byte_budget`); the order of the answers decides which. Default: 16 GiB."""
    max_shard_bytes: Annotated[int, Interval(ge=1, le=2**50)] = 32 * 1024**3
    """The same limit for all hosts together. Default: 32 GiB."""
    max_redirects: Annotated[int, Interval(ge=0, le=30)] = 5
    """Maximum number of redirects per image."""
    retries: Annotated[int, Interval(ge=0, le=20)] = how(2)
    """Number of retries within the build after a temporary failure."""
    backoff_s: Annotated[float, Interval(ge=0, le=MAX_BACKOFF_S)] = how(1.0)
    """Seconds before the first retry. The wait doubles each time and varies at random."""
    max_wait_s: Annotated[float, Interval(ge=0, le=86400)] = how(300.0)
    """Maximum seconds of a Retry-After. A host that asks for more is skipped until then."""
    threads: Annotated[int, Interval(ge=1, le=1024)] = how(64)
    """Requests made at the same time, over all shards."""
    host_concurrency: Annotated[int, Interval(ge=1, le=256)] = how(8)
    """Maximum concurrent requests to one host, over all shards."""
    host_requests_per_s: Annotated[float, Interval(ge=0, le=MAX_REQUESTS_PER_S)] = how(20.0)
    """Maximum requests per second to one host, over all shards, including redirects and robots.txt. They are evenly
    spaced, with a margin of 5 %. 0: no limit."""
    hosts: Mapping[str, HostLimits] = field(default_factory=dict, metadata=HOW)
    """Limits by host, or by domain for all its hosts together. Unset ones are vernaclip's own (Wikimedia, Flickr,
    COCO), else those of all hosts."""
    ports: tuple[Annotated[int, Interval(ge=1, le=65535)], ...] = tuple(sorted(USUAL_PORTS))
    """Ports that requests may use."""
    user_agent: str = "vernaclip/0.1 (image-caption dataset builder)"
    """User-Agent header of requests. The part before the slash is the robot's name in robots.txt and X-Robots-Tag."""
    contact: str | None = how(None)
    """URL or mail address where server operators can reach you, sent in the User-Agent header. Required by Wikimedia
    and Flickr."""
    allow_loopback: bool = False
    """Allow requests to this machine, on any port."""
    consent: ConsentConfig = field(default_factory=ConsentConfig)
    """Section `[consent]`: opt-out signals of servers that are respected."""
    wikimedia_width: int = 500
    """Width in pixels of the thumbnails fetched instead of Wikimedia's originals; Wikimedia must serve that width. 0
    fetches originals."""

    def __post_init__(self) -> None:
        for host in self.hosts:
            if not host or host != host.lower().strip(". ") or set(host) & set("/:@*"):
                raise SettingsError(f"fetch.hosts names {host!r}, but needs a host or domain such as example.org")
        if self.wikimedia_width not in (0, *WIDTHS):
            raise SettingsError(f"fetch.wikimedia_width must be 0 or one of {WIDTHS}, got {self.wikimedia_width}")
        sent = self.full_user_agent
        if not self.user_agent.strip() or not sent.isascii() or not sent.isprintable():
            raise SettingsError(f"fetch.user_agent and fetch.contact must be printable ASCII, got {sent!r}")
        if self.contact is not None and "@" not in self.contact and "://" not in self.contact:
            raise SettingsError(f"fetch.contact must be a mail address or a URL, got {self.contact!r}")

    @property
    def robot(self) -> str:
        """Return our name in robots.txt and X-Robots-Tag."""
        return self.user_agent.split("/")[0].split(" ")[0]

    @property
    def named_limits(self) -> Mapping[str, HostPace]:
        """Return the limits by host or domain: `KNOWN_HOSTS` and the recipe's, which take precedence."""
        found = dict(KNOWN_HOSTS)
        for name, limits in self.hosts.items():
            known = KNOWN_HOSTS.get(group_of(name, KNOWN_HOSTS), self.default_limits)
            found[name] = replace(known, **{key: value for key, value in asdict(limits).items() if value is not None})
        return found

    @property
    def default_limits(self) -> HostPace:
        """Return the limits of hosts that are not in `named_limits`."""
        return HostPace(concurrency=self.host_concurrency, requests_per_s=self.host_requests_per_s)

    @property
    def full_user_agent(self) -> str:
        """Return the User-Agent header."""
        return f"{self.user_agent} {self.contact}" if self.contact else self.user_agent


def main_host(urls: Collection[str], config: FetchConfig) -> str | None:
    """Return the host, or group of hosts, that at least half of a shard's URLs are on; None if there is none."""
    named = config.named_limits
    hosts = Counter(group_of(parse_url(url).host, named) for url in urls if fetchable_url(url))
    return next((group for group, count in hosts.most_common(1) if 2 * count >= len(urls)), None)
