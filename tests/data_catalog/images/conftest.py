"""A web server on loopback that misbehaves in every way the real web does, and the images it serves."""

import io
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.fetch.config import FetchConfig, HostLimits
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.images.workers import ImageWorkers
from data_catalog.schema import IMAGES, RAW_IMAGES

Rows = list[dict[str, Any]]
SMALL = NormaliseConfig(image_size=32)


def gradient(width: int, height: int) -> Image.Image:
    """A smooth RGB picture whose four corners differ: dark, red, green, yellow."""
    red = Image.linear_gradient("L").rotate(90).resize((width, height))
    green = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (red, green, Image.new("L", (width, height), 40)))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """The file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


class HostileServer(ThreadingHTTPServer):
    """Serves `files` by path, and runs `behaviours` by path; counts the requests and keeps their headers."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: str = "127.0.0.1") -> None:
        super().__init__((address, 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.behaviours: dict[str, Callable[[_Handler], None]] = {}
        self.hits: Counter[str] = Counter()
        self.seen: dict[str, dict[str, str]] = {}
        self.stopping = threading.Event()

    def server_bind(self) -> None:
        """Bind, without the look-up of the host's name, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def url(self, path: str) -> str:
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}{path}"

    def start(self) -> None:
        """Serve in a thread of its own until `stop`."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that give up are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: HostileServer

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.hits[path] += 1
        self.server.seen[path] = dict(self.headers.items())
        if path in self.server.behaviours:
            self.server.behaviours[path](self)
        elif path in self.server.files:
            self.answer(200, self.server.files[path])
        else:
            self.answer(404, b"no such file")

    def answer(self, status: int, body: bytes, announced: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.end_headers()
        self.wfile.write(body)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def drip(self, head: bytes, byte: bytes) -> None:
        """One byte every 50 ms, for ever."""
        self.wfile.write(head)
        while not self.server.stopping.wait(0.05):
            self.wfile.write(byte)

    def log_message(self, *args: object) -> None:
        """Silence."""


@pytest.fixture(scope="session")
def server() -> Iterator[HostileServer]:
    hostile = HostileServer()
    hostile.start()
    yield hostile
    hostile.stop()


@pytest.fixture(scope="session")
def make_site() -> Iterator[Callable[[], HostileServer]]:
    """A factory of servers, each on a host of its own: 127.0.1.2, 127.0.1.3, ..."""
    sites: list[HostileServer] = []

    def start() -> HostileServer:
        site = HostileServer(f"127.0.{1 + len(sites) // 250}.{2 + len(sites) % 250}")
        sites.append(site)
        site.start()
        return site

    yield start
    for site in sites:
        site.stop()


class RequestLog:
    """When requests came, and how many were under way at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0
        self.most = 0
        self.times: list[float] = []

    def answer(self, it: _Handler, body: bytes, seconds: float = 0.0) -> None:
        with self._lock:
            self.times.append(time.monotonic())
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        it.server.stopping.wait(seconds)
        with self._lock:
            self._under_way -= 1
        it.answer(200, body)


@pytest.fixture(scope="session")
def request_log() -> type[RequestLog]:
    return RequestLog


@pytest.fixture(scope="session")
def workers() -> Iterator[ImageWorkers]:
    with ImageWorkers() as image_workers:
        yield image_workers


@pytest.fixture(scope="session")
def quick() -> FetchConfig:
    """Small limits, loopback allowed."""
    return FetchConfig(
        timeout_s=1.0,
        deadline_s=2.0,
        max_bytes=1_000_000,
        max_redirects=3,
        retries=0,
        threads=48,
        hosts={"127.0.0.1": HostLimits(concurrency=64, requests_per_s=0)},
        allow_loopback=True,
    )


@pytest.fixture(scope="session")
def make_requests() -> Callable[..., pa.Table]:
    """From (url, path, location) triples, or URLs alone, to what `ImageWorkers.fetch` takes."""

    def build(*rows: tuple[str | None, str | None, str | None] | str | None) -> pa.Table:
        triples = [row if isinstance(row, tuple) else (row, None, None) for row in rows]
        columns: dict[str, list[str | None]] = {"sample_id": [f"test:{index}" for index in range(len(rows))]}
        for place, name in enumerate(("url", "path", "location")):
            columns[name] = [triple[place] for triple in triples]
        return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})

    return build


@pytest.fixture(scope="session")
def pictures() -> dict[str, bytes]:
    """Image files, good and bad, by name."""
    plain = gradient(120, 80)
    jpeg = encode(plain, "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.frombytes("I;16", (64, 48), b"".join(struct.pack("<H", 40_000) for _ in range(64 * 48)))
    clear = Image.new("RGBA", (64, 48), (255, 0, 0, 0))
    palette = gradient(64, 48).quantize(16)
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "green", "blue")]
    return {
        "plain.jpg": jpeg,
        "commented.jpg": encode(plain, "JPEG", comment=b"not for the dataset"),
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "upright.jpg": encode(plain, "JPEG", exif=exif),
        "cmyk.jpg": encode(plain.convert("CMYK"), "JPEG"),
        "progressive.jpg": encode(plain, "JPEG", progressive=True),
        "grey.png": encode(plain.convert("L"), "PNG"),
        "deep.png": encode(deep, "PNG"),
        "clear.png": encode(clear, "PNG"),
        "palette.png": encode(palette, "PNG", transparency=0),
        "bilevel.png": encode(plain.convert("1"), "PNG"),
        "cut.png": encode(plain, "PNG")[:-200],
        "plain.webp": encode(plain, "WEBP"),
        "plain.avif": encode(plain, "AVIF"),
        "plain.bmp": encode(plain, "BMP"),
        "plain.tif": encode(plain, "TIFF"),
        "still.gif": encode(palette, "GIF"),
        "animated.gif": encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated.webp": encode(plain, "WEBP", save_all=True, append_images=[plain.rotate(180)]),
        "animated.png": encode(plain, "PNG", save_all=True, append_images=[plain.rotate(180)]),
        "animated.avif": encode(plain, "AVIF", save_all=True, append_images=[plain.rotate(180)]),
        "pages.tif": encode(plain, "TIFF", save_all=True, append_images=[plain]),
        "stereo.mpo": encode(plain, "MPO", save_all=True, append_images=[gradient(120, 80)]),
        "float.tif": encode(Image.new("F", (64, 48), 0.5), "TIFF"),
        "icon.ico": encode(plain, "ICO"),
        "dot.png": encode(Image.new("RGB", (1, 1)), "PNG"),
        "line.png": encode(Image.new("RGB", (5000, 3)), "PNG"),
        "drawing.svg": b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "page.html": b"\n<!DOCTYPE html><html><body>Not found, but 200</body></html>",
        "noise": bytes((index * 7919 + 13) % 251 for index in range(4096)),
        "header.jpg": jpeg[:30],
        "header.png": b"\x89PNG\r\n\x1a\n and then nothing of the kind" + bytes(100),
    }


@pytest.fixture(scope="session")
def gradient_of() -> Callable[[int, int], Image.Image]:
    """A smooth picture of a width and a height."""
    return gradient


@pytest.fixture(scope="session")
def file_of() -> Callable[..., bytes]:
    """The file of a picture: `file_of(image, kind, **options)`."""
    return encode


@pytest.fixture
def fetch(
    workers: ImageWorkers, quick: FetchConfig, make_requests: Callable[..., pa.Table], tmp_path: Path
) -> Callable[..., Rows]:
    """The rows that come of `fetch(*requests, config=quick, by=workers)`, read from the file."""

    def run(*requests: Any, config: FetchConfig = quick, by: ImageWorkers = workers) -> Rows:
        by.fetch(make_requests(*requests), config, tmp_path / "raw.parquet", log=tmp_path / "log.parquet")
        rows: Rows = pq.read_table(tmp_path / "raw.parquet").to_pylist()
        assert [row["sample_id"] for row in rows] == [f"test:{index}" for index in range(len(requests))]
        assert all((row["bytes"] is None) == (row["drop_reason"] is not None) for row in rows)
        return rows

    return run


@pytest.fixture(scope="session")
def normalise(workers: ImageWorkers, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Rows]:
    """The rows that come of bodies; None stands for one that was not fetched. `out`: the file, else a temporary one."""

    def run(
        bodies: Sequence[bytes | None],
        config: NormaliseConfig = SMALL,
        *,
        by: ImageWorkers = workers,
        out: Path | None = None,
    ) -> Rows:
        out = out or tmp_path_factory.mktemp("normalise") / "images.parquet"
        raw = [
            {"sample_id": f"raw:{index}", "drop_reason": None if body else "dns", "sha256": "0" * 64, "bytes": body}
            for index, body in enumerate(bodies)
        ]
        pq.write_table(pa.Table.from_pylist(raw, schema=RAW_IMAGES), out.with_suffix(".raw"))
        by.normalise(out.with_suffix(".raw"), config, out)
        table = pq.read_table(out)
        assert table.schema == IMAGES
        rows: Rows = table.to_pylist()
        assert [row["sample_id"] for row in rows] == [f"raw:{index}" for index in range(len(bodies))]
        assert all((row["bytes"] is None) == (row["drop_reason"] is not None) for row in rows)
        return rows

    return run


@pytest.fixture(scope="session")
def children() -> Callable[..., set[int]]:
    """`children(kind, of=None)`: ids of the image processes of that kind that a process, by default this one, has."""

    def find(kind: str, of: int | None = None) -> set[int]:
        found = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                command = (stat.parent / "cmdline").read_bytes().split(b"\0")
            except (OSError, IndexError):
                continue  # it has ended meanwhile
            if parent == (of or os.getpid()) and b"data_catalog.images.children" in command:
                found |= {int(stat.parent.name)} if kind.encode() in command else set()
        return found

    return find


# Runs in a process of its own, so that nothing but fetching and normalising is measured.
_APART = """
import json, resource, sys
from pathlib import Path
import pyarrow.parquet as pq
from data_catalog.fetch.config import FetchConfig
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.images.workers import ImageWorkers
folder = Path(sys.argv[1])
config = FetchConfig.from_values(json.loads((folder / "config.json").read_text()))
with ImageWorkers() as workers:
    workers.fetch(pq.read_table(folder / "requests"), config, folder / "raw")
    workers.normalise(folder / "raw", NormaliseConfig(image_size=32), folder / "images")
# Not RUSAGE_SELF: across fork and exec it keeps the size of the process that started this one.
own_kb = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(own_kb, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@dataclass(frozen=True)
class ShardRun:
    """Rows by URL after fetching and after normalising, and the most memory in MB that one process took."""

    raw: dict[str, dict[str, Any]]
    images: dict[str, dict[str, Any]]
    peak_mb: float


@pytest.fixture(scope="session")
def run_apart(
    make_requests: Callable[..., pa.Table], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., ShardRun]:
    """Fetches and normalises URLs, all different, in a process of its own whose environment has `variables`, too."""

    def run(urls: Sequence[str], config: FetchConfig, **variables: str) -> ShardRun:
        assert len(set(urls)) == len(urls)
        folder = tmp_path_factory.mktemp("apart")
        pq.write_table(make_requests(*urls), folder / "requests")
        (folder / "config.json").write_text(json.dumps(config.to_values()))
        command = [sys.executable, "-c", _APART, str(folder)]
        done = subprocess.run(command, env={**os.environ, **variables}, stdout=subprocess.PIPE, check=True, text=True)
        raw, images = (pq.read_table(folder / name).to_pylist() for name in ("raw", "images"))
        peak_mb = max(map(int, done.stdout.split())) / 1024
        return ShardRun(dict(zip(urls, raw, strict=True)), dict(zip(urls, images, strict=True)), peak_mb)

    return run
