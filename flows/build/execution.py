"""How the steps of a run are executed: the protocol that flows are written against, and threads without Prefect.

A step is one call on references (paths, names, numbers), never on data, and asks first whether its output is committed.
Steps run in threads, so nothing in them may install signal handlers; and no step may submit another one, since both
would wait for the same few threads.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar

from data_catalog.errors import ConfigError, TransientError
from flows.build.step_clock import StepClock
from flows.tables import plain_table

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# Waits before the second, third ... try of a step that raised TransientError; then the error stands.
RETRY_DELAYS_S = (2.0, 10.0, 30.0)


class Future(Protocol[T_co]):
    """The outcome of a submitted step, sooner or later."""

    def result(self) -> T_co:
        """Wait for the step; return what it returned or raise what it raised."""

    def add_done_callback(self, fn: Callable[[Any], None], /) -> None:
        """Have something called, with the future, as soon as it is done, in whatever way, and in whatever thread."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Steps that wait for one another and for no others, such as all downloads from one slow host.

    Args:
        name: equal names are the same lane.
        width: steps of the lane that run at once.
    """

    name: str
    width: int = 1


class Executor(Protocol):
    """Runs steps and shows what becomes of them. A flow uses it from one thread, its own.

    Attributes:
        submits_elsewhere: what is submitted is done by other processes, not by threads of this one.
    """

    submits_elsewhere: bool

    clock: StepClock  # counts the seconds of all steps

    def submit(self, name: str, step: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a step in another thread, or in another process, perhaps on another machine.

        Args:
            name: the step's kind, a blank, and which one it is, such as "fetch 00003" or "publish".
            step: a function of a module, which can be found by its name elsewhere; called with the remaining
                arguments, which can be pickled; tried again only after a `TransientError`.
        """

    def submit_in_lane(
        self, lane: Lane, name: str, step: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Start a step in a lane, in another thread, beside whatever `submit` has started."""

    def run(self, name: str, step: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Do a step in the flow's own thread, whatever waits for the others; same arguments as `submit`."""

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
    """Steps in threads of this process, without Prefect; use it as a context manager.

    Leaving it waits for what runs; what has not begun is given up if an exception is under way. After Ctrl-C nobody
    waits: the process is to end.

    Raises:
        ConfigError: `max_workers` is not positive.
    """

    submits_elsewhere = False

    def __init__(self, max_workers: int, *, retry_delays_s: Sequence[float] = RETRY_DELAYS_S) -> None:
        if max_workers < 1:
            raise ConfigError(f"max_workers must be positive, got {max_workers}")
        self._pool = ThreadPoolExecutor(max_workers, thread_name_prefix="step")
        self._lanes: dict[str, ThreadPoolExecutor] = {}
        self.clock = StepClock()
        self._retry_delays_s = tuple(retry_delays_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_interrupted = kind is not None and not issubclass(kind, Exception)
        for pool in (self._pool, *self._lanes.values()):
            pool.shutdown(wait=not is_interrupted, cancel_futures=kind is not None)

    def submit(self, name: str, step: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a step in a thread as soon as one of `max_workers` is free."""
        return self._pool.submit(
            _with_retries, name, self.clock.timed(name, step, *args, **kwargs), self._retry_delays_s
        )

    def submit_in_lane(
        self, lane: Lane, name: str, step: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Start a step as soon as the lane has room."""
        if lane.name not in self._lanes:
            self._lanes[lane.name] = ThreadPoolExecutor(lane.width, thread_name_prefix=lane.name)
        return self._lanes[lane.name].submit(
            _with_retries, name, self.clock.timed(name, step, *args, **kwargs), self._retry_delays_s
        )

    def run(self, name: str, step: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Do a step here and now."""
        return _with_retries(name, self.clock.timed(name, step, *args, **kwargs), self._retry_delays_s)

    def artifact_table(self, key: str, rows: Sequence[Mapping[str, object]], description: str) -> None:
        """Log the table as aligned text, for those who debug: the command line prints reports itself."""
        logger.debug("%s: %s\n%s", key, description, plain_table(rows))

    def progress(self, key: str, *, done: int, total: int) -> None:
        """Log the count; on a terminal the step's own bar says more, so this stays quiet by default."""
        logger.debug("%s: %d of %d", key, done, total)


def _with_retries(name: str, step: Callable[[], T], delays_s: Sequence[float]) -> T:
    for delay_s in delays_s:
        try:
            return step()
        except TransientError as error:
            logger.warning("%s: %s; trying again in %g s", name, error, delay_s)
            time.sleep(delay_s)
    return step()
