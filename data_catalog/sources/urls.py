"""What identifies an image by its URL, and what a Flickr URL tells of the photo's page."""

import hashlib
import re
import string
from urllib.parse import urlsplit, urlunsplit

from data_catalog.sources.host_names import canonical_host

_UNRESERVED = string.ascii_letters + string.digits + "-._~"
# Decoded in a path: MediaWiki and its proxies serve "(" and "%28" alike.
_PATH_CHARS = frozenset(_UNRESERVED + "!$&'()*,;=:@/+")
_QUERY_CHARS = frozenset(_UNRESERVED + "!$&'()*,;=:@/?+")
_ESCAPE_OR_CHAR = re.compile(r"%([0-9A-Fa-f]{2})|(.)", re.DOTALL)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST_AND_PORT = re.compile(r"\[?([^\[\]]*?)\]?(?::([0-9]{0,9}))?")
# What browsers leave out of an address, and the slashes that they take for `//` and `/`.
_EDGES, _INSIDE = re.compile(r"^[\x00-\x20\s]+|[\x00-\x20\s]+$"), re.compile(r"[\t\n\r]+")
_SCHEME, _TO_QUERY = re.compile(r"(https?):[/\\]+", re.IGNORECASE), re.compile(r"[^?#]*")
_HTTPS_ONLY_HOST = "upload.wikimedia.org"
_WEB_URL = re.compile(r"https?://[^\s/?#]", re.IGNORECASE)
_FLICKR_PHOTO = re.compile(
    r"https?://[a-z0-9.]*(?:static\.?flickr\.com)/(?:\d+/)*(\d+)_[0-9a-f]+(?:_\w+)?\.\w+$", re.IGNORECASE
)


def is_web_url(text: str) -> bool:
    """Whether a text starts as an http or https URL with a host does."""
    return _WEB_URL.match(text) is not None


def url_key(url: str) -> str:
    """The sha1 of a URL, hexadecimal: the identity of an image that has no other."""
    return hashlib.sha1(url.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def canonical_url(url: str) -> str:
    """One spelling for all the spellings of an image's URL; used for identity only, never fetched.

    Scheme and host in their one spelling (`plain_url`, `canonical_host`), default port, fragment, and path segments `.`
    and `..` dropped, https for upload.wikimedia.org (which redirects there), percent-encoding normalised: upper-case
    digits, characters that need none written plainly, all others (non-ASCII, spaces, quotes) as UTF-8 escapes. Escapes
    of `/`, `?`, `#`, `%` stay. Thumbnail URLs are left as they are: a thumbnail is another file. A text that is no URL
    comes back stripped.
    """
    try:
        parts = urlsplit(plain_url(url))
    except ValueError:  # "http://[half an IPv6 address"
        return plain_url(url)
    scheme = parts.scheme.lower()
    userinfo, at, host = parts.netloc.rpartition("@")
    host = _host_and_port(host, scheme)
    if host == _HTTPS_ONLY_HOST and scheme == "http":
        scheme = "https"
    path = _normalise(parts.path, _PATH_CHARS)
    path = (_without_dots(path) or "/") if host else path
    return urlunsplit((scheme, userinfo + at + host, path, _normalise(parts.query, _QUERY_CHARS), ""))


def plain_url(url: str) -> str:
    """A URL with plain slashes, and without what the URL standard leaves out: white space around it and tabs inside."""
    text = _INSIDE.sub("", _EDGES.sub("", url))
    scheme = _SCHEME.match(text)
    if scheme is None:
        return text
    rest = text[scheme.end() :]
    place = _TO_QUERY.match(rest)
    assert place is not None
    return f"{scheme[1]}://{place[0].replace(chr(92), '/')}{rest[place.end() :]}"


def _host_and_port(text: str, scheme: str) -> str:
    found = _HOST_AND_PORT.fullmatch(text)
    host, port = (canonical_host(found[1]), found[2]) if found else ("", None)
    if not host:
        return text.lower()
    host = f"[{host}]" if ":" in host else host
    return host if not port or int(port) == _DEFAULT_PORTS.get(scheme) else f"{host}:{int(port)}"


def _without_dots(path: str) -> str:
    """A path without segments `.` and `..`, and without those that the latter step out of."""
    if "/." not in path:
        return path
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    is_folder = path.endswith(("/.", "/.."))
    return "/" + "/".join([*kept, ""] if is_folder else kept)


def _normalise(text: str, plain: frozenset[str]) -> str:
    if plain.issuperset(text):  # most URLs are
        return text

    def rewrite(found: re.Match[str]) -> str:
        digits, char = found.group(1), found.group(2)
        if digits is None:
            return char if char in plain else "".join(f"%{b:02X}" for b in char.encode("utf-8", "surrogatepass"))
        decoded = chr(int(digits, 16))
        return decoded if decoded in plain and decoded not in "/?+&=;" else f"%{digits.upper()}"

    return _ESCAPE_OR_CHAR.sub(rewrite, text)


def flickr_page(image_url: str | None) -> str | None:
    """The page of a photo (photographer, licence), from the URL of its file on Flickr; None for any other URL."""
    found = _FLICKR_PHOTO.match(image_url) if image_url else None
    return f"https://www.flickr.com/photo.gne?id={found.group(1)}" if found else None
