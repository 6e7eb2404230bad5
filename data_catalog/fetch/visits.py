"""One try of a row on its way through the web: a lease on the host that it has come to, a moment for each request."""

import time
from collections.abc import Callable

from data_catalog.fetch.connection import Deadline
from data_catalog.fetch.hosts import HostClock
from data_catalog.fetch.ledger import Lease
from data_catalog.fetch.urls import FetchError, Target

# In one try, for its turn on all hosts, beside its deadline; more than the longest Crawl-delay that is heeded.
PATIENCE_S = 90.0
# A row of which nothing has been asked yet goes back rather than let a thread wait for longer.
_SHORT_WAIT_S = 1.0


class NotYetError(Exception):
    """The row's own host may not be asked for a while; nothing that was asked has to be asked again."""


class Visit:
    """Where one try is; to be closed when it ends. Time that it waits for its turn is not taken off its deadline.

    Args:
        clock: when which host may be asked.
        deadline: of the try.
        home: the group of the row's own host, on which there is a lease.
        leave: gives that lease up; called once at most.
    """

    def __init__(self, clock: HostClock, deadline: Deadline, *, home: str, leave: Callable[[], None]) -> None:
        self.waited_s = 0.0
        self._clock = clock
        self._deadline = deadline
        self._group: str | None = home
        self._leave = leave
        self._lease: Lease | None = None
        self._has_begun = False
        self._may_go_back = True

    def go_to(self, target: Target) -> None:
        """Have a lease on the target's group, and on no other: none is held while another is waited for.

        Raises:
            FetchError: `timeout`, there is no place.
        """
        self._may_go_back = not self._has_begun
        group = self._clock.group_of(target.host)
        if group == self._group:
            return
        self._give_up()
        started = time.monotonic()
        self._lease = self._clock.wait_to_start(group, PATIENCE_S - self.waited_s)
        self._leave_out(time.monotonic() - started)
        if self._lease is None:
            raise _too_late(target)
        self._group = group

    def follow(self, target: Target) -> None:
        """`go_to` on a redirect of a robots.txt, from which there is no way back but to ask for that again."""
        self.go_to(target)
        self._may_go_back = False

    def wait_for_robots(self, target: Target) -> None:
        """Wait for the moment of a request for a robots.txt; to be called right before that. Raises as `begin`."""
        self._wait(target, sets_rate=True)

    def begin(self, target: Target) -> None:
        """Wait for the moment of a request for the image; to be called right before it is made.

        Raises:
            FetchError: `timeout`, it does not come in time.
            NotYetError: the row can as well be asked later: this is its first request.
        """
        self._wait(target, sets_rate=False)
        self._has_begun = True
        self._may_go_back = False

    def _wait(self, target: Target, *, sets_rate: bool) -> None:
        longest_s = _SHORT_WAIT_S if self._may_go_back else PATIENCE_S - self.waited_s
        waited_s = self._clock.wait_for(target.host, longest_s, sets_rate=sets_rate)
        if waited_s is None:
            raise NotYetError if self._may_go_back else _too_late(target)
        self._leave_out(waited_s)

    def close(self) -> None:
        """Give up the lease, unless it is the first one, which is not ours."""
        if self._lease is not None:
            lease, self._lease = self._lease, None
            self._clock.ledger.end(lease)

    def _give_up(self) -> None:
        if self._lease is None and self._group is not None:
            self._leave()
        self._group = None
        self.close()

    def _leave_out(self, seconds: float) -> None:
        self.waited_s += seconds
        self._deadline.extend(seconds)


def _too_late(target: Target) -> FetchError:
    error = FetchError("timeout", "the host may not be asked in time")
    error.url = target.url
    return error
