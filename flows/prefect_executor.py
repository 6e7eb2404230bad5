"""Steps as Prefect tasks: the executor that shows a run in Prefect's pages.

Prefect schedules, retries and shows; it remembers nothing that a run depends on. No result is kept or cached: each step
asks the disk whether it is done.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast
from uuid import UUID

from prefect import Task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.task_runners import ThreadPoolTaskRunner

from data_catalog.errors import ConfigError, TransientError
from flows.execution import RETRY_DELAYS_S, Future, Lane
from flows.tables import markdown_safe

P = ParamSpec("P")
T = TypeVar("T")

# An artifact's update is an HTTP call: more often than this nobody could see it anyway.
SECONDS_BETWEEN_UPDATES = 2.0


class PrefectExecutor:
    """Steps as tasks of the flow that is running, in at most `max_workers` threads; use it as a context manager.

    Raises:
        ConfigError: `max_workers` is not positive.
    """

    def __init__(self, max_workers: int, *, retry_delays_s: Sequence[float] = RETRY_DELAYS_S) -> None:
        if max_workers < 1:
            raise ConfigError(f"max_workers must be positive, got {max_workers}")
        self._runner = ThreadPoolTaskRunner[Any](max_workers=max_workers)
        self._lanes: dict[str, ThreadPoolTaskRunner[Any]] = {}
        self._retry_delays_s = list(retry_delays_s)
        self._progress: dict[str, tuple[UUID, float]] = {}

    def __enter__(self) -> Self:
        self._runner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for runner in (self._runner, *self._lanes.values()):
            runner.__exit__(kind, error, trace)

    def submit(self, name: str, step: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a step as a task named after its kind, its run named `name`."""
        task = self._task(name, lambda: step(*args, **kwargs))
        return self._runner.submit(task, parameters={})

    def submit_in_lane(
        self, lane: Lane, name: str, step: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Start a step as a task as soon as the lane has room."""
        if lane.name not in self._lanes:
            self._lanes[lane.name] = ThreadPoolTaskRunner[Any](max_workers=lane.width)
            self._lanes[lane.name].__enter__()
        return self._lanes[lane.name].submit(self._task(name, lambda: step(*args, **kwargs)), parameters={})

    def run(self, name: str, step: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Do a step as a task in the flow's own thread."""
        return self._task(name, lambda: step(*args, **kwargs))()

    def _task(self, name: str, call: Callable[[], T]) -> Task[[], T]:
        """A task without parameters: Prefect would look through them, and store what it finds."""
        return Task(
            fn=call,
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
        table = [{name: markdown_safe(value) for name, value in row.items()} for row in rows]
        create_table_artifact(key=artifact_key(key), table=table, description=str(markdown_safe(description)))

    def progress(self, key: str, *, done: int, total: int) -> None:
        """Move the progress artifact `key` of this run, at most once in a while."""
        percent = 100.0 * done / total if total else 100.0
        description = f"{key}: {done:,} of {total:,}"
        now = time.monotonic()
        if key not in self._progress:
            found = create_progress_artifact(percent, key=artifact_key(key), description=description)
            self._progress[key] = cast(UUID, found), now  # a coroutine only where a loop runs
            return
        artifact, updated = self._progress[key]
        if done >= total or now - updated >= SECONDS_BETWEEN_UPDATES:
            update_progress_artifact(artifact, percent, description=description)
            self._progress[key] = artifact, now


def artifact_key(text: str) -> str:
    """`text` as Prefect wants artifact keys: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "artifact"


def _is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    try:
        state.result()
    except TransientError:
        return True
    except Exception:  # noqa: BLE001 - whatever else it was, the task's own future raises it
        return False
    return False
