"""Flows of steps that say what they do: copied into the folder of a project that is tested."""

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow

from data_catalog.base.errors import InputError, TransientError
from flows.orchestration.prefect_executor import PrefectExecutor

running: set[int] = set()
most: list[int] = []
lock = threading.Lock()


def step(number: int) -> int:
    with lock:
        running.add(number)
        most.append(len(running))
    logging.getLogger("flows.toy").warning("step %d in %s", number, Path.cwd().name)
    time.sleep(0.1)
    with lock:
        running.remove(number)
    return number


def flaky(folder: Path) -> int:
    """The id of the process that does what fails twice."""
    tries = len(list(folder.iterdir()))
    (folder / str(tries)).touch()
    if tries < 2:
        raise TransientError("again")
    return os.getpid()


def broken() -> None:
    raise InputError("broken")


def hears_ctrl_c() -> bool:
    return signal.getsignal(signal.SIGINT) != signal.SIG_IGN


def kills_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def error_of(future: Any) -> str:
    try:
        return str(future.result())
    except InputError as error:
        return f"InputError: {error}"


def executor_of(word: str, dask: bool) -> PrefectExecutor:
    phases = ("count", word, "here")
    if not dask:
        return PrefectExecutor(f"progress-{word}", phases, retry_delays_s=(0, 0))
    from flows.orchestration.dask_executor import DaskExecutor

    return DaskExecutor(1, None, Path("root"), f"progress-{word}", phases, retry_delays_s=(0, 0))


@flow(name="toy")
def toy(word: str = "tree", dask: bool = False) -> None:
    """Steps in threads or on a cluster, which come to the same."""
    with executor_of(word, dask) as executor:

        def start(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
            return executor.submit(name, partial(call, *arguments), remote=True)

        called = list[Any]()
        futures = [start(f"count {number:05d}", step, number) for number in range(3)]
        futures[0].add_done_callback(called.append)
        assert [future.result() for future in futures] == [0, 1, 2]
        assert called == [futures[0]]
        assert dask or max(most) > 1
        assert (start("flaky 1", flaky, Path(tempfile.mkdtemp())).result() == os.getpid()) is not dask
        assert error_of(start("broken", broken)) == "InputError: broken"
        assert not dask or not start("signals", hears_ctrl_c).result()
        assert executor.submit("near", os.getpid).result() == executor.run("here", os.getpid) == os.getpid()
        assert executor.run("here", partial(step, 7)) == 7
        executor.progress("count", done=1, total=2)
        executor.progress("count", done=2, total=2)
        executor.artifact_table("Funnel_toy", [{"step": word, "read": 3}], "What was <b>read</b>.")


@flow(name="deadly")
def deadly(word: str) -> list[Any]:
    """What comes of a step that kills each worker which does it, and of the next one."""
    with executor_of(word, dask=True) as executor:
        given_up = error_of(executor.submit("deadly 00007", kills_itself, remote=True))
        return [given_up, executor.submit("later", partial(step, 3), remote=True).result()]


@flow(name="other")
def other() -> None:
    return None
