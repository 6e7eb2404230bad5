"""An HTTP(S) connection of which every wait is bounded: by a time-out, by a deadline, and in its head by a size."""

import http
import http.client
import io
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from data_catalog.fetch.addresses import Resolver
from data_catalog.fetch.urls import DEFAULT_PORTS, FetchError, Target

# All that may come before the body, interim answers included; browsers stop at about as much.
MAX_HEAD_BYTES = 256 * 1024
MAX_INTERIM_ANSWERS = 32  # of other statuses than 100, which `http.client` skips by itself
PIECE_BYTES = 65536


class Deadline:
    """A moment of the monotonic clock by which everything must be done."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def extend(self, seconds: float) -> None:
        """Leave out time that was spent on waiting for one's turn."""
        self._end += seconds

    def left(self) -> float:
        """Seconds left, not below zero."""
        return max(0.0, self._end - time.monotonic())

    def wait_s(self, limit: float) -> float:
        """How long the next wait may take. Raises `TimeoutError` when no time is left."""
        left = self.left()
        if left <= 0:
            raise TimeoutError
        return min(limit, left)


def in_time(resolver: Resolver, deadline: Deadline) -> Resolver:
    """A resolver that raises `OSError` at the deadline: the system's own can't be given a time-out.

    A look-up that hangs goes on in a thread of its own, which ends with the process. An address needs none.
    """

    def look_up(host: str, port: int) -> Sequence[str]:
        if _is_address(host):
            return resolver(host, port)
        answer: Future[Sequence[str]] = Future()

        def ask() -> None:
            try:
                answer.set_result(resolver(host, port))
            except BaseException as error:  # noqa: BLE001  it is raised again where the answer is awaited
                answer.set_exception(error)

        threading.Thread(target=ask, daemon=True).start()
        return answer.result(deadline.left())

    return look_up


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class FinalResponse(http.client.HTTPResponse):
    """An answer after those that come before it: `http.client` takes a 102 or a 103 for the last word."""

    def begin(self) -> None:
        """Read heads up to one that is no interim answer (RFC 9110, 15.2); nobody asked for a 101.

        Raises:
            http.client.HTTPException: too many come before it, or it is not HTTP.
        """
        for _ in range(MAX_INTERIM_ANSWERS + 1):
            super().begin()
            if self.status not in range(100, 200) or self.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return
            self.headers = self.msg = None  # type: ignore[assignment]  # as before the first head was read
        raise http.client.HTTPException(f"more than {MAX_INTERIM_ANSWERS} interim answers")


class GuardedConnection(http.client.HTTPConnection):
    """A connection to addresses that were checked, in the name of the host they were checked for."""

    response_class = FinalResponse

    def __init__(
        self, target: Target, addresses: Sequence[str], *, tls: ssl.SSLContext, deadline: Deadline, timeout: float
    ) -> None:
        super().__init__(target.host, target.port)
        self.default_port = DEFAULT_PORTS[target.scheme]  # decides whether the Host header names the port
        self._tls = tls if target.scheme == "https" else None
        self._addresses = addresses
        self._deadline = deadline
        self._wait_s = timeout

    def connect(self) -> None:
        """Connect to the first address that answers, and shake hands in the host's name."""
        raw = self._connected()
        if self._tls is not None:
            try:
                raw.settimeout(self._deadline.wait_s(self._wait_s))
                # Certificates don't have the dot that may end a name.
                raw = self._tls.wrap_socket(raw, server_hostname=self.host.rstrip("."))
            except BaseException:
                raw.close()
                raise
        # `http.client` uses a few methods of its socket only.
        self.sock: Any = _TimedSocket(raw, self._deadline, self._wait_s)

    def head_is_over(self) -> None:
        """What is left is the body, which has a cap of its own; when the response is closed, so is the socket."""
        if self.sock is not None:  # otherwise `http.client` has let go of it by itself
            self.sock.close()

    def _connected(self) -> socket.socket:
        for last, address in enumerate(self._addresses, start=1 - len(self._addresses)):
            try:
                return socket.create_connection((address, self.port), self._deadline.wait_s(self._wait_s))
            except OSError:
                if last == 0:
                    raise
        raise FetchError("dns", f"no address for {self.host}")


class _TimedSocket:
    """As much of a socket as `http.client` uses, with every single wait bounded by the deadline."""

    def __init__(self, raw: socket.socket, deadline: Deadline, timeout: float) -> None:
        self._raw = raw
        self._deadline = deadline
        self._wait_s = timeout
        self._readers: list[_TimedReader] = []

    def sendall(self, data: bytes) -> None:
        self._raw.settimeout(self._deadline.wait_s(self._wait_s))
        self._raw.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        reader = _TimedReader(self._raw, self._deadline, self._wait_s)
        self._readers.append(reader)
        return io.BufferedReader(reader, PIECE_BYTES)

    def close(self) -> None:
        """Let go of the socket, which stays open as long as a response reads from it."""
        for reader in self._readers:
            reader.head_is_over()
        self._raw.close()


class _TimedReader(io.RawIOBase):
    """The raw end of a response: each read waits no longer than the time-out and the deadline allow."""

    def __init__(self, raw: socket.socket, deadline: Deadline, timeout: float) -> None:
        self._raw = raw
        self._stream = raw.makefile("rb", buffering=0)  # keeps the socket open after `http.client` closes it
        self._deadline = deadline
        self._wait_s = timeout
        self._head_bytes: int | None = 0

    def head_is_over(self) -> None:
        self._head_bytes = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._raw.settimeout(self._deadline.wait_s(self._wait_s))
        count = self._stream.readinto(buffer)
        if self._head_bytes is not None:
            self._head_bytes += count or 0
            if self._head_bytes > MAX_HEAD_BYTES:
                raise http.client.LineTooLong("all headers")
        return count

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
