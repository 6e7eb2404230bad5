"""Flows of steps that say what they do: copied into the folder of a project that is tested."""

import logging
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow

from data_catalog.base.errors import InputError, PipelineError, TransientError
from flows.orchestration.prefect_executor import FlowArtifacts, PrefectExecutor

tries: dict[str, int] = {}
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


def failing(name: str, times: int, error: Exception) -> int:
    tries[name] = tries.get(name, 0) + 1
    if tries[name] <= times:
        raise error
    return tries[name]


@flow(name="toy")
def toy(word: str = "tree") -> None:
    artifacts = FlowArtifacts(f"progress-{word}", ("count", word, "here"))
    with PrefectExecutor(retry_delays_s=(0, 0), artifacts=artifacts) as executor:
        futures = [executor.submit(f"count {number:05d}", partial(step, number)) for number in range(3)]
        assert [future.result() for future in futures] == [0, 1, 2]
        assert max(most) > 1
        assert executor.submit("flaky 1", partial(failing, "flaky", 2, TransientError("again"))).result() == 3
        try:
            executor.submit("broken", partial(failing, "broken", 1, InputError("broken"))).result()
        except InputError:
            assert tries["broken"] == 1
        assert executor.run("here", partial(step, 3)) == 3
        executor.progress("count", done=1, total=2)
        executor.progress("count", done=2, total=2)
        executor.artifact_table("Funnel_toy", [{"step": word, "read": 3}], "What was <b>read</b>.")


@flow(name="other")
def other() -> None:
    return None


def flaky(folder: Path) -> int:
    """The id of the process that does what fails twice."""
    tries = len(list(folder.iterdir()))
    (folder / str(tries)).touch()
    if tries < 2:
        raise TransientError("again")
    return os.getpid()


def broken() -> None:
    raise InputError("broken")


def deadly() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hears_ctrl_c() -> bool:
    return signal.getsignal(signal.SIGINT) != signal.SIG_IGN


@flow(name="on-dask")
def on_dask(steps: str) -> dict[str, Any]:
    """Orderly or deadly steps on a cluster, and what they come to."""
    from flows.orchestration.dask_executor import DaskExecutor

    with DaskExecutor(1, root=Path("root"), retry_delays_s=(0, 0)) as executor:

        def there(name: str, call: Any, *arguments: Any) -> Any:
            return executor.submit(name, partial(call, *arguments), remote=True)

        def error_of(future: Any) -> str:
            try:
                return str(future.result())
            except PipelineError as error:
                return f"{type(error).__name__}: {error}"

        if steps == "deadly":
            return {"deadly": error_of(there("deadly 00007", deadly)), "after": there("later", step, 3).result()}
        folder, called = Path("tries").absolute(), list[Any]()
        folder.mkdir()
        first = there("step 00007", step, 7)
        first.add_done_callback(called.append)
        return {
            "first": first.result(),
            "flaky": there("flaky", flaky, folder).result() != os.getpid(),
            "broken": error_of(there("broken", broken)),
            "here": executor.run("here", os.getpid) == os.getpid(),
            "not remote": executor.submit("fetch 00000", os.getpid).result() == os.getpid(),
            "called": called == [first],
            "hears Ctrl-C": there("signals", hears_ctrl_c).result(),
        }
