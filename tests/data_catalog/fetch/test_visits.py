"""What becomes of URLs: thumbnails, retries, hosts that refuse, limits of bytes, and trouble of this machine.

A server on loopback stands for any host.
"""

import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Barrier, Event
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from data_catalog.base.errors import DiskError, PipelineError
from data_catalog.fetch.client import GuardedClient, Response
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.consent import ConsentConfig
from data_catalog.fetch.journal import Journal, JournalReader
from data_catalog.fetch.robots import HostStore
from data_catalog.fetch.urls import Target, parse_url
from data_catalog.fetch.visits import Fetcher, Job

COMMONS = "http://upload.wikimedia.org/wikipedia/commons"
ORIGINAL, THUMBNAIL = f"{COMMONS}/a/ab/Cat.jpg", f"{COMMONS}/thumb/a/ab/Cat.jpg/500px-Cat.jpg"
CONFIG = FetchConfig(
    consent=ConsentConfig(ignore=("robots.txt",)),
    backoff_s=0.001,
    host_requests_per_s=0,
    threads=4,
    deadline_s=5,
    allow_loopback=True,
)
# A status (0: 200, with a body of unstated length), a body and headers.
Answer = tuple[int, bytes, dict[str, str]]


def good(body: bytes) -> Answer:
    return 200, body, {}


def bad(status: int, **headers: str) -> Answer:
    return status, b"", headers


class Client(GuardedClient):
    """A client of that server. `trips` are raised in place of an answer, in turn, by URL."""

    def __init__(self, site: Any, config: FetchConfig, trips: dict[str, list[Exception]]) -> None:
        super().__init__(config)
        self.site, self.trips = site, trips

    def get(self, target: Target, **options: Any) -> Response:
        if self.trips.get(target.url):
            raise self.trips[target.url].pop(0)
        return super().get(parse_url(self.site.url(f"/{quote(target.url, safe='')}")), **options)


def answered(answers: list[Answer]) -> Callable[[Any], None]:
    """Answers in turn; the last one is given for ever."""

    def answer(it: Any) -> None:
        status, body, headers = answers.pop(0) if len(answers) > 1 else answers[0]
        if status:
            it.answer(status, body, **headers)
        else:  # of unknown length
            it.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + body)

    return answer


@pytest.fixture(scope="module")
def site(make_site: Callable[[], Any]) -> Any:
    return make_site()


@pytest.fixture
def asked(site: Any) -> Counter[str]:
    """How often the server was asked for each URL, after a slash."""
    site.hits.clear()
    hits: Counter[str] = site.hits
    return hits


Outcomes = dict[str, dict[str, Any]]


@pytest.fixture
def fetch(site: Any, tmp_path: Path) -> Callable[..., Outcomes]:
    """The outcomes of URLs, by default of all that there are answers for; `body` has what came."""

    def run(
        answers: dict[str, list[Answer] | Callable[[Any], None]], *urls: str, trips: Any = None, **options: Any
    ) -> Outcomes:
        site.behaviours = {
            f"/{url}": found if callable(found) else answered([*found]) for url, found in answers.items()
        }
        config, ended, failures = replace(CONFIG, **options), Event(), list[Exception]()

        def fail(error: Exception) -> None:
            failures.append(error)
            ended.set()

        fetcher = Fetcher(config, HostStore(tmp_path / "hosts"), fail, client=Client(site, config, trips or {}))
        asked_for, path = urls or tuple(answers), tmp_path / "a.journal"
        path.unlink(missing_ok=True)
        fetcher.start(Job(Journal(path), tmp_path, len(asked_for), ended.set), asked_for)
        assert ended.wait(60)
        if failures:
            raise failures[0]
        events = [event | {"body": piece and piece.read()} for event, piece in JournalReader(path) if "reason" in event]
        found = {event["url"]: event for event in events}
        assert len(found) == len(events) == len(asked_for)
        return found

    return run


def results(found: Outcomes, urls: Any = None) -> list[bytes | str]:
    """A body or a reason each."""
    return [found[url]["body"] or found[url]["reason"] for url in urls or sorted(found)]


@pytest.mark.parametrize(
    ("thumbnail", "original", "outcome", "requests"),
    [
        ([good(b"small")], [good(b"large")], b"small", {THUMBNAIL: 1}),
        ([bad(400)], [good(b"large")], b"large", {THUMBNAIL: 1, ORIGINAL: 1}),
        ([bad(404)], [bad(503), good(b"large")], b"large", {THUMBNAIL: 1, ORIGINAL: 2}),
        ([bad(429), good(b"small")], [good(b"large")], b"small", {THUMBNAIL: 2}),
        ([bad(500)], [good(b"large")], "http_500", {THUMBNAIL: 2}),
        ([good(bytes(101))], [good(b"large")], "too_large", {THUMBNAIL: 1}),
    ],
)
def test_a_thumbnail_is_taken_and_the_original_where_there_is_none(
    thumbnail: list[Answer],
    original: list[Answer],
    outcome: bytes | str,
    requests: dict[str, int],
    fetch: Callable[..., Outcomes],
    asked: Counter[str],
) -> None:
    found = fetch({THUMBNAIL: thumbnail, ORIGINAL: original}, ORIGINAL, retries=1, max_bytes=100)
    assert results(found) == [outcome]
    assert asked == {f"/{url}": count for url, count in requests.items()}


def test_a_parser_that_trips_over_an_answer_costs_one_row(fetch: Callable[..., Outcomes]) -> None:
    urls = [f"http://a.example/{number}" for number in range(3)]
    trips = {urls[1]: [KeyError("what nobody foresaw")] * 2, urls[2]: [ValueError("once only")]}
    found = fetch({url: [good(url[-1].encode())] for url in urls}, trips=trips, retries=1)
    assert results(found) == [b"0", "fetch_lost", b"2"]
    assert found[urls[1]]["detail"] == "KeyError"


def test_trouble_of_the_machine_ends_the_shard(fetch: Callable[..., Outcomes]) -> None:
    for trouble in (OSError(28, "No space"), DiskError("No space"), PipelineError("No space")):
        with pytest.raises(type(trouble), match="No space"):
            fetch({"http://a.example/1": [good(b"x")]}, trips={"http://a.example/1": [trouble]})


def test_a_host_behind_a_redirect_that_wants_time_does_not_hold_up_those_that_lead_to_it(
    fetch: Callable[..., Outcomes], asked: Counter[str]
) -> None:
    answers = {
        "http://a.example/0": [bad(302, Location="http://b.example/moved")],
        "http://b.example/moved": [bad(429, Retry_After="86400")],
        "http://a.example/1": [good(b"here")],
    }
    later = {"http://b.example/": [good(b"not asked any more")]}
    assert results(fetch(answers, "http://a.example/0", "http://a.example/1")) == ["http_429", b"here"]
    found = fetch(answers | later, "http://b.example/")
    assert results(found) == ["http_429"]
    assert asked["/http://b.example/"] == 0
    assert found["http://b.example/"]["final_url"] == "http://b.example/"


def test_a_host_that_refuses_whatever_is_asked_is_given_up(fetch: Callable[..., Outcomes], asked: Counter[str]) -> None:
    urls = [f"http://a.example/{number}" for number in range(200)]
    assert results(fetch({url: [bad(429, Retry_After="0")] for url in urls})) == ["http_429"] * 200
    assert asked.total() <= 3 * 8 + 3  # three tries of all that may be asked at once


def test_a_row_whose_host_rests_is_asked_later_and_not_charged_with_a_try(fetch: Callable[..., Outcomes]) -> None:
    busy, other = "http://a.example/0", "http://a.example/1"
    started = time.time()
    found = fetch({busy: [bad(503, Retry_After="1"), good(b"x")], other: [good(b"y")]}, threads=1)
    assert results(found, [busy, other]) == [b"x", b"y"]
    assert (found[busy]["tries"], found[other]["tries"]) == (2, 1)
    assert found[other]["asked_at"] - started >= 1
    assert found[busy]["waiting_s"] >= 1
    # Waits between tries double, and what a server may ask for is no limit of a backoff.
    found = fetch({busy: [bad(500)]}, backoff_s=0.1, retries=3, max_wait_s=0.1)
    assert (found[busy]["reason"], found[busy]["tries"]) == ("http_500", 4)
    assert found[busy]["waiting_s"] >= 0.7


@pytest.mark.parametrize(
    ("limits", "ours"),
    [
        ({"max_host_bytes": 250}, b"x" * 90),
        ({"max_host_bytes": 250, "max_bytes": 80}, "too_large"),
        ({"max_shard_bytes": 250}, b"x" * 90),
    ],
)
def test_what_is_over_the_bytes_of_a_host_or_of_the_shard_is_not_asked_for(
    limits: dict[str, int], ours: bytes | str, fetch: Callable[..., Outcomes], asked: Counter[str]
) -> None:
    urls = [f"http://a.example/{number}" for number in range(5)]
    answers: dict[str, list[Answer]] = {url: [(0, b"x" * 90, {})] for url in urls}
    found = fetch(answers | {"http://b.example/": [good(b"another")]}, threads=1, **limits)
    assert results(found) == [ours, ours, ours, "byte_budget", "byte_budget", b"another"]
    assert sum(asked[f"/{url}"] for url in urls) == 3
    whose = "a.example" if "max_host_bytes" in limits else "the shard"
    assert found[urls[4]]["detail"] == f"250 bytes of {whose}"


def test_hosts_take_turns(fetch: Callable[..., Outcomes]) -> None:
    urls = [f"http://{host}.example/{number}" for host in "ab" for number in range(20)]
    found = fetch({url: [good(b"x")] for url in urls}, threads=1)
    order = sorted(found, key=lambda url: found[url]["asked_at"])
    assert [urlsplit(url).hostname for url in order[:10]] == ["a.example", "b.example"] * 5


def test_connections_that_take_long_bring_no_two_requests_together(
    request_log: Any, fetch: Callable[..., Outcomes], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, together, log = socket.create_connection, Barrier(3), request_log()

    def connect_together(*args: Any) -> socket.socket:
        together.wait(10)
        return connect(*args)

    monkeypatch.setattr("data_catalog.fetch.client.socket.create_connection", connect_together)
    answers = {f"http://a.example/{number}": lambda it: log.answer(it, b"x") for number in range(3)}
    assert results(fetch(answers, host_requests_per_s=5)) == [b"x"] * 3
    assert all(later - earlier > 0.15 for earlier, later in pairwise(sorted(log.times)))
