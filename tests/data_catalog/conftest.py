"""A web server on loopback that misbehaves in every way the real web does, and the images it serves."""

import io
import itertools
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback import LoopbackHandler, LoopbackServer
from PIL import Image

from data_catalog.fetch.config import FetchConfig, HostLimits
from data_catalog.fetch.workers import ImageWorkers
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.rows.schema import IMAGES, RAW_IMAGES

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


class HostileServer(LoopbackServer):
    """Serves `files` by path, and runs `behaviours` by path; counts the requests and keeps their headers."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        super().__init__(_Handler, address)
        self.files: dict[str, bytes] = {}
        self.behaviours: dict[str, Callable[[_Handler], None]] = {}
        self.hits: Counter[str] = Counter()
        self.seen: dict[str, dict[str, str]] = {}


class _Handler(LoopbackHandler):
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

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


@pytest.fixture(scope="session")
def server() -> Iterator[HostileServer]:
    with HostileServer() as hostile:
        yield hostile


@pytest.fixture(scope="session")
def make_site() -> Iterator[Callable[[], HostileServer]]:
    """A factory of servers, each on a host of its own: 127.0.1.2, 127.0.1.3, ..."""
    numbers = itertools.count(258)
    with ExitStack() as sites:
        yield lambda: sites.enter_context(HostileServer("127.0.{}.{}".format(*divmod(next(numbers), 256))))


class RequestLog:
    """When requests came, and how many were under way at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0
        self.most = 0
        self.times: list[float] = []

    def answer(self, it: _Handler, body: bytes, seconds: float = 0.0, *, status: int = 200, **headers: str) -> None:
        with self._lock:
            self.times.append(time.monotonic())
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        it.server.stopping.wait(seconds)
        with self._lock:
            self._under_way -= 1
        it.answer(status, body, **headers)


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
    limits = {"timeout_s": 1.0, "deadline_s": 2.0, "max_bytes": 1_000_000, "max_redirects": 3, "retries": 0}
    hosts = {"127.0.0.1": HostLimits(concurrency=64, requests_per_s=0)}
    return FetchConfig(**limits, threads=48, hosts=hosts, allow_loopback=True)


@pytest.fixture(scope="session")
def make_requests() -> Callable[..., pa.Table]:
    """From (url, path, location) triples, or URLs alone, to what `ImageWorkers.fetch` takes."""

    def build(*rows: tuple[str | None, str | None, str | None] | str | None) -> pa.Table:
        triples = [row if isinstance(row, tuple) else (row, None, None) for row in rows]
        requests = [(f"test:{index}", *triple) for index, triple in enumerate(triples)]
        schema = pa.schema([(name, pa.string()) for name in ("sample_id", "url", "path", "location")])
        return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in requests], schema)

    return build


@pytest.fixture(scope="session")
def pictures() -> dict[str, bytes]:
    """Image files, good and bad, by name."""
    plain, palette = gradient(120, 80), gradient(64, 48).quantize(16)
    jpeg = encode(plain, "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "green", "blue")]
    return {
        "plain.jpg": jpeg,
        "commented.jpg": encode(plain, "JPEG", comment=b"not for the dataset"),
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "upright.jpg": encode(plain, "JPEG", exif=exif),
        "cmyk.jpg": encode(plain.convert("CMYK"), "JPEG"),
        "progressive.jpg": encode(plain, "JPEG", progressive=True),
        "grey.png": encode(plain.convert("L"), "PNG"),
        "deep.png": encode(Image.new("I;16", (64, 48), 40_000), "PNG"),
        "clear.png": encode(Image.new("RGBA", (64, 48), (255, 0, 0, 0)), "PNG"),
        "palette.png": encode(palette, "PNG", transparency=0),
        "bilevel.png": encode(plain.convert("1"), "PNG"),
        "cut.png": encode(plain, "PNG")[:-200],
        "plain.webp": encode(plain, "WEBP"),
        "plain.avif": encode(plain, "AVIF"),
        "plain.bmp": encode(plain, "BMP"),
        "plain.tif": encode(plain, "TIFF"),
        "still.gif": encode(palette, "GIF"),
        "animated.gif": encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "pages.tif": encode(plain, "TIFF", save_all=True, append_images=[plain]),
        "stereo.mpo": encode(plain, "MPO", save_all=True, append_images=[plain]),
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


def _rows(path: Path, ids: Sequence[str]) -> Rows:
    """The rows of a file, of these samples in order, each with bytes or a reason."""
    rows: Rows = pq.read_table(path).to_pylist()
    assert [row["sample_id"] for row in rows] == ids
    assert all((row["bytes"] is None) == (row["drop_reason"] is not None) for row in rows)
    return rows


@pytest.fixture
def fetch(workers: ImageWorkers, quick: FetchConfig, make_requests: Any, tmp_path: Path) -> Callable[..., Rows]:
    """The rows that come of `fetch(*requests, config=quick, by=workers)`, read from the file."""

    def run(*requests: Any, config: FetchConfig = quick, by: ImageWorkers = workers) -> Rows:
        table = make_requests(*requests)
        by.fetch(table, config, tmp_path / "raw.parquet", log=tmp_path / "log.parquet")
        return _rows(tmp_path / "raw.parquet", table.column("sample_id").to_pylist())

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
        by.normalise([out.with_suffix(".raw")], config, out)
        assert pq.read_schema(out) == IMAGES
        return _rows(out, [row["sample_id"] for row in raw])

    return run


@pytest.fixture(scope="session")
def children() -> Callable[..., set[int]]:
    """`children(kind, of=None)`: ids of the processes of a kind that a process, by default this one, has.

    "fetch": the fetching process; "decoders": the one that loads decoders; "decode": those that decode.
    """
    modules = {"fetch": b"data_catalog.fetch.owner"}

    def find(kind: str, of: int | None = None) -> set[int]:
        found, parents = set(), {of or os.getpid()}
        if kind == "decode":
            parents = find("decoders", of)
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                _, parent, *_ = stat.read_text().rpartition(")")[2].split()
                words = (stat.parent / "cmdline").read_bytes().split(b"\0")
            except (OSError, ValueError):
                continue  # it has ended meanwhile
            if int(parent) in parents and modules.get(kind, b"data_catalog.images.decoders") in words:
                found.add(int(stat.parent.name))
        return found

    return find
