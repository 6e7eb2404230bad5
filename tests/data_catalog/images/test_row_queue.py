"""Rows come out of the queue once each, at the pace of their hosts, and no thread waits while a host is free."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_catalog.fetch.hosts import HostClock, HostPace
from data_catalog.fetch.ledger import HostLedger
from data_catalog.fetch.row_queue import RowQueue, StoppedError

FAST = HostPace(concurrency=64, requests_per_s=0)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[HostLedger]:
    found = HostLedger(tmp_path / "pace")
    yield found
    found.close()


def queue_of(groups: Sequence[str], ledger: HostLedger, **named: HostPace) -> RowQueue:
    return RowQueue(groups, HostClock(ledger, named, FAST), stuck_s=60.0, on_wait=lambda: None)


class Crew:
    """Threads that take all rows, put some of them back, and note how many rows of each host are out at once."""

    def __init__(self, groups: Sequence[str], queue: RowQueue, repeats: dict[int, int]) -> None:
        self._groups = groups
        self._queue = queue
        self._repeats = dict(repeats)
        self._lock = threading.Lock()
        self._turns = iter(range(len(groups)))
        self.taken: Counter[int] = Counter()
        self.out: Counter[str] = Counter()
        self.most_out: Counter[str] = Counter()
        self.failures: list[BaseException] = []

    def work(self, num_threads: int) -> None:
        threads = [threading.Thread(target=self._work) for _ in range(num_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert self.failures == []

    def _work(self) -> None:
        try:
            while True:
                with self._lock:
                    if next(self._turns, None) is None:
                        return
                while self._goes_back():
                    """As `RowOpener` does: a turn lasts until a row has come to its end."""
        except BaseException as error:  # noqa: BLE001  the test's own thread raises it
            self.failures.append(error)

    def _goes_back(self) -> bool:
        turn = self._queue.take()
        group = self._groups[turn.row]
        with self._lock:
            self.taken[turn.row] += 1
            self.out[group] += 1
            self.most_out[group] = max(self.most_out[group], self.out[group])
            again = self._repeats.get(turn.row, 0) > 0
            self._repeats[turn.row] = self._repeats.get(turn.row, 0) - 1
        with self._lock:
            self.out[group] -= 1
        self._queue.finish(turn)
        if again:
            self._queue.put_back(turn.row, 0.001 * (turn.row % 3))
        return again


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    groups=st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=40),
    repeats=st.dictionaries(st.integers(0, 39), st.integers(1, 3), max_size=10),
    limits=st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.builds(HostPace, concurrency=st.integers(1, 4), requests_per_s=st.sampled_from([0.0, 500.0])),
    ),
    num_threads=st.integers(1, 12),
)
def test_every_row_comes_out_once_and_once_more_for_each_time_it_is_put_back(
    groups: list[str], repeats: dict[int, int], limits: dict[str, HostPace], num_threads: int, ledger: HostLedger
) -> None:
    crew = Crew(groups, queue_of(groups, ledger, **limits), repeats)
    crew.work(num_threads)
    assert crew.taken == {row: 1 + repeats.get(row, 0) for row in range(len(groups))}
    assert all(crew.most_out[group] <= limits.get(group, FAST).concurrency for group in groups)


def test_no_thread_waits_for_a_busy_host_while_another_is_free(ledger: HostLedger) -> None:
    queue = queue_of(["busy"] * 5 + ["free"] * 5, ledger, busy=HostPace(concurrency=1, requests_per_s=0))
    first = queue.take()
    assert first.row == 0
    others = [queue.take() for _ in range(5)]  # would hang if one of them waited for the first
    assert sorted(turn.row for turn in others) == [5, 6, 7, 8, 9]
    queue.finish(first)
    assert queue.take().row == 1


def test_a_host_that_pauses_holds_nobody_up(ledger: HostLedger) -> None:
    queue = queue_of(["paused", "free", "free"], ledger)
    ledger.pause("paused", 3600)
    assert sorted(queue.take().row for _ in range(2)) == [1, 2]


def test_a_row_that_is_put_back_at_once_may_run_while_its_first_turn_ends(ledger: HostLedger) -> None:
    queue = queue_of(["a"], ledger)
    first = queue.take()
    queue.put_back(first.row, 0.0)
    second = queue.take()
    assert (second.row, second != first) == (first.row, True)
    queue.finish(first)
    queue.finish(second)


def test_stopping_lets_those_go_who_wait_and_those_who_come(ledger: HostLedger) -> None:
    queue = queue_of(["a"], ledger)
    queue.take()
    stopped = threading.Event()

    def wait() -> None:
        with pytest.raises(StoppedError):
            queue.take()
        stopped.set()

    thread = threading.Thread(target=wait)
    thread.start()
    queue.stop()
    thread.join()
    assert stopped.is_set()
    with pytest.raises(StoppedError):
        queue.take()


def test_trouble_with_the_ledger_reaches_whoever_takes(tmp_path: Path) -> None:
    ledger = HostLedger(tmp_path / "pace")
    queue = queue_of(["a"], ledger)
    for file in (tmp_path / "pace").iterdir():
        file.unlink()
    (tmp_path / "pace").rmdir()
    with pytest.raises(FileNotFoundError):
        queue.take()
