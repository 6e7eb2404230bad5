"""An executor that runs steps as Prefect tasks, and shows progress and tables of a run on Prefect's pages.

Prefect schedules, retries and displays, but no run depends on its memory. Results are neither persisted nor cached by
Prefect: each step looks on disk whether it is finished. Artifacts are only for people, and their texts are escaped. If
the server does not answer, a run loses only its artifacts.
"""

import contextvars
import logging
import re
import threading
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
from prefect.exceptions import PrefectException
from prefect.task_runners import ThreadPoolTaskRunner

from data_catalog.base.errors import TransientError
from data_catalog.base.plain_text import markdown_safe
from data_catalog.fetch.owner import Owners
from flows.build.execution import MOST_THREADS, RETRY_DELAYS_S, Future
from flows.build.windows import Spread

logger = logging.getLogger(__name__)

T = TypeVar("T")

SECONDS_BETWEEN_UPDATES = 2.0  # each update of an artifact is an HTTP request
LAST_UPDATE_S = 10.0  # that the end of a run waits for its last update


class RunProgress:
    """Counter of finished units by phase, with a total percentage that never decreases. Safe for threads.

    Args:
        phases: phases of the run in order; each is an equal part of the total. Other phases are named in the text, but
            do not count. If empty, all phases that are noted count.
    """

    def __init__(self, phases: Sequence[str] = ()) -> None:
        self._phases = tuple(phases)
        self._seen: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self.percent = 0.0

    def note(self, phase: str, *, done: int, total: int) -> None:
        """Record that `done` of `total` units of a phase are finished."""
        with self._lock:
            self._seen[phase] = done, total
            counts = [count for name, count in self._seen.items() if name in self._phases or not self._phases]
            shares = [min(1.0, done / total) if total else 1.0 for done, total in counts]
            self.percent = max(self.percent, 100.0 * sum(shares) / len(self._phases or self._seen))

    @property
    def text(self) -> str:
        """Return the running phases with their counts, or the last finished one."""
        with self._lock:
            seen = dict(self._seen)
        under_way = [f"{name}: {done:,} of {total:,}" for name, (done, total) in seen.items() if done < total]
        return ", ".join(under_way) or (f"{list(seen)[-1]}: done" if seen else "begun")


class PrefectExecutor:
    """An executor that runs calls as tasks of the current flow; use it as a context manager.

    On exit it waits for running calls, unless the process must end because of Ctrl-C or a cancelled run. A thread sends
    the progress, so that a slow or dead server never delays the run.

    Args:
        key: key of the progress artifact, such as "progress-build-dataset-scenes".
        phases: see `RunProgress`.
    """

    runs_remotely = False
    max_remote_calls: int | None = None
    spread: Spread | None = None
    owners: Owners | None = None

    def __init__(
        self, key: str = "progress", phases: Sequence[str] = (), *, retry_delays_s: Sequence[float] = RETRY_DELAYS_S
    ) -> None:
        self._key, self._progress = artifact_key(key), RunProgress(phases)
        self._retry_delays_s = list(retry_delays_s)
        self._runner = ThreadPoolTaskRunner[Any](max_workers=MOST_THREADS)
        self._ending, self._over = "", threading.Event()

    def __enter__(self) -> Self:
        self._runner.__enter__()
        context = contextvars.copy_context()  # tells Prefect which run the thread belongs to
        self._sender = threading.Thread(target=context.run, args=(self._send_progress,), name="progress", daemon=True)
        self._sender.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        must_end_soon = kind is not None and not issubclass(kind, Exception)
        if must_end_soon:
            threading.Thread(target=self._runner.cancel_all, daemon=True).start()
        else:
            self._runner.__exit__(kind, error, trace)
        self._ending = "done" if kind is None else "stopped"
        self._over.set()
        if not must_end_soon:
            self._sender.join(LAST_UPDATE_S)

    def submit(self, name: str, call: Callable[[], T], *, remote: bool = False) -> Future[T]:
        """Start a call as a task with the name of its step; its task run is called `name`."""
        return self._runner.submit(self._task(name, call), parameters={})

    def run(self, name: str, call: Callable[[], T]) -> T:
        """Run a call as a task in the flow's own thread; a call whose name is one word counts as a phase."""
        result = self._task(name, call)()
        if len(name.split()) == 1:
            self.progress(name, done=1, total=1)
        return result

    def _task(self, name: str, call: Callable[[], T]) -> Task[[], T]:
        """Return a task without parameters, since Prefect would inspect and store them."""
        return Task(
            fn=lambda: call(),  # Prefect accepts only functions
            name=name.split()[0],
            task_run_name=lambda: name,
            retries=len(self._retry_delays_s),
            retry_delay_seconds=self._retry_delays_s,
            retry_condition_fn=_is_transient,
            cache_policy=NO_CACHE,
            persist_result=False,
        )

    def artifact_table(self, key: str, rows: Sequence[Mapping[str, object]], description: str) -> None:
        """Create a table artifact of the flow run, with escaped texts."""
        table = [{name: markdown_safe(value) for name, value in row.items()} for row in rows]
        with never_fatal(f"the table {key}"):
            create_table_artifact(key=artifact_key(key), table=table, description=str(markdown_safe(description)))

    def progress(self, key: str, *, done: int, total: int) -> None:
        """Record that `done` of `total` units of a phase are finished; may be called from any thread."""
        self._progress.note(key, done=done, total=total)

    def _send_progress(self) -> None:
        """Keep the artifact up to date with the percentage and the running phases until the run ends."""
        artifact: UUID | None = None
        sent: tuple[float, str] | None = None
        wait_s, is_last = 0.0, False
        while not is_last:
            is_last, wait_s = self._over.wait(wait_s), SECONDS_BETWEEN_UPDATES
            percent, text = self._progress.percent, self._progress.text
            if is_last:
                percent, text = (100.0, "done") if self._ending == "done" else (percent, f"{self._ending}; {text}")
            if (percent, text) == sent:
                continue
            made, artifact = artifact, None  # after an error, perhaps as somebody has deleted it, another one is made
            description = str(markdown_safe(text))
            with never_fatal("the progress"):
                if made is None:
                    made = cast(UUID, create_progress_artifact(percent, key=self._key, description=description))
                else:
                    update_progress_artifact(made, percent, description=description)
                artifact, sent = made, (percent, text)


@contextmanager
def never_fatal(what: str) -> Iterator[None]:
    """Log a warning instead of an error of the server or of Prefect's client."""
    try:
        yield
    except (HTTPError, PrefectException) as error:
        logger.warning("the Prefect server does not accept %s: %s", what, error)


def artifact_key(text: str) -> str:
    """Return `text` as an artifact key of Prefect: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "artifact"


def _is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Return True if a task failed with `TransientError`."""
    return isinstance(state.result(raise_on_failure=False), TransientError)
