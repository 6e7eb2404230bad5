"""The client by itself: in whose name it connects, and to where."""

import socket
import threading
from typing import Any

import pytest

from data_catalog.fetch.client import GuardedClient, Limits
from data_catalog.fetch.urls import FetchError

LIMITS = Limits(
    timeout_s=1.0, deadline_s=2.0, max_bytes=1000, max_redirects=2, user_agent="probe/1", allow_loopback=True
)


def loopback(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def test_the_host_header_names_the_host_and_the_connection_goes_to_the_checked_address(server: Any) -> None:
    server.files["/named"] = b"here"
    port = server.server_address[1]
    with GuardedClient(LIMITS, resolver=loopback).get(f"http://pictures.example:{port}/named") as response:
        assert response.read_start(100) == b"here"
        assert response.url == f"http://pictures.example:{port}/named"
    assert server.seen["/named"]["Host"] == f"pictures.example:{port}"
    assert server.seen["/named"]["User-Agent"] == "probe/1"


def test_a_name_is_looked_up_once_for_each_hop_so_that_rebinding_gains_nothing(server: Any) -> None:
    server.files["/rebound"] = b"here"
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    client = GuardedClient(LIMITS, resolver=rebinding)
    with client.get(server.url("/rebound").replace("127.0.0.1", "rebinder.example")) as response:
        assert response.read_start(100) == b"here"
    assert asked == ["rebinder.example"]


def test_a_redirect_to_a_name_with_a_private_address_is_refused(server: Any) -> None:
    server.behaviours["/away"] = lambda it: it.answer(302, b"", Location="http://intranet.example/a.jpg")
    addresses = {"127.0.0.1": "127.0.0.1", "intranet.example": "192.168.0.9"}
    client = GuardedClient(LIMITS, resolver=lambda host, port: [addresses[host]])
    with pytest.raises(FetchError) as refused:
        client.get(server.url("/away"))
    assert (refused.value.reason, refused.value.detail) == ("private_address", "192.168.0.9")


def test_the_next_address_is_tried_where_the_first_refuses(server: Any) -> None:
    server.files["/second"] = b"here"
    client = GuardedClient(LIMITS, resolver=lambda host, port: ["127.0.0.2", "::1", "127.0.0.1"])
    with client.get(server.url("/second")) as response:
        assert response.read_start(100) == b"here"


def test_proxies_of_the_environment_are_not_used(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/direct"] = b"here"
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    with GuardedClient(LIMITS).get(server.url("/direct")) as response:
        assert response.read_start(100) == b"here"


def test_tls_asks_for_the_host_by_name() -> None:
    hello: list[bytes] = []

    def take_hello(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            hello.append(connection.recv(4096))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=take_hello, args=(listener,))
        thread.start()
        with pytest.raises(FetchError) as refused:
            GuardedClient(LIMITS, resolver=loopback).get(f"https://pictures.example:{listener.getsockname()[1]}/")
        thread.join()
    assert b"pictures.example" in hello[0]
    assert (refused.value.reason, refused.value.detail) == ("connect", "closed in the TLS handshake")
