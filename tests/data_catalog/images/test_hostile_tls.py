"""Servers whose TLS is wrong in the ways that TLS can be, under a certificate authority that only these tests trust."""

import datetime
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from data_catalog.fetch.config import FetchConfig

Talk = Callable[[socket.socket, bytes], None]


class TlsServer:
    """Accepts connections on a port of 127.0.0.1 and has each talked to in a thread of its own."""

    def __init__(self, talk: Talk, body: bytes) -> None:
        self._talk = talk
        self._body = body
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk_once, args=(connection,), daemon=True).start()

    def _talk_once(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._talk(connection, self._body)
            except OSError:
                """The client has gone: that is what most of these servers bring about."""


def answers(context: ssl.SSLContext, location: str | None = None) -> Talk:
    """A server that completes the handshake: no robots.txt, and the picture or a redirect for all else."""

    def talk(connection: socket.socket, body: bytes) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            path = secure.recv(65536).split(b" ")[1]
            if path == b"/robots.txt":
                secure.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            elif location is not None:
                secure.sendall(b"HTTP/1.1 301 Moved\r\nLocation: %b\r\n\r\n" % location.encode())
            else:
                secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    return talk


def breaks_off(context: ssl.SSLContext) -> Talk:
    """Half the picture, without its length, then the end of the connection and none of TLS."""

    def talk(connection: socket.socket, body: bytes) -> None:
        secure = context.wrap_socket(connection, server_side=True)
        if b"/robots.txt" in secure.recv(65536):
            secure.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        else:
            secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body[:100]))
        os.close(secure.detach())

    return talk


def drips(connection: socket.socket, body: bytes) -> None:
    """A handshake record of 65,535 bytes, one byte at a time."""
    connection.sendall(b"\x16\x03\x03\x3f\xff\x02\x00\x3f\xfb")
    for _ in range(200):
        time.sleep(0.05)
        connection.sendall(b"\x03")


def hangs(connection: socket.socket, body: bytes) -> None:
    connection.settimeout(10)
    while connection.recv(65536):
        """Listens, and says nothing."""


def closes(connection: socket.socket, body: bytes) -> None:
    connection.recv(65536)


def talks_http(connection: socket.socket, body: bytes) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\nplain HTTP on the port of HTTPS")


def alerts(connection: socket.socket, body: bytes) -> None:
    connection.recv(65536)
    connection.sendall(b"\x15\x03\x03\x00\x02\x02\x28")  # fatal: handshake failure


def context_of(authority: trustme.CA, *names: str, expires: datetime.datetime | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, not_after=expires).configure_cert(context)
    return context


# By server: host in the URL, reason, and what the detail holds.
TABLE: dict[str, tuple[str, str | None, str | None]] = {
    "good": ("127.0.0.1", None, None),
    "by-name": ("localhost", None, None),
    "to-http": ("127.0.0.1", None, None),
    "to-wrong-name": ("127.0.0.1", "tls", "127.0.0.1"),
    "wrong-name": ("127.0.0.1", "tls", "not valid for '127.0.0.1'"),
    "name-for-address": ("127.0.0.1", "tls", "not valid for '127.0.0.1'"),
    "wildcard-too-wide": ("localhost", "tls", "not valid for 'localhost'"),
    "expired": ("127.0.0.1", "tls", "certificate has expired"),
    "other-authority": ("127.0.0.1", "tls", "unable to get local issuer certificate"),
    "self-signed": ("127.0.0.1", "tls", "self-signed certificate"),
    "talks-http": ("127.0.0.1", "tls", "WRONG_VERSION_NUMBER"),
    "alerts": ("127.0.0.1", "tls", "HANDSHAKE_FAILURE"),
    "closes": ("127.0.0.1", "connect", "closed in the TLS handshake"),
    "hangs": ("127.0.0.1", "timeout", "no answer in time"),
    "drips": ("127.0.0.1", "timeout", "no answer in time"),
    "breaks-off": ("127.0.0.1", "truncated_body", "100 of "),
}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def servers(server: Any, pictures: dict[str, bytes], authority: trustme.CA) -> Iterator[dict[str, TlsServer]]:
    server.files["/over-http"] = pictures["plain.jpg"]
    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    good = context_of(authority, "127.0.0.1", "localhost")
    stranger = trustme.CA()
    itself = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with stranger.private_key_pem.tempfile() as key, stranger.cert_pem.tempfile() as certificate:
        itself.load_cert_chain(certificate, key)
    wrong_name = answers(context_of(authority, "pictures.example"))
    wrong = TlsServer(wrong_name, pictures["plain.jpg"])
    talks: dict[str, Talk] = {
        "good": answers(good),
        "by-name": answers(good),
        "to-http": answers(good, server.url("/over-http")),
        "to-wrong-name": answers(good, f"https://127.0.0.1:{wrong.port}/a.jpg"),
        "wrong-name": wrong_name,
        "name-for-address": answers(context_of(authority, "localhost")),
        "wildcard-too-wide": answers(context_of(authority, "*.localhost")),
        "expired": answers(context_of(authority, "127.0.0.1", expires=long_ago)),
        "other-authority": answers(context_of(stranger, "127.0.0.1")),
        "self-signed": answers(itself),
        "talks-http": talks_http,
        "alerts": alerts,
        "closes": closes,
        "hangs": hangs,
        "drips": drips,
        "breaks-off": breaks_off(good),
    }
    found = {name: TlsServer(talk, pictures["plain.jpg"]) for name, talk in talks.items()}
    yield found
    for tls_server in [wrong, *found.values()]:
        tls_server.close()


@pytest.fixture(scope="module")
def rows(
    servers: dict[str, TlsServer],
    authority: trustme.CA,
    quick: FetchConfig,
    run_apart: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict[str, Any]]:
    """Final rows by name of the server."""
    trusted: Path = tmp_path_factory.mktemp("trust") / "authorities.pem"
    authority.cert_pem.write_to_path(str(trusted))
    urls = {name: f"https://{host}:{servers[name].port}/a.jpg" for name, (host, _, _) in TABLE.items()}
    config = replace(quick, hosts={**quick.hosts, "localhost": quick.hosts["127.0.0.1"]})
    run = run_apart("hostile TLS", list(urls.values()), config, SSL_CERT_FILE=str(trusted))
    return {name: run.images[url] for name, url in urls.items()}


@pytest.mark.parametrize("name", TABLE)
def test_outcome(rows: dict[str, dict[str, Any]], name: str) -> None:
    _, reason, detail = TABLE[name]
    row = rows[name]
    assert (row["drop_reason"], row["detail"]) == (reason, row["detail"])
    assert (detail is None and row["detail"] is None) or detail in row["detail"]
    assert (row["bytes"] is None) == (reason is not None)
