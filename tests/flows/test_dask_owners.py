"""Fetching by the machines of a cluster: workers at addresses of their own, of which one is killed or frozen."""

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client, Nanny, Scheduler, SpecCluster
from loopback import LoopbackHandler, LoopbackServer

from data_catalog.disk.files import write_json
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.consent import ConsentConfig
from data_catalog.fetch.journal import JournalReader
from data_catalog.fetch.owner import LEASE_S, RENEWED_S, Task
from data_catalog.fetch.workers import ImageWorkers
from flows.cli import main
from flows.orchestration import dask_doctor, dask_owners
from flows.orchestration.dask_owners import DaskOwners
from flows.orchestration.dask_workers import FlowEnvironment, run_remotely, versions

pytestmark = pytest.mark.slower

NUM_HOSTS, AT_ONCE = 12, 2
CONFIG = FetchConfig(
    allow_loopback=True,
    host_concurrency=AT_ONCE,
    host_requests_per_s=10,
    retries=1,
    consent=ConsentConfig(ignore=("robots.txt",)),
)


class Site(LoopbackServer):
    """All hosts 127.0.4.N on one port; keeps the requests that came, and how many of a host were under way at once."""

    def __init__(self) -> None:
        super().__init__(_Handler, "0.0.0.0")
        self.under_way: dict[str, int] = {}
        self.most = 0
        self.paths: list[str] = []
        self.lock = threading.Lock()


class _Handler(LoopbackHandler):
    server: Site

    def do_GET(self) -> None:
        site, host = self.server, self.connection.getsockname()[0]
        with site.lock:
            site.paths.append(host + self.path)
            site.under_way[host] = site.under_way.get(host, 0) + 1
            site.most = max(site.most, site.under_way[host])
        site.stopping.wait(0.05)
        with site.lock:
            site.under_way[host] -= 1
        self.answer(200, b"x")


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        yield server


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    options = {"nthreads": 1, "memory_limit": 0}
    specs = {number: {"cls": Nanny, "options": {**options, "host": f"127.0.0.{2 + number}"}} for number in range(3)}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
    with SpecCluster(specs, scheduler) as cluster, Client(cluster) as found:  # type: ignore[no-untyped-call]
        found.wait_for_workers(3)
        yield found


class WatchedOwners(DaskOwners):
    """Keeps when the processes began requests, by host: on a busy machine, some come to the site late."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.begun: dict[str, list[float]] = {}

    def run(self, task: Task) -> None:
        try:
            super().run(task)
        finally:
            with suppress(FileNotFoundError):  # the process never got the task
                for event, _ in JournalReader(task.journal):
                    if "at" in event:
                        self.begun.setdefault(event["host"], []).append(event["at"])


Fetch = Callable[[int, Callable[[], object]], None]


@pytest.fixture
def fetch(client: Client, site: Site, tmp_path: Path) -> Fetch:
    """Fetches so many images of each host, while something happens; none is lost, and few are asked for again."""

    def run(images_a_host: int, happens: Callable[[], object]) -> None:
        port = site.server_address[1]
        urls = [f"http://127.0.4.{1 + host}:{port}/{n}" for n in range(images_a_host) for host in range(NUM_HOSTS)]
        nothing = pa.nulls(len(urls), pa.string())
        requests = pa.table({"sample_id": urls, "url": urls, "path": nothing, "location": nothing})
        owners = WatchedOwners(client, lambda call: call, tmp_path / "hosts")

        def happen() -> None:
            while len(site.paths) < len(urls) // 10:
                time.sleep(0.01)
            happens()

        thread = threading.Thread(target=happen)
        thread.start()
        try:
            with ImageWorkers() as workers:
                workers.fetch(requests, CONFIG, tmp_path / "raw.parquet", owners=owners)
        finally:
            thread.join()
            owners.close()
        assert set(pq.read_table(tmp_path / "raw.parquet")["bytes"].to_pylist()) == {b"x"}
        assert site.most <= AT_ONCE
        assert sum(map(len, owners.begun.values())) >= len(site.paths)
        # 0.1 s, but for a thread that waits for a processor.
        assert min(b - a for times in owners.begun.values() for a, b in pairwise(sorted(times))) > 0.05
        assert len(site.paths) - len(set(site.paths)) <= NUM_HOSTS * AT_ONCE

    return run


def processes_of(client: Client) -> list[int]:
    """The process of each machine's worker."""
    return sorted(client.run(os.getpid).values())  # type: ignore[no-untyped-call]


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(pid):
                found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("trouble", ["no answer", "a late answer"])
def test_a_scheduler_in_trouble_for_a_moment_costs_no_machine_its_hosts(
    trouble: str, client: Client, fetch: Fetch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    info = client.scheduler_info

    def scheduler_info(**options: Any) -> Any:
        if trouble == "no answer":
            raise TimeoutError
        found = info(**options)
        time.sleep(2 * RENEWED_S)
        return found

    def be_in_trouble() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(dask_owners, "SILENT_S", 5 * RENEWED_S if trouble == "no answer" else 1.5 * RENEWED_S)
            patched.setattr(client, "scheduler_info", scheduler_info)
            time.sleep(3 * RENEWED_S)

    fetch(60, be_in_trouble)
    assert not [line for line in caplog.messages if "is lost" in line]


class _Loading:
    """Unpickled as the thread that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return threading.current_thread, ()


class _LoadingName:
    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (_Loading(), "name")


def test_a_call_is_unpickled_beside_the_heartbeats_of_its_worker(client: Client, tmp_path: Path) -> None:
    write_json(tmp_path / "mark", {})
    environment = FlowEnvironment(folder=Path.cwd(), mark=tmp_path / "mark", versions=versions())
    call = partial(run_remotely, environment, pickle.dumps(partial(str, _LoadingName())))
    assert "Threads" in client.submit(call, pure=False).result(timeout=60)


def test_the_doctor_says_what_each_worker_lacks(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    address = client.scheduler_info()["address"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VERNACLIP_ROOT", str(tmp_path / "catalog"))
    assert main(["doctor", "--dask", address]) == 0
    assert capsys.readouterr().out == "no problems found\n"
    assert not list((tmp_path / "catalog" / "work").iterdir())
    pretended = {"anagram": "it has no anagram", "en_xx": "it lacks the Argos package en_xx"}
    monkeypatch.setattr(dask_doctor, "abilities", lambda: pretended)
    assert main(["doctor", "--dask", address]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "it has no anagram" in line]) == 3
    assert len([line for line in lines if "it lacks the Argos package en_xx" in line]) == 3
    monkeypatch.setattr(dask_doctor, "versions", lambda: {**versions(), "Python": "1.0"})
    assert main(["doctor", "--dask", address]) == 1
    assert capsys.readouterr().out.count("but the flow has 1.0, so outputs would differ") == 3
    assert "leave out --fix or --language, or --dask" in told(["doctor", "--dask", address, "--fix"], code=1)
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in told(["doctor", "--dask", "tcp://127.0.0.1:9"], code=1)


def test_a_host_stays_with_its_machine_in_later_builds(client: Client, tmp_path: Path) -> None:
    """Its machine knows its robots.txt, and until when it asked for a rest."""
    found = []
    for counts in (range(1, 10), range(9, 0, -1)):
        owners = DaskOwners(client, lambda call: call, tmp_path / "hosts")
        found.append(owners.assign({f"host{number}.example": count for number, count in enumerate(counts)}))
        owners.close()
    assert found[0] == found[1]
    assert len({*found[0].values()}) == 3


def test_workers_that_freeze_ask_for_nothing_once_their_hosts_have_gone(
    client: Client, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with its fetching process, which thaws later; another without it, as if it were cut off."""
    monkeypatch.setattr(dask_owners, "SILENT_S", 3.0)

    def freeze() -> None:
        one, other, _ = processes_of(client)
        frozen = [one, *children_of(one), other]
        for each in frozen:
            os.kill(each, signal.SIGSTOP)
        time.sleep(LEASE_S + 8)
        for each in frozen:
            os.kill(each, signal.SIGCONT)

    fetch(200, freeze)


def test_hosts_of_a_killed_worker_go_to_another_and_none_gets_more_than_its_limit(client: Client, fetch: Fetch) -> None:
    client.wait_for_workers(3)
    fetch(200, lambda: os.kill(processes_of(client)[0], signal.SIGKILL))
