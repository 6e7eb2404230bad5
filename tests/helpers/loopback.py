"""Web servers on loopback for tests: a server that runs within a `with`, and a handler that logs nothing."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any


class LoopbackServer(ThreadingHTTPServer):
    """A server on a port that nobody listens on. `stopping` is set when it ends."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, handler: Callable[..., BaseHTTPRequestHandler], address: str = "127.0.0.1") -> None:
        super().__init__((address, 0), handler)
        self.stopping = threading.Event()

    def server_bind(self) -> None:
        """Bind, without the look-up of the host's name, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def url(self, path: str = "", name: str = "") -> str:
        return f"http://{name or self.server_name}:{self.server_port}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that give up are what tests are about."""

    def __enter__(self) -> Any:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.stopping.set()
        self.shutdown()
        super().__exit__(*args)


class LoopbackHandler(BaseHTTPRequestHandler):
    def answer(self, status: int, body: bytes = b"", announced: int | None = None, **headers: str) -> None:
        """Send a whole response, with the length of its body or another one."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Silence."""
