"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0

Watcher = Callable[[str, int, int], None]

_watchers: list[Watcher] = []


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Call `watcher` with all progress inside the context that has a known total: label, units done, total."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


class Progress:
    """A counter of finished units of work. Use it as a context manager and call `advance`.

    Args:
        label: name of the work, such as "translate".
        total: number of units, or None if it is unknown.
        unit: name of a unit, plural.
        initial: units that an earlier run finished; they count as done, but not for the rate.
    """

    def __init__(self, label: str, *, total: int | None, unit: str, initial: int = 0) -> None:
        self.label, self.total, self.unit, self.initial = label, total, unit, initial
        self.done = initial
        self._bar: Any = None
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        # A command with --quiet has raised the log level of the package.
        is_quiet = logging.getLogger("data_catalog").level >= logging.WARNING
        if sys.stderr.isatty() and not is_quiet:
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, initial=self.initial, desc=self.label, unit=f" {self.unit}", leave=False)
        self._started = self._last_line = time.monotonic()
        return self

    def advance(self, count: int = 1, **postfix: float | str) -> None:
        """Count `count` more units as done, and show the `postfix` values beside the counter."""
        self.done += count
        if self.total is not None:
            for watcher in _watchers:
                watcher(self.label, self.done, self.total)
        if self._bar is not None:
            self._bar.set_postfix(postfix, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._log(postfix)

    def _log(self, postfix: dict[str, float | str]) -> None:
        seconds = max(time.monotonic() - self._started, 1e-9)
        total = "" if self.total is None else f" of {self.total:,}"
        extra = "".join(f", {name} {value}" for name, value in postfix.items())
        rate = f"{(self.done - self.initial) / seconds:,.1f} {self.unit}/s"
        logger.info("%s: %s%s %s (%s%s)", self.label, f"{self.done:,}", total, self.unit, rate, extra)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if kind is None and self.done > self.initial:
            self._log({})
