"""A Prefect server for the process that needs it: `python -m flows.orchestration.temporary_server PORT`.

Prefect can start one by itself, but that one outlives a killed parent, and answers Ctrl-C with tracebacks. This one has
a session of its own, and ends when the pipe from its parent closes, however the parent ended.
"""

import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from data_catalog.errors import InputError, SettingsError
from flows.orchestration.daemons import try_lock
from flows.orchestration.prefect_env import (
    Api,
    configured_api,
    new_auth_string,
    probe,
    server_environment,
    state_folder,
)

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
NUM_TRIES = 3
START_TIMEOUT_S = 90.0
END_TIMEOUT_S = 5.0
POLL_S = 0.1


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
    answer = probe(api) if api else "silent"
    if api and answer == "answers":
        return api
    if api and answer == "refuses":
        raise SettingsError(
            f"the Prefect server at {api.url} refuses the auth string: set PREFECT_API_AUTH_STRING, "
            "or unset PREFECT_API_URL"
        )
    if api:
        logger.warning(
            "no Prefect server answers at %s: this run uses a temporary one (`vernaclip up` starts a lasting one)",
            api.url,
        )
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
    log_path = folder / "temporary-server.log"
    with _own_database(folder) as (database, lock):
        for _ in range(NUM_TRIES):
            api = Api(url=f"http://{HOST}:{_free_port()}/api", auth_string=new_auth_string())
            if _starts(api, database, lock, log_path):
                return api
    words = "\n".join(log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
    raise InputError(
        f"Prefect's temporary server does not start: --executor local does without; the end of {log_path}:\n{words}"
    )


@contextmanager
def _own_database(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield a database that no other server uses, and the descriptor of its lock, which the server inherits.

    It stays for the next temporary server, since making a new one takes Prefect longer than all else that it starts.
    """
    for number in count(1):
        with (folder / f"temporary-{number}.lock").open("a", encoding="ascii") as lock:
            if try_lock(lock.fileno()):
                yield folder / f"temporary-{number}.db", lock.fileno()
                return


def _starts(api: Api, database: Path, lock: int, log_path: Path) -> bool:
    """Start a server; False if it ended by itself, as where somebody else took the port meanwhile."""
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "flows.orchestration.temporary_server",
                api.port,
            ],  # -P: whatever lies in this folder
            env={**os.environ, **server_environment(api, database)},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        if probe(api) == "answers":
            atexit.register(_end, process)
            return True
        time.sleep(POLL_S)
    _end(process)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(timeout=END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


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
