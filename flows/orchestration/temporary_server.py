"""A flow in this process, with the Prefect server that is up, or one that ends with the process.

Prefect can start a server by itself, but that one outlives a killed parent, and answers Ctrl-C with tracebacks. This
one, `python -m flows.orchestration.temporary_server PORT`, has a session of its own, and ends when the pipe from its
parent closes, however the parent ended.
"""

import atexit
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from data_catalog.errors import BusyError, InputError
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
)

NUM_TRIES = 3
START_TIMEOUT_S = 90.0
END_TIMEOUT_S = 5.0


def run_flow(
    name: str,
    recipe: str,
    *,
    root: Path,
    overrides: Sequence[str] | Mapping[str, Any],
    project: Path,
    **parameters: bool,
) -> Any:
    """Run one of the flows in this process, with the server that is up or a temporary one.

    Args:
        name: "build-dataset", "train-clip", "evaluate-clip" or "build-and-train".
        recipe: name or file of a recipe.
        root: folder of the catalog.
        overrides: settings that differ from the recipe's.
        project: folder that keeps the history of runs, in a hidden folder of its own; usually the current one.
        parameters: further ones of the flow.

    Returns:
        What the jobs of `flows.jobs` return: one report, or for "build-and-train" a tuple of three.

    Raises:
        PipelineError: whatever the job raises; InputError where this environment breaks Prefect.
    """
    from flows.doctor import require_sound_environment  # none of it is for the server's own process
    from flows.recipe.recipe import load_recipe, override_values

    require_sound_environment()
    load_recipe(recipe, root=root, overrides=overrides)  # what is wrong with it is said before Prefect's long start
    prepare_process()
    use_answering_api(project)
    from prefect.exceptions import TerminationSignal

    from flows.orchestration.prefect_flows import FLOWS

    # Prefect logs a failure's traceback: that belongs on its own pages; our caller gets the exception itself.
    for logged in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(logged).propagate = False
    try:
        return FLOWS[name](recipe=recipe, root=str(root), settings=override_values(overrides), **parameters)
    except TerminationSignal as error:  # the run is marked as crashed: no traceback says more
        raise SystemExit(128 + signal.SIGTERM) from error


def use_answering_api(project: Path) -> Api | None:
    """Make sure that a flow in this process finds an API: the configured one, or a temporary server's.

    A configured server that is silent is no reason to fail: it is left aside, and a warning says so.

    Returns:
        The API in use, or None for the temporary server.

    Raises:
        SettingsError: the configured server refuses our auth string.
        InputError: a temporary server does not start.
    """
    api = configured_api()
    if api and answers(api, otherwise="this run uses a temporary one (`vernaclip up` starts a lasting one)"):
        return api
    from prefect.context import refresh_global_settings_context

    os.environ.update(start(state_folder(project)).environment())  # which goes before all other settings of Prefect
    refresh_global_settings_context()
    os.environ.pop("PREFECT_API_AUTH_STRING", None)  # Prefect has read it; children that decode others' files need not
    return None


def start(folder: Path) -> Api:
    """Start a server that ends with this process.

    Args:
        folder: where its database and its log go, beside those of other servers.

    Raises:
        InputError: it does not start.
    """
    for _ in range(NUM_TRIES):  # somebody else may take the port meanwhile
        with socket.socket() as free:
            free.bind((HOST, 0))
            port = free.getsockname()[1]
        api = Api(url=f"http://{HOST}:{port}/api", auth_string=new_auth_string())
        server, pipe = _started(api, folder)
        if daemons.wait_until(api.is_up, server, timeout_s=START_TIMEOUT_S):
            atexit.register(_end, server, pipe)
            return api
        _end(server, pipe)
    raise InputError(
        "Prefect's temporary server does not start: --executor local does without; the end of "
        f"{server.log_path}:\n{server.last_words()}"
    )


def _started(api: Api, folder: Path) -> tuple[Daemon, int]:
    """Start a server with a database that no other one uses; return it, and the pipe that it lives by.

    The database stays for the next temporary server, since making a new one takes Prefect longer than all else that it
    starts.
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
        os._exit(1)  # it hangs: nobody needs it any more

    threading.Thread(target=end_with_parent, daemon=True).start()
    uvicorn.run(create_app(ephemeral=True, final=True), host=HOST, port=port, log_level="error")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
