"""A folder served on loopback addresses, by nginx where it is installed, with a log of when each request came."""

import getpass
import multiprocessing
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_START_S = 10.0
_NGINX = """\
{user}
worker_processes 1;
daemon off;
pid {work}/nginx.pid;
error_log {work}/error.log;
events {{ worker_connections 4096; }}
http {{
    log_format times '$msec $request_time $server_addr $uri';
    access_log {work}/requests.log times;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    types {{ image/jpeg jpg; }}
    sendfile on;
    server {{
{listen}
        root {folder};
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the server's log: when the request came, in seconds of the wall clock, to which address, for what."""

    time_s: float
    address: str
    path: str


@dataclass(frozen=True, slots=True)
class LoopbackServer:
    """A running server; `name` says which one it is."""

    name: str
    port: int
    log: Path

    def requests(self, start: int = 0) -> list[Request]:
        """What was asked, from a size of the log on, by time."""
        lines = self.log.read_bytes()[start:].decode().splitlines()
        fields = (line.split(" ", 3) for line in lines)
        found = [Request(float(end) - float(took), address, path) for end, took, address, path in fields]
        return sorted(found, key=lambda request: request.time_s)

    def log_size(self) -> int:
        """Bytes that the log has now."""
        return self.log.stat().st_size


@contextmanager
def serving(folder: Path, addresses: Sequence[str], work: Path) -> Iterator[LoopbackServer]:
    """Serve a folder on loopback addresses, all at one port; `work` is an empty folder for log and configuration."""
    port = _free_port()
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    log = work / "requests.log"
    log.touch()
    with _nginx(nginx, folder, addresses, work, port) if nginx else _own(folder, addresses, log, port):
        _wait_for(addresses, port)
        yield LoopbackServer("nginx" if nginx else "Python's http.server", port, log)


@contextmanager
def _nginx(program: str, folder: Path, addresses: Sequence[str], work: Path, port: int) -> Iterator[None]:
    listen = "\n".join(f"        listen {address}:{port};" for address in addresses)
    # Whoever starts it as root means that it reads what root has written.
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    text = _NGINX.format(user=user, work=work, listen=listen, folder=folder)
    (work / "nginx.conf").write_text(text, encoding="utf-8")
    command = [program, "-p", str(work), "-e", str(work / "error.log"), "-c", str(work / "nginx.conf")]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _own(folder: Path, addresses: Sequence[str], log: Path, port: int) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_serve, args=(folder, addresses, log, port), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _serve(folder: Path, addresses: Sequence[str], log: Path, port: int) -> None:
    with log.open("a", buffering=1, encoding="utf-8") as file:

        class Handler(SimpleHTTPRequestHandler):
            """Writes a line for each request when it comes, and nothing on the terminal."""

            def log_request(self, code: object = "-", size: object = "-") -> None:
                file.write(f"{time.time():.3f} 0 {self.server.server_address[0]} {self.path}\n")

            def log_message(self, *unused: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            """Keeps as many connections waiting as clients may open at once."""

            request_queue_size = 1024

        handler = partial(Handler, directory=str(folder))
        servers = [Server((address, port), handler) for address in addresses]
        threads = [threading.Thread(target=server.serve_forever) for server in servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_for(addresses: Sequence[str], port: int) -> None:
    end = time.monotonic() + _START_S
    for address in addresses:
        while True:
            try:
                socket.create_connection((address, port), 1.0).close()
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
