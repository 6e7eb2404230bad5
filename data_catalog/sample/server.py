"""Server of a folder of files over loopback HTTP while a flow runs: the recipe section `[serve]`.

The folder may contain `.rules.json`, an object of rules by URL path, for other answers than the file itself:

    {"/a.jpg": {"status": 503, "times": 1, "retry_after_s": 1},    the first request (per `serve`) fails
     "/b.jpg": {"location": "/moved/b.jpg"},                       302
     "/c.jpg": {"content_type": "text/html"}}                      the file is sent with this type
"""

import json
import logging
import os
import socketserver
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from data_catalog.errors import BusyError, InputError, SettingsError

logger = logging.getLogger(__name__)

RULES_FILE = ".rules.json"
_RULE_KEYS = {"status", "times", "retry_after_s", "location", "content_type"}
_IDLE_CONNECTION_S = 30
_CONTENT_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".html": "text/html; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".json": "application/json",
}


@contextmanager
def serve(folder: Path, port: int, *, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve the files below `folder` until the block ends; yield the base URL, without a final slash.

    Args:
        folder: an existing folder; names that start with a dot are never served.
        port: port, or 0 for any free one.
        host: a loopback IPv4 address.
    """
    try:
        is_loopback = IPv4Address(host).is_loopback
    except AddressValueError:
        is_loopback = False
    if not is_loopback:
        raise SettingsError(
            f"serve: {host} is not a loopback address. Files are served to this machine only: use 127.0.0.1"
        )
    if not folder.is_dir():
        raise InputError(f"serve.folder {folder} is not a folder: create it first, or correct the path")
    rules = _read_rules(folder / RULES_FILE)
    try:
        server = _FolderServer((host, port), folder.resolve(), rules)
    except (OSError, OverflowError) as error:
        raise BusyError(
            f"serve.port {port} on {host} cannot be used ({error}): stop the program that uses it, or set another port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="serve", daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _read_rules(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    try:
        rules = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): correct it or remove it") from error
    if not isinstance(rules, dict) or not all(isinstance(r, dict) and r.keys() <= _RULE_KEYS for r in rules.values()):
        raise InputError(f"{path} must be an object of rules by path, each with keys among {sorted(_RULE_KEYS)}")
    return rules


class _FolderServer(socketserver.ThreadingTCPServer):
    """Server of one `serve` call: its folder, its rules, and the number of requests of each path with a rule."""

    allow_reuse_address = True  # allows a port in TIME_WAIT, but not one that another program listens on
    request_queue_size = 256
    daemon_threads = True
    block_on_close = False  # do not wait for idle keep-alive connections

    def __init__(self, address: tuple[str, int], folder: Path, rules: dict[str, dict[str, Any]]) -> None:
        self.folder, self.rules = folder, rules
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        super().__init__(address, _FileHandler)

    def rule_for(self, path: str) -> dict[str, Any]:
        """Return the rule for this request of `path`; a rule with `times` applies to that many requests."""
        rule = self.rules.get(path)
        if rule is None:
            return {}
        with self._lock:
            self._asked[path] += 1
            spent = self._asked[path] > rule.get("times", self._asked[path])
        return {} if spent else rule

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
        rule = self.server.rule_for(path)
        if "location" in rule:
            self._send(302, b"", {"Location": rule["location"]})
        elif "status" in rule:
            extra = {"Retry-After": str(rule["retry_after_s"])} if "retry_after_s" in rule else {}
            self._send(rule["status"], b"not now\n", extra)
        elif (file := _file_at(self.server.folder, path)) is None:
            self._send(404, b"not found\n", {})
        else:
            usual = _CONTENT_TYPES.get(file.suffix.lower(), "application/octet-stream")
            self._send(200, file.read_bytes(), {"Content-Type": rule.get("content_type") or usual})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "text/plain; charset=utf-8", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()


def _file_at(folder: Path, path: str) -> Path | None:
    """Return the file below `folder` at an unquoted URL path, or None.

    None is also returned for folders, for names that start with a dot, and for links that lead outside `folder`.
    """
    parts = path.split("/")[1:]
    if "\0" in path or os.sep != "/" or not parts or any(not part or part.startswith(".") for part in parts):
        return None
    try:
        file = folder.joinpath(*parts).resolve()  # follows links, so that one leading outside is detected
        return file if file.is_relative_to(folder) and file.is_file() else None
    except (OSError, RuntimeError):  # a name that is too long, or circular links
        return None
