"""URLs as people write them, turned into ASCII URLs that may be asked for, or refused with a reason."""

import ipaddress
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote, urljoin, urlsplit

from data_catalog.errors import PipelineError, SettingsError

DEFAULT_PORTS = {"http": 80, "https": 443}

# Servers take a request line of about as much; longer ones come from redirects that grow, and from broken files.
LONGEST_PATH = 8000

# RFC 3986: what may stand in a path, and in a query, without being escaped. "%" is dealt with by `_escape`.
_PATH_SAFE = "/:@!$&'()*+,;=~-._%"
_QUERY_SAFE = _PATH_SAFE + "?"
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?")


class FetchError(PipelineError):
    """An image could not be had: `reason` is a key of `reasons.FETCH_REASONS`, `detail` says what was found.

    Args:
        reason: from the closed set.
        detail: the same text for the same cause, whatever the run; None where the reason says it all.
        http_status: of the answer, if there was one.
        retry_after_s: seconds that the server asks to wait.
    """

    def __init__(
        self,
        reason: str,
        detail: str | None = None,
        *,
        http_status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.http_status = http_status
        self.retry_after_s = retry_after_s
        self.url: str | None = None  # of the last request, set by whoever made it


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A URL taken apart: ASCII throughout, escaped, without userinfo and fragment."""

    scheme: str
    host: str  # a name in IDNA form, or an address without brackets
    port: int
    path: str  # path and query

    @property
    def origin(self) -> str:
        """Return scheme, host and, where it is not the usual one, port: what a robots.txt is for."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    @property
    def url(self) -> str:
        """Return the URL in one canonical spelling."""
        return self.origin + self.path


def askable_url(url: str | None) -> str | None:
    """Return the one spelling under which a URL is asked for, and its outcome known; None where it cannot be asked."""
    try:
        return None if url is None else parse_url(url).url
    except FetchError:
        return None


@lru_cache(maxsize=4096)  # each URL is taken apart several times on its way
def parse_url(url: str | None) -> Target:
    """Take a URL or IRI apart; spaces and non-ASCII characters are escaped, the host is put into IDNA form.

    Raises:
        FetchError: `bad_url` (empty, no scheme, no usable host or port, too long), `scheme`, `userinfo`.
    """
    if url is None or not url.strip():
        raise FetchError("bad_url", "empty")
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise FetchError("bad_url", "not a URL") from error
    if parts.scheme not in DEFAULT_PORTS:
        raise FetchError("scheme", parts.scheme[:20]) if parts.scheme else FetchError("bad_url", "no scheme")
    if "@" in parts.netloc:
        raise FetchError("userinfo")
    query = f"?{_escape(parts.query, _QUERY_SAFE)}" if parts.query else ""
    path = (_escape(parts.path, _PATH_SAFE) or "/") + query
    if len(path) > LONGEST_PATH:
        raise FetchError("bad_url", "too long")
    return Target(
        scheme=parts.scheme,
        host=_ascii_host(parts.hostname),
        port=DEFAULT_PORTS[parts.scheme] if port is None else port,
        path=path,
    )


def redirect_target(target: Target, location: str) -> Target:
    """Return where a redirect from `target` leads; `location` is the header as `http.client` gives it (Latin-1)."""
    with suppress(UnicodeError):
        location = location.encode("latin-1").decode("utf-8")
    try:
        return parse_url(urljoin(target.url, location))
    except ValueError as error:
        raise FetchError("bad_url", "not a URL") from error


def _escape(text: str, safe: str) -> str:
    """Escape what may not stand in a URL; what is escaped already stays, a stray "%" becomes "%25"."""
    return quote(_BARE_PERCENT.sub("%25", text), safe=safe, errors="replace")


def _ascii_host(host: str | None) -> str:
    if not host:
        raise FetchError("bad_url", "no host")
    if ":" in host:
        return _ipv6_host(host)
    try:
        ascii_host = host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise FetchError("bad_url", "host is no name") from error
    if not _HOST.fullmatch(ascii_host):
        raise FetchError("bad_url", "host is no name")
    return ascii_host


def _ipv6_host(host: str) -> str:
    """Return the one spelling of an address; a zone, which means something on one machine only, is refused."""
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError as error:
        raise FetchError("bad_url", "host is no address") from error
    if address.scope_id is not None:
        raise FetchError("bad_url", "host with a zone")
    return socket.inet_ntop(socket.AF_INET6, address.packed)  # `str` differs between versions of Python


# https://www.mediawiki.org/wiki/Common_thumbnail_sizes: any other width is refused.
WIDTHS = (20, 40, 60, 120, 250, 330, 500, 960, 1280, 1920, 3840)

# /wikipedia/<project>/<h>/<hh>/<name> is an original, /wikipedia/<project>/thumb/<h>/<hh>/<name>/<width>px-... is not.
_ORIGINAL = re.compile(
    r"(https?://upload\.wikimedia\.org/wikipedia/[\w-]+)/([0-9a-f]/[0-9a-f]{2}/([^/?]+\.(?:jpe?g|png|webp|svg|tiff?)))",
    re.IGNORECASE,
)
# Longer names get a thumbnail called "thumbnail".
_LONGEST_NAME_BYTES = 165


def check_width(width: int) -> None:
    """Raise `SettingsError` unless Wikimedia serves thumbnails of that width; 0 stands for originals."""
    if width and width not in WIDTHS:
        served = ", ".join(map(str, WIDTHS))
        raise SettingsError(
            f"fetch.wikimedia_width must be 0 (originals) or a width that is served ({served}), got {width}"
        )


def thumbnail_url(url: str, width: int) -> str | None:
    """Return the thumbnail of an original on Wikimedia's servers; None for any other URL, and where there is none.

    Args:
        url: canonical, as `urls.parse_url` gives it.
        width: of the thumbnail in pixels, from `WIDTHS`; smaller originals have none, so that asking for it fails.
    """
    found = _ORIGINAL.fullmatch(url)
    if found is None or not width:
        return None
    base, place, name = found.groups()
    short = name if len(unquote(name)) <= _LONGEST_NAME_BYTES else "thumbnail" + name[name.rindex(".") :]
    prefix, suffix = _affixes(name.rpartition(".")[2].lower())
    return f"{base}/thumb/{place}/{prefix}{width}px-{short}{suffix}"


def _affixes(extension: str) -> tuple[str, str]:
    """Return what stands before and behind a thumbnail's name: those of drawings and TIFFs are of another format."""
    if extension in ("tif", "tiff"):
        return "lossy-page1-", ".jpg"
    return "", ".png" if extension == "svg" else ""
