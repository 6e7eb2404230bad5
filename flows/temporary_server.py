"""A Prefect server that lives as long as the process that needs it: `python -m flows.temporary_server PORT`.

Prefect can start one by itself, but that one outlives a killed parent, and answers Ctrl-C with tracebacks. This one has
a session of its own, and ends when the pipe from its parent closes, however the parent ended.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from data_catalog.errors import PipelineError

HOST = "127.0.0.1"
NUM_TRIES = 3
START_TIMEOUT_S = 90.0
END_TIMEOUT_S = 5.0
POLL_S = 0.1


def start(log_path: Path, *, answers: Callable[[str], bool]) -> str:
    """Start a server that ends with this process.

    Args:
        log_path: where what it prints goes.
        answers: whether a Prefect API answers at a URL.

    Returns:
        The URL of its API.

    Raises:
        PipelineError: it does not start.
    """
    for _ in range(NUM_TRIES):
        url = _start_once(log_path, _free_port(), answers)
        if url is not None:
            return url
    words = "\n".join(log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
    raise PipelineError(
        f"Prefect's temporary server does not start: --executor local does without; the end of {log_path}:\n{words}"
    )


def _start_once(log_path: Path, port: int, answers: Callable[[str], bool]) -> str | None:
    """The URL of a server's API, or None if it ended by itself, as where somebody else took the port meanwhile."""
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "flows.temporary_server", str(port)],  # -P: whatever lies in this folder
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://{HOST}:{port}/api"
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        if answers(url):
            atexit.register(_end, process)
            return url
        time.sleep(POLL_S)
    _end(process)
    return None


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
