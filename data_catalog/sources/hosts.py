"""Hosts of URLs in one spelling, and keys of addresses: all spellings of one share it, and it tells nobody which."""

import hashlib
import ipaddress
import re
import unicodedata
from urllib.parse import unquote, urlsplit

from data_catalog.sources.urls import canonical_url

_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_DOTS = re.compile("[.\u3002\uff0e\uff61]")
# Letters of their own in host names since IDNA 2008; Python's codec, which is older, has them as `ss` and `\u03c3`.
_OWN_LETTERS = frozenset("\xdf\u03c2")


def host_of(url: str) -> str | None:
    """The host of a URL, in lower case and ASCII, without port and without a dot at its end; None if it has none."""
    try:
        host = urlsplit(url.strip()).hostname
    except ValueError:
        return None
    host = unquote(host or "").rstrip(".")
    return (_address(host) if ":" in host else ".".join(map(_ascii_label, _DOTS.split(host)))) or None


def _address(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def _ascii_label(label: str) -> str:
    if _OWN_LETTERS.intersection(label):
        return "xn--" + unicodedata.normalize("NFKC", label).lower().encode("punycode").decode("ascii")
    try:
        return label.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return label.lower()


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
        port = urlsplit(url.strip()).port
    except ValueError:
        return ""
    return "" if port in (None, 80, 443) else f":{port}"
