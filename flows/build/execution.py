"""The protocol of executors, and an executor that runs calls in threads without Prefect.

A call gets references (paths, names, numbers), never data. It runs in a thread, so it must not install signal
handlers. The caller of `submit` decides how many calls run at the same time.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from data_catalog.base.errors import TransientError
from data_catalog.base.plain_text import plain_table
from data_catalog.fetch.owner import Owners
from flows.build.windows import Spread

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# Delays before the second, third ... try of a call that raised TransientError; then the error is raised.
RETRY_DELAYS_S = (2.0, 10.0, 30.0)
MOST_THREADS = 1_000  # started on demand


class Future(Protocol[T_co]):
    """The result of a submitted call that may not have ended yet."""

    def result(self) -> T_co:
        """Wait for the call, then return its result or raise its exception."""

    def add_done_callback(self, fn: Callable[[Any], None], /) -> None:
        """Call a function with the future as soon as the call has ended or failed, in any thread."""


class Executor(Protocol):
    """A protocol for running calls and showing their progress. A flow uses it only from its own thread."""

    runs_remotely: bool
    """Calls that allow it run in other processes, not in threads of this one."""
    max_remote_calls: int | None
    """Number of calls that may run there at the same time; None: `build.workers`."""
    spread: Spread | None
    """Starts a call that can be pickled in another process, from any thread; None: all run in this one."""
    owners: Owners | None
    """Fetching processes of other machines; None: this machine fetches."""

    def submit(self, name: str, call: Callable[[], T], *, remote: bool = False) -> Future[T]:
        """Start a call in another thread, and retry it only after a `TransientError`.

        Args:
            name: name of the step, a blank and the shard, such as "fetch 00003", or only the step, "find-duplicates".
            call: the function to call.
            remote: the call can be pickled, and may run in another process, also on another machine.
        """

    def run(self, name: str, call: Callable[[], T]) -> T:
        """Run a call in the flow's own thread, and return its result."""

    def artifact_table(self, key: str, rows: Sequence[Mapping[str, object]], description: str) -> None:
        """Show a table to people.

        Args:
            key: name of the table in lower-case letters, digits and dashes, such as "funnel".
            rows: rows with the same keys, in the order of the columns; may contain text of the dataset unescaped.
            description: one plain sentence.
        """

    def progress(self, key: str, *, done: int, total: int) -> None:
        """Show that `done` of `total` units (shards, epochs) of `key`, named like an artifact, are finished."""


class LocalExecutor:
    """An executor that runs calls in threads of this process, without Prefect; use it as a context manager.

    On exit it waits for running calls. After an exception it cancels calls that have not started. After Ctrl-C it does
    not wait, as the process is about to end.
    """

    runs_remotely = False
    max_remote_calls: int | None = None
    spread: Spread | None = None
    owners: Owners | None = None

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

    def submit(self, name: str, call: Callable[[], T], *, remote: bool = False) -> Future[T]:
        """Start a call in a thread immediately."""
        return self._pool.submit(_with_retries, name, call, self._retry_delays_s)

    def run(self, name: str, call: Callable[[], T]) -> T:
        """Run a call in this thread, and return its result."""
        return _with_retries(name, call, self._retry_delays_s)

    def artifact_table(self, key: str, rows: Sequence[Mapping[str, object]], description: str) -> None:
        """Log the table as aligned text at level DEBUG; the command line prints reports itself."""
        logger.debug("%s: %s\n%s", key, description, plain_table(rows))

    def progress(self, key: str, *, done: int, total: int) -> None:
        """Log the count at level DEBUG, since the engine shows the progress of the build."""
        logger.debug("%s: %d of %d", key, done, total)


def _with_retries(name: str, call: Callable[[], T], delays_s: Sequence[float]) -> T:
    """Run a call, and retry it after the delays if it raises `TransientError`."""
    for delay_s in delays_s:
        try:
            return call()
        except TransientError as error:
            logger.warning("%s: %s; trying again in %g s", name, error, delay_s)
            time.sleep(delay_s)
    return call()
