"""Fixtures: an upstream server on loopback, a registry that points to it, and a function that downloads from it."""

import hashlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data_catalog.downloads.annotation_files import DownloadJob, FileResult, download_file, download_lock
from data_catalog.downloads.download import DownloadConfig
from data_catalog.downloads.registry import UpstreamSource, parse_registry

CONFIG = DownloadConfig(timeout_s=5.0, num_tries=3, backoff_s=0.0)
TERMS = {
    "title": "Some captions",
    "license": "Some License 1.0",
    "terms": "Do as you like.",
    "page": "https://example.org/license",
    "recorded_in": "a test",
}

Fault = Callable[["_Handler"], None]


class Upstream(ThreadingHTTPServer):
    """Serves `files` by what is asked for (a path, or a URL when it is asked as a proxy), after the `faults` listed."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: defaultdict[str, list[Fault]] = defaultdict(list)
        self.requests: list[tuple[str, dict[str, str]]] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def headers_of(self, path: str) -> list[dict[str, str]]:
        """Return a header of each request."""
        return [headers for asked, headers in self.requests if asked == path]

    def status(self, code: int, **headers: str) -> Fault:
        return lambda handler: handler.answer(code, b"<html>sorry</html>", headers)

    def cut(self, num_bytes: int, data: bytes) -> Fault:
        """Return a response that announces the whole file and ends after some bytes."""
        return lambda handler: handler.answer(200, data[:num_bytes], version_of(data), announced=len(data))


class _Handler(BaseHTTPRequestHandler):
    server: Upstream

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers.items())))
        if self.server.faults[self.path]:
            self.server.faults[self.path].pop(0)(self)
        elif self.path in self.server.files:
            self.serve(self.server.files[self.path])
        else:
            self.answer(404, b"no such file", {})

    def serve(self, data: bytes) -> None:
        version = version_of(data)
        asked = self.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
        if asked and self.headers.get("If-Range") == version["ETag"]:
            part = {"Content-Range": f"bytes {asked}-{len(data) - 1}/{len(data)}"}
            self.answer(206, data[int(asked) :], version | part)
        else:
            self.answer(200, data, version)

    def answer(self, status: int, body: bytes, headers: dict[str, str], announced: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Silence."""


def version_of(data: bytes) -> dict[str, str]:
    return {"ETag": f'"{hashlib.sha256(data).hexdigest()[:8]}"'}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def captions() -> bytes:
    """Return a CC3M TSV of about 400 KB."""
    lines = (f"a caption of number {number}\thttps://example.org/{number}.jpg\n" for number in range(8_000))
    return "".join(lines).encode()


@pytest.fixture
def source() -> Callable[..., UpstreamSource]:
    """Return a function that makes a source from entries of a registry."""

    def make(*files: dict[str, Any], kind: str = "cc3m", **changes: str) -> UpstreamSource:
        document = {"some": {"kind": kind, **TERMS, **changes, "files": list(files)}}
        return parse_registry(document, named="registry")["some"]

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the data folder, which does not exist yet."""
    return tmp_path / "data"


@pytest.fixture
def get(folder: Path) -> Callable[[UpstreamSource], list[FileResult]]:
    """Return a function that downloads all files of a source, without waits between tries."""

    def act(source: UpstreamSource) -> list[FileResult]:
        job = DownloadJob(source=source, folder=folder, license_accepted=True, config=CONFIG)
        with download_lock(folder):
            return [each for file in source.files for each in download_file(file, job)]

    return act
