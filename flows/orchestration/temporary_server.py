"""A Prefect server for the process that needs it: `python -m flows.orchestration.temporary_server PORT`.

Prefect can start one by itself, but that one outlives a killed parent, and answers Ctrl-C with tracebacks. This one has
a session of its own, and ends when the pipe from its parent closes, however the parent ended.
"""

import atexit
import os
import signal
import socket
import sys
import threading
import time
from functools import partial
from itertools import count
from pathlib import Path

from data_catalog.errors import BusyError, InputError
from flows.orchestration import daemons
from flows.orchestration.daemons import Daemon
from flows.orchestration.prefect_env import (
    HOST,
    Api,
    answers,
    configured_api,
    new_auth_string,
    probe,
    server_environment,
    state_folder,
)

NUM_TRIES = 3
START_TIMEOUT_S = 90.0
END_TIMEOUT_S = 5.0


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
    _use(start(state_folder(project)))
    return None


def _use(api: Api) -> None:
    """Name an API in our environment, which goes before all other settings of Prefect."""
    from prefect.context import refresh_global_settings_context

    os.environ.update(api.environment())
    refresh_global_settings_context()
    os.environ.pop("PREFECT_API_AUTH_STRING", None)  # Prefect has read it; children that decode others' files need not


def start(folder: Path) -> Api:
    """Start a server that ends with this process.

    Args:
        folder: where its database and its log go, beside those of other servers.

    Raises:
        InputError: it does not start.
    """
    for _ in range(NUM_TRIES):  # somebody else may take the port meanwhile
        api = Api(url=f"http://{HOST}:{_free_port()}/api", auth_string=new_auth_string())
        server, pipe = _started(api, folder)
        if daemons.wait_until(partial(_is_up, api), server, timeout_s=START_TIMEOUT_S):
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


def _is_up(api: Api) -> bool:
    return probe(api) == "answers"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _end(server: Daemon, pipe: int) -> None:
    os.close(pipe)
    if not daemons.wait_for_end(server, timeout_s=END_TIMEOUT_S):
        daemons.kill(server)


def serve(port: int) -> None:
    """Run a server without pages in this process until its standard input closes."""
    import uvicorn
    from prefect.server.api.server import create_app

    threading.Thread(target=_end_with_parent, daemon=True).start()
    uvicorn.run(create_app(ephemeral=True, final=True), host=HOST, port=port, log_level="error")


def _end_with_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_TIMEOUT_S)
    os._exit(1)  # it hangs: nobody needs it any more


if __name__ == "__main__":
    serve(int(sys.argv[1]))
