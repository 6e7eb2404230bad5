"""A lease that a finished row leaves to the next one of its host: never against a pause, never for a row that waits."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from data_catalog.fetch.hosts import HostClock, HostPace
from data_catalog.fetch.ledger import HostLedger, Lease
from data_catalog.fetch.row_queue import RowQueue


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[HostLedger]:
    """That of the queue under test."""
    with closing(HostLedger(tmp_path)) as ledger:
        yield ledger


@pytest.fixture
def other(tmp_path: Path) -> Iterator[HostLedger]:
    """That of another process: a holder of its own in the same folder."""
    with closing(HostLedger(tmp_path)) as ledger:
        yield ledger


def queue_of(groups: list[str], ledger: HostLedger, *, requests_per_s: float = 0) -> RowQueue:
    """A queue whose hosts may be asked once at a time."""
    clock = HostClock(ledger, {}, HostPace(concurrency=1, requests_per_s=requests_per_s))
    return RowQueue(groups, clock, stuck_s=60.0, on_wait=lambda: None)


def test_the_next_row_of_a_host_has_the_same_lease(ledger: HostLedger, other: HostLedger) -> None:
    queue = queue_of(["a", "a"], ledger)
    first = queue.take()
    queue.finish(first)
    assert isinstance(other.try_start("a", concurrency=1, interval_s=0), float)
    second = queue.take()
    assert (second.row, second.lease) == (1, first.lease)
    queue.finish(second)
    assert isinstance(other.try_start("a", concurrency=1, interval_s=0), Lease)


def test_a_pause_that_another_process_was_told_of_holds(ledger: HostLedger, other: HostLedger) -> None:
    queue = queue_of(["a", "a", "free"], ledger)
    first = queue.take()
    other.pause("a", 3600)
    queue.finish(first)
    assert queue.take().row == 2


def test_a_host_with_a_rate_is_asked_by_a_new_lease_each_time(ledger: HostLedger) -> None:
    queue = queue_of(["a", "a", "free"], ledger, requests_per_s=0.001)
    queue.finish(queue.take())
    assert queue.take().row == 2


def test_no_lease_is_kept_for_a_row_that_is_to_wait(ledger: HostLedger, other: HostLedger) -> None:
    queue = queue_of(["a", "a"], ledger)
    first = queue.take()
    queue.finish(first)
    queue.put_back(first.row, 3600)
    queue.finish(queue.take())
    assert isinstance(other.try_start("a", concurrency=1, interval_s=0), Lease)


def test_a_closed_ledger_writes_no_more(ledger: HostLedger, tmp_path: Path) -> None:
    closed = HostLedger(tmp_path)
    lease = closed.try_start("a", concurrency=1, interval_s=0)
    assert isinstance(lease, Lease)
    closed.close()
    with pytest.raises(OSError, match="closed"):
        closed.end(lease)
    assert isinstance(ledger.try_start("a", concurrency=1, interval_s=0), Lease)
