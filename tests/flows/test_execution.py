"""Steps in threads without Prefect."""

import threading
import time
from collections.abc import Callable

import pytest

from data_catalog.errors import ConfigError, ShardError, TransientError
from flows.build.execution import Lane, LocalExecutor


def failing(times: int, error: Exception) -> Callable[[], int]:
    """A step that fails so often, then returns the number of its calls."""
    calls = [0]

    def step() -> int:
        calls[0] += 1
        if calls[0] <= times:
            raise error
        return calls[0]

    return step


def test_results_come_back_in_the_order_asked() -> None:
    with LocalExecutor() as executor:
        futures = [executor.submit(f"square {number:05d}", pow, number, 2) for number in range(20)]
        assert [future.result() for future in futures] == [number**2 for number in range(20)]


def test_at_most_max_workers_steps_run_at_once() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def step() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    with LocalExecutor() as executor:
        for future in [executor.submit("nap", step) for _ in range(10)]:
            future.result()
    assert most == 2


def test_a_lane_holds_up_nobody_but_itself() -> None:
    opened, running, most, lock = threading.Event(), 0, 0, threading.Lock()

    def slow() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        assert opened.wait(20)
        with lock:
            running -= 1

    with LocalExecutor() as executor:
        slowly = [executor.submit_in_lane(Lane("slow"), f"fetch {number}", slow) for number in range(3)]
        wide = [executor.submit_in_lane(Lane("wide", 2), f"fetch {number}", pow, number, 2) for number in range(5)]
        quick = [executor.submit(f"square {number}", pow, number, 2) for number in range(5)]
        assert [future.result() for future in wide] == [future.result() for future in quick] == [0, 1, 4, 9, 16]
        opened.set()
        for future in slowly:
            future.result()
    assert most == 1


def test_transient_errors_are_retried_and_others_are_not() -> None:
    with LocalExecutor(1, retry_delays_s=(0, 0)) as executor:
        assert executor.submit("flaky 1", failing(2, TransientError("again"))).result() == 3
        assert executor.run("flaky 2", failing(2, TransientError("again"))) == 3
        with pytest.raises(TransientError, match="again"):
            executor.run("flaky 3", failing(3, TransientError("again")))
        with pytest.raises(ShardError, match="broken"):
            executor.submit("broken", failing(1, ShardError("broken"))).result()


def test_an_exception_gives_up_what_has_not_begun() -> None:
    begun = []

    def step(number: int) -> None:
        begun.append(number)
        time.sleep(0.05)

    def run() -> None:
        with LocalExecutor() as executor:
            for number in range(50):
                executor.submit(f"step {number:05d}", step, number)
            raise ShardError("stop")

    with pytest.raises(ShardError, match="stop"):
        run()
    assert len(begun) < 5


def test_workers_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="max_workers must be positive, got 0"):
        LocalExecutor()
