"""Children that are killed, hang, or run out of memory or disk: every row still comes out, once and in order."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_catalog.base.errors import DamagedError, DefectError
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.consent import ConsentConfig
from data_catalog.fetch.workers import FETCH_LOG, ImageWorkers, end_process_workers
from data_catalog.images.normalise import NormaliseConfig

SMALL = NormaliseConfig(image_size=32)


@pytest.fixture
def own_workers(tmp_path: Path) -> Iterator[ImageWorkers]:
    """Workers that have no child yet."""
    with ImageWorkers(tmp_path / "hosts") as image_workers:
        yield image_workers


def column(name: str, rows: list[dict[str, Any]]) -> list[Any]:
    return [row[name] for row in rows]


def reasons(rows: list[dict[str, Any]]) -> list[str | None]:
    return column("drop_reason", rows)


def wait_for_bytes(folder: Path, name: str, more_than: int = 0) -> Path:
    """Return the child's file of that name as soon as something is in it."""
    while True:
        for file in folder.rglob(name):
            if file.stat().st_size > more_than:
                return file
        time.sleep(0.01)


# Fetching


def test_only_the_row_that_kills_the_child_whenever_it_is_fetched_is_given_up(
    server: Any, make_site: Any, own_workers: ImageWorkers, children: Any, quick: FetchConfig, fetch: Any
) -> None:
    waits, kills = sorted((make_site(), make_site()), key=lambda site: site.url("/"))
    others = children("fetch")

    def kill_beside_another(it: Any) -> None:
        while not kills.hits["/beside"]:
            time.sleep(0.01)
        for pid in children("fetch") - others:
            os.kill(pid, signal.SIGKILL)

    server.files |= {f"/gallery/{index}": bytes([index]) for index in range(12)}
    waits.behaviours["/a"] = lambda it: it.answer(200, b"x") if waits.hits["/a"] > 3 else it.answer(503, b"")
    kills.behaviours["/always"] = kill_beside_another
    kills.behaviours["/beside"] = lambda it: (
        it.answer(200, b"in the end") if kills.hits["/beside"] > 1 else it.server.stopping.wait(10)
    )
    urls = [server.url(f"/gallery/{index}") for index in range(12)]
    urls[5:5] = [waits.url("/a"), kills.url("/always"), kills.url("/beside")]
    # The two threads ask `waits`, which is to be asked later, before `kills`, whose URL is the higher one.
    config = replace(quick, threads=2, retries=9, backoff_s=0.2, consent=ConsentConfig(ignore=("robots.txt",)))
    rows = fetch(*urls, config=config, by=own_workers)
    bodies = [bytes([index]) for index in range(12)]
    assert column("bytes", rows) == [*bodies[:5], b"x", None, b"in the end", *bodies[5:]]
    assert rows[6]["drop_reason"] == "fetch_crash"
    assert (kills.hits["/always"], kills.hits["/beside"]) == (3, 2)


def test_children_keep_no_file_and_no_socket(server: Any, own_workers: ImageWorkers, children: Any, fetch: Any) -> None:
    others = children("fetch")

    def num_open_files() -> int:
        (pid,) = children("fetch") - others
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))

    server.files["/fd/good"] = b"x"
    server.behaviours |= {
        "/fd/hop": lambda it: it.answer(302, b"", Location="/fd/good"),
        "/fd/cut": lambda it: it.answer(200, b"x", 100),
        "/fd/reset": lambda it: it.reset(),
        "/fd/closed": lambda it: it.connection.close(),
        "/fd/noise": lambda it: it.wfile.write(bytes(100)),
    }
    urls = [server.url(f"/fd/{name}") for name in ("good", "missing", "hop", "cut", "reset", "closed", "noise")]
    fetch(*urls, by=own_workers)
    before = num_open_files()
    fetch(*[f"{url}?{number}" for url in urls for number in range(25)], by=own_workers)
    assert num_open_files() <= before


def test_the_log_tells_of_tries_and_times(server: Any, quick: FetchConfig, fetch: Any, tmp_path: Path) -> None:
    server.behaviours["/logged-503"] = lambda it: it.answer(503, b"")
    server.files["/logged"] = b"x"
    urls = [server.url("/logged-503"), server.url("/logged"), "http://10.0.0.1/", "no url"]
    fetch(*urls, (None, "absent.jpg", None), config=replace(quick, retries=2, backoff_s=0.01))
    log = pq.read_table(tmp_path / "log.parquet")
    assert log.schema == FETCH_LOG
    rows = log.to_pylist()
    assert column("url", rows) == urls
    assert column("sample_id", rows) == [f"test:{number}" for number in range(4)]
    assert reasons(rows) == ["http_503", None, "private_address", "bad_url"]
    assert column("http_status", rows) == [503, 200, None, None]
    assert column("tries", rows) == [3, 1, 1, None]
    assert [asked_at is None for asked_at in column("asked_at", rows)] == [False, False, True, True]
    assert rows[0]["asked_at"] <= datetime.now(UTC) + timedelta(milliseconds=1)
    assert all(row["asking_s"] >= 0 and row["waiting_s"] >= 0 for row in rows[:3])


def test_a_folder_of_hosts_that_vanishes_hangs_nobody_and_a_damaged_file_in_it_is_named(
    server: Any, own_workers: ImageWorkers, quick: FetchConfig, fetch: Any, tmp_path: Path
) -> None:
    hosts, paths = tmp_path / "hosts", [f"/vanished/{number}" for number in range(40)]
    server.files |= dict.fromkeys(paths, b"x")
    server.behaviours[paths[20]] = lambda it: (hosts.rename(tmp_path / "gone"), it.answer(200, b"x"))
    urls = [server.url(path) for path in paths]
    assert reasons(fetch(*urls, config=replace(quick, threads=4), by=own_workers)) == [None] * 40
    hosts.mkdir()
    (hosts / "hosts.sqlite").write_bytes(b"this is no database" * 100)
    with (
        ImageWorkers(hosts) as later,
        pytest.raises(DamagedError, match=r"hosts\.sqlite \(.*delete the file"),
    ):
        fetch(urls[0], by=later)


PARENT = """
import sys
from pathlib import Path
import pyarrow.parquet as pq
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.workers import ImageWorkers
folder = Path(sys.argv[1])
with ImageWorkers(folder / "hosts") as workers:
    workers.fetch(pq.read_table(folder / "requests"), FetchConfig(allow_loopback=True), folder / "raw")
"""


def test_a_child_whose_parent_is_killed_stops_asking_and_writing(
    server: Any, children: Any, make_requests: Any, tmp_path: Path
) -> None:
    paths = [f"/orphan/{number}" for number in range(5000)]
    server.files |= dict.fromkeys(paths, bytes(1000))
    pq.write_table(make_requests(*map(server.url, paths)), tmp_path / "requests")
    parent = subprocess.Popen([sys.executable, "-c", PARENT, tmp_path])
    bodies = wait_for_bytes(tmp_path, "*.journal")
    (pid,) = children("fetch", parent.pid)
    parent.kill()
    parent.wait()
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        time.sleep(0.01)  # a child that stays is a test that never ends, and so fails
    asked, size = sum(server.hits.values()), bodies.stat().st_size
    time.sleep(0.3)
    assert (sum(server.hits.values()), bodies.stat().st_size) == (asked, size)
    assert size < 5_000_000
    assert not (tmp_path / "raw").exists()


def test_an_interrupted_shard_goes_on_with_what_came(
    server: Any, workers: Any, make_requests: Any, quick: FetchConfig, tmp_path: Path
) -> None:
    server.files |= {f"/left/{number}": b"x" for number in range(5)}
    requests = make_requests(*[server.url(f"/left/{number}") for number in range(5)])
    journals = tmp_path / "journals"
    journals.mkdir()
    config = replace(quick, threads=2)
    workers.fetch(requests, config, tmp_path / "one.parquet", journals=journals)
    (journal,) = journals.iterdir()
    journal.write_bytes(journal.read_bytes()[:-3])  # as a kill leaves it
    before = server.hits.copy()
    workers.fetch(requests, config, tmp_path / "two.parquet", journals=journals)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert (server.hits - before).total() == 1


def test_local_files_need_no_child(
    own_workers: ImageWorkers, children: Any, quick: FetchConfig, fetch: Any, tmp_path: Path
) -> None:
    before = children("fetch")
    assert fetch(by=own_workers) == []
    location = tmp_path / "images"
    (location / "sub").mkdir(parents=True)
    sizes = {"sub/a.jpg": 4, "empty.jpg": 0, "largest.jpg": quick.max_bytes, "big.jpg": quick.max_bytes + 1}
    for name, size in sizes.items():
        (location / name).write_bytes(bytes(size))
    names = [*sizes, "absent.jpg", "../images/sub/a.jpg", "/etc/passwd"]
    rows = fetch(*[(None, name, str(location)) for name in names], (None, "a.jpg", None), by=own_workers)
    assert reasons(rows) == [None, "empty_body", None, "too_large", *["missing_file"] * 4]
    assert rows[0]["bytes"] == bytes(4)
    assert children("fetch") == before


# Normalising


def test_an_image_that_takes_all_memory_is_given_up_alone(pictures: Any, normalise: Any, tmp_path: Path) -> None:
    Image.new("RGB", (4000, 3500)).save(tmp_path / "wide.png", compress_level=1)
    good, wide = pictures["plain.jpg"], (tmp_path / "wide.png").read_bytes()
    rows = normalise([good, wide, good, None, good], replace(SMALL, memory_bytes=2**26))
    assert reasons(rows) == [None, "decode_crash", None, "dns", None]
    assert rows[1]["detail"] == "out of memory"
    assert reasons(normalise([good, wide])) == [None, "one_colour"]


@contextmanager
def striking(find: Callable[[], set[int]], begun: Callable[[], Any], signal_number: int, times: int) -> Iterator[None]:
    """Send a signal to so many children, which are not there yet, after `begun` returns."""
    others = find()

    def strike() -> None:
        begun()
        struck: set[int] = set()
        while len(struck) < times:
            for pid in find() - others - struck:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal_number)
                struck.add(pid)

    with ThreadPoolExecutor(1) as executor:
        done = executor.submit(strike)
        yield
        done.result()


def test_a_decoding_child_that_stops_costs_no_image(
    children: Any, pictures: Any, normalise: Any, tmp_path: Path
) -> None:
    bodies = [pictures["plain.jpg"]] * 1000

    def begun() -> None:  # Parquet's mark is there before the child is; one that is starting may take long
        wait_for_bytes(tmp_path, "images.parquet", more_than=len(b"PAR1"))

    with striking(lambda: children("decode"), begun, signal.SIGSTOP, 1):
        rows = normalise(bodies, replace(SMALL, timeout_s=1.0), out=tmp_path / "images.parquet")
    assert {*reasons(rows)} == {None}


def test_a_decoding_child_that_is_killed_while_it_starts_blames_no_image(
    own_workers: Any, children: Any, pictures: Any, normalise: Any
) -> None:
    with striking(lambda: children("decoders"), lambda: None, signal.SIGKILL, 2):
        assert reasons(normalise([pictures["plain.jpg"]] * 3, by=own_workers)) == [None] * 3


def test_children_end_with_the_context(own_workers: Any, children: Any, pictures: Any, normalise: Any) -> None:
    others = children("decoders")
    with own_workers:
        normalise([pictures["plain.jpg"]], by=own_workers)
        assert len(children("decoders")) == len(others) + 1
    assert children("decoders") == others
    with pytest.raises(DefectError, match="ended"):
        normalise([pictures["plain.jpg"]], by=own_workers)


def test_what_one_flow_ends_on_a_worker_disturbs_no_step_of_another(
    children: Any, pictures: dict[str, bytes], normalise: Any, tmp_path: Path
) -> None:
    before = children("decoders")
    here: ImageWorkers = pickle.loads(pickle.dumps(ImageWorkers(tmp_path / "hosts")))
    with ThreadPoolExecutor(1) as executor:
        step = executor.submit(normalise, [pictures["plain.jpg"]] * 40, by=here)
        while not step.done():
            end_process_workers()
    assert reasons(step.result()) == [None] * 40
    end_process_workers()
    assert children("decoders") <= before
