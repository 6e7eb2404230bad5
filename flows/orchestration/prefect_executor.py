"""Steps as Prefect tasks: the executor that shows a run in Prefect's pages.

Prefect schedules, retries and shows; it remembers nothing that a run depends on. No result is kept or cached: each step
asks the disk whether it is done.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.task_runners import ThreadPoolTaskRunner

from data_catalog.errors import TransientError
from flows.build.execution import MOST_THREADS, RETRY_DELAYS_S, Future
from flows.orchestration.prefect_artifacts import FlowArtifacts

T = TypeVar("T")


class PrefectExecutor:
    """Calls as tasks of the flow that is running; use it as a context manager.

    Leaving it waits for what runs, unless the process is to end: by Ctrl-C, or since the run was cancelled.

    Args:
        artifacts: what the run shows of its progress.
    """

    submits_elsewhere = False
    most_elsewhere: int | None = None

    def __init__(
        self, *, retry_delays_s: Sequence[float] = RETRY_DELAYS_S, artifacts: FlowArtifacts | None = None
    ) -> None:
        self._runner = ThreadPoolTaskRunner[Any](max_workers=MOST_THREADS)
        self._retry_delays_s = list(retry_delays_s)
        self._artifacts = artifacts or FlowArtifacts()

    def __enter__(self) -> Self:
        self._runner.__enter__()
        self._artifacts.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):
            threading.Thread(target=self._runner.cancel_all, daemon=True).start()
        else:
            self._runner.__exit__(kind, error, trace)
        self._artifacts.__exit__(kind, error, trace)

    def submit(self, name: str, call: Callable[[], T], *, elsewhere: bool = False) -> Future[T]:
        """Start a call as a task named after its kind, its run named `name`."""
        return self._runner.submit(self._task(name, call), parameters={})

    def run(self, name: str, call: Callable[[], T]) -> T:
        """Do a call as a task in the flow's own thread; one that is the only one of its kind is a phase by itself."""
        result = self._task(name, call)()
        if len(name.split()) == 1:
            self.progress(name, done=1, total=1)
        return result

    def _task(self, name: str, call: Callable[[], T]) -> Task[[], T]:
        """Make a task without parameters: Prefect would look through them, and store what it finds."""
        return Task(
            fn=lambda: call(),  # Prefect takes no other callables than functions
            name=name.split()[0],
            task_run_name=lambda: name,
            retries=len(self._retry_delays_s),
            retry_delay_seconds=self._retry_delays_s,
            retry_condition_fn=_is_transient,
            cache_policy=NO_CACHE,
            persist_result=False,
        )

    def artifact_table(self, key: str, rows: Sequence[Mapping[str, object]], description: str) -> None:
        """Make the table an artifact of the flow run, its texts escaped."""
        self._artifacts.table(key, rows, description)

    def progress(self, key: str, *, done: int, total: int) -> None:
        """Move the run's progress artifact on: `key` is one of its phases."""
        self._artifacts.progress(key, done=done, total=total)


def _is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    try:
        state.result()
    except TransientError:
        return True
    except Exception:  # noqa: BLE001 - whatever else it was, the task's own future raises it
        return False
    return False
