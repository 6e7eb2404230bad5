"""Journals, and what an interrupted run left in them."""

import io
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_catalog.base.errors import InputError
from data_catalog.disk.child_process import ChildDiedError
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.gather import fetch_by_owners
from data_catalog.fetch.journal import Journal, JournalReader
from data_catalog.fetch.owner import Owners, Task

EVENTS = [({"url": "a", "n": 1}, None), ({"url": "é"}, b"body"), ({"url": "c"}, b""), ({"url": "d"}, bytes(3000))]


def written(path: Path, events: Any) -> None:
    journal = Journal(path)
    for event, body in events:
        journal.append(event, None if body is None else io.BytesIO(body))
    journal.close()


def read(path: Path) -> list[tuple[dict[str, Any], bytes | None]]:
    data = path.read_bytes()
    return [(event, piece and data[piece.offset : piece.offset + piece.length]) for event, piece in JournalReader(path)]


@given(data=st.data())
def test_a_torn_or_damaged_journal_has_what_was_whole_before(
    data: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("journal") / "a.journal"
    written(path, EVENTS)
    whole, content = read(path), bytearray(path.read_bytes())
    assert whole == [(event, body or None) for event, body in EVENTS]
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(content[:place])
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
    found = read(path)
    assert found == whole[: len(found)]
    assert len(found) < len(whole)


def test_a_reader_goes_on_where_it_stopped(tmp_path: Path) -> None:
    written(tmp_path / "whole", EVENTS)
    content, path = (tmp_path / "whole").read_bytes(), tmp_path / "growing"
    reader, found = JournalReader(path), []
    for size in range(0, len(content) + 500, 500):
        path.write_bytes(content[:size])
        found += [event for event, _ in reader]
    assert found == [event for event, _ in EVENTS]
    assert list(reader) == []


class FakeOwners(Owners):
    """Owners whose answers are a function of the URL; one that raises `ChildDiedError` kills the owner."""

    def __init__(self, answer: Callable[[str], str | None], names: tuple[str, ...] = ("one",)) -> None:
        super().__init__()
        self.answer, self.alive = answer, list(names)
        self.asked: list[str] = []
        self.tasks: list[Task] = []

    def names(self) -> list[str]:
        return self.alive

    def run(self, task: Task) -> None:
        self.tasks.append(task)
        with closing(Journal(task.journal)) as file:
            for url in task.urls:
                self.asked.append(url)
                file.append({"url": url, "host": "a.example", "at": time.time()})
                file.append({"url": url, "reason": self.answer(url), "detail": None})


URLS = [f"http://{host}.example/{number}" for host in "abcde" for number in range(4)]


def test_what_an_interrupted_run_left_is_not_asked_for_again(tmp_path: Path) -> None:
    outcome = {"reason": "http_404", "detail": None}
    events = [{"url": url, **outcome} for url in URLS[:7]] + [{"url": URLS[7], "host": "b.example", "at": 1.0}]
    # A process may have died before it opened its journal, so that numbers are missing.
    for number, some in ((1, events[:3]), (4, events[3:])):
        written(tmp_path / f"{number:05d}.journal", [(event, None) for event in some])
    owners = FakeOwners(lambda url: None)
    found = fetch_by_owners(URLS, FetchConfig(), tmp_path, owners)
    assert sorted(owners.asked) == URLS[7:]
    assert [found[url]["reason"] for url in URLS] == ["http_404"] * 7 + [None] * 13
    assert fetch_by_owners(URLS, FetchConfig(), tmp_path, owners) == found
    assert sorted(owners.asked) == URLS[7:]


def test_a_process_is_told_what_others_asked_of_its_hosts_for_other_shards_too(tmp_path: Path) -> None:
    now, inner = time.time(), FakeOwners(lambda url: None)
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
    pauses = {"b.example": [now + 100, "http_429", None, 429], "c.example": [now - 1, "http_429", None, 429]}
    events: list[dict[str, Any]] = [{"url": URLS[0], "host": host, "pause": pause} for host, pause in pauses.items()]
    events += [{"url": URLS[0], "host": "d.example", "at": at} for at in (now - 5, now - 9)]
    events.append({"url": URLS[0], "host": "e.example", "at": now - 1000})
    written(tmp_path / "outer" / "00000.journal", [(event, None) for event in events])

    def answer(url: str) -> None:
        if not inner.asked:  # while the other shard is fetched
            fetch_by_owners([url], FetchConfig(), tmp_path / "inner", inner)

    fetch_by_owners(URLS, FetchConfig(), tmp_path / "outer", FakeOwners(answer))
    (task,) = inner.tasks
    assert task.pauses == {"b.example": pauses["b.example"]}
    assert task.starts.keys() == {"a.example", "d.example"}
    assert task.starts["d.example"] == now - 5


def test_shards_that_read_each_others_journals_at_once_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_LOOK_S", "_HANDOVER_S"):
        monkeypatch.setattr(f"data_catalog.fetch.gather.{name}", 1e-4)

    def shard(name: str) -> set[str | None]:
        (tmp_path / name).mkdir()
        urls = [f"http://{name}.example/{number}" for number in range(2000)]
        found = fetch_by_owners(urls, FetchConfig(), tmp_path / name, FakeOwners(lambda url: None))
        return {outcome["reason"] for outcome in found.values()}

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert [*pool.map(shard, map(str, range(20)))] == [{None}] * 20
    finally:
        sys.setswitchinterval(interval)


def test_a_url_that_kills_its_owner_whenever_it_is_asked_for_is_given_up_alone(tmp_path: Path) -> None:
    def answer(url: str) -> None:
        if url == URLS[5]:
            raise ChildDiedError("signal 9")

    owners = FakeOwners(answer)
    found = fetch_by_owners(URLS, FetchConfig(), tmp_path, owners)
    assert {url for url in URLS if found[url]["reason"]} == {URLS[5]}
    assert found[URLS[5]]["reason"] == "fetch_crash"
    assert owners.asked.count(URLS[5]) == 3
    assert len(owners.asked) == len(URLS) + 2


@pytest.mark.parametrize("is_lost", [False, True])
def test_no_url_is_suspected_that_waited_or_whose_machine_was_lost(is_lost: bool, tmp_path: Path) -> None:
    owners, run = FakeOwners(lambda url: None), FakeOwners.run

    def die(task: Task) -> None:
        owners.tasks.append(task)
        with closing(Journal(task.journal)) as file:
            for url in task.urls:
                file.append({"url": url, "host": "a.example", "at": time.time()})
                if not is_lost:
                    file.append({"url": url, "waits": True})
        error = ChildDiedError("signal 9")
        error.has_begun, error.is_lost = True, is_lost
        if len(owners.tasks) == 5:
            owners.run = lambda task: run(owners, task)  # type: ignore[method-assign]
        raise error

    owners.run = die  # type: ignore[method-assign]
    found = fetch_by_owners(URLS, FetchConfig(), tmp_path, owners)
    assert {found[url]["reason"] for url in URLS} == {None}
    assert {len(task.urls) for task in owners.tasks} == {len(URLS)}, "none was tried alone"


def test_an_owner_that_dies_before_it_asks_for_anything_is_an_error(tmp_path: Path) -> None:
    owners = FakeOwners(lambda url: None)
    owners.run = lambda task: (_ for _ in ()).throw(ChildDiedError("exit status 1"))  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"ends before it reaches a row: exit status 1"):
        fetch_by_owners(URLS, FetchConfig(), tmp_path, owners)


@given(num_urls=st.lists(st.integers(1, 100), min_size=1, max_size=50), names=st.integers(2, 9), gone=st.randoms())
def test_hosts_go_to_owners_with_little_to_do_and_stay_there(num_urls: list[int], names: int, gone: Any) -> None:
    owners = FakeOwners(lambda url: None, tuple(map(str, range(names))))
    hosts = {f"host{number}.example": count for number, count in enumerate(num_urls)}
    before = owners.assign(hosts)
    loads = [sum(hosts[host] for host in hosts if before[host] == name) for name in owners.alive]
    assert max(loads) - min(loads) <= max(num_urls)
    owners.alive.remove(dead := gone.choice(owners.alive))
    after = owners.assign(hosts)
    assert {host for host in hosts if before[host] != after[host]} == {host for host in hosts if before[host] == dead}
    assert dead not in after.values()
