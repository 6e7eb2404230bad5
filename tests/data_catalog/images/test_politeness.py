"""What hosts see of us where something slow, a redirect or a long pause lies between a row and its request."""

import io
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import Request

import pyarrow.parquet as pq

from data_catalog.fetch.client import Deadline, GuardedClient
from data_catalog.fetch.config import FetchConfig, HostLimits, HostPace
from data_catalog.fetch.consent import ConsentConfig
from data_catalog.fetch.hosts import Hosts, Visit
from data_catalog.fetch.opener import Opener
from data_catalog.fetch.urls import parse_url
from data_catalog.images.workers import ImageWorkers

CONFIG = FetchConfig(
    allow_loopback=True, retries=0, host_requests_per_s=0, consent=ConsentConfig(ignore=("robots.txt",))
)


class Log:
    """When requests came, and how many were under way at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0
        self.most = 0
        self.times: list[float] = []

    def answer(self, it: Any, body: bytes, seconds: float = 0.0) -> None:
        with self._lock:
            self.times.append(time.monotonic())
            self._under_way += 1
            self.most = max(self.most, self._under_way)
        it.server.stopping.wait(seconds)
        with self._lock:
            self._under_way -= 1
        it.answer(200, body)

    def most_within(self, seconds: float) -> int:
        return max(sum(start <= time < start + seconds for time in self.times) for start in self.times)


def reasons(path: Path) -> Counter[str | None]:
    return Counter(pq.read_table(path)["drop_reason"].to_pylist())


def test_those_who_wait_for_one_robots_txt_do_not_all_begin_when_it_comes(
    make_site: Callable[[], Any], make_requests: Any, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    site, log = make_site(), Log()
    site.behaviours["/robots.txt"] = lambda it: (it.server.stopping.wait(1.5), it.answer(404, b""))
    for number in range(10):
        site.behaviours[f"/{number}"] = lambda it: log.answer(it, pictures["plain.jpg"])
    config = replace(CONFIG, host_requests_per_s=5, consent=ConsentConfig())
    with ImageWorkers(tmp_path / "hosts") as workers:
        urls = [site.url(f"/{number}") for number in range(10)]
        workers.fetch(make_requests(*urls), config, tmp_path / "raw")
    assert reasons(tmp_path / "raw") == {None: 10}
    # Two in time; one more, or two, that a busy machine holds up.
    assert log.most_within(0.3) <= 4


def test_those_who_wait_for_a_slow_resolver_do_not_all_begin_when_it_answers(
    make_site: Callable[[], Any], pictures: dict[str, bytes], tmp_path: Path
) -> None:
    site, log = make_site(), Log()
    address, port = site.server_address
    urls = [f"http://a.example:{port}/{number}" for number in range(10)]
    for number in range(10):
        site.behaviours[f"/{number}"] = lambda it: log.answer(it, pictures["plain.jpg"])
    answered = threading.Event()
    looked_up: list[str] = []

    def look_up(host: str, port: int) -> list[str]:
        looked_up.append(host)
        if len(looked_up) == 6:
            answered.set()
        answered.wait(20)
        return [address]

    config = replace(CONFIG, host_requests_per_s=5)
    with closing(Hosts(tmp_path, {}, config.default_limits)) as hosts:
        client = GuardedClient(config.limits(), resolver=look_up)
        opener = Opener(urls, config, client, hosts, on_begin=lambda url: None, new_body=io.BytesIO)
        threads = [threading.Thread(target=opener.open, args=(Request(url),)) for url in urls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(log.times) == 10
    assert log.most_within(0.3) <= 4


def test_waiting_for_its_turn_is_not_taken_off_the_time_of_a_row(
    make_site: Callable[[], Any], make_requests: Any, pictures: dict[str, bytes], workers: ImageWorkers, tmp_path: Path
) -> None:
    site = make_site()
    for number in range(3):
        site.behaviours[f"/{number}"] = lambda it, number=number: it.answer(302, b"", Location=f"/to/{number}")
        site.files[f"/to/{number}"] = pictures["plain.jpg"]
    config = replace(CONFIG, host_requests_per_s=1, deadline_s=0.9)
    workers.fetch(make_requests(*[site.url(f"/{number}") for number in range(3)]), config, tmp_path / "raw")
    assert reasons(tmp_path / "raw") == {None: 3}


def test_a_crawl_delay_holds_from_the_first_request_and_for_the_next_shards(
    make_site: Callable[[], Any], make_requests: Any, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    site, log = make_site(), Log()
    rules = b"User-agent: *\nCrawl-delay: 1\n"
    site.behaviours["/robots.txt"] = lambda it: log.answer(it, rules)
    for number in range(2):
        site.behaviours[f"/{number}"] = lambda it: log.answer(it, pictures["plain.jpg"])
    config = replace(CONFIG, consent=ConsentConfig())
    requests = make_requests(*[site.url(f"/{number}") for number in range(2)])
    with ImageWorkers(tmp_path / "hosts") as workers:
        for shard in range(3):
            workers.fetch(requests, config, tmp_path / f"raw{shard}")
            assert reasons(tmp_path / f"raw{shard}") == {None: 2}
    assert len(log.times) == 7
    times = sorted(log.times)
    assert min(later - earlier for earlier, later in pairwise(times)) > 0.7


def test_the_concurrency_of_a_host_holds_for_those_whom_redirects_lead_to_it(
    make_site: Callable[[], Any], make_requests: Any, pictures: dict[str, bytes], workers: ImageWorkers, tmp_path: Path
) -> None:
    target, log = make_site(), Log()
    urls = [target.url(f"/{number}") for number in range(4)]
    for site in [make_site() for _ in range(6)]:
        for number in range(3):
            path = f"/{site.server_address[0]}/{number}"
            site.behaviours[path] = lambda it, path=path: it.answer(302, b"", Location=target.url(path))
            target.behaviours[path] = lambda it: log.answer(it, pictures["plain.jpg"], 0.1)
            urls.append(site.url(path))
    for number in range(4):
        target.behaviours[f"/{number}"] = lambda it: log.answer(it, pictures["plain.jpg"], 0.1)
    config = replace(CONFIG, hosts={target.server_address[0]: HostLimits(concurrency=2, requests_per_s=0)})
    workers.fetch(make_requests(*urls), config, tmp_path / "raw")
    assert reasons(tmp_path / "raw") == {None: 22}
    assert len(log.times) == 22
    assert log.most == 2


def test_hosts_that_lead_to_each_other_do_not_hold_each_other_up(
    make_site: Callable[[], Any], make_requests: Any, pictures: dict[str, bytes], workers: ImageWorkers, tmp_path: Path
) -> None:
    sites = [make_site(), make_site()]
    for site, other in (sites, sites[::-1]):
        for number in range(8):
            site.behaviours[f"/{number}"] = lambda it, other=other: it.answer(302, b"", Location=other.url("/image"))
        site.files["/image"] = pictures["plain.jpg"]
    config = replace(CONFIG, host_concurrency=1)
    urls = [site.url(f"/{number}") for number in range(8) for site in sites]
    workers.fetch(make_requests(*urls), config, tmp_path / "raw")
    assert reasons(tmp_path / "raw") == {None: 16}


def test_a_try_has_one_slot_wherever_it_goes_and_none_in_the_end(tmp_path: Path) -> None:
    pace = HostPace(concurrency=1, requests_per_s=0)
    with closing(Hosts(tmp_path, {}, pace)) as hosts:
        visit = Visit(hosts, Deadline(5.0))

        def free() -> list[str]:
            slots = {group: hosts.acquire_slot(group, 0) for group in ("a.example", "b.example")}
            for group, slot in slots.items():
                if slot is not None:
                    hosts.release_slot(group, slot)
            return [group for group, slot in slots.items() if slot is not None]

        visit.go_to(parse_url("http://a.example/"))
        assert free() == ["b.example"]
        visit.go_to(parse_url("http://b.example/"))
        assert free() == ["a.example"]
        visit.go_to(parse_url("http://a.example/"))
        assert free() == ["b.example"]
        visit.close()
        assert free() == ["a.example", "b.example"]


def test_a_host_that_wants_a_day_is_left_alone_by_later_shards_and_runs(
    make_site: Callable[[], Any], make_requests: Any, tmp_path: Path
) -> None:
    site = make_site()
    for number in range(40):
        site.behaviours[f"/{number}"] = lambda it: it.answer(429, b"", Retry_After="86400")
    rows: list[dict[str, Any]] = []
    asked: list[int] = []
    for run in range(2):
        with ImageWorkers(tmp_path / "hosts") as workers:
            for shard in range(2):
                out = tmp_path / f"raw{run}{shard}"
                workers.fetch(
                    make_requests(*[site.url(f"/{n}") for n in range(20 * shard, 20 * shard + 20)]), CONFIG, out
                )
                rows += pq.read_table(out).to_pylist()
                asked.append(sum(site.hits.values()))
    assert 1 <= asked[0] <= CONFIG.host_concurrency
    assert set(asked) == {asked[0]}
    assert len(rows) == 80
    assert {(row["drop_reason"], row["detail"], row["http_status"]) for row in rows} == {("http_429", "HTTP 429", 429)}
    assert [row["final_url"] for row in rows[:40]] == [site.url(f"/{number}") for number in range(40)]
