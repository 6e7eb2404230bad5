"""Prefect servers of ours, and runs of a flow in this process with a temporary one.

A server is what `prefect server start` is, on a socket that it inherits, so that nobody else can take its port. It runs
as a daemon; a temporary one also ends with the thread that started it, however that ends.
"""

import atexit
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.base.errors import BusyError
from data_catalog.disk.child_process import end_with_parent
from flows.orchestration.daemons import Daemon
from flows.orchestration.prefect_env import (
    ANSWERS,
    HOST,
    Api,
    answers,
    configured_api,
    new_api,
    prepare_process,
    probe,
    server_environment,
    state_folder,
)

if TYPE_CHECKING:
    from flows.recipe.recipe import Recipe

logger = logging.getLogger(__name__)


def run_flow(
    name: str,
    recipe: str,
    *,
    root: Path,
    overrides: Sequence[str] | Mapping[str, Any],
    loaded: "Recipe",
    project: Path,
    **options: Any,
) -> Any:
    """Do a job of the table, such as "build", as a flow in this process, and return its report.

    Args:
        recipe: name of the recipe, for Prefect's pages.
        loaded: the recipe itself.
        project: folder whose hidden folder keeps the history of runs, usually the current one.
    """
    from flows.jobs import get_ready
    from flows.recipe.recipe import override_values

    prepare_process()
    use_answering_api(project, meanwhile=lambda: get_ready(name, loaded, root))
    from prefect.exceptions import TerminationSignal

    from flows.orchestration.prefect_flows import flow_of

    # Prefect logs the traceback of a failure. Keep it off the terminal, as our caller gets the exception itself.
    for logged in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(logged).propagate = False
    try:
        return flow_of(name, loaded)(recipe=recipe, root=str(root), settings=override_values(overrides), **options)
    except TerminationSignal as error:  # Prefect has marked the run as crashed
        raise SystemExit(128 + signal.SIGTERM) from error


def use_answering_api(project: Path, *, meanwhile: Callable[[], object] = lambda: None) -> bool:
    """Let flows in this process use the configured API and return True, or a temporary server if it does not answer.

    Making its database takes a server half a minute, in which `meanwhile` is called.
    """
    api = configured_api()
    if api and answers(api, otherwise="this run uses a temporary server (`vernaclip up` starts a permanent one)"):
        return True
    logger.info("start Prefect for this run")
    api = _start_temporary(state_folder(project), meanwhile)
    from prefect.context import refresh_global_settings_context

    os.environ.update(api.environment())  # overrides all other settings of Prefect
    refresh_global_settings_context()
    # Prefect has read it; child processes that decode untrusted files must not have it.
    os.environ.pop("PREFECT_API_AUTH_STRING", None)
    return False


def _start_temporary(folder: Path, meanwhile: Callable[[], object]) -> Api:
    """Start a server with the first database that no other one uses; it is kept, as making one takes long."""
    with socket.create_server((HOST, 0)) as listener:
        api = new_api(listener.getsockname()[1])
        for number in count(1):
            server = Daemon(name=f"temporary-{number}", folder=folder)
            with suppress(BusyError):
                start_server(server, api, listener, folder / f"{server.name}.db", ends_with_us=True)
                break
    atexit.register(server.end, timeout_s=0)
    meanwhile()
    server.require(lambda: probe(api) == ANSWERS)
    return api


def start_server(
    server: Daemon, api: Api, listener: socket.socket, database: Path, *, ends_with_us: bool = False
) -> None:
    """Start a server on a bound socket, which has a copy of it."""
    command = ["flows.orchestration.server", str(listener.fileno()), *([str(os.getpid())] if ends_with_us else [])]
    environment = server_environment(api, database)
    server.start(command, api_url=api.url, environment=environment, inherited=[listener.fileno()])


def serve(listener: int, parent: int | None = None) -> None:
    """Run a server in this process; with a parent, without pages, and until the thread that started it ends."""
    if parent is not None:
        end_with_parent()
        if os.getppid() != parent:  # it has ended meanwhile
            return
    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(ephemeral=parent is not None, final=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[socket.socket(fileno=listener)])


if __name__ == "__main__":
    serve(*map(int, sys.argv[1:]))
