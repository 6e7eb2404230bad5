"""The HTTP client: one guarded GET request to the public web, within limits and a deadline, or a failure with a reason.

Port and every address of the host are checked. The connection uses an address that was checked: the name is not
resolved a second time.
"""

import http
import http.client
import io
import ipaddress
import os
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import chain
from types import SimpleNamespace
from typing import IO, Any

from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.urls import FetchError, Resolver, Target, checked_addresses, resolve
from data_catalog.rows.fetch_reasons import http_reason

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
        if not (left := self.left()):
            raise TimeoutError
        return min(limit, left)


class GuardedClient:
    """A client that makes guarded requests, one each; safe to use from several threads."""

    def __init__(self, config: FetchConfig, *, resolver: Resolver = resolve) -> None:
        self._config, self._resolver = config, resolver
        self._tls = ssl.create_default_context()

    def get(
        self,
        target: Target,
        *,
        deadline: Deadline | None = None,
        before_connect: Callable[[], object] = lambda: None,
        sending: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> "Response":
        """Send a GET request, and return an answer with a body or a redirect; else raise `FetchError`.

        The deadline is that of the whole body. `before_connect` is called after the look-up; it may wait or raise. The
        request is sent within `sending`.
        """
        config, deadline = self._config, deadline or Deadline(self._config.deadline_s)
        look_up = partial(self._look_up, deadline)
        addresses = checked_addresses(
            target, allow_loopback=config.allow_loopback, resolver=look_up, ports=config.ports
        )
        before_connect()
        lines = [
            f"GET {target.path} HTTP/1.1",
            f"Host: {target.origin.partition('//')[2]}",
            f"User-Agent: {config.full_user_agent}",
            f"Accept: {_ACCEPT_IMAGES}",
            "Accept-Encoding: identity",
            "Connection: close",
        ]
        with ExitStack() as to_close:
            try:
                raw = to_close.enter_context(self._connect(addresses, target.port, deadline))
                if target.scheme == "https":
                    raw.settimeout(deadline.wait_s(config.timeout_s))
                    # A name may end with a dot; names in certificates do not.
                    raw = self._tls.wrap_socket(raw, server_hostname=target.host.rstrip("."))
                stream = to_close.enter_context(_TimedStream(raw, deadline, config.timeout_s))
                with sending():
                    raw.settimeout(deadline.wait_s(config.timeout_s))
                    raw.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode("ascii"))
                response = to_close.enter_context(Response(stream, config.max_bytes))
                response.begin()
            except (OSError, http.client.HTTPException) as error:
                raise _failure_of(error) from error
            to_close.pop_all()
            return response

    def _look_up(self, deadline: Deadline, host: str, port: int) -> Sequence[str]:
        """Resolve a name, or raise `TimeoutError` at the deadline: the system's resolver has no time-out."""
        with suppress(ValueError):
            ipaddress.ip_address(host)
            return self._resolver(host, port)  # an address needs no thread
        thread = ThreadPoolExecutor(1)
        try:
            return thread.submit(self._resolver, host, port).result(deadline.left())
        finally:
            thread.shutdown(wait=False)  # a look-up that hangs goes on until the resolver gives up

    def _connect(self, addresses: Sequence[str], port: int, deadline: Deadline) -> socket.socket:
        """Connect to the first address that answers."""
        *others, last = addresses
        for address in others:
            with suppress(OSError):
                return socket.create_connection((address, port), deadline.wait_s(self._config.timeout_s))
        return socket.create_connection((last, port), deadline.wait_s(self._config.timeout_s))


class _TimedStream(io.RawIOBase):
    """A socket whose waits end at the time-out or the deadline, and whose head has a size limit."""

    def __init__(self, raw: socket.socket, deadline: Deadline, timeout: float) -> None:
        self._raw, self._deadline, self._wait_s = raw, deadline, timeout
        self.head_bytes: int | None = 0  # None: the head has ended

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._raw.settimeout(self._deadline.wait_s(self._wait_s))
        count = self._raw.recv_into(buffer)
        if self.head_bytes is not None:
            self.head_bytes += count
            if self.head_bytes > _MAX_HEAD_BYTES:
                raise http.client.LineTooLong("all headers")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class Response(http.client.HTTPResponse):
    """An answer with a body, which is read within the size limit and the deadline, or a redirect."""

    def __init__(self, stream: _TimedStream, max_bytes: int) -> None:
        reader = io.BufferedReader(stream, _PIECE_BYTES)
        super().__init__(SimpleNamespace(makefile=lambda mode: reader), method="GET")  # type: ignore[arg-type]
        self._stream, self._max_bytes = stream, max_bytes

    def begin(self) -> None:
        """Read heads until one is not an interim answer (RFC 9110, 15.2). A 101, which was not requested, is final.

        `http.client` alone would return a 102 or 103 as the answer.
        """
        for _ in range(_MAX_INTERIM_ANSWERS + 1):
            self.headers = self.msg = None  # type: ignore[assignment]  # as before the first head was read
            super().begin()
            if self.status not in range(100, 200) or self.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                break
        else:
            raise http.client.HTTPException(f"more than {_MAX_INTERIM_ANSWERS} interim answers")
        self._stream.head_bytes = None  # the body has a limit of its own
        self._announced = self.length  # None if it is not
        if self.status not in (*_WITH_BODY, *REDIRECTS):
            raise self.failure(http_reason(self.status), f"HTTP {self.status}")

    def copy_to(self, sink: IO[bytes]) -> None:
        """Write the whole body to a file, without a gzip coding that the server added unasked."""
        if self._announced is not None and self._announced > self._max_bytes:
            raise self.failure("too_large", f"{self._announced} bytes announced"[:_LONGEST_DETAIL])
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
            while piece := self.read1(_PIECE_BYTES):
                count += len(piece)
                yield piece
        except TimeoutError as error:
            raise self.failure("timeout", "not all of the body in time") from error
        except (OSError, http.client.HTTPException, OverflowError) as error:  # a chunk may state any size
            raise self.failure("truncated_body", "the connection broke off") from error
        if self._announced is not None and count < self._announced:
            raise self.failure("truncated_body", f"{count} of {self._announced} bytes"[:_LONGEST_DETAIL])

    def _plain_pieces(self) -> Iterator[bytes]:
        """Yield the body in small pieces, without its gzip coding if it is stated and there."""
        pieces = self._pieces()
        start = next(pieces, b"")
        pieces = chain([start], pieces)
        # Some servers announce gzip and send the plain file.
        if self.coding not in GZIP_CODINGS or start[:1] != GZIP[:1]:
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

    @property
    def coding(self) -> str:
        """Return the Content-Encoding that the answer states; empty if none."""
        return (self.headers.get("Content-Encoding") or "").strip().lower()

    def failure(self, reason: str, detail: str | None = None) -> FetchError:
        """Return a failure with the facts of the answer."""
        wait_s = retry_after_s(self.headers.get("Retry-After"))
        return FetchError(reason, detail, http_status=self.status, retry_after_s=wait_s)


def _failure_of(error: OSError | http.client.HTTPException) -> FetchError:
    """Return the drop reason for a failed connection or a missing answer, with a detail that is equal in all runs."""
    if isinstance(error, TimeoutError):
        return FetchError("timeout", "no answer in time")
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return FetchError("connect", "closed in the TLS handshake")
    if isinstance(error, ssl.SSLError):
        return FetchError("tls", getattr(error, "verify_message", None) or error.reason or "handshake failed")
    if isinstance(error, OSError) and error.errno:
        return FetchError("connect", os.strerror(error.errno))
    if isinstance(error, OSError):  # also http.client.RemoteDisconnected
        return FetchError("connect", "closed without an answer")
    return FetchError("not_http", type(error).__name__)


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
