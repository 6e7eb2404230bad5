"""Fetching processes that are killed, cut off or left without a disk: what it costs, and what it leaves behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.errors import DamagedError
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.consent import ConsentConfig
from data_catalog.fetch.shard import FETCH_LOG
from data_catalog.images.workers import ImageWorkers

MakeRequests = Callable[..., pa.Table]


def fetching_children() -> set[int]:
    """Process ids of this process's fetching children."""
    found = set()
    for path in Path("/proc/self/task").glob("*/children"):
        for pid in path.read_text().split():
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"data_catalog.images.children" in command and b"fetch" in command:
                found.add(int(pid))
    return found


@pytest.fixture
def own_workers(tmp_path: Path) -> Iterator[ImageWorkers]:
    """Workers whose only child is the one that no other test knows of."""
    with ImageWorkers(tmp_path / "hosts") as image_workers:
        yield image_workers


@pytest.fixture
def others() -> set[int]:
    """Children of other tests' workers."""
    return fetching_children()


def kill(others: set[int]) -> None:
    for pid in fetching_children() - others:
        os.kill(pid, signal.SIGKILL)


def reasons(path: Path) -> list[str | None]:
    found: list[str | None] = pq.read_table(path)["drop_reason"].to_pylist()
    return found


def test_a_row_that_waits_for_its_host_is_not_to_blame_when_the_child_dies(
    others: set[int],
    own_workers: ImageWorkers,
    make_site: Callable[[], Any],
    quick: FetchConfig,
    make_requests: MakeRequests,
    tmp_path: Path,
) -> None:
    waits, kills = make_site(), make_site()
    waits.behaviours["/a"] = lambda it: it.answer(200, b"x") if waits.hits["/a"] > 3 else it.answer(503, b"")
    kills.behaviours["/b"] = lambda it: kill(others)
    # The one thread asks `waits`, which is to be asked later, and then `kills`, whose address is the higher one.
    config = replace(quick, threads=1, retries=9, backoff_s=0.2, consent=ConsentConfig(ignore=("robots.txt",)))
    own_workers.fetch(make_requests(waits.url("/a"), kills.url("/b")), config, tmp_path / "raw")
    assert reasons(tmp_path / "raw") == [None, "fetch_crash"]
    assert kills.hits["/b"] == 3


def test_a_row_during_which_the_child_is_killed_twice_and_no_more_is_fetched(
    others: set[int],
    own_workers: ImageWorkers,
    server: Any,
    quick: FetchConfig,
    make_requests: MakeRequests,
    tmp_path: Path,
) -> None:
    server.behaviours["/unlucky"] = lambda it: (
        kill(others) if server.hits["/unlucky"] <= 2 else it.answer(200, b"in the end")
    )
    own_workers.fetch(make_requests(server.url("/unlucky")), quick, tmp_path / "raw")
    assert pq.read_table(tmp_path / "raw")["bytes"].to_pylist() == [b"in the end"]


def test_no_rows_need_no_child(
    others: set[int], own_workers: ImageWorkers, quick: FetchConfig, make_requests: MakeRequests, tmp_path: Path
) -> None:
    own_workers.fetch(make_requests(), quick, tmp_path / "raw", log=tmp_path / "log")
    assert pq.read_table(tmp_path / "raw").num_rows == 0
    assert pq.read_table(tmp_path / "log").schema == FETCH_LOG
    assert fetching_children() == others


def test_children_keep_no_file_and_no_socket_of_a_thousand_rows(
    others: set[int],
    own_workers: ImageWorkers,
    server: Any,
    quick: FetchConfig,
    make_requests: MakeRequests,
    tmp_path: Path,
) -> None:
    def open_files() -> int:
        (pid,) = fetching_children() - others
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))

    paths = ["/fd/good", "/fd/missing", "/fd/hop", "/fd/cut", "/fd/reset", "/fd/closed", "/fd/noise", "/fd/noai"]
    server.files["/fd/good"] = b"x"
    server.behaviours.update(
        {
            "/fd/hop": lambda it: it.answer(302, b"", Location="/fd/good"),
            "/fd/cut": lambda it: it.answer(200, b"x", 100),
            "/fd/reset": lambda it: it.reset(),
            "/fd/closed": lambda it: it.connection.close(),
            "/fd/noise": lambda it: it.wfile.write(bytes(100)),
            "/fd/noai": lambda it: it.answer(200, b"x", X_Robots_Tag="noai"),
        }
    )
    own_workers.fetch(make_requests(*map(server.url, paths)), quick, tmp_path / "raw")
    before = open_files()
    many = [f"{server.url(path)}?{number}" for path in paths for number in range(125)]
    own_workers.fetch(make_requests(*many), quick, tmp_path / "more")
    assert len(reasons(tmp_path / "more")) == 1000
    assert open_files() <= before


def test_the_log_tells_of_tries_and_times(
    workers: ImageWorkers, server: Any, quick: FetchConfig, make_requests: MakeRequests, tmp_path: Path
) -> None:
    server.behaviours["/logged-503"] = lambda it: it.answer(503, b"")
    server.files["/logged"] = b"x"
    local = (None, "absent.jpg", None)
    urls = [server.url("/logged-503"), server.url("/logged"), "http://10.0.0.1/", "no url", local]
    config = replace(quick, retries=2, backoff_s=0.01)
    workers.fetch(make_requests(*urls), config, tmp_path / "raw", log=tmp_path / "log")
    log = pq.read_table(tmp_path / "log")
    assert log.schema == FETCH_LOG
    rows = log.to_pylist()
    assert [row["url"] for row in rows] == urls[:4]
    assert [row["sample_id"] for row in rows] == [f"test:{number}" for number in range(4)]
    assert [row["drop_reason"] for row in rows] == ["http_503", None, "private_address", "bad_url"]
    assert [row["http_status"] for row in rows] == [503, 200, None, None]
    assert [row["tries"] for row in rows] == [3, 1, 1, None]
    assert [row["asked_at"] is None for row in rows] == [False, False, True, True]
    assert rows[0]["asked_at"] <= datetime.now(UTC) + timedelta(milliseconds=1)
    assert all(row["asking_s"] >= 0 and row["waiting_s"] >= 0 for row in rows[:3])


def test_a_folder_of_hosts_that_vanishes_hangs_nobody(
    own_workers: ImageWorkers, server: Any, quick: FetchConfig, make_requests: MakeRequests, tmp_path: Path
) -> None:
    server.files.update({f"/vanished/{number}": b"x" for number in range(100)})
    hosts = tmp_path / "hosts"
    server.behaviours["/vanished/50"] = lambda it: (hosts.rename(tmp_path / "gone"), it.answer(200, b"x"))
    urls = [server.url(f"/vanished/{number}") for number in range(100)]
    for _ in range(2):
        own_workers.fetch(make_requests(*urls), replace(quick, threads=4), tmp_path / "raw")
        assert reasons(tmp_path / "raw") == [None] * 100
        server.behaviours["/vanished/50"] = lambda it: it.answer(200, b"x")


def test_a_file_of_hosts_that_is_none_is_named(
    own_workers: ImageWorkers, server: Any, quick: FetchConfig, make_requests: MakeRequests, tmp_path: Path
) -> None:
    (tmp_path / "hosts" / "hosts.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(DamagedError, match=r"hosts\.sqlite can't be used .*delete the file"):
        own_workers.fetch(make_requests(server.url("/any")), quick, tmp_path / "raw")


FULL = """
import resource, sys
from pathlib import Path
import pyarrow.parquet as pq
from data_catalog.errors import DiskError
from data_catalog.fetch.config import FetchConfig
from data_catalog.images.workers import ImageWorkers
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
with ImageWorkers(folder / "hosts") as workers:
    try:
        workers.fetch(pq.read_table(folder / "requests"), FetchConfig(allow_loopback=True), folder / "raw")
    except DiskError as error:
        print(error)
"""


def test_a_file_that_cannot_grow_ends_the_shard_though_others_wait_for_their_host(
    server: Any, make_site: Callable[[], Any], make_requests: MakeRequests, tmp_path: Path
) -> None:
    resting = make_site()
    resting.behaviours["/0"] = lambda it: it.answer(503, b"", Retry_After="250")
    server.files.update({f"/large/{number}": bytes(100_000) for number in range(8)})
    urls = [resting.url("/0"), *[server.url(f"/large/{number}") for number in range(8)]]
    pq.write_table(make_requests(*urls), tmp_path / "requests")
    printed = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path], stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    assert "can't do the shard: OSError: [Errno 27] File too large" in printed


SHARED = """
import sys
from pathlib import Path
import pyarrow.parquet as pq
from data_catalog.fetch.config import FetchConfig
from data_catalog.images.workers import ImageWorkers
folder = Path(sys.argv[1])
with ImageWorkers(folder / "hosts") as workers:
    workers.fetch(pq.read_table(folder / "requests"), FetchConfig(allow_loopback=True), folder / sys.argv[2])
"""


def test_an_orphan_stops_asking_and_writing(server: Any, make_requests: MakeRequests, tmp_path: Path) -> None:
    server.files.update({f"/orphan/{number}": bytes(1000) for number in range(5000)})
    pq.write_table(make_requests(*[server.url(f"/orphan/{number}") for number in range(5000)]), tmp_path / "requests")
    parent = subprocess.Popen([sys.executable, "-c", SHARED, tmp_path, "raw"])
    while not any(file.stat().st_size for file in tmp_path.rglob("bodies.bin")):
        time.sleep(0.01)
    children = [
        int(pid) for path in Path(f"/proc/{parent.pid}/task").glob("*/children") for pid in path.read_text().split()
    ]
    parent.kill()
    parent.wait()
    for pid in children:
        while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
            time.sleep(0.01)  # a child that stays is a test that never ends, and so fails
    asked = sum(server.hits.values())
    (bodies,) = tmp_path.rglob("bodies.bin")
    size = bodies.stat().st_size
    time.sleep(0.3)
    assert (sum(server.hits.values()), bodies.stat().st_size) == (asked, size)
    assert size < 5_000_000
    assert not (tmp_path / "raw").exists()
