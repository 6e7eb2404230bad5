"""How calls are executed: the protocol that flows are written against, and threads without Prefect.

A call gets references (paths, names, numbers), never data. It runs in a thread, so nothing in it may install signal
handlers. How many run at once is decided by who submits them.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from data_catalog.errors import TransientError
from data_catalog.plain_text import plain_table

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# Waits before the second, third ... try of a call that raised TransientError; then the error stands.
RETRY_DELAYS_S = (2.0, 10.0, 30.0)
# Threads are started when they are needed.
MOST_THREADS = 1_000


class Future(Protocol[T_co]):
    """The outcome of a submitted call, sooner or later."""

    def result(self) -> T_co:
        """Wait for the call; return what it returned or raise what it raised."""

    def add_done_callback(self, fn: Callable[[Any], None], /) -> None:
        """Have something called, with the future, as soon as it is done, in whatever way, and in whatever thread."""


class Executor(Protocol):
    """Does calls and shows what becomes of them. A flow uses it from one thread, its own.

    Attributes:
        submits_elsewhere: what may be done elsewhere is done by other processes, not by threads of this one.
        most_elsewhere: how many calls may be under way there at once; None: as many as there are workers.
    """

    submits_elsewhere: bool
    most_elsewhere: int | None

    def submit(self, name: str, call: Callable[[], T], *, elsewhere: bool = False) -> Future[T]:
        """Start a call in another thread; it is tried again only after a `TransientError`.

        Args:
            name: the call's kind, a blank, and which one it is, such as "fetch 00003" or "find-duplicates".
            call: what to do.
            elsewhere: it can be pickled, and done by another process, perhaps on another machine.
        """

    def run(self, name: str, call: Callable[[], T]) -> T:
        """Do a call in the flow's own thread."""

    def artifact_table(self, key: str, rows: Sequence[Mapping[str, object]], description: str) -> None:
        """Show a table that people should see.

        Args:
            key: what the table is, in lower-case letters, digits and dashes, such as "funnel".
            rows: all with the same keys, in the order of the columns; may hold dataset text as it is.
            description: one plain sentence.
        """

    def progress(self, key: str, *, done: int, total: int) -> None:
        """Show how many of `total` units (shards, epochs) of `key`, named like an artifact, are done."""


class LocalExecutor:
    """Calls in threads of this process, without Prefect; use it as a context manager.

    Leaving it waits for what runs; what has not begun is given up if an exception is under way. After Ctrl-C nobody
    waits: the process is to end.
    """

    submits_elsewhere = False
    most_elsewhere: int | None = None

    def __init__(self, *, retry_delays_s: Sequence[float] = RETRY_DELAYS_S) -> None:
        self._pool = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="step")
        self._retry_delays_s = tuple(retry_delays_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_interrupted = kind is not None and not issubclass(kind, Exception)
        self._pool.shutdown(wait=not is_interrupted, cancel_futures=kind is not None)

    def submit(self, name: str, call: Callable[[], T], *, elsewhere: bool = False) -> Future[T]:
        """Start a call in a thread, at once."""
        return self._pool.submit(_with_retries, name, call, self._retry_delays_s)

    def run(self, name: str, call: Callable[[], T]) -> T:
        """Do a call here and now."""
        return _with_retries(name, call, self._retry_delays_s)

    def artifact_table(self, key: str, rows: Sequence[Mapping[str, object]], description: str) -> None:
        """Log the table as aligned text, for those who debug: the command line prints reports itself."""
        logger.debug("%s: %s\n%s", key, description, plain_table(rows))

    def progress(self, key: str, *, done: int, total: int) -> None:
        """Log the count; on a terminal the step's own bar says more, so this stays quiet by default."""
        logger.debug("%s: %d of %d", key, done, total)


def _with_retries(name: str, call: Callable[[], T], delays_s: Sequence[float]) -> T:
    for delay_s in delays_s:
        try:
            return call()
        except TransientError as error:
            logger.warning("%s: %s; trying again in %g s", name, error, delay_s)
            time.sleep(delay_s)
    return call()
