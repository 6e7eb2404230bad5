"""Spellings by which this machine and its network are smuggled in: all are refused, and nothing is connected to.

A listener waits on a port of 127.0.0.1 and of ::1; the port is among those that may be asked, so that only the address
can be the reason.
"""

import select
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.fetch import urls
from data_catalog.fetch.client import GuardedClient, Limits
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.urls import FetchError
from data_catalog.images.workers import ImageWorkers

# What stands before the port in a URL.
SPELLINGS = [
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "127.000.000.001",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "0177.0.0.01",
    "0177.0x0.0.1",
    "00000177.0.0.1",
    "0x7f000001",
    "0X7F000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "0x7F.0x0.0x0.0x1",
    "0x00000000007f000001",
    "0",
    "0.0.0.0",
    "00",
    "0x0",
    "１２７.０.０.１",
    "127。0。0。1",
    "127．0．0．1",
    "127｡0｡0｡1",
    "①②⑦.⓪.⓪.①",
    "𝟏𝟐𝟕.0.0.1",
    "localhost",
    "LOCALHOST",
    "LocalHost",
    "localhost.",
    "ｌｏｃａｌｈｏｓｔ",
    "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
    "loc%61lhost",
    "localhost%00.example.org",
    "localhost%23.example.org",
    "ip6-localhost",
    "localhost.localdomain",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000:0000:0000:0000:0000:0000:0000:0001]",
    "[::0001]",
    "[::0.0.0.1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::FFFF:7F00:1]",
    "[::ffff:0:127.0.0.1]",
    "[::127.0.0.1]",
    "[::7f00:1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::127.0.0.1]",
    "[2002:7f00:1::]",
    "[2002:7f00:0001:0:0:0:7f00:1]",
    "[2001:0:7f00:1::80ff:fffe]",
    "[::1%lo]",
    "[::1%251]",
    "[fe80::1%lo]",
    "[v1.127.0.0.1]",
    "[127.0.0.1]",
    "me@127.0.0.1",
    "me:secret@127.0.0.1",
    "example.org@127.0.0.1",
    "@127.0.0.1",
    "example.org:80@127.0.0.1",
    "example.org%2F@127.0.0.1",
    "127.0.0.1:80@[::1]",
    "10.0.0.1",
    "169.254.169.254",
    "192.168.1.1",
    "[fd00::1]",
]
REASONS = {"private_address", "bad_url", "dns", "userinfo"}

# Names whose owner has them point here.
NAMES = {
    "rebind.example": ["127.0.0.1"],
    "six.example": ["::1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "nat64.example": ["64:ff9b::7f00:1"],
    "both.example": ["8.8.8.8", "127.0.0.1"],
    "last.example": ["8.8.8.8", "8.8.4.4", "2606:4700::1111", "::1"],
    "zoned.example": ["fe80::1%lo"],
    "unspecified.example": ["0.0.0.0"],
    "broadcast.example": ["255.255.255.255"],
    "metadata.example": ["169.254.169.254"],
    "carrier.example": ["100.64.0.1"],
}


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


@pytest.fixture
def forbidden() -> Iterator[Forbidden]:
    first = socket.create_server(("127.0.0.1", 0))
    port = first.getsockname()[1]
    with (
        first,
        socket.create_server(("127.255.255.254", port)) as last,
        socket.create_server(("::1", port), family=socket.AF_INET6) as six,
    ):
        yield Forbidden(port, [first, last, six])


def client(ports: Collection[int]) -> GuardedClient:
    def resolver(host: str, port: int) -> Sequence[str]:
        return NAMES.get(host) or urls.resolve(host, port)

    limits = Limits(timeout_s=1.0, deadline_s=2.0, max_bytes=1000, max_redirects=2, user_agent="probe/1", ports=ports)
    return GuardedClient(limits, resolver=resolver)


def reason_of(open_it: Callable[[], Any]) -> str:
    with pytest.raises(FetchError) as refused:
        open_it()
    return refused.value.reason


def test_the_listeners_can_be_reached(forbidden: Forbidden) -> None:
    for host in ("127.0.0.1", "127.255.255.254", "::1", "localhost"):
        with socket.create_connection((host, forbidden.port)):
            assert forbidden.was_reached
        for listener in forbidden.listeners:
            if select.select([listener], [], [], 0)[0]:
                listener.accept()[0].close()
        assert not forbidden.was_reached


def test_there_are_as_many_spellings_as_promised() -> None:
    assert len({*SPELLINGS}) == len(SPELLINGS) >= 40


@pytest.mark.parametrize("host", SPELLINGS)
def test_each_spelling_is_refused(host: str, forbidden: Forbidden) -> None:
    assert reason_of(lambda: client({forbidden.port}).get(forbidden.url(host))) in REASONS
    assert not forbidden.was_reached


@pytest.mark.parametrize("host", NAMES)
def test_each_name_that_leads_here_is_refused(host: str, forbidden: Forbidden) -> None:
    assert reason_of(lambda: client({forbidden.port}).get(forbidden.url(host))) == "private_address"
    assert not forbidden.was_reached


@pytest.fixture
def public_site(make_site: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server that counts as public here, as no address of this machine does, and redirects to what a query names."""
    site = make_site()
    is_public = urls.is_public
    monkeypatch.setattr(urls, "is_public", lambda address: str(address) == site.server_address[0] or is_public(address))
    return site


@pytest.mark.parametrize("host", [*SPELLINGS, *NAMES])
def test_no_redirect_leads_there(host: str, forbidden: Forbidden, public_site: Any) -> None:
    location = forbidden.url(host).encode().decode("latin-1")
    public_site.behaviours["/away"] = lambda it: it.answer(302, b"", Location=location)
    ports = {forbidden.port, public_site.server_address[1]}
    assert reason_of(lambda: client(ports).get(public_site.url("/away"))) in REASONS
    assert public_site.hits["/away"] == 1
    assert not forbidden.was_reached


def test_no_spelling_gets_through_a_whole_shard(
    forbidden: Forbidden, make_requests: Callable[..., pa.Table], tmp_path: Path
) -> None:
    every = FetchConfig(ports=(forbidden.port,), retries=0, host_requests_per_s=0)
    with ImageWorkers() as workers:
        workers.fetch(make_requests(*map(forbidden.url, SPELLINGS)), every, tmp_path / "raw")
    reasons = pq.read_table(tmp_path / "raw")["drop_reason"].to_pylist()
    assert {host: reason for host, reason in zip(SPELLINGS, reasons, strict=True) if reason not in REASONS} == {}
    assert not forbidden.was_reached
