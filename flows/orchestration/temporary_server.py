"""Runs of a flow in this process, with the configured Prefect server or with a temporary one.

The temporary server is the one that Prefect starts itself, in a child process of ours: Prefect's own outlives a killed
parent, and puts site-packages first on its path, where a backport of `dataclasses` may hide the standard library's.
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
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.base.errors import InputError
from data_catalog.disk.child_process import ChildProcess, end_with_parent
from flows.orchestration.daemons import try_lock
from flows.orchestration.prefect_env import (
    HOST,
    START_TIMEOUT_S,
    Api,
    answers,
    configured_api,
    prepare_process,
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
    project: Path,
    loaded: "Recipe | None" = None,
    **parameters: Any,
) -> Any:
    """Do a job of the table, such as "build", as a flow in this process, and return its report.

    The recipe may be `loaded` already. The history of runs is kept in a hidden folder of the project, usually the
    current one.
    """
    from flows.jobs import get_ready
    from flows.recipe.recipe import load_recipe, override_values

    # Fail before the slow start of Prefect, not after it.
    found = loaded or load_recipe(recipe, root=root, overrides=overrides)
    prepare_process()
    use_answering_api(project, meanwhile=lambda: get_ready(name, found, root))
    from prefect.exceptions import TerminationSignal

    from flows.orchestration.prefect_flows import flow_of

    # Prefect logs the traceback of a failure. Keep it off the terminal, as our caller gets the exception itself.
    for logged in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(logged).propagate = False
    try:
        return flow_of(name, found)(recipe=recipe, root=str(root), settings=override_values(overrides), **parameters)
    except TerminationSignal as error:  # Prefect has marked the run as crashed
        raise SystemExit(128 + signal.SIGTERM) from error


def use_answering_api(project: Path, *, meanwhile: Callable[[], None] = lambda: None) -> Api | None:
    """Let flows in this process use the configured API, and return it; or a temporary server if it does not answer.

    A new database takes a server half a minute, in which `meanwhile` is called. The server ends with the thread that
    calls this function.
    """
    api = configured_api()
    if api and answers(api, otherwise="this run uses a temporary server (`vernaclip up` starts a permanent one)"):
        return api
    logger.info("start Prefect for this run")
    api = _start(state_folder(project), meanwhile)
    from prefect.context import refresh_global_settings_context

    os.environ.update(api.environment())  # overrides all other settings of Prefect
    refresh_global_settings_context()
    # Prefect has read it; child processes that decode untrusted files must not have it.
    os.environ.pop("PREFECT_API_AUTH_STRING", None)
    return None


def _start(folder: Path, meanwhile: Callable[[], None]) -> Api:
    """Start a server whose database is in a folder; call `meanwhile` before waiting for it."""
    server = ChildProcess("flows.orchestration.temporary_server", str(folder))
    atexit.register(server.close)
    meanwhile()
    with suppress(EOFError):  # it has ended
        if server.socket.poll(START_TIMEOUT_S):
            api: Api = server.socket.recv()
            return api
    raise InputError(
        "the temporary Prefect server does not start. Use --executor local to run without Prefect. The end of its "
        f"output:\n{server.printed()}"
    )


def serve(parent: Connection, folder: Path) -> None:
    """Run a server without pages in this process; send its API to the parent when it answers.

    It has the first database that no other server uses, which is kept for the next temporary server, since Prefect
    needs most of its start-up time to create one.
    """
    end_with_parent()
    for number in count(1):
        database = folder / f"temporary-{number}.db"
        lock = database.with_suffix(".lock").open("a")  # for as long as this process lives
        if try_lock(lock.fileno()):
            break
    listener = socket.create_server((HOST, 0))
    api = Api.of_ours(listener.getsockname()[1])
    os.environ.update(server_environment(api, database))
    import uvicorn
    from prefect.server.api.server import create_app

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            parent.send(api)

    app = create_app(ephemeral=True, final=True)
    Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), Path(sys.argv[2]))
