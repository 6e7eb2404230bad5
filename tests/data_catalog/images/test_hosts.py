"""Limits of hosts, kept by several processes together; and what is left when one of them is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_catalog.errors import DamagedError, SettingsError
from data_catalog.fetch.config import KNOWN_HOSTS, FetchConfig, HostLimits, HostPace, group_of
from data_catalog.fetch.hosts import Hosts, LaterError
from data_catalog.fetch.urls import FetchError

LIMITS = {"example.org": HostPace(), "img.example.org": HostPace()}


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("example.org", "example.org"),
        ("www.example.org", "example.org"),
        ("a.b.IMG.example.org", "img.example.org"),
        ("example.org.", "example.org"),
        ("notexample.org", "notexample.org"),
        ("elsewhere.net.", "elsewhere.net"),
        ("org", "org"),
        ("::1", "::1"),
    ],
)
def test_a_limit_of_a_domain_holds_for_all_its_hosts(host: str, group: str) -> None:
    assert group_of(host, LIMITS) == group


def test_what_a_recipe_says_takes_precedence_over_what_we_know() -> None:
    mine = HostLimits(concurrency=1, requests_per_s=0.5)
    config = FetchConfig(hosts={"upload.wikimedia.org": mine, "example.org": mine})
    pace = HostPace(concurrency=1, requests_per_s=0.5)
    assert config.named_limits == {**KNOWN_HOSTS, "upload.wikimedia.org": pace, "example.org": pace}
    assert FetchConfig.from_values(config.to_values()) == config


@pytest.mark.parametrize(
    ("name", "limits", "pace"),
    [
        ("upload.wikimedia.org", HostLimits(concurrency=1), HostPace(concurrency=1, requests_per_s=10)),
        ("upload.wikimedia.org", HostLimits(requests_per_s=0), HostPace(concurrency=2, requests_per_s=0)),
        ("images.cocodataset.org", HostLimits(), KNOWN_HOSTS["images.cocodataset.org"]),
        ("live.staticflickr.com", HostLimits(requests_per_s=1), HostPace(concurrency=8, requests_per_s=1)),
        ("example.org", HostLimits(requests_per_s=5), HostPace(concurrency=3, requests_per_s=5)),
        ("example.org", HostLimits(concurrency=5), HostPace(concurrency=5, requests_per_s=2)),
    ],
)
def test_what_a_recipe_leaves_out_of_a_host_stays_as_it_is(name: str, limits: HostLimits, pace: HostPace) -> None:
    config = FetchConfig(host_concurrency=3, host_requests_per_s=2, hosts={name: limits})
    assert config.named_limits[name] == pace
    assert FetchConfig.from_values(config.to_values()) == config


@pytest.mark.parametrize("name", ["", "http://example.org", "example.org/a", "example.org:80", "*.org", "Example.org"])
def test_what_is_no_name_of_a_host_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="hosts"):
        FetchConfig(hosts={name: HostLimits()})


@pytest.mark.parametrize("limits", [{"concurrency": 0}, {"requests_per_s": -1}, {"requests_per_s": 10_001}])
def test_limits_out_of_range_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="hosts"):
        HostLimits(**limits)


ONE = HostPace(concurrency=1, requests_per_s=0)
HOURLY = HostPace(concurrency=9, requests_per_s=1 / 3600)
SAID = FetchError("http_503", "HTTP 503", http_status=503)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Hosts, Hosts]]:
    """The hosts as two processes keep them: "a" may be asked by one at a time, "b" once an hour."""
    named = {"a": ONE, "b": HOURLY}
    with closing(Hosts(tmp_path, named, ONE)) as one, closing(Hosts(tmp_path, named, ONE)) as other:
        yield one, other


HOLD = """
import sys, time
from pathlib import Path
from data_catalog.fetch.config import HostPace
from data_catalog.fetch.hosts import Hosts
hosts = Hosts(Path(sys.argv[1]), {}, HostPace(concurrency=2))
print(*[hosts.acquire_slot("a", 0) for _ in range(2)], flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("delay_s", [1e-300, 1e-9, 0.02, 60.0])
def test_any_delay_that_a_host_asks_for_becomes_a_limit(delay_s: float, two: tuple[Hosts, Hosts]) -> None:
    hosts, _ = two
    hosts.slow_down("a", delay_s)
    hosts.slow_down("a", 1e-301)
    assert hosts.pace_of("a").interval_s == pytest.approx(max(delay_s, 1e-4))
    assert hosts.pace_of("c").interval_s == 0


def test_processes_share_slots_and_a_killed_one_has_none(tmp_path: Path) -> None:
    with (
        closing(Hosts(tmp_path, {}, HostPace(concurrency=2))) as hosts,
        subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE) as holder,
    ):
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"0 1\n"
        assert hosts.acquire_slot("a", 0) is None
        assert hosts.acquire_slot("b", 0) == 0
        os.kill(holder.pid, signal.SIGKILL)
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie
        assert [hosts.acquire_slot("a", 0) for _ in range(3)] == [0, 1, None]


def test_a_slot_that_is_given_back_goes_to_whoever_has_waited_longest(two: tuple[Hosts, Hosts]) -> None:
    hosts, _ = two
    served: list[int] = []

    def want(number: int) -> None:
        slot = hosts.acquire_slot("a", 60.0)
        assert slot == 0
        served.append(number)
        hosts.release_slot("a", slot)

    assert hosts.acquire_slot("a", 0) == 0
    threads = [threading.Thread(target=want, args=(number,)) for number in range(8)]
    for number, thread in enumerate(threads):
        thread.start()
        while len(hosts._lines["a"].waiting) <= number:
            time.sleep(0.001)
    hosts.release_slot("a", 0)
    for thread in threads:
        thread.join()
    assert served == list(range(8))


def test_processes_share_moments_and_a_wait_that_is_too_long_reserves_nothing(two: tuple[Hosts, Hosts]) -> None:
    one, other = two
    assert one.wait_to_begin("b", 0) == 0
    for hosts in (one, other, one, other):
        with pytest.raises(LaterError) as later:
            hosts.wait_to_begin("b", 10)
        assert 3600 < later.value.wait_s < 3800


def test_a_host_that_wants_a_rest_gets_it_from_all_processes_and_later_runs(
    two: tuple[Hosts, Hosts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    one.pause("a", SAID, 1000.0)
    one.pause("a", SAID, 10.0)  # a shorter one changes nothing
    with pytest.raises(LaterError) as later:
        other.wait_to_begin("a", 10)
    assert 900 < later.value.wait_s <= 1000
    other.raise_if_paused("a", 2000.0)
    with pytest.raises(FetchError) as said:
        other.raise_if_paused("a", 300.0)
    assert (said.value.reason, said.value.detail, said.value.http_status) == ("http_503", "HTTP 503", 503)
    one.pause("c", SAID, 1e300)
    now = time.time()
    with closing(Hosts(tmp_path, {}, ONE)) as next_run:
        monkeypatch.setattr(time, "time", lambda: now + 1001.0)
        assert next_run.wait_to_begin("a", 0) == 0
        with pytest.raises(FetchError):
            next_run.raise_if_paused("c", 300.0)
        monkeypatch.setattr(time, "time", lambda: now + 40 * 86400.0)
        next_run.raise_if_paused("c", 300.0)


def test_a_clock_that_is_set_back_stops_nobody(two: tuple[Hosts, Hosts], monkeypatch: pytest.MonkeyPatch) -> None:
    hosts, _ = two
    assert hosts.wait_to_begin("b", 0) == 0
    for group in "bc":  # with a rate, and without
        hosts.pause(group, SAID, 30.0)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 30 * 86400.0)
    assert hosts.wait_to_begin("b", 0) == 0
    assert hosts.wait_to_begin("c", 0) == 0
    hosts.pause("c", SAID, 400.0)
    with pytest.raises(FetchError):
        hosts.raise_if_paused("c", 300.0)


OPEN = """
import sys
from pathlib import Path
from data_catalog.fetch.config import HostPace
from data_catalog.fetch.hosts import Hosts
sys.stdin.readline()
Hosts(Path(sys.argv[1]), {}, HostPace()).close()
"""


def test_processes_that_begin_at_once_wait_for_each_other(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OPEN, tmp_path]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(6)]
    for process in processes:
        process.communicate(b"now\n")
    assert [process.returncode for process in processes] == [0] * 6


SHARE = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from data_catalog.fetch.config import HostPace
from data_catalog.fetch.hosts import Hosts
hosts = Hosts(Path(sys.argv[1]), {}, HostPace(concurrency=2))
print(flush=True)
sys.stdin.readline()
end = time.monotonic() + 3
def work(_):
    served = 0
    while time.monotonic() < end:
        slot = hosts.acquire_slot("a", 0.5)
        if slot is not None:
            time.sleep(0.05)
            hosts.release_slot("a", slot)
            served += 1
    return served
with ThreadPoolExecutor(6) as threads:
    print(sum(threads.map(work, range(6))))
"""


def test_no_process_keeps_a_host_for_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SHARE, tmp_path]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"now\n")
        process.stdin.flush()
    served = [int(process.communicate()[0]) for process in processes]
    assert min(served) > 0.2 * sum(served)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "hosts.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(DamagedError, match=r"hosts\.sqlite can't be used .*delete the file"):
        Hosts(tmp_path, {}, ONE)


WORK = """
import sys, urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from data_catalog.fetch.config import HostPace
from data_catalog.fetch.hosts import Hosts
folder, url, rows = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
hosts = Hosts(folder, {}, HostPace(concurrency=3, requests_per_s=float(sys.argv[4])))
def ask(_):
    slot = hosts.acquire_slot("a", 600)
    hosts.wait_to_begin("a", 600)
    urllib.request.urlopen(url).read()
    hosts.release_slot("a", slot)
with ThreadPoolExecutor(8) as threads:
    list(threads.map(ask, range(rows)))
"""


class Log:
    """What the server itself sees: beginnings, and how many requests are under way at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0
        self.most = 0
        self.begun: list[float] = []

    def answer(self, it: Any) -> None:
        with self._lock:
            self.begun.append(time.monotonic())
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        it.server.stopping.wait(0.02)
        with self._lock:
            self._under_way -= 1
        it.answer(200, b"x")


def log_of(server: Any, folder: Path, *, rows: int, requests_per_s: float) -> Log:
    """The log of three processes that share a folder."""
    log = Log()
    server.behaviours["/logged"] = log.answer
    arguments = [folder, server.url("/logged"), str(rows), str(requests_per_s)]
    processes = [subprocess.Popen([sys.executable, "-c", WORK, *arguments]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    return log


def test_processes_keep_a_limit_of_concurrency_together(server: Any, tmp_path: Path) -> None:
    log = log_of(server, tmp_path, rows=30, requests_per_s=0)
    assert len(log.begun) == 90
    assert 1 < log.most <= 3


def test_processes_keep_a_rate_together(server: Any, tmp_path: Path) -> None:
    log = log_of(server, tmp_path, rows=10, requests_per_s=20)
    assert len(log.begun) == 30
    # A request may be late, and the next one on time: over the whole, 29 intervals of 50 ms.
    assert max(log.begun) - min(log.begun) > 29 * 0.05 - 0.5


def test_a_host_with_its_own_rate_does_not_hold_up_the_others(
    make_site: Callable[[], Any], make_requests: Any, workers: Any, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    slow, fast = make_site(), make_site()
    order: list[str] = []
    for name, site in (("slow", slow), ("fast", fast)):
        site.files.update({f"/{number}": pictures["plain.jpg"] for number in range(30)})
        for number in range(30):
            site.behaviours[f"/{number}"] = lambda it, name=name: (
                order.append(name),
                it.answer(200, pictures["plain.jpg"]),
            )
    config = FetchConfig(
        threads=4,
        hosts={slow.server_address[0]: HostLimits(concurrency=1, requests_per_s=10)},
        host_requests_per_s=0,
        allow_loopback=True,
    )
    urls = [site.url(f"/{number}") for site in (slow, fast) for number in range(30)]
    workers.fetch(make_requests(*urls), config, tmp_path / "raw")
    assert pq.read_table(tmp_path / "raw")["drop_reason"].null_count == 60
    # The slow host's rows come first in the shard, and yet the fast one's are done before a few of them.
    assert order[:40].count("fast") == 30
