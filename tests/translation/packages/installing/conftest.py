"""A server on loopback that offers the sample's package in an index, well or badly, and what installs from it."""

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_catalog.downloads.download import DownloadConfig
from translation.packages import package as archive
from translation.packages.install import Installation, install_from_index

SCENES = Path(__file__).resolve().parents[4] / "flows" / "packages" / "scenes-en_it.argosmodel"

Fault = Callable[["_Handler"], None]


class PackageServer(ThreadingHTTPServer):
    """Serves `files` by path, in parts and by version as a good server does, after the `faults` listed for the path."""

    daemon_threads = True
    config = DownloadConfig(timeout_s=5.0, num_tries=3, backoff_s=0.0)

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = SCENES.read_bytes()
        self.sha256 = hashlib.sha256(self.content).hexdigest()
        self.files = {"/p": self.content}
        self.faults: defaultdict[str, list[Fault]] = defaultdict(list)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.offer(self.url("/p"))

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def offer(self, *links: str, **changes: object) -> None:
        """Make the index one package."""
        entry = {"from_code": "en", "to_code": "it", "package_version": "1.0", "argos_version": "1.9", "links": links}
        self.files["/index.json"] = json.dumps([entry | changes]).encode()

    def headers_of(self, path: str) -> list[dict[str, str]]:
        """What was asked with, request by request."""
        return [headers for asked, headers in self.requests if asked == path]

    def status(self, code: int, **headers: str) -> Fault:
        """An error, or a redirect with `Location`."""
        return lambda handler: handler.answer(code, b"<html>sorry</html>", headers)

    def cut(self, num_bytes: int, data: bytes | None = None) -> Fault:
        """The file announced whole, and a connection that ends after some bytes."""
        whole = self.content if data is None else data
        return lambda handler: handler.answer(200, whole[:num_bytes], handler.version_of(whole), announced=len(whole))


class _Handler(BaseHTTPRequestHandler):
    server: PackageServer

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers.items())))
        faults = self.server.faults[self.path]
        if faults:
            faults.pop(0)(self)
        elif self.path in self.server.files:
            self.serve(self.server.files[self.path])
        else:
            self.answer(404, b"no such file", {})

    def serve(self, data: bytes) -> None:
        version = self.version_of(data)
        asked = self.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
        if self.headers.get("If-None-Match") == version["ETag"]:
            self.answer(304, b"", {})
        elif asked and self.headers.get("If-Range") == version["ETag"]:
            part = {"Content-Range": f"bytes {asked}-{len(data) - 1}/{len(data)}"}
            self.answer(206, data[int(asked) :], version | part)
        else:
            self.answer(200, data, version)

    def version_of(self, data: bytes) -> dict[str, str]:
        return {"ETag": f'"{hashlib.sha256(data).hexdigest()[:8]}"'}

    def answer(self, status: int, body: bytes, headers: dict[str, str], announced: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Silence."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageServer]:
    """One that offers the sample's package as en-it 1.0; Argos's environment variable names it."""
    with PackageServer() as packages:
        threading.Thread(target=packages.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setenv("ARGOS_PACKAGE_INDEX", packages.url("/"))
        yield packages
        packages.shutdown()


@pytest.fixture
def packages_dir(tmp_path: Path) -> Path:
    """Where packages go; it is not there yet."""
    return tmp_path / "argos" / "packages"


@pytest.fixture
def install(packages_dir: Path) -> Callable[..., Installation]:
    """Installs en-it from the index, impatiently; takes `sha256` and `config`."""

    def act(sha256: str = "", config: DownloadConfig = PackageServer.config) -> Installation:
        return install_from_index("en", "it", packages_dir, sha256=sha256, config=config)

    return act


@pytest.fixture
def repacked(tmp_path: Path) -> Callable[..., Path]:
    """Packs the sample's package again with other files or other metadata; returns the new file."""

    def act(name: str, *, top: str = "", files: dict[str, str] | None = None, **metadata: str) -> Path:
        folder = archive.extract(SCENES, tmp_path / name)
        texts = dict(files or {})
        if metadata:
            known = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
            texts["metadata.json"] = json.dumps(known | metadata)
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
        archive.pack(folder, tmp_path / f"{name}.argosmodel", top=top or folder.name)
        return tmp_path / f"{name}.argosmodel"

    return act
