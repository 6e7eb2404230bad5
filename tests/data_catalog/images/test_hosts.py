"""Limits of hosts, kept by several processes together; and what is left when one of them is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_catalog.errors import ConfigError
from data_catalog.fetch.fetch import FetchConfig
from data_catalog.fetch.hosts import KNOWN_HOSTS, HostClock, HostLimits, HostPace, check_host_names, group_of
from data_catalog.fetch.ledger import HostLedger, Lease

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
    with pytest.raises(ConfigError, match="hosts"):
        check_host_names(iter([name]))


@pytest.mark.parametrize("limits", [{"concurrency": 0}, {"requests_per_s": -1}, {"requests_per_s": 10_001}])
def test_limits_out_of_range_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="hosts"):
        HostLimits(**limits)


@pytest.mark.parametrize("delay_s", [1e-300, 1e-9, 0.02, 60.0])
def test_any_delay_that_a_host_asks_for_becomes_a_limit(delay_s: float, tmp_path: Path) -> None:
    clock = HostClock(HostLedger(tmp_path), {}, HostPace(requests_per_s=0))
    clock.slow_down("a", delay_s)
    clock.slow_down("a", 1e-301)
    assert clock.limits_of("a").interval_s == pytest.approx(max(delay_s, 1e-4))
    assert clock.limits_of("b").interval_s == 0
    clock.ledger.close()


def test_two_holders_share_places_and_pauses(tmp_path: Path) -> None:
    one, other = HostLedger(tmp_path), HostLedger(tmp_path)
    lease = one.try_start("a", concurrency=1, interval_s=0)
    assert isinstance(lease, Lease)
    assert isinstance(other.try_start("a", concurrency=1, interval_s=0), float)
    assert isinstance(other.try_start("b", concurrency=1, interval_s=3600), Lease)
    wait_s = one.try_start("b", concurrency=9, interval_s=0)
    assert isinstance(wait_s, float)
    assert 3500 < wait_s <= 3600
    one.end(lease)
    other.pause("a", 3600)
    assert one.reserve("a", interval_s=0, longest_s=10) is None
    assert (one.reserve("a", interval_s=0, longest_s=4000) or 0) > 3500
    one.close()
    other.close()


def test_a_wait_that_is_too_long_reserves_nothing(tmp_path: Path) -> None:
    ledger = HostLedger(tmp_path)
    assert ledger.reserve("a", interval_s=3600, longest_s=0) == 0
    assert [ledger.reserve("a", interval_s=3600, longest_s=10) for _ in range(5)] == [None] * 5
    assert 3500 < (ledger.reserve("a", interval_s=3600, longest_s=4000) or 0) <= 3600
    ledger.close()


def test_what_closes_gives_its_leases_back(tmp_path: Path) -> None:
    one, other = HostLedger(tmp_path), HostLedger(tmp_path)
    one.try_start("a", concurrency=1, interval_s=0)
    one.close()
    assert isinstance(other.try_start("a", concurrency=1, interval_s=0), Lease)
    other.close()


def test_half_a_file_says_nothing_and_stops_nobody(tmp_path: Path) -> None:
    ledger = HostLedger(tmp_path)
    ledger.pause("a", 3600)
    (file,) = tmp_path.glob("[0-9]*")
    whole = file.read_bytes()
    file.write_bytes(whole + b'0, "leases": []}}\n')  # what a longer line left behind
    assert isinstance(ledger.try_start("a", concurrency=1, interval_s=0), float)
    file.write_bytes(whole[:9])
    assert isinstance(ledger.try_start("a", concurrency=1, interval_s=0), Lease)
    ledger.close()


HOLD = """
import sys, time
from pathlib import Path
from data_catalog.fetch.ledger import HostLedger
ledger = HostLedger(Path(sys.argv[1]))
print(*[ledger.try_start("a", concurrency=2, interval_s=0) for _ in range(2)], flush=True)
time.sleep(600)
"""


def test_what_a_killed_process_held_is_free_even_before_anybody_has_collected_it(tmp_path: Path) -> None:
    ledger = HostLedger(tmp_path)
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().count(b"Lease") == 2
        assert isinstance(ledger.try_start("a", concurrency=2, interval_s=0), float)
        os.kill(holder.pid, signal.SIGKILL)
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie
        assert isinstance(ledger.try_start("a", concurrency=2, interval_s=0), Lease)
    ledger.close()


WORK = """
import sys, urllib.request
from pathlib import Path
from data_catalog.fetch.hosts import HostClock, HostPace
from data_catalog.fetch.ledger import HostLedger
from data_catalog.fetch.row_queue import RowQueue
from concurrent.futures import ThreadPoolExecutor
folder, url, rows = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
limits = HostPace(concurrency=3, requests_per_s=float(sys.argv[4]))
queue = RowQueue(["a"] * rows, HostClock(HostLedger(folder), {}, limits), stuck_s=60.0, on_wait=lambda: None)
def ask(_):
    turn = queue.take()
    urllib.request.urlopen(url).read()
    queue.finish(turn)
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
