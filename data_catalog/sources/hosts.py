"""Hosts of URLs in one spelling, and keys of addresses: all spellings of one share it, and it tells nobody which."""

import hashlib
import re
from urllib.parse import urlsplit

from data_catalog.sources.host_names import canonical_host
from data_catalog.sources.urls import canonical_url, plain_url

_SCHEME = re.compile(r"https?://", re.IGNORECASE)


def host_of(url: str) -> str | None:
    """The host of a URL in its one spelling (`canonical_host`), without port; None if it has none."""
    try:
        host = urlsplit(plain_url(url)).hostname
    except ValueError:
        return None
    return canonical_host(host or "") or None


def readable_host(host: str) -> str:
    """A host, as `host_of` gives it, with the letters that its `xn--` forms stand for."""
    return ".".join(map(_readable_label, host.split(".")))


def _readable_label(label: str) -> str:
    if not label.startswith("xn--"):
        return label
    try:
        readable = label[4:].encode("ascii").decode("punycode")
        readable.encode("utf-8")  # half a surrogate pair is no letter
    except UnicodeError:
        return label
    return readable


def domains_of(host: str) -> list[str]:
    """A host and the domains that it is in: `a.b.org`, `b.org`, `org`; an address is in none."""
    if ":" in host or host.rpartition(".")[2].isdigit():
        return [host]
    labels = host.split(".")
    return [".".join(labels[start:]) for start in range(len(labels))]


def address_key(url: str) -> str:
    """What all spellings of an image's address share, by http and https alike, and what tells nobody the address.

    The part before the dash is of the host alone (`host_key`).
    """
    host = host_of(url) or ""
    address = _SCHEME.sub("", canonical_url(url), count=1)
    path = address[len(address.partition("/")[0]) :]
    port = _port(url)
    text = f"{host}{port}{path}"
    return f"{host_key(host)}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"


def host_key(host: str) -> str:
    """The start of the `address_key` of all addresses of a host."""
    return hashlib.sha256(host.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _port(url: str) -> str:
    try:
        port = urlsplit(plain_url(url)).port
    except ValueError:
        return ""
    return "" if port in (None, 80, 443) else f":{port}"
