"""Calls in threads without Prefect."""

import pickle
import threading
from collections.abc import Callable
from functools import partial

import pytest

from data_catalog import errors
from data_catalog.errors import InputError, PipelineError, TransientError
from flows.build.execution import LocalExecutor


def failing(times: int, error: Exception) -> Callable[[], int]:
    """A call that fails so often, then returns the number of its calls."""
    calls = [0]

    def call() -> int:
        calls[0] += 1
        if calls[0] <= times:
            raise error
        return calls[0]

    return call


def test_calls_begin_at_once_and_whoever_asked_is_told_of_each_end() -> None:
    all_are_there = threading.Barrier(20)
    told: list[str] = []

    def square(number: int) -> int:
        all_are_there.wait(60)
        return number**2

    with LocalExecutor() as executor:
        futures = [executor.submit(f"square {number:05d}", partial(square, number)) for number in range(20)]
        assert [future.result() for future in futures] == [number**2 for number in range(20)]
        executor.submit("fine", lambda: 1).add_done_callback(lambda _: told.append("fine"))
        executor.submit("broken", failing(1, InputError("broken"))).add_done_callback(lambda _: told.append("broken"))
    assert sorted(told) == ["broken", "fine"]


def test_transient_errors_are_retried_and_others_are_not() -> None:
    with LocalExecutor(retry_delays_s=(0, 0)) as executor:
        assert executor.submit("flaky 1", failing(2, TransientError("again"))).result() == 3
        assert executor.run("flaky 2", failing(2, TransientError("again"))) == 3
        with pytest.raises(TransientError, match="again"):
            executor.run("flaky 3", failing(3, TransientError("again")))
        with pytest.raises(InputError, match="broken"):
            executor.submit("broken", failing(1, InputError("broken"))).result()


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PipelineError)]
)
def test_an_error_of_another_process_keeps_its_class_and_text(kind: type[PipelineError]) -> None:
    found = pickle.loads(pickle.dumps(kind("a sentence")))
    assert (type(found), str(found)) == (kind, "a sentence")


def test_leaving_waits_for_what_runs_also_after_an_error() -> None:
    begun, opened, ended = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert opened.wait(60)
        ended.set()

    def run() -> None:
        with LocalExecutor() as executor:
            executor.submit("slow", slow)
            assert begun.wait(60)
            threading.Timer(0.1, opened.set).start()
            raise InputError("stop")

    with pytest.raises(InputError, match="stop"):
        run()
    assert ended.is_set()
