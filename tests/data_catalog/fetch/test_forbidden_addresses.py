"""Only public addresses are connected to, however this machine and its network are spelt, and wherever redirects lead.

A listener waits on a port of 127.0.0.1 and of ::1; the port is among those that may be asked, so that only the address
can be the reason.
"""

import select
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.fetch import urls
from data_catalog.fetch.client import GuardedClient
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.urls import FetchError, checked_addresses, parse_url, redirect_target
from data_catalog.rows.urls import host_of

# What stands before the port in a URL, by the way in which it is smuggled in.
KINDS = {
    "decimal": ["127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "127.255.255.254", "127.000.000.001", "2130706433"],
    "zero": ["0", "0.0.0.0", "00", "0x0"],
    "octal": ["017700000001", "0177.0.0.1", "0177.0.0.01", "00000177.0.0.1", "0177.0x0.0.1"],
    "hexadecimal": ["0x7f000001", "0X7F000001", "0x7f.0.0.1", "0x7f.1", "0x7F.0x0.0x0.0x1", "0x00000000007f000001"],
    "other digits": ["１２７.０.０.１", "127。0。0。1", "127．0．0．1", "127｡0｡0｡1", "①②⑦.⓪.⓪.①", "𝟏𝟐𝟕.0.0.1"],
    "name": ["localhost", "LOCALHOST", "LocalHost", "localhost.", "ip6-localhost", "localhost.localdomain"],
    "other letters": ["ｌｏｃａｌｈｏｓｔ", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ"],
    "escape": ["loc%61lhost", "localhost%00.example.org", "localhost%23.example.org"],
    "IPv6": ["[::1]", "[0:0:0:0:0:0:0:1]", "[0000:0000:0000:0000:0000:0000:0000:0001]", "[::0001]", "[::0.0.0.1]"],
    "unspecified": ["[::]"],
    "compatible": ["[::127.0.0.1]", "[::7f00:1]"],
    "mapped": ["[::ffff:127.0.0.1]", "[::FFFF:7F00:1]", "[::ffff:0:127.0.0.1]"],
    "NAT64": ["[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::127.0.0.1]"],
    "tunnel": ["[2002:7f00:1::]", "[2002:7f00:0001:0:0:0:7f00:1]", "[2001:0:7f00:1::80ff:fffe]"],
    "zone": ["[::1%lo]", "[::1%251]", "[fe80::1%lo]"],
    "bracket": ["[v1.127.0.0.1]", "[127.0.0.1]", "127.0.0.1:80@[::1]"],
    "user": ["me@127.0.0.1", "me:secret@127.0.0.1", "example.org@127.0.0.1", "@127.0.0.1"],
    "host as user": ["example.org:80@127.0.0.1", "example.org%2F@127.0.0.1"],
    "another network": ["10.0.0.1", "169.254.169.254", "192.168.1.1", "[fd00::1]"],
}
SPELLINGS = [spelling for kind in KINDS.values() for spelling in kind]
REASONS = {"private_address", "bad_url", "dns", "userinfo"}

# Names whose owner has them point here.
NAMES = {
    "rebind.example": ["127.0.0.1"],
    "both.example": ["8.8.8.8", "127.0.0.1"],
    "last.example": ["8.8.8.8", "8.8.4.4", "2606:4700::1111", "::1"],
    "zoned.example": ["fe80::1%lo"],
}

PUBLIC = [
    *("8.8.8.8", "172.15.255.255", "172.32.0.1", "100.63.255.255", "100.128.0.1", "192.88.98.255"),
    *("2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "3ffe::1"),
]
LOOPBACK = ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"]
PRIVATE = [
    *("0.0.0.0", "10.0.0.1", "100.64.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1"),
    *("192.88.99.1", "192.168.1.1", "198.18.0.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("::", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::ffff:192.88.99.1", "::127.0.0.1", "fc00::1", "fd12:3456::1"),
    *("fe80::1", "2606:4700::1111%eth0", "fec0::1", "ff02::1", "2001:db8::1", "3fff::1", "3fff:fff:ffff::1"),
    *("64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::7f00:1"),
    *("2002:7f00:1::", "2002:808:808::1", "2002:a00:1::1"),
]


@dataclass(frozen=True)
class Forbidden:
    """The listeners, which nobody may reach."""

    port: int
    listeners: list[socket.socket]

    @property
    def was_reached(self) -> bool:
        """True if a connection waits to be accepted."""
        return bool(select.select(self.listeners, [], [], 0)[0])

    def url(self, host: str) -> str:
        return f"http://{host}:{self.port}/secret.jpg"


@pytest.fixture(scope="module")
def forbidden() -> Iterator[Forbidden]:
    with ExitStack() as stack:
        first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = first.getsockname()[1]
        places = (("127.255.255.254", socket.AF_INET), ("::1", socket.AF_INET6))
        others = [stack.enter_context(socket.create_server((host, port), family=family)) for host, family in places]
        yield Forbidden(port, [first, *others])


@pytest.fixture
def public_site(make_site: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server that counts as public here, as no address of this machine does."""
    site = make_site()
    is_public = urls.is_public
    monkeypatch.setattr(urls, "is_public", lambda address: str(address) == site.server_address[0] or is_public(address))
    return site


def client(ports: Collection[int]) -> GuardedClient:
    def resolver(host: str, port: int) -> Sequence[str]:
        return NAMES.get(host) or urls.resolve(host, port)

    limits = FetchConfig(timeout_s=1.0, deadline_s=2.0, max_bytes=1000, ports=tuple(ports))
    return GuardedClient(limits, resolver=resolver)


def ask(guarded: GuardedClient, url: str) -> None:
    """Ask for a URL, and for where it leads."""
    target = parse_url(url)
    with guarded.get(target) as response:
        guarded.get(redirect_target(target, response.headers["Location"]))


def refusal(act: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[str, str | None]:
    with pytest.raises(FetchError) as refused:
        act(*arguments, **options)
    return refused.value.reason, refused.value.detail


def test_the_listeners_can_be_reached(forbidden: Forbidden) -> None:
    for host in ("127.0.0.1", "127.255.255.254", "::1", "localhost"):
        with socket.create_connection((host, forbidden.port)):
            assert forbidden.was_reached
        for listener in select.select(forbidden.listeners, [], [], 0)[0]:
            listener.accept()[0].close()
        assert not forbidden.was_reached


def test_no_spelling_gets_through_by_itself_or_by_a_redirect(forbidden: Forbidden, public_site: Any) -> None:
    assert len({*SPELLINGS}) == len(SPELLINGS) >= 60
    guarded = client({forbidden.port, public_site.server_address[1]})
    hosts = [*SPELLINGS, *NAMES]
    for number, host in enumerate(hosts):
        location = forbidden.url(host).encode().decode("latin-1")
        public_site.behaviours[f"/{number}"] = lambda it, location=location: it.answer(302, b"", Location=location)
        for url in (forbidden.url(host), public_site.url(f"/{number}")):
            assert refusal(ask, guarded, url)[0] in ({"private_address"} if host in NAMES else REASONS), url
            assert not forbidden.was_reached, url
    assert public_site.hits.total() == len(hosts)


def test_no_spelling_gets_through_a_whole_shard(forbidden: Forbidden, fetch: Callable[..., Any]) -> None:
    config = FetchConfig(ports=(forbidden.port,), retries=0, host_requests_per_s=0)
    rows = fetch(*map(forbidden.url, SPELLINGS), "http://127.0.0.1:9/", config=config)
    reasons = dict(zip([*SPELLINGS, "another port"], (row["drop_reason"] for row in rows), strict=True))
    assert reasons.pop("another port") == "port"
    assert {host: reason for host, reason in reasons.items() if reason not in REASONS} == {}
    assert not forbidden.was_reached


def reason_for(url: str, addresses: list[str], *, allow_loopback: bool = False) -> str | None:
    try:
        checked_addresses(parse_url(url), allow_loopback=allow_loopback, resolver=lambda host, port: addresses)
    except FetchError as error:
        return error.reason
    return None


def test_public_addresses_pass_and_others_are_refused_alone_and_among_public_ones() -> None:
    for address in PUBLIC:
        assert reason_for("http://example.org/", [address]) is None, address
    for address in [*PRIVATE, *LOOPBACK]:
        for addresses in ([address], ["8.8.8.8", address]):
            assert reason_for("http://example.org/", addresses) == "private_address", address
        allowed = reason_for("http://example.org/", [address], allow_loopback=True)
        assert allowed == (None if address in LOOPBACK else "private_address"), address


def test_other_ports_than_the_usual_are_refused_but_on_this_machine_where_it_is_allowed() -> None:
    for port, address, allow_loopback, reason in (
        (443, "8.8.8.8", False, None),
        (80, "8.8.8.8", False, None),
        (22, "8.8.8.8", False, "port"),
        (8080, "8.8.8.8", True, "port"),
        (8080, "::ffff:127.0.0.1", True, None),
        (8080, "127.0.0.1", False, "port"),
    ):
        assert reason_for(f"http://example.org:{port}/", [address], allow_loopback=allow_loopback) == reason


def test_a_host_without_addresses_or_whose_resolver_fails_is_a_reason() -> None:
    def failing(host: str, port: int) -> list[str]:
        raise OSError

    for resolver in (lambda host, port: [], lambda host, port: ["not an address"], failing):
        target = parse_url("http://example.org/")
        assert refusal(checked_addresses, target, allow_loopback=False, resolver=resolver)[0] == "dns"


CANONICAL = {
    "http://example.org": "http://example.org/",
    "  HTTP://Example.ORG/A.jpg\n": "http://example.org/A.jpg",
    "https://example.org:443/a.jpg": "https://example.org/a.jpg",
    "http://example.org:8080/a.jpg#top": "http://example.org:8080/a.jpg",
    "http://example.org/a b.jpg?q=ä&r=c d": "http://example.org/a%20b.jpg?q=%C3%A4&r=c%20d",
    "http://example.org/caff%C3%A8.jpg": "http://example.org/caff%C3%A8.jpg",
    "http://example.org/100%.jpg": "http://example.org/100%25.jpg",
    "http://example.org/a[1]\\b.jpg": "http://example.org/a%5B1%5D%5Cb.jpg",
    "http://münchen.example/ü.jpg": "http://xn--mnchen-3ya.example/%C3%BC.jpg",
    # IDNA 2003 replaces a letter of each, and so names another host.
    "http://Straße.example/a.jpg": "http://xn--strae-oqa.example/a.jpg",
    "http://www。βόλος.example": "http://www.xn--nxasmm1c.example/",
    "http://upload_1.example.org./a.jpg": "http://upload_1.example.org./a.jpg",
    "http://[2001:DB8:0::1]:80/a.jpg": "http://[2001:db8::1]/a.jpg",
    "http://0x7f000001/": "http://0x7f000001/",
    "http://example.org/\ud800.jpg": "http://example.org/%3F.jpg",
}


def test_accepted_urls_are_spelt_in_one_way_and_name_the_host_that_identifies_them() -> None:
    for url, canonical in CANONICAL.items():
        assert parse_url(url).url == parse_url(canonical).url == canonical
        assert host_of(url) == host_of(canonical)


REFUSED = {
    "": ("bad_url", "empty"),
    "//example.org/a.jpg": ("bad_url", "no scheme"),
    "http://example.org/" + "a" * 8001: ("bad_url", "too long"),
    "http://[2606:4700::1111%25lo]/": ("bad_url", "host with a zone"),
    "http://[v1.é:x]/": ("bad_url", "host is no address"),
    "http:///a.jpg": ("bad_url", "no host"),
    "http://example.org:99999/": ("bad_url", "not a URL"),
    "http://[::1/": ("bad_url", "not a URL"),
    "http://exa mple.org/": ("bad_url", "host is no name"),
    "http://" + "a" * 64 + ".org/": ("bad_url", "host is no name"),
    "http://" + "ß" * 64 + ".org/": ("bad_url", "host is no name"),
    **dict.fromkeys(("http://a..b/", "http://a../"), ("bad_url", "host is no name")),
    "file:///etc/passwd": ("scheme", "file"),
    "HTTPX://example.org/": ("scheme", "httpx"),
    "http://@example.org/": ("userinfo", None),
    "http://example.org\\@10.0.0.1/": ("userinfo", None),
}


def test_refused_urls() -> None:
    for url, outcome in REFUSED.items():
        assert refusal(parse_url, url) == outcome, url[:100]


@given(st.one_of(st.text(), st.text().map("http://example.org/{}".format), st.text().map("http://{}".format)))
def test_any_text_is_refused_or_becomes_an_ascii_url(text: str) -> None:
    try:
        url = parse_url(text).url
    except FetchError as error:
        if error.reason in ("bad_url", "scheme", "userinfo"):
            return
        raise
    assert url.isascii()
    assert url.isprintable()
    assert not set(url) & set(' #"<>')
    assert parse_url(url).url == url


def test_redirects_are_relative_to_where_they_come_from() -> None:
    locations = {"b.jpg": "/x/b.jpg", "/b.jpg": "/b.jpg", "http://example.org/\x80 \xff": "/%C2%80%20%C3%BF"}
    locations |= dict.fromkeys(("/é.jpg".encode().decode("latin-1"), "/\xe9.jpg"), "/%C3%A9.jpg")
    for location, path in locations.items():
        assert redirect_target(parse_url("http://example.org/x/a.jpg"), location).url == f"http://example.org{path}"
    elsewhere = redirect_target(parse_url("http://example.org/x/a.jpg"), "//other.example/b.jpg")
    assert elsewhere.url == "http://other.example/b.jpg"
