"""Runs of a flow in this process, with the configured Prefect server or with a temporary one.

Prefect can start a temporary server itself, but that one outlives a killed parent, and prints tracebacks on Ctrl-C. Our
server, `python -m flows.orchestration.temporary_server PORT`, has its own session. It ends when the pipe from its
parent closes, however the parent has ended.
"""

import atexit
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.base.errors import BusyError, InputError
from flows.orchestration import daemons
from flows.orchestration.daemons import Daemon
from flows.orchestration.prefect_env import (
    HOST,
    Api,
    answers,
    configured_api,
    new_auth_string,
    prepare_process,
    server_environment,
    state_folder,
    wait_for,
)

if TYPE_CHECKING:
    from flows.recipe.recipe import Recipe

logger = logging.getLogger(__name__)

NUM_TRIES = 3
END_TIMEOUT_S = 5.0


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
    """Run a flow in this process, with the configured server if it answers, or with a temporary one.

    Args:
        name: name of a job in `flows.jobs.JOBS`.
        recipe: name or file of a recipe.
        root: folder of the catalog.
        overrides: settings that override those of the recipe.
        project: folder in whose hidden subfolder the history of runs is kept; usually the current one.
        loaded: the recipe, if it is loaded already.
        parameters: further parameters of the flow.

    Returns:
        The report of the job.

    Raises:
        PipelineError: any error of the job.
        InputError: the temporary server does not start.
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
    """Let flows in this process use the configured API, or start a temporary server if it does not answer.

    A configured server that is silent is ignored with a warning. A new database takes a server half a minute, in which
    `meanwhile` is called.

    Returns:
        The configured API, or None if a temporary server is used.

    Raises:
        SettingsError: the configured server refuses our credentials.
        InputError: a temporary server does not start.
    """
    api = configured_api()
    if api and answers(api, otherwise="this run uses a temporary server (`vernaclip up` starts a permanent one)"):
        return api
    logger.info("start Prefect for this run")
    api = start(state_folder(project), meanwhile)
    from prefect.context import refresh_global_settings_context

    os.environ.update(api.environment())  # overrides all other settings of Prefect
    refresh_global_settings_context()
    # Prefect has read it; child processes that decode untrusted files must not have it.
    os.environ.pop("PREFECT_API_AUTH_STRING", None)
    return None


def start(folder: Path, meanwhile: Callable[[], None]) -> Api:
    """Start a server that ends with this process; call `meanwhile` before waiting for it.

    Args:
        folder: folder for its database and its log, beside those of other servers.
        meanwhile: work that needs no server.

    Raises:
        InputError: the server does not start.
    """
    for _ in range(NUM_TRIES):  # another program may take the port meanwhile
        with socket.socket() as free:
            free.bind((HOST, 0))
            port = free.getsockname()[1]
        api = Api(url=f"http://{HOST}:{port}/api", auth_string=new_auth_string())
        server, pipe = _start_process(api, folder)
        atexit.register(_end, server, pipe)
        meanwhile()
        if wait_for(api, server) == "answers":
            return api
        atexit.unregister(_end)
        _end(server, pipe)
    raise InputError(
        "the temporary Prefect server does not start. Use --executor local to run without Prefect. The end of "
        f"{server.log_path}:\n{server.last_words()}"
    )


def _start_process(api: Api, folder: Path) -> tuple[Daemon, int]:
    """Start a server with a database of its own; return the server, and the pipe whose closing ends it.

    The database is kept for the next temporary server, since Prefect needs most of its start-up time to create one.
    """
    command = [sys.executable, "-m", "flows.orchestration.temporary_server", api.port]
    for number in count(1):
        server = Daemon(name=f"temporary-{number}", folder=folder)
        environment = server_environment(api, folder / f"{server.name}.db")
        read, pipe = os.pipe()
        try:
            daemons.start(server, command, environment=environment, working_dir=Path.cwd(), stdin=read)
        except BusyError:
            os.close(pipe)
            continue
        finally:
            os.close(read)
        return server, pipe
    raise AssertionError  # `count` has no end


def _end(server: Daemon, pipe: int) -> None:
    """Close the pipe of a server, and kill the server if it does not end."""
    os.close(pipe)
    if not daemons.wait_for_end(server, timeout_s=END_TIMEOUT_S):
        daemons.kill(server)


def serve(port: int) -> None:
    """Run a server without pages in this process until its standard input closes."""
    import uvicorn
    from prefect.server.api.server import create_app

    def end_with_parent() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(END_TIMEOUT_S)
        os._exit(1)  # the server hangs

    threading.Thread(target=end_with_parent, daemon=True).start()
    uvicorn.run(create_app(ephemeral=True, final=True), host=HOST, port=port, log_level="error")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
