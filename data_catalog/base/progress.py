"""Progress of long work with its time left: one line in place on a terminal, log lines at growing intervals elsewhere.

All work of a process shares the line: steps run at the same time in threads, and work contains other work. It shows the
share of the work that began first, which contains the others, and details of the work that began last.
"""

import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self, TextIO, cast

from data_catalog.base.plain_text import text_width, visible_text

logger = logging.getLogger(__name__)

FIRST_LINE_S, MOST_S = 10.0, 600.0  # until the first line of a log, and at most between two
REDRAWN_S = 0.25
NUM_BEFORE_ESTIMATE = 3  # calls of `advance`
BAR_WIDTH = 10

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
        total: number of units, or None if it is unknown; may be set later.
        unit: name of a unit, plural; "bytes" are shown as MB.
        initial: units that an earlier run finished; they count as done, but not for the rate.
        time_left: returns the time left for people, for units of unequal size; None: it is estimated from the rate, to
            which later units contribute more.
        clock: returns seconds.
    """

    def __init__(
        self,
        label: str,
        *,
        total: int | None,
        unit: str,
        initial: int = 0,
        time_left: Callable[[], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label, self.total, self.unit, self.initial = label, total, unit, initial
        self.clock, self._estimate = clock, time_left
        self.done, self._num_calls, self._facts = initial, 0, dict[str, float | str]()
        self._moment = 0.0  # sum of units, each times the seconds at the middle of its work

    def __enter__(self) -> Self:
        self._started = self._last = self.clock()
        _line.begin(self)
        return self

    def advance(self, count: int = 1, **facts: float | str) -> None:
        """Count `count` more units as done, and show the facts beside the counter."""
        now = self.clock()
        with _line.lock:
            self.done += count
            self._moment += count * ((self._last + now) / 2 - self._started)
            self._last, self._num_calls, self._facts = now, self._num_calls + (count > 0), facts
        if self.total is not None:
            for watcher in _watchers:
                watcher(self.label, self.done, self.total)
        _line.show(now)

    def say(self, text: str, *values: object) -> None:
        """Log a line about the work, such as that of an epoch, with the time left; it stands for a progress line."""
        left = self.time_left
        _line.postpone(self.clock())
        logger.info(f"{text}%s", *values, left and f", {left}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        contained_all = _line.end(self)
        seconds = self.clock() - self._started
        if kind is None and self.done > self.initial:
            # What others contain ends too often for a line.
            level = logging.INFO if contained_all and seconds >= FIRST_LINE_S else logging.DEBUG
            logger.log(level, "%s: %s, took %s", self.label, ", ".join(self.counts), span_text(seconds))

    @property
    def share(self) -> float | None:
        """Return the share that is done, in [0, 1], or None if the total is unknown or 0."""
        return min(1.0, self.done / self.total) if self.total else None

    @property
    def time_left(self) -> str:
        """Return the time left for people, or "" if it is unknown."""
        if self._estimate is not None:
            return self._estimate()
        if self.total is None or self.total <= self.done or self._num_calls < NUM_BEFORE_ESTIMATE:
            return ""
        return f"{span_text((self.total - self.done) / self._rate)} left"

    @property
    def _rate(self) -> float:
        """Return the units a second, as a mean in which each unit counts by the time at which it was done.

        After a pause, such as an epoch's validation, that is less than the plain mean, which then counts.
        """
        seconds = max(self.clock() - self._started, 1e-9)
        return max(2 * max(self._moment, 1e-9) / seconds, self.done - self.initial) / seconds

    @property
    def counts(self) -> list[str]:
        """Return units done, rate and facts."""
        scale, digits, unit = (1e6, 1, "MB") if self.unit == "bytes" else (1.0, 0, self.unit)
        of = "" if self.total is None else f" of {self.total / scale:,.{digits}f}"
        found = [f"{self.done / scale:,.{digits}f}{of} {unit}"]
        if self._num_calls and self._estimate is None:
            rate = self._rate / scale
            found.append(f"{rate:,.0f} {unit}/s" if rate >= 100 else f"{rate:.2g} {unit}/s")
        return found + [f"{name} {value}" for name, value in self._facts.items()]


def span_text(seconds: float) -> str:
    """Return a time span for people: "8 s", "2 min 10 s", "12 min", "3 h 20 min", "2 days 3 h"."""
    if seconds < 59.5:
        return f"{max(1, round(seconds))} s"
    if seconds < 595:
        minutes, rest = divmod(round(seconds, -1), 60)
        return f"{minutes:.0f} min {rest:.0f} s" if rest else f"{minutes:.0f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if hours else f"{minutes} min"
    return f"{hours // 24} days {hours % 24} h"


class _Line:
    """The line of all work that is under way in this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._works: list[Progress] = []  # in the order in which they began
        self._terminal: TextIO | None = None
        self._drawn = ""
        self._next = self._interval = 0.0

    def begin(self, work: Progress) -> None:
        """Add a work to the line."""
        now = work.clock()
        with self.lock:
            if not self._works:
                self._terminal = _terminal()
                self._interval = REDRAWN_S if self._terminal else FIRST_LINE_S
                self._next = now + (0 if self._terminal else self._interval)
            self._works.append(work)
        self.show(now)

    def end(self, work: Progress) -> bool:
        """Remove a work from the line; return True if it contained the others."""
        with self.lock:
            contained_all = self._works[:1] == [work]
            if work in self._works:
                self._works.remove(work)
            self._draw()
        return contained_all

    def postpone(self, now: float) -> None:
        """Show the line an interval from now, or later."""
        with self.lock:
            self._next = max(self._next, now + self._interval)

    def show(self, now: float) -> None:
        """Draw the line again, or log it, if it is time."""
        with self.lock:
            if now < self._next or not self._works:
                return
            if self._terminal is None:
                self._interval = min(2 * self._interval, MOST_S)
            self._next = now + self._interval
            if self._terminal is not None:
                self._draw()
                return
            text = self._text()
        logger.info("%s", text)  # outside the lock, since handlers have locks of their own

    def write(self, stream: TextIO, text: str) -> int:
        """Write a text to the terminal in place of the line, which is drawn again below whole lines."""
        with self.lock:
            self._put("")
            count = stream.write(text)
            if text.endswith("\n"):
                self._draw()
        return count

    def end_all(self) -> None:
        """Remove the line for good."""
        with self.lock:
            self._works.clear()
            self._draw()

    def _draw(self) -> None:
        """Draw the line in place of the last one, or remove it if no work is left."""
        if self._terminal is not None:
            try:
                columns = os.get_terminal_size(self._terminal.fileno()).columns or 80
            except OSError:
                columns = 80
            self._put(self._text(columns - 1) if self._works else "")

    def _put(self, text: str) -> None:
        """Replace the text of the line; the cursor of an empty line is at its start."""
        if self._terminal is not None and (text or self._drawn):
            blanks = " " * (text_width(self._drawn) - text_width(text))
            with suppress(OSError, ValueError):  # the terminal is gone, and the work goes on
                self._terminal.write(f"\r{text}{blanks}" + ("" if text else "\r"))
                self._terminal.flush()
            self._drawn = text

    def _text(self, columns: int | None = None) -> str:
        """Return the line: with a bar and at most so many columns, or complete and without one."""
        first, last = self._works[0], self._works[-1]
        text = ""
        if first is not last:
            share = "" if first.share is None else f" {first.share:.0%}"
            left = first.time_left and f", {first.time_left}"
            text = f"{first.label}{share}{left} | "
        text = visible_text(text + last.label)
        num_done = None if columns is None or last.share is None else int(last.share * BAR_WIDTH)
        text += ":" if num_done is None else f" [{'#' * num_done:.<{BAR_WIDTH}}]"
        for place, detail in enumerate(filter(None, (last.time_left, *last.counts))):
            longer = f"{text}{', ' if place else ' '}{visible_text(detail)}"
            if columns is not None and text_width(longer) > columns:
                break
            text = longer
        while columns is not None and text_width(text) > columns:
            text = text[:-1]
        return text


_line = _Line()


def _terminal() -> TextIO | None:
    """Return standard error if the line is drawn there: not with --quiet, which raises our log level, or in a child."""
    is_quiet = logging.getLogger("data_catalog").level >= logging.WARNING
    if is_quiet or multiprocessing.parent_process() is not None or not sys.stderr.isatty():
        return None
    return cast(TextIO, getattr(sys.stderr, "bare", sys.stderr))


class _AboveLine:
    """Standard error of a terminal, whose lines stand above the line of progress."""

    def __init__(self, bare: TextIO) -> None:
        self.bare = bare

    def write(self, text: str) -> int:
        """Write a text in place of the line of progress."""
        return _line.write(self.bare, text)

    def __getattr__(self, name: str) -> object:
        return getattr(self.bare, name)


@contextmanager
def lines_above_progress() -> Iterator[None]:
    """Keep what is written to standard error inside the context apart from the line of progress, which ends with it."""
    bare = sys.stderr
    if bare.isatty():
        sys.stderr = cast(TextIO, _AboveLine(bare))
    try:
        yield
    finally:
        _line.end_all()
        sys.stderr = bare
