"""The client by itself: in whose name it connects, and to where; what it makes of any bytes."""

import io
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_catalog.fetch.client import GuardedClient, Hooks, Limits, retry_after_s
from data_catalog.fetch.reasons import FETCH_REASONS
from data_catalog.fetch.urls import FetchError

CAP = 1000
LIMITS = Limits(timeout_s=5, deadline_s=5, max_bytes=CAP, max_redirects=2, user_agent="probe/1", allow_loopback=True)


def loopback(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def read(url: str, **options: Any) -> bytes:
    with GuardedClient(LIMITS, **options).get(url) as response:
        assert response.url == url
        return response.read_start(100)


def test_the_host_header_names_the_host_and_the_connection_goes_to_the_checked_address(server: Any) -> None:
    server.files["/named"] = b"here"
    place = f"pictures.example:{server.server_port}"
    assert read(f"http://{place}/named", resolver=loopback) == b"here"
    assert server.seen["/named"]["Host"] == place
    assert server.seen["/named"]["User-Agent"] == "probe/1"


def test_the_next_address_is_tried_where_the_first_refuses_and_proxies_of_the_environment_are_not_used(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/direct"] = b"here"
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    assert read(server.url("/direct"), resolver=lambda host, port: ["127.0.0.2", "::1", "127.0.0.1"]) == b"here"


def test_tls_asks_for_the_host_by_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as threads:
        url = f"https://pictures.example:{listener.getsockname()[1]}/"
        asking = threads.submit(GuardedClient(LIMITS, resolver=loopback).get, url)
        connection, _ = listener.accept()
        with connection:
            assert b"pictures.example" in connection.recv(4096)
        assert isinstance(asking.exception(), FetchError)


def test_a_request_waits_for_its_turn_after_the_look_up_so_that_a_slow_one_delays_no_turn(server: Any) -> None:
    server.behaviours["/turn"] = lambda it: it.answer(302, b"", Location="/next")
    server.files["/next"] = b"here"
    order: list[str] = []
    client = GuardedClient(LIMITS, resolver=lambda host, port: (order.append("look up"), ["127.0.0.1"])[1])
    hooks = Hooks(
        before_hop=lambda target: order.append(f"hop to {target.path}"),
        before_connect=lambda target: order.append(f"ask for {target.path}"),
    )
    client.get(server.url("/turn"), hooks=hooks).close()
    # Each name is looked up once, so that rebinding gains nothing.
    assert order == ["look up", "ask for /turn", "hop to /next", "look up", "ask for /next"]


def test_a_resolver_that_hangs_is_left_at_the_deadline() -> None:
    go_on = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        go_on.wait()
        return ["127.0.0.1"]

    with pytest.raises(FetchError) as refused:
        GuardedClient(replace(LIMITS, deadline_s=0.1), resolver=hang).get("http://slow.example/")
    go_on.set()
    assert (refused.value.reason, refused.value.detail) == ("dns", "no answer about slow.example in time")


def only_here(host: str, port: int) -> list[str]:
    """No redirect of noise leads to the network."""
    if host != "127.0.0.1":
        raise OSError
    return [host]


PIECES = [
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200\r\n", b"HTTP/1.1 302 Found\r\n", b"HTTP/1.1 100 Continue\r\n"),
    *(b"Content-Length: ", b"Transfer-Encoding: ", b"Location: ", b"Retry-After: ", b"Connection: ", b"HTTP/9 200\r\n"),
    *(b"chunked", b"close", b"keep-alive", b"-1", b"5", b"1e3", b"9" * 20, b"/", b"//", b"?", b"\0", b"\r\n\r\n"),
    *(b"0x3\r\n", b"1_0\r\n", b"+2\r\n", b"f" * 20 + b"\r\n", b"3;x=y\r\n", b"\r\n", bytes(2000)),
]
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
noise = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=50)), max_size=12).map(b"".join)


@given(answer=st.one_of(noise, noise.map(CHUNKED.__add__)))
@example(answer=CHUNKED + b"-1\r\n" + bytes(3000))
@example(answer=CHUNKED + b"-5\r\n" + bytes(3000))
@example(answer=b"HTTP/1.1 503 No\r\nRetry-After: Mon, 01 Jan 2024 00:00:00 +99999999999999999999\r\n\r\n")
@example(answer=b"HTTP/1.1 302 Found\r\nLocation: http://[v1.\xe9:x]/\r\n\r\n")
def test_any_bytes_end_in_a_body_within_the_cap_or_a_reason(answer: bytes, server: Any) -> None:
    server.behaviours["/noise"] = lambda it: it.wfile.write(answer)
    body = io.BytesIO()
    try:
        with GuardedClient(LIMITS, resolver=only_here).get(server.url("/noise")) as response:
            response.copy_to(body)
    except FetchError as error:
        if error.reason not in FETCH_REASONS:
            raise
    else:
        assert 0 < len(body.getvalue()) <= CAP


NOW = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)


WAITS: dict[str | None, float | None] = {
    **dict.fromkeys((None, "", "-1", "1.5", "١٢", "Wed, 99 May 2024 12:02:00 GMT"), None),
    "Wed, 01 May 2024 12:02:00 +99999999999999999999": None,
    "Wed, 01 May 99999999999999999999 12:02:00 GMT": None,
    "0": 0.0,
    " 120 ": 120.0,
    "9" * 400: 999_999_999_999.0,
    "Wed, 01 May 2024 14:02:00 +0200": 120.0,
    "Wed, 01 May 2024 12:02:00": 120.0,
    "Wed, 01 May 2024 11:00:00 GMT": 0.0,
    "Wednesday, 01-May-24 12:02:00 GMT": 120.0,
    "Wed May  1 12:02:00 2024": 120.0,
}


def test_retry_after_is_seconds_or_a_date() -> None:
    assert {header: retry_after_s(header, NOW) for header in WAITS} == WAITS


@given(
    st.one_of(
        st.text(),
        st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,12} [0-9:]{1,12} [+-]?[A-Z0-9]{1,12}"),
    )
)
def test_any_retry_after_is_a_wait_or_nothing(header: str) -> None:
    seconds = retry_after_s(header, NOW)
    assert seconds is None or seconds >= 0
