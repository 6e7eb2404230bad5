"""How long the steps of a run took, by their kind: what an executor counts for the run log."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class StepClock:
    """Seconds by kind of step, added up over all threads: steps that run side by side may sum to more than passed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def timed(self, name: str, step: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Callable[[], T]:
        """A call that does a step, and whose time is counted, however it ends.

        Args:
            name: of the step; its first word, such as "fetch" of "fetch 00003", is its kind.
            step: called with the remaining arguments.
        """

        def call() -> T:
            started = time.monotonic()
            try:
                return step(*args, **kwargs)
            finally:
                self.add(name, time.monotonic() - started)

        return call

    def add(self, name: str, seconds: float) -> None:
        """Count seconds that a step took elsewhere."""
        # Chunks of captions are what translating consists of.
        kind = name.split()[0].removesuffix("-chunk")
        with self._lock:
            self._seconds[kind] += seconds

    def seconds_by_step(self) -> dict[str, float]:
        """Seconds by kind so far, to a hundredth; the slowest kind first."""
        with self._lock:
            found = sorted(self._seconds.items(), key=lambda item: -item[1])
        return {kind: round(seconds, 2) for kind, seconds in found}
