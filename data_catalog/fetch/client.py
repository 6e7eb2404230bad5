"""The HTTP client: one guarded GET request to the public web, within limits and a deadline, or a failure with a reason.

Port and every address of the host are checked. The connection uses an address that was checked: the name is not
resolved a second time.
"""

import http
import http.client
import io
import ipaddress
import itertools
import os
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from functools import partial
from types import SimpleNamespace
from typing import IO, Any

from data_catalog.fetch.reasons import http_reason
from data_catalog.fetch.urls import (
    DEFAULT_PORTS,
    USUAL_PORTS,
    FetchError,
    Resolver,
    Target,
    checked_addresses,
    resolve,
)

GZIP, GZIP_CODINGS = b"\x1f\x8b", ("gzip", "x-gzip")
REDIRECTS = (301, 302, 303, 307, 308)
# Proxies that change an answer, for example shrink an image, send 203.
_WITH_BODY = (200, 203)
_PIECE_BYTES = 65536
# Limit of everything before the body, interim answers included. Browsers have a similar limit.
_MAX_HEAD_BYTES = 256 * 1024
_MAX_INTERIM_ANSWERS = 32  # of statuses other than 100, which `http.client` skips itself
_LONGEST_DETAIL = 100
# Servers that choose a format by this header then choose one that we can read.
_ACCEPT_IMAGES = "image/jpeg,image/png,image/webp,image/gif,image/*;q=0.8,*/*;q=0.5"


class Deadline:
    """A deadline of a request, by the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def extend(self, seconds: float) -> None:
        """Extend the deadline by time that was spent on waiting for a turn."""
        self._end += seconds

    def left(self) -> float:
        """Return the seconds left, at least 0."""
        return max(0.0, self._end - time.monotonic())

    def wait_s(self, limit: float) -> float:
        """Return the seconds that the next wait may take, at most `limit`, or raise `TimeoutError`."""
        left = self.left()
        if left <= 0:
            raise TimeoutError
        return min(limit, left)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a request, and its User-Agent."""

    timeout_s: float  # for one connect, or one wait for the next bytes
    deadline_s: float  # for everything, the body included
    max_bytes: int  # of a body
    user_agent: str
    allow_loopback: bool = False  # requests to this machine, on any port
    ports: Collection[int] = USUAL_PORTS


class GuardedClient:
    """A client that makes guarded requests, one each; safe to use from several threads."""

    def __init__(self, limits: Limits, *, resolver: Resolver = resolve) -> None:
        self.limits, self._resolver = limits, resolver
        self._tls = ssl.create_default_context()

    def get(
        self,
        target: Target,
        *,
        deadline: Deadline | None = None,
        before_connect: Callable[[], object] = lambda: None,
    ) -> "Response":
        """Send a GET request, and return an answer with a body or a redirect; else raise `FetchError`.

        Args:
            target: the URL, as `parse_url` returns it.
            deadline: for reading the whole body; None: `Limits.deadline_s` from now.
            before_connect: called after the look-up, right before the connection is made; it may wait or raise.
        """
        limits, deadline = self.limits, deadline or Deadline(self.limits.deadline_s)
        look_up = partial(self._look_up, deadline)
        try:
            addresses = checked_addresses(
                target, allow_loopback=limits.allow_loopback, resolver=look_up, ports=limits.ports
            )
            before_connect()
            return Response(self._request(target, addresses, deadline), target.url, limits.max_bytes)
        except FetchError as error:
            error.url = target.url
            raise

    def _look_up(self, deadline: Deadline, host: str, port: int) -> Sequence[str]:
        """Resolve a name, or raise `TimeoutError` at the deadline: the system's resolver has no time-out.

        A look-up that hangs goes on in a thread of its own, until the resolver gives up.
        """
        with suppress(ValueError):
            ipaddress.ip_address(host)
            return self._resolver(host, port)  # an address needs no thread
        answer: Future[Sequence[str]] = Future()

        def ask() -> None:
            try:
                answer.set_result(self._resolver(host, port))
            except BaseException as error:  # noqa: BLE001  `answer.result` raises it
                answer.set_exception(error)

        threading.Thread(target=ask, daemon=True).start()
        return answer.result(deadline.left())

    def _request(self, target: Target, addresses: Sequence[str], deadline: Deadline) -> http.client.HTTPResponse:
        with ExitStack() as to_close:
            try:
                stream = to_close.enter_context(self._connect(target, addresses, deadline))
                connection = http.client.HTTPConnection(target.host, target.port)
                connection.default_port = DEFAULT_PORTS[target.scheme]  # decides whether the Host header names the port
                connection.response_class = _FinalResponse
                # The methods of a socket that `http.client` uses; the response closes the stream.
                reader = io.BufferedReader(stream, _PIECE_BYTES)
                connection.sock = SimpleNamespace(
                    sendall=stream.sendall, makefile=lambda mode: reader, close=lambda: None
                )
                ours = {"User-Agent": self.limits.user_agent, "Accept": _ACCEPT_IMAGES, "Connection": "close"}
                # `http.client` adds Host and `Accept-Encoding: identity` itself.
                connection.request("GET", target.path, headers=ours)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise failure_of(error) from error
            stream.head_bytes = None  # the body has a limit of its own
            to_close.pop_all()
            return response

    def _connect(self, target: Target, addresses: Sequence[str], deadline: Deadline) -> "_TimedStream":
        """Connect to the first address that answers; for https, do the TLS handshake with the host's name."""
        wait_s = self.limits.timeout_s
        for last, address in enumerate(addresses, start=1 - len(addresses)):
            try:
                raw = socket.create_connection((address, target.port), deadline.wait_s(wait_s))
                break
            except OSError:
                if last == 0:
                    raise
        if target.scheme == "https":
            with ExitStack() as to_close:
                to_close.enter_context(raw)
                raw.settimeout(deadline.wait_s(wait_s))
                # A name may end with a dot; names in certificates do not.
                raw = self._tls.wrap_socket(raw, server_hostname=target.host.rstrip("."))
                to_close.pop_all()
        return _TimedStream(raw, deadline, wait_s)


class _FinalResponse(http.client.HTTPResponse):
    """The final answer, after interim ones: `http.client` alone would return a 102 or 103 as the answer."""

    def begin(self) -> None:
        """Read heads until one is not an interim answer (RFC 9110, 15.2). A 101, which was not requested, is final."""
        for _ in range(_MAX_INTERIM_ANSWERS + 1):
            super().begin()
            if self.status not in range(100, 200) or self.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return
            self.headers = self.msg = None  # type: ignore[assignment]  # as before the first head was read
        raise http.client.HTTPException(f"more than {_MAX_INTERIM_ANSWERS} interim answers")


class _TimedStream(io.RawIOBase):
    """A socket whose waits end at the time-out or the deadline, and whose head has a size limit."""

    def __init__(self, raw: socket.socket, deadline: Deadline, timeout: float) -> None:
        self._raw, self._deadline, self._wait_s = raw, deadline, timeout
        self.head_bytes: int | None = 0

    def readable(self) -> bool:
        return True

    def sendall(self, data: bytes) -> None:
        """Send all bytes."""
        self._raw.settimeout(self._deadline.wait_s(self._wait_s))
        self._raw.sendall(data)

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes into a buffer."""
        self._raw.settimeout(self._deadline.wait_s(self._wait_s))
        count = self._raw.recv_into(buffer)
        if self.head_bytes is not None:
            self.head_bytes += count
            if self.head_bytes > _MAX_HEAD_BYTES:
                raise http.client.LineTooLong("all headers")
        return count

    def close(self) -> None:
        """Close the socket."""
        self._raw.close()
        super().close()


class Response:
    """An answer with a body, which is read within the size limit and the deadline, or a redirect."""

    def __init__(self, response: http.client.HTTPResponse, url: str, max_bytes: int) -> None:
        self.headers: Message = response.headers
        self.status, self.url = response.status, url
        self._length = response.length  # as announced; None if it is not
        self._response, self._max_bytes = response, max_bytes
        if self.status not in (*_WITH_BODY, *REDIRECTS):
            self.close()
            raise self.failure(http_reason(self.status), f"HTTP {self.status}")

    def __enter__(self) -> "Response":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the rest of the body stays unread."""
        self._response.close()

    def copy_to(self, sink: IO[bytes]) -> None:
        """Write the whole body to a file, without a gzip coding that the server added unasked."""
        if self._length is not None and self._length > self._max_bytes:
            raise self.failure("too_large", f"{self._length} bytes announced"[:_LONGEST_DETAIL])
        count = 0
        for piece in self._plain_pieces():
            sink.write(piece)
            count += len(piece)
            if count > self._max_bytes:
                raise self.failure("too_large", f"more than {self._max_bytes} bytes")
        if not count:
            raise self.failure("empty_body")

    def read_start(self, num_bytes: int) -> bytes:
        """Return the first bytes of the body, at most `num_bytes`, as they came."""
        body = b""
        for piece in self._pieces():
            body += piece
            if len(body) >= num_bytes:
                break
        return body[:num_bytes]

    def _pieces(self) -> Iterator[bytes]:
        count = 0
        try:
            # Not `read`, which reads without end after a chunk of size -1.
            while piece := self._response.read1(_PIECE_BYTES):
                count += len(piece)
                yield piece
        except TimeoutError as error:
            raise self.failure("timeout", "not all of the body in time") from error
        except (OSError, http.client.HTTPException, OverflowError) as error:  # a chunk may state any size
            raise self.failure("truncated_body", "the connection broke off") from error
        if self._length is not None and count < self._length:
            raise self.failure("truncated_body", f"{count} of {self._length} bytes"[:_LONGEST_DETAIL])

    def _plain_pieces(self) -> Iterator[bytes]:
        """Yield the body in small pieces, without its gzip coding if it is stated and there."""
        pieces = self._pieces()
        start = next(pieces, b"")
        pieces = itertools.chain([start], pieces)
        # Some servers announce gzip and send the plain file.
        if self.headers.get("Content-Encoding", "").strip().lower() not in GZIP_CODINGS or start[:1] != GZIP[:1]:
            yield from pieces
            return
        decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        with suppress(zlib.error):
            for piece in pieces:
                rest = piece
                while rest and not decoder.eof:
                    yield decoder.decompress(rest, _PIECE_BYTES)
                    rest = decoder.unconsumed_tail
        if not decoder.eof:
            raise self.failure("truncated_body", "its gzip coding is cut or damaged")

    def failure(self, reason: str, detail: str | None = None) -> FetchError:
        """Return a failure with the facts of the answer."""
        wait_s = retry_after_s(self.headers.get("Retry-After"))
        error = FetchError(reason, detail, http_status=self.status, retry_after_s=wait_s)
        error.url = self.url
        return error


def failure_of(error: OSError | http.client.HTTPException) -> FetchError:
    """Return the drop reason for a failed connection or a missing answer, with a detail that is equal in all runs."""
    if isinstance(error, TimeoutError):
        return FetchError("timeout", "no answer in time")
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return FetchError("connect", "closed in the TLS handshake")
    if isinstance(error, ssl.SSLError):
        return FetchError("tls", getattr(error, "verify_message", None) or error.reason or "handshake failed")
    if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
        return FetchError("not_http", type(error).__name__)
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "closed without an answer"
    return FetchError("connect", text)


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or a date; None if it is invalid."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        asked: datetime = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # zones and years out of range
        return None
    asked = asked if asked.tzinfo else asked.replace(tzinfo=UTC)
    wait_s: float = (asked - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, wait_s)
