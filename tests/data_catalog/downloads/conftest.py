"""An upstream server on loopback, a registry that points to it, and downloads from it."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from loopback import LoopbackHandler, LoopbackServer

from data_catalog.downloads.annotation_files import DownloadJob, FileResult, download_file, download_lock
from data_catalog.downloads.download import DownloadConfig
from data_catalog.downloads.registry import UpstreamSource, parse_registry

CONFIG = DownloadConfig(timeout_s=5.0, num_tries=3, backoff_s=0.0)
PLACE = "cc3m/train.tsv"
TERMS = {"title": "Some captions", "license": "Some License 1.0", "terms": "Do as you like.", "recorded_in": "a test"}

Fault = Callable[["_Handler"], None]


class Upstream(LoopbackServer):
    """Serves `files` by what is asked for (a path, or a URL when it is asked as a proxy), after the `faults` listed."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.files: dict[str, bytes] = {}
        self.faults: defaultdict[str, list[Fault]] = defaultdict(list)
        self.requests: list[tuple[str, dict[str, str]]] = []

    def headers_of(self, path: str) -> list[dict[str, str]]:
        return [headers for asked, headers in self.requests if asked == path]

    def status(self, code: int, **headers: str) -> Fault:
        return lambda handler: handler.answer(code, b"<html>sorry</html>", **headers)

    def cut(self, num_bytes: int, data: bytes) -> Fault:
        """A response that announces the whole file and ends after some bytes."""
        return lambda handler: handler.answer(200, data[:num_bytes], len(data), **version_of(data))


class _Handler(LoopbackHandler):
    server: Upstream

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers.items())))
        if self.server.faults[self.path]:
            self.server.faults[self.path].pop(0)(self)
        elif self.path in self.server.files:
            self.serve(self.server.files[self.path])
        else:
            self.answer(404, b"no such file")

    def serve(self, data: bytes) -> None:
        version = version_of(data)
        asked = self.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
        if asked and self.headers.get("If-Range") == version["ETag"]:
            part = {"Content-Range": f"bytes {asked}-{len(data) - 1}/{len(data)}"}
            self.answer(206, data[int(asked) :], **version, **part)
        else:
            self.answer(200, data, **version)


def version_of(data: bytes) -> dict[str, str]:
    return {"ETag": f'"{hashlib.sha256(data).hexdigest()[:8]}"'}


@dataclass(frozen=True)
class Site:
    """An upstream server, a data folder that does not exist yet, and downloads from the one to the other."""

    upstream: Upstream
    folder: Path
    captions: bytes  # a CC3M TSV of about 400 KB, served at /p

    def entry(self, data: bytes | None = None, **changes: Any) -> dict[str, Any]:
        """Serve data, by default the captions, and return its entry of the registry; None removes a key."""
        data = self.upstream.files["/p"] = self.captions if data is None else data
        known = {"file": PLACE, "url": self.upstream.url("/p"), "sha256": hashlib.sha256(data).hexdigest()}
        return {key: value for key, value in (known | changes).items() if value is not None}

    def source(self, *files: Any, kind: str = "cc3m", **changes: str) -> UpstreamSource:
        """Return a source with entries of a registry."""
        known = {"kind": kind, "page": "https://example.org/license", **TERMS, **changes}
        return parse_registry({"some": {**known, "files": list(files)}})["some"]

    def get(self, entry: Any, *, config: DownloadConfig = CONFIG, kind: str = "cc3m") -> list[FileResult]:
        """Download the file of an entry, without waits between tries."""
        source = self.source(entry, kind=kind)
        job = DownloadJob(source=source, folder=self.folder, license_accepted=True, config=config)
        with download_lock(self.folder):
            return download_file(source.files[0], job)

    def tree(self) -> list[str]:
        """Return the files below the data folder, without the lock."""
        found = (path for path in self.folder.rglob("*") if path.is_file() and path.name != ".writer-lock")
        return sorted(path.relative_to(self.folder).as_posix() for path in found)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    lines = (f"a caption of number {number}\thttps://example.org/{number}.jpg\n" for number in range(8_000))
    with Upstream() as server:
        yield Site(upstream=server, folder=tmp_path / "data", captions="".join(lines).encode())
