"""What the opener makes of answers: which URL is asked, whether again, and what happens when something is broken."""

import io
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO
from urllib.request import Request

import pytest

from data_catalog.errors import ConfigError, PipelineError
from data_catalog.fetch.connection import Deadline
from data_catalog.fetch.fetch import FetchConfig
from data_catalog.fetch.guard import Hooks
from data_catalog.fetch.hosts import ClosedHosts, HostClock, HostPace
from data_catalog.fetch.ledger import HostLedger
from data_catalog.fetch.row_opener import RowOpener
from data_catalog.fetch.row_queue import StoppedError
from data_catalog.fetch.urls import FetchError, parse_url

ORIGINAL = "https://upload.wikimedia.org/wikipedia/commons/a/ab/Cat.jpg"
THUMBNAIL = "https://upload.wikimedia.org/wikipedia/commons/thumb/a/ab/Cat.jpg/500px-Cat.jpg"

Answer = bytes | Exception
Pace = tuple[HostLedger, ClosedHosts]


class FakeResponse:
    status = 200
    robots_tags: tuple[str, ...] = ()

    def __init__(self, url: str, body: bytes) -> None:
        self.url = url
        self._body = body

    def __enter__(self) -> "FakeResponse":
        return self

    def __exit__(self, *args: object) -> None:
        """Nothing is open."""

    def copy_to(self, sink: IO[bytes]) -> None:
        sink.write(self._body)


class FakeWeb:
    """Answers by URL: a body, or what is raised; the last answer of a list is given for ever."""

    def __init__(self, **answers: Answer) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.asked: Counter[str] = Counter()

    def open(self, url: str, *, deadline: Deadline, hooks: Hooks) -> FakeResponse:
        hooks.before_connect(parse_url(url))
        answers = self.answers[url]
        answer = answers[min(self.asked[url], len(answers) - 1)]
        self.asked[url] += 1
        if isinstance(answer, Exception):
            raise answer
        return FakeResponse(url, answer)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[HostLedger]:
    found = HostLedger(tmp_path / "pace")
    yield found
    found.close()


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[ClosedHosts]:
    with closing(ClosedHosts(tmp_path / "closed.sqlite")) as found:
        yield found


@pytest.fixture
def pace(ledger: HostLedger, closed: ClosedHosts) -> Pace:
    return ledger, closed


def opener_of(web: FakeWeb, pace: Pace, config: FetchConfig, *urls: str) -> RowOpener:
    ledger, closed = pace
    clock = HostClock(ledger, {}, HostPace(requests_per_s=0))
    return RowOpener(
        urls,
        config,
        guarded=web,  # type: ignore[arg-type]
        clock=clock,
        closed=closed,
        robots=None,
        on_begin=lambda row: None,
        on_back=lambda row: None,
        on_wait=lambda: None,
        new_body=io.BytesIO,
    )


def outcomes(opener: RowOpener) -> list[bytes | str]:
    """The body, or the reason, of each row in order."""
    found: dict[int, bytes | str] = {}
    for turn in range(len(opener.rows)):
        try:
            opener.open(Request(f"http://turn.invalid/#{turn}"))
            body = opener.rows[opener.row_of_turn[turn]].body
            assert isinstance(body, io.BytesIO)
            found[opener.row_of_turn[turn]] = body.getvalue()
        except FetchError as error:
            found[opener.row_of_turn[turn]] = error.reason
    return [found[row] for row in range(len(opener.rows))]


def http(status: int, retry_after_s: float | None = None) -> FetchError:
    return FetchError(f"http_{status}", http_status=status, retry_after_s=retry_after_s)


@pytest.mark.parametrize(
    ("thumbnail", "original", "outcome", "asked"),
    [
        ([b"small"], [b"large"], b"small", {THUMBNAIL: 1}),
        ([http(400)], [b"large"], b"large", {THUMBNAIL: 1, ORIGINAL: 1}),
        ([http(404)], [b"large"], b"large", {THUMBNAIL: 1, ORIGINAL: 1}),
        ([http(404)], [http(404)], "http_404", {THUMBNAIL: 1, ORIGINAL: 1}),
        ([http(404)], [http(503), b"large"], b"large", {THUMBNAIL: 1, ORIGINAL: 2}),
        ([http(429), b"small"], [b"large"], b"small", {THUMBNAIL: 2}),
        ([http(503)], [b"large"], "http_503", {THUMBNAIL: 2}),
        ([FetchError("dns")], [b"large"], "dns", {THUMBNAIL: 2}),
        ([FetchError("too_large")], [b"large"], "too_large", {THUMBNAIL: 1}),
    ],
)
def test_a_thumbnail_is_taken_and_the_original_where_there_is_none(
    thumbnail: list[Answer], original: list[Answer], outcome: bytes | str, asked: dict[str, int], pace: Pace
) -> None:
    web = FakeWeb()
    web.answers = {THUMBNAIL: thumbnail, ORIGINAL: original}
    assert outcomes(opener_of(web, pace, FetchConfig(retries=1, backoff_s=0.001), ORIGINAL)) == [outcome]
    assert web.asked == asked


def test_originals_can_be_asked_for(pace: Pace) -> None:
    web = FakeWeb()
    web.answers = {ORIGINAL: [b"large"]}
    assert outcomes(opener_of(web, pace, FetchConfig(wikimedia_width=0), ORIGINAL)) == [b"large"]


def test_a_parser_that_trips_over_an_answer_costs_one_row(pace: Pace) -> None:
    web = FakeWeb()
    web.answers = {
        "http://a.example/1": [b"one"],
        "http://a.example/2": [KeyError("what nobody foresaw")],
        "http://a.example/3": [ValueError("once only"), b"three"],
    }
    opener = opener_of(web, pace, FetchConfig(retries=1, backoff_s=0.001), *web.answers)
    assert outcomes(opener) == [b"one", "fetch_lost", b"three"]
    failure = opener.rows[1].failure
    assert failure is not None
    assert failure.detail == "KeyError"
    assert opener.failure is None


@pytest.mark.parametrize(
    "trouble",
    [OSError(28, "No space left on device"), ConfigError("No space, says SQLite"), PipelineError("No space: EIO")],
    ids=repr,
)
def test_trouble_of_the_machine_ends_the_shard_for_all_threads(trouble: Exception, pace: Pace) -> None:
    web = FakeWeb()
    web.answers = {"http://a.example/1": [trouble]}
    opener = opener_of(web, pace, FetchConfig(), *web.answers)
    stopped = threading.Event()

    def wait_for_a_row() -> None:
        with pytest.raises((StoppedError, type(trouble))):
            opener.open(Request("http://turn.invalid/#1"))
        stopped.set()

    with pytest.raises(type(trouble), match="No space"):
        opener.open(Request("http://turn.invalid/#0"))
    thread = threading.Thread(target=wait_for_a_row)
    thread.start()
    thread.join()
    assert stopped.is_set()
    assert opener.failure is trouble


def test_a_host_that_wants_more_time_than_there_is_is_given_up_for_this_shard(pace: Pace) -> None:
    web = FakeWeb()
    urls = [f"http://a.example/{number}" for number in range(5)]
    web.answers = {urls[0]: [http(429, retry_after_s=86_400.0)], **{url: [b"x"] for url in urls[1:]}}
    web.answers["http://b.example/"] = [b"another host"]
    opener = opener_of(web, pace, FetchConfig(host_concurrency=1), *urls, "http://b.example/")
    assert outcomes(opener) == [*["http_429"] * 5, b"another host"]
    assert web.asked == {urls[0]: 1, "http://b.example/": 1}


def test_a_host_behind_a_redirect_that_wants_time_does_not_hold_up_those_that_lead_to_it(pace: Pace) -> None:
    elsewhere = http(429, retry_after_s=86_400.0)
    elsewhere.url = "http://b.example/moved"
    web = FakeWeb()
    web.answers = {
        "http://a.example/0": [elsewhere],
        "http://a.example/1": [b"here"],
        "http://b.example/": [b"not asked any more"],
    }
    opener = opener_of(web, pace, FetchConfig(host_concurrency=1), *web.answers)
    assert outcomes(opener) == ["http_429", b"here", "http_429"]
    assert web.asked["http://b.example/"] == 0
    assert opener.rows[2].final_url == "http://b.example/"
