"""A guarded opener for `urllib`: only the public web, within a byte cap and a deadline, or a failure with a reason.

Everything is checked again at each redirect: scheme, userinfo, port, and every address the host has. The connection
goes to an address that was checked, never to a second look-up of the name. Proxies of the environment are not used.
"""

import http.client
import io
import os
import ssl
import urllib.request
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from types import TracebackType
from typing import IO

from data_catalog.fetch.addresses import USUAL_PORTS, Resolver, checked_addresses, resolve
from data_catalog.fetch.connection import PIECE_BYTES, Deadline, GuardedConnection, in_time
from data_catalog.fetch.hosts import retry_after_s
from data_catalog.fetch.reasons import http_reason
from data_catalog.fetch.urls import FetchError, Target, parse_url, redirect_target

REDIRECTS = (301, 302, 303, 307, 308)
# 203 comes from proxies that changed the answer, such as those that shrink images.
_ANSWERS = (200, 203)
_LONGEST_DETAIL = 100
# Servers that choose a format by this header choose one that `normalise` reads.
_ACCEPT = "image/jpeg,image/png,image/webp,image/gif,image/*;q=0.8,*/*;q=0.5"

# W3C's TDM Reservation Protocol: a header of its own, which `GuardedResponse.robots_tags` lists with the others.
TDM_RESERVATION = "tdm-reservation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may cost and where it may go; `fetch.FetchConfig` checks the numbers."""

    timeout_s: float  # one connect, one wait for the next bytes
    deadline_s: float  # everything, redirects and body included
    max_bytes: int
    max_redirects: int
    user_agent: str
    allow_loopback: bool = False
    ports: Collection[int] = USUAL_PORTS


def _nothing(target: Target) -> None:
    """What is done where nothing is to be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What is done on the way of a request; each may wait, or raise whatever is to end the request.

    Args:
        before_hop: called with the target of each redirect before anything is known of its host.
        before_connect: called with each target, the first included, when all that is left to do is to connect to it.
    """

    before_hop: Callable[[Target], None] = _nothing
    before_connect: Callable[[Target], None] = _nothing


_NO_HOOKS = Hooks()


class GuardedOpener:
    """Stands in for the opener of `urllib.request`; safe to use from several threads."""

    def __init__(self, limits: Limits, *, resolver: Resolver = resolve) -> None:
        self._limits = limits
        self._resolver = resolver
        self._tls = ssl.create_default_context()

    def open(
        self,
        request: urllib.request.Request | str,
        data: None = None,
        timeout: float | None = None,
        *,
        deadline: Deadline | None = None,
        hooks: Hooks = _NO_HOOKS,
    ) -> "GuardedResponse":
        """GET a URL, following redirects; of the request only the URL is used.

        Args:
            request: the URL, alone or in a `urllib` request.
            data: must be None: nothing is ever sent.
            timeout: seconds that one connect or one wait may take, if less than `Limits.timeout_s`.
            deadline: by when the body must have been read; None: `Limits.deadline_s` from now.
            hooks: what else is done on the way.

        Raises:
            FetchError: there is no answer with a body; the reason says why, `url` where it happened.
        """
        if data is not None:
            raise ValueError("nothing is ever sent")
        target = parse_url(request if isinstance(request, str) else request.full_url)
        deadline = deadline or Deadline(self._limits.deadline_s)
        limit = self._limits.timeout_s
        timeout = limit if timeout is None else min(timeout, limit)
        for hop in range(self._limits.max_redirects + 1):
            if hop:
                hooks.before_hop(target)
            with _placed(target):
                response = self._get(target, deadline, timeout, hooks.before_connect)
                location = response.headers.get("Location") if response.status in REDIRECTS else None
                if location is None:
                    return GuardedResponse(response, target.url, self._limits.max_bytes)
                response.close()
                target = redirect_target(target, location)
        with _placed(target):
            raise FetchError("redirects", f"more than {self._limits.max_redirects}")

    def _get(
        self, target: Target, deadline: Deadline, timeout: float, before_connect: Callable[[Target], None]
    ) -> http.client.HTTPResponse:
        limits = self._limits
        addresses = checked_addresses(
            target,
            allow_loopback=limits.allow_loopback,
            resolver=in_time(self._resolver, deadline),
            ports=limits.ports,
        )
        before_connect(target)
        connection = GuardedConnection(target, addresses, tls=self._tls, deadline=deadline, timeout=timeout)
        headers = {"User-Agent": self._limits.user_agent, "Accept": _ACCEPT}
        try:
            # `http.client` adds Host and `Accept-Encoding: identity` itself.
            connection.request("GET", target.path, headers={**headers, "Connection": "close"})
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise failure_of(error) from error
        connection.head_is_over()
        return response


@contextmanager
def _placed(target: Target) -> Iterator[None]:
    """Note at which URL a failure happened."""
    try:
        yield
    except FetchError as error:
        error.url = target.url
        raise


class GuardedResponse:
    """An answer with a body, which is read within the byte cap and the deadline.

    Raises:
        FetchError: the reason of any other status.
    """

    def __init__(self, response: http.client.HTTPResponse, url: str, max_bytes: int) -> None:
        self.headers: Message = response.headers
        self.status = response.status
        self.url = url
        self._response = response
        self._max_bytes = max_bytes
        self._expected = response.length
        try:
            self._check()
        except FetchError:
            response.close()
            raise

    def __enter__(self) -> "GuardedResponse":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.close()

    @property
    def robots_tags(self) -> list[str]:
        """The values of all X-Robots-Tag headers, then what TDM-Reservation says, each as "tdm-reservation: VALUE"."""
        reserved = ",".join(self.headers.get_all("TDM-Reservation", [])).split(",")
        tags: list[str] = self.headers.get_all("X-Robots-Tag", [])
        return tags + [f"{TDM_RESERVATION}: {value.strip()}" for value in reserved if value.strip()]

    def read(self) -> bytes:
        """The whole body; raises as `copy_to` does."""
        body = io.BytesIO()
        self.copy_to(body)
        return body.getvalue()

    def copy_to(self, sink: IO[bytes]) -> None:
        """Write the whole body to a file.

        Raises:
            FetchError: `empty_body`, `truncated_body`, `too_large`, `timeout`.
            OSError: the file can't be written.
        """
        if self._expected is not None and self._expected > self._max_bytes:
            raise self._failure("too_large", f"{self._expected} bytes announced"[:_LONGEST_DETAIL])
        count = self._copy(sink, self._max_bytes)
        if count > self._max_bytes:
            raise self._failure("too_large", f"more than {self._max_bytes} bytes")
        if self._expected is not None and count < self._expected:
            raise self._failure("truncated_body", f"{count} of {self._expected} bytes")
        if not count:
            raise self._failure("empty_body")

    def read_start(self, num_bytes: int) -> bytes:
        """The first bytes of the body, at most so many. Raises `FetchError`: `truncated_body`, `timeout`."""
        body = io.BytesIO()
        count = self._copy(body, num_bytes)
        if self._expected is not None and count < min(num_bytes, self._expected):
            raise self._failure("truncated_body", f"{count} of {self._expected} bytes"[:_LONGEST_DETAIL])
        return body.getvalue()[:num_bytes]

    def _copy(self, sink: IO[bytes], enough: int) -> int:
        """Write the body up to its end, or up to the first piece beyond `enough` bytes; how many bytes that were."""
        count = 0
        while count <= enough and (piece := self._next_piece()):
            sink.write(piece)
            count += len(piece)
        return count

    def _next_piece(self) -> bytes:
        try:
            # Not `read`, which takes a chunk of size -1 for all that ever comes.
            return self._response.read1(PIECE_BYTES)
        except TimeoutError as error:
            raise self._failure("timeout", "not all of the body in time") from error
        except (OSError, http.client.HTTPException) as error:
            raise self._failure("truncated_body", "the connection broke off") from error

    def _check(self) -> None:
        if self.status not in _ANSWERS:
            raise self._failure(http_reason(self.status), f"HTTP {self.status}")

    def _failure(self, reason: str, detail: str | None = None) -> FetchError:
        wait_s = retry_after_s(self.headers.get("Retry-After"))
        error = FetchError(reason, detail, http_status=self.status, retry_after_s=wait_s)
        error.url = self.url
        return error


def failure_of(error: OSError | http.client.HTTPException) -> FetchError:
    """What a failed connection or a missing answer is called; the text holds nothing that varies from run to run."""
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
