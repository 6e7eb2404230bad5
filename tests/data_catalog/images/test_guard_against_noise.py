"""Whatever bytes a server sends, what comes of it is a body within the cap or a failure with a known reason."""

import contextlib
import io
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_catalog.fetch.client import GuardedClient, Limits
from data_catalog.fetch.reasons import FETCH_REASONS
from data_catalog.fetch.urls import FetchError

CAP = 1000
LIMITS = Limits(timeout_s=5.0, deadline_s=5.0, max_bytes=CAP, max_redirects=2, user_agent="a/1", allow_loopback=True)


class Echo:
    """Sends `answer` to whoever connects and asks, then closes."""

    def __init__(self) -> None:
        self.answer = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # of the listener that was closed
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(self.answer)


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


def only_here(host: str, port: int) -> list[str]:
    """No redirect of noise leads to the network."""
    if host != "127.0.0.1":
        raise OSError
    return [host]


statuses = st.sampled_from(
    ["HTTP/1.1 200 OK", "HTTP/1.0 200", "HTTP/1.1 302 Found", "HTTP/1.1 100 Continue", "HTTP/9 200"]
)
names = st.sampled_from(
    ["Content-Length", "Transfer-Encoding", "Location", "Retry-After", "Connection", "X-Robots-Tag"]
)
values = st.one_of(
    st.sampled_from(
        ["chunked", "close", "keep-alive", "0", "-1", "5", "1e3", "99999999999999999999", "/", "//", "?", "\0"]
    ),
    st.text(st.characters(max_codepoint=255)),
)
headers = st.lists(st.tuples(names, values).map(": ".join), max_size=5)
chunk_sizes = st.sampled_from(
    [b"-1", b"-5", b"0", b"1", b"0x3", b"1_0", b"+2", b"ffffffffffffffffffff", b"3;x=y", b"", b" 4 "]
)
chunks = st.lists(st.tuples(chunk_sizes, st.binary(max_size=2000)).map(b"\r\n".join), max_size=5).map(b"\r\n".join)
answers = st.one_of(
    st.binary(max_size=3000),
    st.builds(
        lambda status, lines, body: "\r\n".join([status, *lines, "", ""]).encode("latin-1") + body,
        statuses,
        headers,
        st.one_of(chunks, st.binary(max_size=3000)),
    ),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=answers)
@example(answer=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n" + bytes(3000))
@example(answer=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n" + bytes(3000))
@example(answer=b"HTTP/1.1 503 No\r\nRetry-After: Mon, 01 Jan 2024 00:00:00 +99999999999999999999\r\n\r\n")
@example(answer=b"HTTP/1.1 302 Found\r\nLocation: http://[v1.\xe9:x]/\r\n\r\n")
@example(answer=b"HTTP/1.1 302 Found\r\nLocation: http://\xff/\r\n\r\n")
def test_any_bytes_end_in_a_body_or_a_reason(answer: bytes, echo: Any) -> None:
    echo.answer = answer
    body = io.BytesIO()
    try:
        with GuardedClient(LIMITS, resolver=only_here).get(echo.url) as response:
            response.copy_to(body)
    except FetchError as error:
        outcome: bytes | str = error.reason
    else:
        outcome = body.getvalue()
    assert outcome in FETCH_REASONS if isinstance(outcome, str) else 0 < len(outcome) <= CAP


def test_a_resolver_that_hangs_is_left_at_the_deadline() -> None:
    go_on = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        go_on.wait()
        return ["127.0.0.1"]

    limits = Limits(timeout_s=5.0, deadline_s=0.1, max_bytes=CAP, max_redirects=2, user_agent="a/1")
    with pytest.raises(FetchError) as refused:
        GuardedClient(limits, resolver=hang).get("http://slow.example/")
    go_on.set()
    assert (refused.value.reason, refused.value.detail) == ("dns", "no answer about slow.example in time")
