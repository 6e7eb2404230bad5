"""Calls in threads without Prefect, and how far a run of Prefect is."""

import pickle
import threading
from collections.abc import Callable
from functools import partial

import pytest

from data_catalog import errors
from data_catalog.errors import InputError, PipelineError, TransientError
from flows.build.execution import LocalExecutor
from flows.orchestration.prefect_executor import RunProgress


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


def test_the_progress_of_a_run_is_one_number_and_one_line() -> None:
    """Each phase is an equal part of the whole; nothing to do is done; a phase that was not foreseen counts nothing."""
    progress = RunProgress(["clean", "fetch", "normalise", "publish"])
    assert (progress.percent, progress.text) == (0, "begun")
    progress.note("clean", done=0, total=0)
    assert (progress.percent, progress.text) == (25, "clean: done")
    progress.note("fetch", done=1, total=2)
    progress.note("normalise", done=0, total=2000)
    assert (progress.percent, progress.text) == (37.5, "fetch: 1 of 2, normalise: 0 of 2,000")
    progress.note("recall", done=1, total=4)
    progress.note("fetch", done=0, total=2)
    assert progress.percent == 37.5, "it never goes back"
