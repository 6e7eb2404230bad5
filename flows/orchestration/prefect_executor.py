"""Steps as Prefect tasks: the executor that shows a run, its progress and its tables on Prefect's pages.

Prefect schedules, retries and shows; it remembers nothing that a run depends on. No result is kept or cached: each step
asks the disk whether it is done. Artifacts are for people to look at, their texts escaped: a server that does not
answer costs the run nothing but them.
"""

import contextvars
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, cast
from uuid import UUID

from httpx import HTTPError
from prefect import Task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.task_runners import ThreadPoolTaskRunner

from data_catalog.errors import TransientError
from data_catalog.plain_text import markdown_safe
from flows.build.execution import MOST_THREADS, RETRY_DELAYS_S, Future

logger = logging.getLogger(__name__)

T = TypeVar("T")


class RunProgress:
    """Counts units done by phase; what it says of the whole never goes back.

    Args:
        phases: what the run will go through, in order; each counts as an equal part of the whole. Further ones that
            show up are named, and count for nothing. Without any, those that show up are all there is.
    """

    def __init__(self, phases: Sequence[str] = ()) -> None:
        self._phases = tuple(phases)
        self._seen: dict[str, tuple[int, int]] = {}
        self.percent = 0.0

    def note(self, phase: str, *, done: int, total: int) -> None:
        """Note that `done` of `total` units of a phase are done."""
        self._seen[phase] = done, total
        counts = [count for name, count in self._seen.items() if name in self._phases or not self._phases]
        shares = [min(1.0, done / total) if total else 1.0 for done, total in counts]
        self.percent = max(self.percent, 100.0 * sum(shares) / len(self._phases or self._seen))

    @property
    def text(self) -> str:
        """Return the phases under way with their counts, or the last one that is done."""
        under_way = [f"{name}: {done:,} of {total:,}" for name, (done, total) in self._seen.items() if done < total]
        if under_way:
            return ", ".join(under_way)
        return f"{list(self._seen)[-1]}: done" if self._seen else "begun"


# An artifact's update is an HTTP call: more often than this nobody could see it anyway.
SECONDS_BETWEEN_UPDATES = 2.0
# How long the end of a run may wait for its last update.
LAST_UPDATE_S = 10.0


class FlowArtifacts:
    """The one progress artifact of a flow run, and its tables; use it as a context manager, inside the flow.

    A thread of its own tells the server of progress, so that a slow or dead server never holds up the run.

    Args:
        key: of the progress artifact, such as "progress-build-dataset-scenes".
        phases: of `RunProgress`.
    """

    def __init__(self, key: str = "progress", phases: Sequence[str] = ()) -> None:
        self._key, self._progress = artifact_key(key), RunProgress(phases)
        self._ending: str | None = None
        self._lock, self._over = threading.Lock(), threading.Event()

    def __enter__(self) -> Self:
        context = contextvars.copy_context()  # with it the thread knows which run it speaks for
        self._thread = threading.Thread(target=context.run, args=(self._tell,), name="progress", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ending = "done" if kind is None else "stopped"
        self._over.set()
        if kind is None or issubclass(kind, Exception):  # else the process is to end, and soon
            self._thread.join(LAST_UPDATE_S)

    def progress(self, phase: str, *, done: int, total: int) -> None:
        """Note how many of `total` units of a phase are done; may be called from any thread."""
        with self._lock:
            self._progress.note(phase, done=done, total=total)

    def _tell(self) -> None:
        """Keep the artifact as new as the state (percent done, and what is under way), until the run is over."""
        artifact: UUID | None = None
        told: tuple[float, str] | None = None
        while True:
            is_last = self._over.wait(SECONDS_BETWEEN_UPDATES if artifact else 0)
            with self._lock:
                percent, text = self._progress.percent, self._progress.text
            if self._ending is not None:
                percent, text = (100.0, "done") if self._ending == "done" else (percent, f"{self._ending}; {text}")
            if (percent, text) != told:
                description = str(markdown_safe(text))
                with _never_fatal("progress"):
                    if artifact is None:
                        made = create_progress_artifact(percent, key=self._key, description=description)
                        artifact = cast(UUID, made)
                    else:
                        update_progress_artifact(artifact, percent, description=description)
                    told = percent, text
            if is_last:
                return
            if artifact is None:  # the server does not answer
                time.sleep(SECONDS_BETWEEN_UPDATES)

    def table(self, key: str, rows: Sequence[Mapping[str, object]], description: str) -> None:
        """Make a table an artifact of the flow run, its texts escaped."""
        table = [{name: markdown_safe(value) for name, value in row.items()} for row in rows]
        with _never_fatal(key):
            create_table_artifact(key=artifact_key(key), table=table, description=str(markdown_safe(description)))


@contextmanager
def _never_fatal(what: str) -> Iterator[None]:
    """Leave out what a silent or unwilling server does not take."""
    try:
        yield
    except HTTPError as error:
        logger.warning("Prefect's server does not take the artifact %s: %s", what, error)


def artifact_key(text: str) -> str:
    """Return `text` as Prefect wants artifact keys: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "artifact"


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
