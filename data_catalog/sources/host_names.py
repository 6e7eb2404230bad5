"""Names of hosts in one spelling: letters, dots and numbers as the URL standard (WHATWG) has them."""

import functools
import ipaddress
import re
import unicodedata
from urllib.parse import unquote

_DOTS = re.compile("[.\u3002\uff0e\uff61]")
# Letters of their own in host names since IDNA 2008; Python's codec, which is older, has them as `ss` and `\u03c3`.
_OWN_LETTERS = frozenset("\xdf\u03c2")
# No host has them; where an escape or a letter stands for one, the name is left as it is.
_FORBIDDEN = re.compile(r"[\x00-\x20#%/:<>?@\[\\\]^|\x7f]")
_NUMBERS = ((re.compile("0x0*([0-9a-f]*)"), 16), (re.compile("0+([0-7]*)"), 8), (re.compile("([1-9][0-9]*)"), 10))
_MOST_DIGITS = 11  # of 32 bits, in octal


@functools.lru_cache(maxsize=4096)  # of millions of addresses most are of a few hosts
def canonical_host(host: str) -> str:
    """A host in lower case and ASCII, without a dot at its end, numeric addresses in their usual form.

    Give an address of IPv6 without its brackets.
    """
    given = host.lower()
    if ":" in given:
        return _ipv6(given)
    name = ".".join(map(_ascii_label, _DOTS.split(unquote(given).lower()))).rstrip(".")
    if _FORBIDDEN.search(name):
        return given
    return _ipv4(name) or name


def _ipv6(host: str) -> str:
    try:
        found = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    return str(found.ipv4_mapped or found)


def _ipv4(host: str) -> str | None:
    """An address of up to four numbers, each decimal, octal or hexadecimal; the last fills the bytes that are left."""
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


def _ascii_label(label: str) -> str:
    if _OWN_LETTERS.intersection(label):
        return "xn--" + unicodedata.normalize("NFKC", label).lower().encode("punycode").decode("ascii")
    try:
        return label.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return label.lower()
