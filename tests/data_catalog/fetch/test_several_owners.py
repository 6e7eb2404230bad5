"""Hosts owned by several fetching processes: none gets more than its limit, whoever dies, freezes or is cut off."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_catalog.disk.child_process import ChildDiedError
from data_catalog.fetch import gather, owner
from data_catalog.fetch.config import FetchConfig, HostLimits
from data_catalog.fetch.consent import ConsentConfig
from data_catalog.fetch.owner import FetchingProcess, Lease, Owners, Task, renew

CONFIG = FetchConfig(
    allow_loopback=True, retries=1, backoff_s=0.1, host_requests_per_s=0, consent=ConsentConfig(ignore=("robots.txt",))
)


class Machines(Owners):
    """Fetching processes as two machines have them; a machine that is lost stays away."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        super().__init__()
        self.processes = {name: FetchingProcess(folder / name) for name in names}
        self.lost: set[str] = set()
        self.tasks: list[Task] = []

    def names(self) -> list[str]:
        return [name for name in self.processes if name not in self.lost]

    def run(self, task: Task) -> None:
        self.tasks.append(task)
        try:
            self.processes[task.owner].run(task)
        except ChildDiedError:
            self.lost.add(task.owner)
            raise

    def close(self) -> None:
        for process in self.processes.values():
            process.close()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    with closing(Machines(tmp_path / "hosts", ("one", "two"))) as found:
        yield found


@pytest.fixture
def fetch(machines: Machines, workers: Any, make_requests: Any, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """The rows that come of URLs which the machines fetch."""
    import pyarrow.parquet as pq

    def run(*urls: str, config: FetchConfig = CONFIG) -> list[dict[str, Any]]:
        workers.fetch(make_requests(*urls), config, tmp_path / "raw.parquet", owners=machines)
        rows: list[dict[str, Any]] = pq.read_table(tmp_path / "raw.parquet").to_pylist()
        return rows

    return run


def owned(make_site: Any, machines: Machines, owner: str) -> Any:
    """A site that a machine owns: each in turn."""
    host = (site := make_site()).server_address[0]
    assert machines.assign({host: 1}) == {host: owner}
    return site


def test_a_redirect_to_a_host_of_another_machine_is_followed_by_that_machine(
    make_site: Any, machines: Machines, fetch: Any
) -> None:
    one, two = owned(make_site, machines, "one"), owned(make_site, machines, "two")
    # Content-Usage of the first host's robots.txt holds for the whole way.
    one.behaviours["/robots.txt"] = lambda it: it.answer(200, b"User-agent: *\nContent-Usage: train-ai=y\n")
    one.behaviours["/there"] = lambda it: it.answer(302, b"", Location=two.url("/and-back"))
    two.behaviours["/and-back"] = lambda it: it.answer(302, b"", Location=one.url("/image"))
    one.files["/image"] = b"x"
    one.behaviours["/busy"] = lambda it: it.answer(302, b"", Location=two.url("/busy"))
    two.behaviours["/busy"] = lambda it: it.answer(503 if two.hits["/busy"] == 1 else 200, b"y")
    one.behaviours["/loop"] = lambda it: it.answer(302, b"", Location=two.url("/loop"))
    two.behaviours["/loop"] = lambda it: it.answer(302, b"", Location=one.url("/loop"))
    config = replace(CONFIG, consent=ConsentConfig())
    rows = fetch(*map(one.url, ("/there", "/busy", "/loop")), two.url("/own"), config=config)
    assert [row["drop_reason"] for row in rows] == [None, None, "redirects", "http_404"]
    assert [row["bytes"] for row in rows[:2]] == [b"x", b"y"]
    assert rows[0]["final_url"] == one.url("/image")
    assert [[usage["value"] for usage in row["content_usage"]] for row in rows[:2]] == [["train-ai=y"]] * 2
    assert (one.hits["/busy"], two.hits["/busy"]) == (2, 2)
    assert one.hits["/loop"] + two.hits["/loop"] == CONFIG.max_redirects + 1
    assert (one.hits["/robots.txt"], two.hits["/robots.txt"]) == (1, 1)
    # Each machine asks its own hosts alone.
    for task in machines.tasks:
        places = [task.moved[url]["to"] if url in task.moved else url for url in task.urls]
        site = {"one": one, "two": two}[task.owner]
        assert all(place.startswith(site.url("")) for place in places)


def test_a_redirect_to_another_machine_does_not_wait_for_the_rest_of_its_shard(
    make_site: Any, machines: Machines, fetch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "_HANDOVER_S", 0.1)
    one, two = owned(make_site, machines, "one"), owned(make_site, machines, "two")
    arrived = threading.Event()
    one.behaviours["/there"] = lambda it: it.answer(302, b"", Location=two.url("/image"))
    two.behaviours["/image"] = lambda it: (arrived.set(), it.answer(200, b"x"))
    one.behaviours["/slow"] = lambda it: it.answer(200 if arrived.wait(4) else 404, b"y")
    two.behaviours["/slow"] = lambda it: it.answer(200 if arrived.wait(4) else 404, b"y")
    rows = fetch(one.url("/slow"), two.url("/slow"), one.url("/there"))
    assert [row["bytes"] for row in rows] == [b"y", b"y", b"x"]


def test_hosts_of_a_machine_that_dies_go_to_the_other_and_keep_their_pace(
    make_site: Any, request_log: Any, machines: Machines, fetch: Any, children: Any
) -> None:
    sites = [owned(make_site, machines, name) for name in ("one", "two", "one", "two")]
    logs = [request_log() for _ in sites]
    for site, log in zip(sites, logs, strict=True):
        for number in range(12):
            site.behaviours[f"/{number}"] = lambda it, log=log: log.answer(it, b"x", 0.05)
    hosts = {site.server_address[0]: HostLimits(concurrency=2, requests_per_s=10) for site in sites}
    before = children("fetch")

    def kill() -> None:
        while sum(len(log.times) for log in logs) < 16:
            time.sleep(0.01)
        (victim, *_) = sorted(children("fetch") - before)
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    rows = fetch(
        *[site.url(f"/{number}") for number in range(12) for site in sites], config=replace(CONFIG, hosts=hosts)
    )
    killer.join()
    assert {row["bytes"] for row in rows} == {b"x"}
    assert len(machines.lost) == 1
    for site, log in zip(sites, logs, strict=True):
        assert log.most <= 2
        # 0.1 s, but for the way of a request on a busy machine.
        assert min(later - earlier for earlier, later in pairwise(sorted(log.times))) > 0.05
        assert site.hits.total() <= 12 + 2  # what was under way when the machine died is asked for again


def test_a_pause_goes_to_the_heir_of_a_host(
    make_site: Any, machines: Machines, fetch: Any, children: Any, tmp_path: Path
) -> None:
    site, before = owned(make_site, machines, "one"), children("fetch")
    site.behaviours["/busy"] = lambda it: it.answer(429, b"", Retry_After="1000")
    site.files["/late"] = b"x"

    def kill(it: Any) -> None:
        while not any(b'"pause"' in path.read_bytes() for path in tmp_path.rglob("*.journal")):
            time.sleep(0.01)
        for pid in children("fetch") - before:
            os.kill(pid, signal.SIGKILL)

    site.behaviours["/kills"] = kill
    hosts = {site.server_address[0]: HostLimits(concurrency=2, requests_per_s=0)}
    config = replace(CONFIG, hosts=hosts, retries=0)
    rows = fetch(site.url("/busy"), site.url("/kills"), site.url("/late"), config=config)
    assert [row["drop_reason"] for row in rows] == ["http_429"] * 3
    assert "one" in machines.lost
    assert site.hits["/late"] == 0


def test_a_lease_holds_while_it_is_renewed_for_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(owner, "time", SimpleNamespace(monotonic=lambda: now))
    path = tmp_path / "lease"
    one = Lease(path, "one")
    assert not one.holds()  # there is none yet
    renew(path, 0, ["one", "two"])
    now += 2
    assert not one.holds()  # it may be an old one
    for beat, names, passed_s, holds in (
        (1, ["one", "two"], 2, True),
        (1, ["one", "two"], 9, True),
        (1, ["one", "two"], 2, False),  # nobody has renewed it
        (2, ["one", "two"], 2, True),
        (3, ["two"], 9, True),
        (4, ["two"], 2, False),  # the flow has given it up
        (5, ["one"], 3600, True),
        (6, ["two"], 3600, False),  # it was frozen meanwhile, and looks before its next request
    ):
        renew(path, beat, names)
        now += passed_s
        assert one.holds() is holds, beat


@pytest.mark.slower
def test_a_process_whose_lease_ends_makes_no_more_requests(make_site: Any, children: Any, tmp_path: Path) -> None:
    site, path, before = make_site(), tmp_path / "lease", children("fetch")
    site.files |= {f"/{number}": b"x" for number in range(600)}
    config = replace(CONFIG, hosts={site.server_address[0]: HostLimits(concurrency=1, requests_per_s=20)})
    task = Task(
        urls=[site.url(f"/{number}") for number in range(600)],
        config=config,
        journal=tmp_path / "a.journal",
        owner="one",
        hosts=None,
        starts={},
        pauses={},
        moved={},
    )

    def keep() -> None:
        for beat in range(40):
            renew(path, beat, ["one"])
            time.sleep(0.2)

    keeper = threading.Thread(target=keep)
    keeper.start()
    with closing(FetchingProcess(tmp_path / "hosts", str(path), "one")) as process:
        with pytest.raises(ChildDiedError, match="exit status 3"):
            process.run(task)
        keeper.join()
        asked = site.hits.total()
        assert 200 < asked < 600
        time.sleep(0.2)
        assert site.hits.total() == asked
        assert children("fetch") == before
