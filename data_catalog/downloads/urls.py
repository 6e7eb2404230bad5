"""Which URLs a download may ask: https anywhere, http on this machine, and http elsewhere for what a sha256 vouches.

At which addresses hosts may be is decided by `guarding`, when they are looked up.
"""

import ipaddress
from urllib.parse import SplitResult, urlsplit

from data_catalog.errors import ConfigError


def check_url(url: str, *, referrer: str = "", plain_http: bool = False) -> None:
    """Make sure that a URL may be asked.

    Args:
        url: the URL.
        referrer: what led to it, "" for the user: a page of the web may not lead to this machine, nor by http to
            another host than its own.
        plain_http: whether http is good enough, since the sha256 of what must come is known.

    Raises:
        ConfigError: it may not.
    """
    parts = url_parts(url)
    if "@" in parts.netloc:
        raise ConfigError(f"a URL of {parts.hostname} holds a user name or a password: leave them out")
    led_by = url_parts(referrer) if referrer else None
    if _is_loopback(parts):
        if led_by is not None and led_by.netloc != parts.netloc:
            raise ConfigError(f"{url} is on this machine, and {referrer} may not lead there")
        if parts.scheme in ("http", "https"):
            return
    if parts.scheme == "http" and plain_http and (led_by is None or led_by.hostname == parts.hostname):
        return
    if parts.scheme != "https":
        raise ConfigError(f"{url} is not asked: only https is safe from strangers on the way")


def is_loopback(url: str) -> bool:
    """Whether a URL is on this machine. Raises `ConfigError` where it is no URL."""
    return _is_loopback(url_parts(url))


def url_parts(url: str) -> SplitResult:
    """A URL taken apart. Raises `ConfigError` where that is impossible or ambiguous."""
    try:
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("it holds characters that no URL has")
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:
            raise ValueError("it names no host")
    except ValueError as error:
        raise ConfigError(f"{url!r} is no URL to download from: {error}") from error
    return parts


def _is_loopback(parts: SplitResult) -> bool:
    try:
        address = ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        return parts.hostname == "localhost"
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified  # 0.0.0.0 connects to this machine as well
