"""What the opener makes of answers: which URL is asked, whether again, and what happens when something is broken."""

import io
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from email.message import Message
from pathlib import Path
from typing import IO
from urllib.request import Request

import pytest

from data_catalog.errors import DiskError, PipelineError
from data_catalog.fetch import hosts as limits_of_hosts
from data_catalog.fetch.client import Deadline, GuardedClient, Hooks
from data_catalog.fetch.config import FetchConfig, HostPace
from data_catalog.fetch.consent import ConsentConfig
from data_catalog.fetch.hosts import Hosts, LaterError
from data_catalog.fetch.opener import Opener, is_placeholder
from data_catalog.fetch.urls import FetchError, parse_url, thumbnail_url

ORIGINAL = "https://upload.wikimedia.org/wikipedia/commons/a/ab/Cat.jpg"
THUMBNAIL = "https://upload.wikimedia.org/wikipedia/commons/thumb/a/ab/Cat.jpg/500px-Cat.jpg"
CONFIG = FetchConfig(consent=ConsentConfig(ignore=("robots.txt",)), backoff_s=0.001)

TOO_LARGE = bytes(100)

Answer = bytes | Exception


class FakeResponse:
    status = 200

    def __init__(self, url: str, body: bytes) -> None:
        self.url = url
        self.headers = Message()
        self._body = body

    def __enter__(self) -> "FakeResponse":
        return self

    def __exit__(self, *args: object) -> None:
        """Nothing is open."""

    def copy_to(self, sink: IO[bytes]) -> None:
        sink.write(self._body)
        if self._body == TOO_LARGE:
            raise FetchError("too_large")


class FakeWeb:
    """Answers by URL: a body, or what is raised; the last answer of a list is given for ever."""

    def __init__(self, answers: dict[str, list[Answer]]) -> None:
        self.answers = answers
        self.redirects: dict[str, list[str]] = {}
        self.asked: Counter[str] = Counter()

    def get(self, url: str, *, deadline: Deadline, hooks: Hooks) -> FakeResponse:
        hooks.before_connect(parse_url(url))
        for target in self.redirects.get(url, ()):
            hooks.before_hop(parse_url(target))
        answers = self.answers[url]
        answer = answers[min(self.asked[url], len(answers) - 1)]
        self.asked[url] += 1
        if isinstance(answer, FetchError):
            answer.url = answer.url or url
        if isinstance(answer, Exception):
            raise answer
        return FakeResponse(url, answer)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with closing(Hosts(tmp_path, {}, HostPace(requests_per_s=0))) as found:
        yield found


def opener_of(web: FakeWeb, hosts: Hosts, config: FetchConfig, *urls: str) -> Opener:
    client: GuardedClient = web  # type: ignore[assignment]
    return Opener(urls, config, client, hosts, on_begin=lambda url: None, new_body=io.BytesIO)


def outcomes(opener: Opener) -> list[bytes | str]:
    """The body, or the reason, of each URL in order, each asked for as often as it is to be."""
    return [outcome(opener, url) for url in opener.states]


def outcome(opener: Opener, url: str) -> bytes | str:
    while True:
        try:
            opener.open(Request(url))
        except LaterError:
            time.sleep(max(0.0, opener.states[url].due - time.monotonic()))
        except FetchError as error:
            return error.reason
        else:
            body = opener.states[url].body
            assert isinstance(body, io.BytesIO)
            return body.getvalue()


def http(status: int, retry_after_s: float | None = None) -> FetchError:
    return FetchError(f"http_{status}", http_status=status, retry_after_s=retry_after_s)


@pytest.mark.parametrize(
    ("thumbnail", "original", "outcome", "asked"),
    [
        ([b"small"], [b"large"], b"small", {THUMBNAIL: 1}),
        ([http(400)], [b"large"], b"large", {THUMBNAIL: 1, ORIGINAL: 1}),
        ([http(499)], [http(404)], "http_404", {THUMBNAIL: 1, ORIGINAL: 1}),
        ([http(404)], [http(503), b"large"], b"large", {THUMBNAIL: 1, ORIGINAL: 2}),
        ([http(429), b"small"], [b"large"], b"small", {THUMBNAIL: 2}),
        ([http(500)], [b"large"], "http_500", {THUMBNAIL: 2}),
        ([FetchError("dns")], [b"large"], "dns", {THUMBNAIL: 2}),
        ([FetchError("too_large")], [b"large"], "too_large", {THUMBNAIL: 1}),
    ],
)
def test_a_thumbnail_is_taken_and_the_original_where_there_is_none(
    thumbnail: list[Answer], original: list[Answer], outcome: bytes | str, asked: dict[str, int], hosts: Hosts
) -> None:
    web = FakeWeb({THUMBNAIL: thumbnail, ORIGINAL: original})
    assert outcomes(opener_of(web, hosts, replace(CONFIG, retries=1), ORIGINAL)) == [outcome]
    assert web.asked == asked


def test_originals_can_be_asked_for(hosts: Hosts) -> None:
    web = FakeWeb({ORIGINAL: [b"large"]})
    assert outcomes(opener_of(web, hosts, replace(CONFIG, wikimedia_width=0), ORIGINAL)) == [b"large"]


def test_a_parser_that_trips_over_an_answer_costs_one_row(hosts: Hosts) -> None:
    web = FakeWeb(
        {
            "http://a.example/1": [b"one"],
            "http://a.example/2": [KeyError("what nobody foresaw")],
            "http://a.example/3": [ValueError("once only"), b"three"],
        }
    )
    opener = opener_of(web, hosts, replace(CONFIG, retries=1), *web.answers)
    assert outcomes(opener) == [b"one", "fetch_lost", b"three"]
    failure = opener.states["http://a.example/2"].failure
    assert failure is not None
    assert failure.detail == "KeyError"
    assert opener.failure is None


@pytest.mark.parametrize(
    "trouble",
    [OSError(28, "No space left on device"), DiskError("No space, says SQLite"), PipelineError("No space: EIO")],
    ids=repr,
)
def test_trouble_of_the_machine_ends_the_shard(trouble: Exception, hosts: Hosts) -> None:
    urls = ["http://a.example/1", "http://a.example/2"]
    web = FakeWeb({urls[0]: [trouble], urls[1]: [b"never asked for"]})
    opener = opener_of(web, hosts, CONFIG, *urls)
    for url in urls:
        with pytest.raises(type(trouble), match="No space"):
            opener.open(Request(url))
    assert opener.failure is trouble
    assert web.asked == {urls[0]: 1}


def test_a_host_that_wants_more_time_than_there_is_is_given_up(hosts: Hosts) -> None:
    urls = [f"http://a.example/{number}" for number in range(5)]
    answers: dict[str, list[Answer]] = {url: [b"x"] for url in urls}
    answers[urls[0]] = [http(429, retry_after_s=86_400.0)]
    web = FakeWeb({**answers, "http://b.example/": [b"another host"]})
    opener = opener_of(web, hosts, CONFIG, *web.answers)
    assert outcomes(opener) == [*["http_429"] * 5, b"another host"]
    assert web.asked == {urls[0]: 1, "http://b.example/": 1}


def test_a_host_that_is_closed_while_a_row_waits_for_it_is_not_waited_for(hosts: Hosts) -> None:
    web = FakeWeb({"http://a.example/0": [b"x"]})
    opener = opener_of(web, hosts, CONFIG, *web.answers)
    before = web.get

    def closed_meanwhile(url: str, *, deadline: Deadline, hooks: Hooks) -> FakeResponse:
        hosts.pause("a.example", http(429), 86_400.0)  # as another thread is told
        return before(url, deadline=deadline, hooks=hooks)

    web.get = closed_meanwhile  # type: ignore[method-assign]
    with pytest.raises(FetchError, match="http_429"):
        opener.open(Request("http://a.example/0"))
    assert (opener.states["http://a.example/0"].due, opener.states["http://a.example/0"].tries) == (0.0, 1)


def test_a_host_behind_a_redirect_that_wants_time_does_not_hold_up_those_that_lead_to_it(hosts: Hosts) -> None:
    elsewhere = http(429, retry_after_s=86_400.0)
    elsewhere.url = "http://b.example/moved"
    web = FakeWeb(
        {
            "http://a.example/0": [elsewhere],
            "http://a.example/1": [b"here"],
            "http://b.example/": [b"not asked any more"],
        }
    )
    opener = opener_of(web, hosts, CONFIG, *web.answers)
    assert outcomes(opener) == ["http_429", b"here", "http_429"]
    assert web.asked["http://b.example/"] == 0
    assert opener.states["http://b.example/"].final_url == "http://b.example/"


def test_a_redirect_to_a_busy_host_costs_no_try_and_is_no_endless_wait(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits_of_hosts, "SHORT_WAIT_S", 0.01)
    url = "http://a.example/0"
    web = FakeWeb({url: [b"x"]})
    web.redirects[url] = ["http://b.example/0"]
    for slot in range(hosts.pace_of("b.example").concurrency):
        assert hosts.acquire_slot("b.example", 0) == slot
    opener = opener_of(web, hosts, CONFIG, url)
    with pytest.raises(LaterError):
        opener.open(Request(url))
    assert (opener.states[url].tries, opener.states[url].group) == (0, "b.example")
    assert hosts.acquire_slot("a.example", 0) == 0  # its own host is held for nobody meanwhile
    hosts.release_slot("b.example", 0)
    opener.open(Request(url))
    hosts.acquire_slot("b.example", 0)
    assert outcome(opener_of(web, hosts, CONFIG, url), url) == "timeout"


def test_a_host_that_refuses_whatever_is_asked_is_given_up(hosts: Hosts) -> None:
    urls = [f"http://a.example/{number}" for number in range(200)]
    web = FakeWeb({url: [http(429, retry_after_s=0.01)] for url in urls})
    assert outcomes(opener_of(web, hosts, CONFIG, *urls)) == ["http_429"] * 200
    assert web.asked.total() <= 3 * 8 + 3  # three tries of all that may be asked at once


def test_a_long_backoff_is_no_wait_that_a_server_asks_for(hosts: Hosts) -> None:
    web = FakeWeb({"http://a.example/0": [http(500), b"x"]})
    opener = opener_of(web, hosts, replace(CONFIG, backoff_s=0.5, max_wait_s=0.1), *web.answers)
    assert outcomes(opener) == [b"x"]


def test_a_row_whose_host_rests_is_asked_later_and_not_charged_with_a_try(hosts: Hosts) -> None:
    web = FakeWeb({"http://a.example/0": [http(503, retry_after_s=100.0)], "http://a.example/1": [b"x"]})
    opener = opener_of(web, hosts, CONFIG, *web.answers)
    for url in web.answers:
        started = time.monotonic()
        with pytest.raises(LaterError):
            opener.open(Request(url))
        assert 99 < opener.states[url].due - started < 101
    assert [asked.tries for asked in opener.states.values()] == [1, 0]
    assert web.asked == {"http://a.example/0": 1}


def test_waits_between_tries_grow_up_to_a_bound(hosts: Hosts) -> None:
    url = "http://a.example/0"
    web = FakeWeb({url: [FetchError("dns")]})
    opener = opener_of(web, hosts, replace(CONFIG, backoff_s=2.0, retries=20, max_wait_s=1000.0), url)
    for number in range(1, 11):
        started = time.monotonic()
        with pytest.raises(LaterError):
            opener.open(Request(url))
        least = min(300.0, 2.0**number)
        assert least <= opener.states[url].due - started <= 1.5 * least + 1


@pytest.mark.parametrize(
    ("body", "limits", "outcome", "detail"),
    [
        (b"x" * 90, {"max_host_bytes": 250}, 90, "250 bytes of a.example"),
        (b"x" * 125, {"max_host_bytes": 250}, 125, "250 bytes of a.example"),
        (TOO_LARGE, {"max_host_bytes": 250}, "too_large", "250 bytes of a.example"),
        (b"x" * 90, {"max_shard_bytes": 250}, 90, "250 bytes of the shard"),
    ],
)
def test_what_is_over_the_bytes_of_a_host_or_of_the_shard_is_not_asked_for(
    body: bytes, limits: dict[str, int], outcome: int | str, detail: str, hosts: Hosts
) -> None:
    ours = [f"http://a.example/{number}" for number in range(5)]
    web = FakeWeb({url: [body] for url in ours} | {"http://b.example/": [b"another"]})
    opener = opener_of(web, hosts, replace(CONFIG, **limits), *web.answers)
    found = [end if isinstance(end, str) else len(end) for end in outcomes(opener)]
    num_asked = 2 if outcome == 125 else 3  # the last of them goes over
    assert found[:5] == [outcome] * num_asked + ["byte_budget"] * (5 - num_asked)
    assert found[5] == (len(b"another") if "max_host_bytes" in limits else "byte_budget")
    assert sum(web.asked[url] for url in ours) == num_asked
    assert detail == str(opener.states[ours[4]].failure).partition(": ")[2]


COMMONS = "https://upload.wikimedia.org/wikipedia/commons"


@pytest.mark.parametrize(
    ("url", "thumbnail"),
    [
        (f"{COMMONS}/a/ab/Cat.JPEG", f"{COMMONS}/thumb/a/ab/Cat.JPEG/500px-Cat.JPEG"),
        (f"{COMMONS}/a/ab/Map.svg", f"{COMMONS}/thumb/a/ab/Map.svg/500px-Map.svg.png"),
        (f"{COMMONS}/a/ab/Scan.tiff", f"{COMMONS}/thumb/a/ab/Scan.tiff/lossy-page1-500px-Scan.tiff.jpg"),
        (
            "http://upload.wikimedia.org/wikipedia/zh-min-nan/0/0a/A.jpg",
            "http://upload.wikimedia.org/wikipedia/zh-min-nan/thumb/0/0a/A.jpg/500px-A.jpg",
        ),
        (f"{COMMONS}/a/ab/{'n' * 162}.jpg", f"{COMMONS}/thumb/a/ab/{'n' * 162}.jpg/500px-thumbnail.jpg"),
        (f"{COMMONS}/a/ab/{'n' * 161}.jpg", f"{COMMONS}/thumb/a/ab/{'n' * 161}.jpg/500px-{'n' * 161}.jpg"),
        (f"{COMMONS}/thumb/a/ab/Cat.jpg/300px-Cat.jpg", None),
        (f"{COMMONS}/a/ab/Cat.gif", None),
        (f"{COMMONS}/a/ab/Cat.jpg?download", None),
        (f"{COMMONS}/archive/a/ab/2010%21Cat.jpg", None),
        ("https://upload.wikimedia.org.evil.example/wikipedia/commons/a/ab/Cat.jpg", None),
    ],
)
def test_wikimedias_originals_have_thumbnails(url: str, thumbnail: str | None) -> None:
    assert thumbnail_url(url, 500) == thumbnail
    assert thumbnail_url(url, 0) is None
    if thumbnail is not None:
        assert parse_url(thumbnail).url == thumbnail
        assert thumbnail_url(thumbnail, 500) is None


def test_placeholders_are_known_by_where_a_redirect_leads() -> None:
    placeholders = ["en-us/photo_unavailable.png", "removed.png", "no-image.gif", "NoPhotoAvailable.jpg", "404.jpg"]
    placeholders += ["placeholder-300x200.png?x=1", "image_not_found"]
    pictures = [
        "cat.jpg",
        "piano-images.jpg",
        "casino_photo.jpg",
        "missing-link-monument.jpg",
        "removed/cat.jpg",
        "4042.jpg",
    ]
    asked_for = "http://example.org/asked-for.jpg"
    names = [*placeholders, *pictures, "4042.jpg"]
    assert [name for name in names if is_placeholder(asked_for, f"https://example.org/img/{name}")] == placeholders
    for name in names:
        assert not is_placeholder(f"http://example.org/{name}", f"https://www.example.org/img/{name}")
