"""A build of images whose processes are killed again and again: nothing is lost, and its shards are the same bytes."""

import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.images.children import MAX_EARLY_DEATHS

# The parent: fetches and normalises all shards, two at a time, each step committed once.
BUILD = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pyarrow as pa
from data_catalog.fetch.config import FetchConfig, HostLimits
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.images.workers import ImageWorkers
from data_catalog.storage.work import StepKey, WorkStore
root, url, num_shards, num_rows = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
store = WorkStore(root / "work")
store.sweep()
limits = HostLimits(concurrency=64, requests_per_s=0)
config = FetchConfig(timeout_s=20, threads=16, backoff_s=0.01, hosts={"127.0.0.1": limits}, allow_loopback=True)

def build(shard):
    names = [f"{shard}-{row}" for row in range(num_rows)]
    nothing = pa.nulls(num_rows, pa.string())
    columns = [pa.array(names), pa.array([url + name for name in names]), nothing, nothing]
    requests = pa.table(columns, names=["sample_id", "url", "path", "location"])
    def fetch(folder):
        workers.fetch(requests, config, folder / "shard.parquet")
        return {}
    raw = store.run(StepKey(step="fetch", version=1, inputs=(str(shard),)), fetch)
    def normalise(folder):
        workers.normalise(raw.path("shard.parquet"), NormaliseConfig(image_size=32), folder / "shard.parquet")
        return {}
    store.run(StepKey(step="normalise", version=1, inputs=(str(shard), raw.files["shard.parquet"])), normalise)

with ImageWorkers(root / "hosts") as workers, ThreadPoolExecutor(2) as threads:
    list(threads.map(build, range(num_shards)))
"""


def body_of(name: str) -> bytes | None:
    """A small JPEG of its own for each name; some are cut short, and some are gone."""
    row = int(name.split("-")[1])
    if row % 50 == 7:
        return None
    buffer = io.BytesIO()
    Image.frombytes("L", (48, 48), random.Random(name).randbytes(48) * 48).save(buffer, "JPEG")
    return buffer.getvalue()[: -200 if row % 50 == 11 else None]


def reason_of(name: str) -> str | None:
    row = int(name.split("-")[1])
    return {7: "http_404", 11: "truncated"}.get(row % 50)


class Gallery(ThreadingHTTPServer):
    """Serves the pictures, and counts them."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.num_served = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients are killed here."""


class _Handler(BaseHTTPRequestHandler):
    server: Gallery

    def do_GET(self) -> None:
        body = None if self.path == "/robots.txt" else body_of(self.path[1:])
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")
        self.server.num_served += 1

    def log_message(self, *args: object) -> None:
        """Silence."""


@pytest.fixture(scope="module")
def gallery() -> Iterator[Gallery]:
    with Gallery() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


def children(pid: int) -> list[int]:
    try:
        return [
            int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_running(pid: int) -> bool:
    """False for a zombie, too: nobody may have come to collect an orphan yet."""
    try:
        return (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]) != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass
class Attack:
    """Kills the build or one of its children whenever so many more pictures have been served."""

    gallery: Gallery
    command: list[str]
    rng: random.Random
    every: int
    killed: list[str] = field(default_factory=list)
    build: "subprocess.Popen[bytes] | None" = None

    def run(self, num_kills: int) -> None:
        """Kill so many times, then let the build come to its end.

        It may give up if its child was killed too often before it came to a row; then the same command goes on.
        """
        before = 0
        while True:
            if self.build is None:
                self.build, before = subprocess.Popen(self.command), len(self.killed)
            if len(self.killed) == num_kills:
                status = self.build.wait()
            elif (status := self._wait_for_pictures()) is None:
                self._kill()
                continue
            if status == 0:
                return
            if self.killed[before:].count("child") < MAX_EARLY_DEATHS:
                pytest.fail(f"gave up with status {status}, after {self.killed}")
            self.build = None

    def _wait_for_pictures(self) -> int | None:
        assert self.build is not None
        enough = self.gallery.num_served + self.rng.randint(self.every // 10, 2 * self.every)
        while self.gallery.num_served < enough:
            if self.build.poll() is not None:
                return self.build.returncode
            time.sleep(0.005)
        return None

    def _kill(self) -> None:
        assert self.build is not None
        family = children(self.build.pid)
        if not family or self.rng.random() < 0.4:
            self.build.kill()
            self.build.wait()
            self.build = None
            self.killed.append("build")
            for _ in range(1000):
                if not any(map(is_running, family)):
                    return
                time.sleep(0.02)
            pytest.fail("orphans go on")
        os.kill(self.rng.choice(family), signal.SIGKILL)
        self.killed.append("child")


def shards(root: Path) -> dict[str, bytes]:
    """The bytes of all that is committed, by step and key."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("work/*/*/shard.parquet")}


def prove(gallery: Gallery, folder: Path, *, num_shards: int, num_rows: int, num_kills: int, every: int) -> None:
    def command(root: Path) -> list[str]:
        return [sys.executable, "-c", BUILD, str(root), gallery.url, str(num_shards), str(num_rows)]

    subprocess.run(command(folder / "calm"), check=True)
    seed = random.SystemRandom().randrange(2**32)
    attack = Attack(gallery, command(folder / "killed"), random.Random(seed), every)
    attack.run(num_kills)
    assert len(attack.killed) >= num_kills, f"seed {seed}: too few: {attack.killed}"
    killed = shards(folder / "killed")
    assert len(killed) == 2 * num_shards
    assert killed == shards(folder / "calm"), f"seed {seed}, after {attack.killed}"
    names = sorted(f"{shard}-{row}" for shard in range(num_shards) for row in range(num_rows))
    made = folder / "killed" / "work" / "normalise"
    rows = [row for path in made.rglob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert sorted(row["sample_id"] for row in rows) == names
    assert [(row["sample_id"], row["drop_reason"]) for row in rows] == [
        (row["sample_id"], reason_of(row["sample_id"])) for row in rows
    ]
    assert not list((folder / "killed/work").rglob(".tmp*"))


@pytest.mark.slow
def test_a_build_that_is_killed_four_times(gallery: Gallery, tmp_path: Path) -> None:
    prove(gallery, tmp_path, num_shards=6, num_rows=100, num_kills=4, every=80)


@pytest.mark.slow
def test_a_build_of_20_000_images_that_is_killed_thirty_times(gallery: Gallery, tmp_path: Path) -> None:
    prove(gallery, tmp_path, num_shards=40, num_rows=500, num_kills=30, every=300)
