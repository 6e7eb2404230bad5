"""Server of a folder of files over loopback HTTP while a flow runs: the recipe section `[serve]`.

The folder may contain `.rules.json`, an object of rules by URL path, for other answers than the file itself:

    {"/a.jpg": {"status": 503, "times": 1, "retry_after_s": 1},    the first request (per `serve`) fails
     "/b.jpg": {"location": "/moved/b.jpg"},                       302
     "/c.jpg": {"content_type": "text/html"}}                      the file is sent with this type
"""

import logging
import mimetypes
import socketserver
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from data_catalog.base.boundary import about
from data_catalog.base.errors import BusyError, InputError
from data_catalog.disk.files import read_json

logger = logging.getLogger(__name__)

RULES_FILE = ".rules.json"
_IDLE_CONNECTION_S = 30


@contextmanager
def serve(folder: Path, port: int) -> Iterator[str]:
    """Serve the files below a folder to this machine until the block ends; yield the base URL, without a final slash.

    Names that start with a dot are never served. Port 0 is any free one.
    """
    if not folder.is_dir():
        raise InputError(f"serve.folder {folder} is not a folder: create it first, or correct the path")
    rules = read_json(folder / RULES_FILE) if (folder / RULES_FILE).is_file() else {}
    with about(f"serve.port {port}", kind=BusyError, remedy="stop the program that uses it, or set another port"):
        server = _FolderServer(port, folder.resolve(), rules)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="serve", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _FolderServer(socketserver.ThreadingTCPServer):
    """Server of one `serve` call: its folder, its rules, and the number of requests of each path with a rule."""

    allow_reuse_address = True  # allows a port in TIME_WAIT, but not one that another program listens on
    request_queue_size = 256
    daemon_threads = True

    def __init__(self, port: int, folder: Path, rules: dict[str, dict[str, Any]]) -> None:
        self.folder, self._rules = folder, rules
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _FileHandler)

    def rule_for(self, path: str) -> dict[str, Any]:
        """Return the rule for this request of `path`; a rule with `times` applies to that many requests."""
        rule = self._rules.get(path, {})
        with self._lock:
            self._asked[path] += bool(rule)
            return rule if self._asked[path] <= rule.get("times", self._asked[path]) else {}

    def file_at(self, path: str) -> Path | None:
        """Return the file at an unquoted URL path; None for a folder, a dotted name, or a link that leads outside."""
        parts = path.split("/")[1:]
        if "\0" in path or any(not part or part.startswith(".") for part in parts):
            return None
        try:
            file = self.folder.joinpath(*parts).resolve()  # follows links
            return file if file.is_relative_to(self.folder) and file.is_file() else None
        except (OSError, RuntimeError):  # a name that is too long, or circular links
            return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log errors of a request at debug level instead of printing them; clients often close connections."""
        logger.debug("serve: request from %s broke off", client_address, exc_info=True)


class _FileHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "vernaclip-serve"
    timeout = _IDLE_CONNECTION_S
    wbufsize = -1  # headers and body in one packet
    server: _FolderServer

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug("serve: " + format, *args)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path, errors="surrogateescape")
        rule, file = self.server.rule_for(path), self.server.file_at(path)
        if "location" in rule:
            self._send(302, Location=rule["location"])
        elif "status" in rule:
            self._send(rule["status"], b"not now\n", Retry_After=rule.get("retry_after_s", 0))
        elif file is None:
            self._send(404, b"not found\n")
        else:
            kind = rule.get("content_type") or mimetypes.guess_type(file.name, strict=False)[0]
            self._send(200, file.read_bytes(), Content_Type=kind or "application/octet-stream")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def _send(self, status: int, body: bytes = b"", **headers: object) -> None:
        self.send_response(status)
        for name, value in {
            "Content_Type": "text/plain; charset=utf-8",
            "Content_Length": len(body),
            **headers,
        }.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()
