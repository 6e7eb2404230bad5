"""Canonical URLs and host names, by which images are identified."""

import functools
import hashlib
import ipaddress
import re
import string
import unicodedata
from urllib.parse import unquote, urlsplit, urlunsplit

_DOTS = re.compile("[.\u3002\uff0e\uff61]")
# IDNA 2008 keeps these letters in host names; Python's codec, IDNA 2003, maps them to `ss` and `\u03c3`.
_OWN_LETTERS = frozenset("\xdf\u03c2")
# Characters that no host may contain; a name that decodes to one of them is left unchanged.
_FORBIDDEN = re.compile(r"[\x00-\x20#%/:<>?@\[\\\]^|\x7f]")
_NUMBERS = ((re.compile("0x0*([0-9a-f]*)"), 16), (re.compile("0+([0-7]*)"), 8), (re.compile("([1-9][0-9]*)"), 10))
_MOST_DIGITS = 11  # 32 bits in octal


@functools.lru_cache(maxsize=4096)  # most of millions of URLs are on few hosts
def canonical_host(host: str) -> str:
    """Return a host in lower case and ASCII, without a final dot, with numeric addresses in their usual form."""
    given = host.lower()
    if ":" in given:
        try:
            found = ipaddress.IPv6Address(given)
        except ValueError:
            return given
        return str(found.ipv4_mapped or found)
    name = ascii_name(unquote(given)).rstrip(".")
    if _FORBIDDEN.search(name):
        return given
    return _ipv4(name) or name


def _ipv4(host: str) -> str | None:
    """Return an IPv4 address from one to four decimal, octal or hexadecimal numbers; the last fills the other bytes."""
    *first, last = numbers = [_number(part) for part in host.split(".")]
    bytes_left = 5 - len(numbers)
    if last is None or bytes_left < 1 or last >= 256**bytes_left or any(n is None or n > 255 for n in first):
        return None
    value = sum((n or 0) << (24 - 8 * place) for place, n in enumerate(first))
    return str(ipaddress.IPv4Address(value + last))


def _number(text: str) -> int | None:
    for pattern, base in _NUMBERS:
        found = pattern.fullmatch(text)
        if found and len(found[1]) <= _MOST_DIGITS:
            return int(found[1] or "0", base)
    return None


def ascii_name(name: str) -> str:
    """Return the name of a host in lower case and in ASCII; a label that cannot be a name stays as it is."""
    return ".".join(map(_ascii_label, _DOTS.split(name.lower())))


def _ascii_label(label: str) -> str:
    if _OWN_LETTERS.intersection(label):
        return "xn--" + unicodedata.normalize("NFKC", label).lower().encode("punycode").decode("ascii")
    try:
        return label.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return label.lower()


_UNRESERVED = string.ascii_letters + string.digits + "-._~"
# Characters that are decoded in a path; MediaWiki and its proxies treat "(" and "%28" as equal, for example.
_PATH_CHARS = frozenset(_UNRESERVED + "!$&'()*,;=:@/+")
_QUERY_CHARS = frozenset(_UNRESERVED + "!$&'()*,;=:@/?+")
_ESCAPE_OR_CHAR = re.compile(r"%([0-9A-Fa-f]{2})|(.)", re.DOTALL)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST_AND_PORT = re.compile(r"\[?([^\[\]]*?)\]?(?::([0-9]{0,9}))?")
# Characters that browsers remove from a URL, and the slashes that they read as `//` and `/`.
_EDGES, _INSIDE = re.compile(r"^[\x00-\x20\s]+|[\x00-\x20\s]+$"), re.compile(r"[\t\n\r]+")
_SCHEME, _TO_QUERY = re.compile(r"(https?):[/\\]+", re.IGNORECASE), re.compile(r"[^?#]*")
_HTTPS_ONLY_HOST = "upload.wikimedia.org"
_WEB_URL = re.compile(r"https?://[^\s/?#]", re.IGNORECASE)
# URLs that `canonical_url` returns unchanged. Most URLs are such, and this check is much faster than parsing them. The
# group is what follows the scheme. Kept escapes: non-ASCII, space, quote and "#%/?".
_ESCAPE = "%(?:[89A-F][0-9A-F]|2[0235F]|3F)"
_PATH = "[A-Za-z0-9._~!$&'()*,;=:@/+-]*+"
_QUERY = "[A-Za-z0-9._~!$&'()*,;=:@/?+-]"
_ODD_HOST = r"(?:[^/]*\.)?(?:[0-9][a-z0-9-]*)?/"  # may be a numeric address, or ends with a dot
CANONICAL_URL = re.compile(
    rf"(?!http://{re.escape(_HTTPS_ONLY_HOST)}/)https?://(?!{_ODD_HOST}|[^?]*/\.)"
    rf"([a-z0-9][a-z0-9.-]*+/{_PATH}(?:{_ESCAPE}{_PATH})*+(?:\?(?:{_QUERY}|{_ESCAPE})++)?)"
)
_FLICKR_PHOTO = re.compile(
    r"https?://[a-z0-9.]*(?:static\.?flickr\.com)/(?:\d+/)*(\d+)_[0-9a-f]+(?:_\w+)?\.\w+$", re.IGNORECASE
)


def is_web_url(text: str) -> bool:
    """Return whether a text starts like an http or https URL with a host."""
    return _WEB_URL.match(text) is not None


def url_key(url: str) -> str:
    """Return the sha1 of a URL, in hexadecimal: the sample key of an image without an id."""
    return hashlib.sha1(url.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def canonical_url(url: str) -> str:
    """Return the canonical form of an image's URL; used for identity only, never fetched.

    - Scheme and host are canonical (`plain_url`, `canonical_host`); upload.wikimedia.org, which redirects to https,
      gets https.
    - The default port, the fragment, and the path segments `.` and `..` are removed.
    - Percent-encoding is normalised: digits in upper case, characters that need no escape plain, all others (non-ASCII,
      spaces, quotes) as UTF-8 escapes. Escapes of `/`, `?`, `#` and `%` stay.
    - Thumbnail URLs are not mapped to their originals: a thumbnail is another file.
    - A text that is not a URL is only stripped.
    """
    if CANONICAL_URL.fullmatch(url):
        return url
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
    """Return a URL with forward slashes, and without surrounding white space, tabs and line ends (URL standard)."""
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
    """Return a path with its segments `.` and `..` resolved."""
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
    if plain.issuperset(text):  # the case for most URLs
        return text

    def rewrite(found: re.Match[str]) -> str:
        digits, char = found.group(1), found.group(2)
        if digits is None:
            return char if char in plain else "".join(f"%{b:02X}" for b in char.encode("utf-8", "surrogatepass"))
        decoded = chr(int(digits, 16))
        return decoded if decoded in plain and decoded not in "/?+&=;" else f"%{digits.upper()}"

    return _ESCAPE_OR_CHAR.sub(rewrite, text)


def flickr_page(image_url: str | None) -> str | None:
    """Return the URL of a photo's page on Flickr (photographer, license), by the URL of its file; else None."""
    found = _FLICKR_PHOTO.match(image_url) if image_url else None
    return f"https://www.flickr.com/photo.gne?id={found.group(1)}" if found else None


_SCHEME_OF_HOST = re.compile(r"https?://", re.IGNORECASE)


def host_of(url: str) -> str | None:
    """Return the canonical host of a URL (`canonical_host`), without port; None if it has none."""
    try:
        host = urlsplit(plain_url(url)).hostname
    except ValueError:
        return None
    return canonical_host(host or "") or None


def readable_host(host: str) -> str:
    """Return a host of `host_of` with its `xn--` labels decoded to letters."""
    return ".".join(map(_readable_label, host.split(".")))


def _readable_label(label: str) -> str:
    if not label.startswith("xn--"):
        return label
    try:
        readable = label[4:].encode("ascii").decode("punycode")
        readable.encode("utf-8")  # fails for a lone surrogate
    except UnicodeError:
        return label
    return readable


def domains_of(host: str) -> list[str]:
    """Return a host and its parent domains: `a.b.org`, `b.org`, `org`; an address has none."""
    if ":" in host or host.rpartition(".")[2].isdigit():
        return [host]
    labels = host.split(".")
    return [".".join(labels[start:]) for start in range(len(labels))]


@functools.lru_cache(maxsize=1 << 18)  # for the passes of a take-down, if they fit: about 100 MB
def address_key(url: str) -> str:
    """Return a hash of an image's URL that is equal for all its spellings, and for http and https.

    The URL cannot be read from it. The part before the dash depends on the host only (`host_key`).
    """
    host = host_of(url) or ""
    address = _SCHEME_OF_HOST.sub("", canonical_url(url), count=1)
    path = address[len(address.partition("/")[0]) :]
    try:
        port = urlsplit(plain_url(url)).port
    except ValueError:
        port = None
    text = f"{host}{path}" if port in (None, 80, 443) else f"{host}:{port}{path}"
    return f"{host_key(host)}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"


def host_key(host: str) -> str:
    """Return the prefix of the `address_key` of all URLs on a host."""
    return hashlib.sha256(host.encode("utf-8", "surrogatepass")).hexdigest()[:12]
