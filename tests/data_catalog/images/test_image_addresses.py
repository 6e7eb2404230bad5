"""Which addresses the guard lets through: the list of tricks by which private ones are smuggled in."""

import ipaddress

import pytest

from data_catalog.fetch.urls import FetchError, checked_addresses, is_public, parse_url

PUBLIC = [
    "8.8.8.8",
    "93.184.215.14",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "192.88.98.255",
    "3ffe::1",
]

PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:a9fe:a9fe",
    "::127.0.0.1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "3fff::1",
    "3fff:fff:ffff::1",
    "::ffff:192.88.99.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "2002:a00:1::1",
]

LOOPBACK = {"127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"}

# URLs that reach this machine by the system's own resolver, which knows the odd spellings of IPv4.
LOOPBACK_URLS = [
    "http://127.0.0.1/",
    "http://localhost/",
    "http://0x7f000001/",
    "http://2130706433/",
    "http://017700000001/",
    "http://127.1/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://１２７.０.０.１/",
]


def reason_for(url: str, addresses: list[str], *, allow_loopback: bool = False) -> str | None:
    try:
        checked_addresses(parse_url(url), allow_loopback=allow_loopback, resolver=lambda host, port: addresses)
    except FetchError as error:
        return error.reason
    return None


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))
    assert reason_for("http://example.org/", [address]) is None


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_refused(address: str) -> None:
    assert reason_for("http://example.org/", [address]) == "private_address"
    assert reason_for("http://example.org/", ["8.8.8.8", address]) == "private_address"


@pytest.mark.parametrize(
    "address", [address for address in PRIVATE if not address.endswith(("127.0.0.1", "254", "::1"))]
)
def test_allowing_loopback_allows_no_other_private_address(address: str) -> None:
    assert reason_for("http://example.org/", [address], allow_loopback=True) == "private_address"


@pytest.mark.parametrize("url", LOOPBACK_URLS)
def test_every_spelling_of_loopback_is_refused_unless_allowed(url: str) -> None:
    with pytest.raises(FetchError) as refused:
        checked_addresses(parse_url(url), allow_loopback=False)
    assert refused.value.reason == "private_address"
    for address in checked_addresses(parse_url(url), allow_loopback=True):
        assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("url", "address", "allow_loopback", "reason"),
    [
        ("http://example.org:443/", "8.8.8.8", False, None),
        ("https://example.org:80/", "8.8.8.8", False, None),
        ("http://example.org:22/", "8.8.8.8", False, "port"),
        ("http://example.org:8080/", "8.8.8.8", True, "port"),
        ("http://example.org:8080/", "127.0.0.1", True, None),
        ("http://example.org:8080/", "::1", True, None),
        ("http://example.org:8080/", "::ffff:127.0.0.1", True, None),
        ("http://example.org:8080/", "127.0.0.1", False, "port"),
    ],
)
def test_ports(url: str, address: str, allow_loopback: bool, reason: str | None) -> None:
    assert reason_for(url, [address], allow_loopback=allow_loopback) == reason


@pytest.mark.parametrize("addresses", [[], ["not an address"]])
def test_a_host_without_addresses(addresses: list[str]) -> None:
    assert reason_for("http://example.org/", addresses) == "dns"


def test_a_resolver_that_fails() -> None:
    def failing(host: str, port: int) -> list[str]:
        raise OSError

    with pytest.raises(FetchError) as refused:
        checked_addresses(parse_url("http://example.org/"), allow_loopback=False, resolver=failing)
    assert refused.value.reason == "dns"
