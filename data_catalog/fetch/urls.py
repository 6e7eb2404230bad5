"""URLs in canonical ASCII form, hosts whose addresses may be connected to, and Wikimedia's thumbnails."""

import ipaddress
import re
import socket
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from data_catalog.base.errors import PipelineError
from data_catalog.rows.urls import ascii_name

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Sequence[str]]

DEFAULT_PORTS = {"http": 80, "https": 443}
USUAL_PORTS = frozenset(DEFAULT_PORTS.values())

# Servers accept request lines of about this length. Longer ones come from growing redirects and from broken files.
LONGEST_PATH = 8000

# Characters that need no escape in a path and in a query (RFC 3986). `_escape` treats "%" separately.
_PATH_SAFE = "/:@!$&'()*+,;=~-._%"
_QUERY_SAFE = _PATH_SAFE + "?"
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*(?<!-)\.?")


@dataclass(eq=False)
class FetchError(PipelineError):
    """A failure to fetch an image. Equal causes have an equal `detail`; None if the reason says everything."""

    reason: str
    detail: str | None = None
    _: KW_ONLY
    http_status: int | None = None
    retry_after_s: float | None = None  # the wait that the server asks for

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The parts of a URL: ASCII only, escaped, without userinfo and fragment."""

    scheme: str
    host: str  # a name in IDNA form, or an address without brackets
    port: int
    path: str  # path and query

    @property
    def origin(self) -> str:
        """Return scheme, host and, if it is not the default, port: a robots.txt holds for an origin."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    @property
    def url(self) -> str:
        """Return the URL in canonical spelling."""
        return self.origin + self.path


def fetchable_url(url: str | None) -> str | None:
    """Return the canonical spelling, under which a URL is requested and its outcome recorded; None if it is invalid."""
    try:
        return None if url is None else parse_url(url).url
    except FetchError:
        return None


@lru_cache(maxsize=4096)  # each URL is parsed several times during its fetch
def parse_url(url: str | None, base: str = "") -> Target:
    """Parse a URL or IRI, or one relative to `base`. Characters are escaped, and the host is converted to IDNA form."""
    text = (url or "").strip()
    try:
        parts = urlsplit(urljoin(base, text))
        port = parts.port
    except ValueError as error:
        raise FetchError("bad_url", "not a URL") from error
    path = _escape(parts.path, _PATH_SAFE) or "/"
    if parts.query:
        path += f"?{_escape(parts.query, _QUERY_SAFE)}"
    if (fault := _fault_of(parts, path) if text or base else ("bad_url", "empty")) is not None:
        raise FetchError(*fault)
    port = DEFAULT_PORTS[parts.scheme] if port is None else port
    return Target(scheme=parts.scheme, host=_ascii_host(parts.hostname or ""), port=port, path=path)


def _fault_of(parts: SplitResult, path: str) -> tuple[str, str | None] | None:
    """Return why a URL may not be requested, whatever its host."""
    if not parts.scheme:
        return "bad_url", "no scheme"
    if parts.scheme not in DEFAULT_PORTS:
        return "scheme", parts.scheme[:20]
    if "@" in parts.netloc:
        return "userinfo", None
    if len(path) > LONGEST_PATH:
        return "bad_url", "too long"
    return None if parts.hostname else ("bad_url", "no host")


def redirect_target(target: Target, location: str) -> Target:
    """Return the target of a redirect from `target`; `location` is the header as `http.client` decodes it (Latin-1)."""
    with suppress(UnicodeError):
        location = location.encode("latin-1").decode("utf-8")
    return parse_url(location, target.url)


def _escape(text: str, safe: str) -> str:
    """Escape characters that a URL may not contain. Existing escapes stay; a stray "%" becomes "%25"."""
    return quote(_BARE_PERCENT.sub("%25", text), safe=safe, errors="replace")


def _ascii_host(host: str) -> str:
    if ":" not in host:
        name = ascii_name(host)
        if not _HOST.fullmatch(name):
            raise FetchError("bad_url", "host is no name")
        return name
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError as error:
        raise FetchError("bad_url", "host is no address") from error
    if address.scope_id is not None:  # it only has a meaning on one machine
        raise FetchError("bad_url", "host with a zone")
    return socket.inet_ntop(socket.AF_INET6, address.packed)  # `str` differs between versions of Python


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # addresses of IPv4-only hosts, as IPv6-only networks see them
# Some versions of Python take these for public: 6to4 relays, the dummy address of IPv4, documentation, site-local
# addresses, and the obsolete tunnels 6to4 and Teredo.
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in ("192.88.99.0/24", "192.0.0.8/32", "3fff::/20", "fec0::/10", "2002::/16", "2001::/32")
]


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host from the system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: Address) -> bool:
    """Return whether an address is globally routable unicast; an IPv4 address inside an IPv6 address must be, too."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.scope_id is not None:
            return False
    if address.is_multicast or address.is_reserved or any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global


def checked_addresses(
    target: Target, *, allow_loopback: bool, resolver: Resolver = resolve, ports: Collection[int] = USUAL_PORTS
) -> list[str]:
    """Look up the host once, and return its addresses; raise `FetchError` if one of them may not be connected to."""
    port_allowed = target.port in ports
    if not port_allowed and not allow_loopback:
        raise FetchError("port", str(target.port))
    try:
        addresses = [ipaddress.ip_address(name) for name in resolver(target.host, target.port)]
    except TimeoutError as error:
        raise FetchError("dns", f"no answer about {target.host} in time") from error
    except (OSError, ValueError):  # UnicodeError, of over-long labels, is a ValueError
        addresses = []
    if not addresses:
        raise FetchError("dns", f"no address for {target.host}")
    for address in addresses:
        if allow_loopback and (getattr(address, "ipv4_mapped", None) or address).is_loopback:
            continue
        if not is_public(address):
            raise FetchError("private_address", str(address))
        if not port_allowed:
            raise FetchError("port", str(target.port))
    return [str(address) for address in addresses]


# https://www.mediawiki.org/wiki/Common_thumbnail_sizes: any other width is refused.
WIDTHS = (20, 40, 60, 120, 250, 330, 500, 960, 1280, 1920, 3840)

# /wikipedia/<project>/<h>/<hh>/<name> is an original, /wikipedia/<project>/thumb/<h>/<hh>/<name>/<width>px-... is not.
_ORIGINAL = re.compile(
    r"(https?://upload\.wikimedia\.org/wikipedia/[\w-]+)"
    r"/([0-9a-f]/[0-9a-f]{2}/([^/?]+(\.(?:jpe?g|png|webp|svg|tiff?))))",
    re.IGNORECASE,
)
# Originals with longer names have a thumbnail whose name is "thumbnail".
_LONGEST_NAME_BYTES = 165


def thumbnail_url(url: str, width: int) -> str | None:
    """Return the URL of the thumbnail of an original on Wikimedia's servers; None for any other URL, or width 0."""
    found = _ORIGINAL.fullmatch(url)
    if found is None or not width:
        return None
    base, place, name, suffix = found.groups()
    if len(unquote(name)) > _LONGEST_NAME_BYTES:
        name = f"thumbnail{suffix}"
    kind = suffix.lower()
    page = "lossy-page1-" if kind in (".tif", ".tiff") else ""
    other_format = ".jpg" if page else ".png" if kind == ".svg" else ""
    return f"{base}/thumb/{place}/{page}{width}px-{name}{other_format}"
