"""The tries for each row of a shard: what is tried again, after which wait, and what came of the last try."""

import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

from data_catalog.images.guard import Deadline, GuardedOpener, GuardedResponse
from data_catalog.images.urls import FetchError

MAX_BACKOFF_S = 30.0


def is_retryable(reason: str, http_status: int | None = None) -> bool:
    """True for failures that may be gone at the next try: time-outs, failed connections, HTTP 429 and 5xx."""
    if reason == "http_error":
        return http_status is not None and (http_status == 429 or http_status >= 500)
    return reason in ("timeout", "connect")


@dataclass(slots=True)
class RowState:
    """What became of a row's tries so far; touched by one thread at a time."""

    deadline: Deadline | None = None
    started: float = 0.0
    tries: int = 0
    failure: FetchError | None = None
    http_status: int | None = None
    final_url: str | None = None


class RowOpener:
    """The opener given to `urllib`: one guarded request for each call, and the policy of tries between the calls.

    img2dataset simply tries again after any failure; a failure that would stay is repeated to it without a request.
    """

    def __init__(
        self,
        guarded: GuardedOpener,
        num_rows: int,
        *,
        deadline_s: float,
        backoff_s: float,
        on_begin: Callable[[int], None],
    ) -> None:
        self.rows = [RowState() for _ in range(num_rows)]
        self._guarded = guarded
        self._deadline_s = deadline_s
        self._backoff_s = backoff_s
        self._on_begin = on_begin

    def open(self, request: urllib.request.Request, data: None = None, timeout: float | None = None) -> "_RowResponse":
        """GET the row's URL. Raises `FetchError`, which img2dataset takes down as a failed download."""
        index = int(urlsplit(request.full_url).fragment)
        state = self.rows[index]
        if state.deadline is None:
            state.deadline, state.started = Deadline(self._deadline_s), time.monotonic()
            self._on_begin(index)
        self._begin_try(state, state.deadline)
        try:
            response = self._guarded.open(request, data, timeout, deadline=state.deadline)
        except FetchError as error:
            state.failure, state.http_status = error, error.http_status
            raise
        state.http_status, state.final_url = response.status, response.url
        return _RowResponse(response, state)

    def _begin_try(self, state: RowState, deadline: Deadline) -> None:
        if state.failure is not None:
            wait_s = min(MAX_BACKOFF_S, self._backoff_s * 2 ** (state.tries - 1))
            retry = is_retryable(state.failure.reason, state.failure.http_status)
            if not retry or wait_s >= deadline.left():
                raise state.failure
            time.sleep(wait_s)
        state.tries += 1
        state.failure = state.http_status = state.final_url = None


class _RowResponse:
    """A response that takes down how its reading went."""

    def __init__(self, response: GuardedResponse, state: RowState) -> None:
        self.headers = response.headers
        self._response = response
        self._state = state
        self._read = False

    def __enter__(self) -> "_RowResponse":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.__exit__(kind, error, trace)
        if not self._read and kind is None:  # img2dataset leaves a body unread for one cause only
            self._state.failure = FetchError("robots_tag")

    def read(self) -> bytes:
        """The body. Raises `FetchError`."""
        self._read = True
        try:
            return self._response.read()
        except FetchError as error:
            self._state.failure = error
            raise
