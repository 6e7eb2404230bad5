"""The client and its opener: where it connects, what it makes of any bytes, which URL is asked, and whether again."""

import io
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.request import Request

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_catalog.errors import DiskError, PipelineError
from data_catalog.fetch.client import Deadline, GuardedClient, Hooks, Limits, retry_after_s
from data_catalog.fetch.config import FetchConfig, HostPace
from data_catalog.fetch.consent import ConsentConfig
from data_catalog.fetch.hosts import Hosts, LaterError
from data_catalog.fetch.opener import Opener, is_placeholder
from data_catalog.fetch.reasons import FETCH_REASONS
from data_catalog.fetch.urls import FetchError, parse_url, thumbnail_url

CAP = 1000
LIMITS = Limits(timeout_s=5, deadline_s=5, max_bytes=CAP, max_redirects=2, user_agent="probe/1", allow_loopback=True)


def read(url: str, **options: Any) -> bytes:
    with GuardedClient(LIMITS, **options).get(url) as response:
        assert response.url == url
        return response.read_start(100)


def test_the_next_address_is_tried_where_the_first_refuses_and_proxies_of_the_environment_are_not_used(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/direct"] = b"here"
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    assert read(server.url("/direct"), resolver=lambda host, port: ["127.0.0.2", "::1", "127.0.0.1"]) == b"here"


def test_a_request_waits_for_its_turn_after_the_look_up_so_that_a_slow_one_delays_no_turn(server: Any) -> None:
    server.behaviours["/turn"] = lambda it: it.answer(302, b"", Location="/next")
    server.files["/next"] = b"here"
    order: list[str] = []
    client = GuardedClient(LIMITS, resolver=lambda host, port: (order.append("look up"), ["127.0.0.1"])[1])
    hooks = Hooks(
        before_hop=lambda target: order.append(f"hop to {target.path}"),
        before_connect=lambda target: order.append(f"ask for {target.path}"),
    )
    client.get(server.url("/turn"), hooks=hooks).close()
    # Each name is looked up once, so that rebinding gains nothing.
    assert order == ["look up", "ask for /turn", "hop to /next", "look up", "ask for /next"]


def test_a_resolver_that_hangs_is_left_at_the_deadline() -> None:
    go_on = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        go_on.wait()
        return ["127.0.0.1"]

    with pytest.raises(FetchError) as refused:
        GuardedClient(replace(LIMITS, deadline_s=0.1), resolver=hang).get("http://slow.example/")
    go_on.set()
    assert (refused.value.reason, refused.value.detail) == ("dns", "no answer about slow.example in time")


def only_here(host: str, port: int) -> list[str]:
    """No redirect of noise leads to the network."""
    if host != "127.0.0.1":
        raise OSError
    return [host]


PIECES = [
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200\r\n", b"HTTP/1.1 302 Found\r\n", b"HTTP/1.1 100 Continue\r\n"),
    *(b"Content-Length: ", b"Transfer-Encoding: ", b"Location: ", b"Retry-After: ", b"Connection: ", b"HTTP/9 200\r\n"),
    *(b"chunked", b"close", b"keep-alive", b"-1", b"5", b"1e3", b"9" * 20, b"/", b"//", b"?", b"\0", b"\r\n\r\n"),
    *(b"0x3\r\n", b"1_0\r\n", b"+2\r\n", b"f" * 20 + b"\r\n", b"3;x=y\r\n", b"\r\n", bytes(2000)),
]
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
noise = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=50)), max_size=12).map(b"".join)


@given(answer=st.one_of(noise, noise.map(CHUNKED.__add__)))
@example(answer=CHUNKED + b"-1\r\n" + bytes(3000))
@example(answer=CHUNKED + b"-5\r\n" + bytes(3000))
@example(answer=CHUNKED + b"-1" + b"f" * 20 + b"\r\n" + bytes(3000))
@example(answer=b"HTTP/1.1 503 No\r\nRetry-After: Mon, 01 Jan 2024 00:00:00 +99999999999999999999\r\n\r\n")
@example(answer=b"HTTP/1.1 302 Found\r\nLocation: http://[v1.\xe9:x]/\r\n\r\n")
def test_any_bytes_end_in_a_body_within_the_cap_or_a_reason(answer: bytes, server: Any) -> None:
    server.behaviours["/noise"] = lambda it: it.wfile.write(answer)
    body = io.BytesIO()
    try:
        with GuardedClient(LIMITS, resolver=only_here).get(server.url("/noise")) as response:
            response.copy_to(body)
    except FetchError as error:
        if error.reason not in FETCH_REASONS:
            raise
    else:
        assert 0 < len(body.getvalue()) <= CAP


NOW = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)


WAITS: dict[str | None, float | None] = {
    **dict.fromkeys((None, "", "-1", "1.5", "١٢", "Wed, 99 May 2024 12:02:00 GMT"), None),
    "Wed, 01 May 2024 12:02:00 +99999999999999999999": None,
    "Wed, 01 May 99999999999999999999 12:02:00 GMT": None,
    "0": 0.0,
    " 120 ": 120.0,
    "9" * 400: 999_999_999_999.0,
    "Wed, 01 May 2024 14:02:00 +0200": 120.0,
    "Wed, 01 May 2024 12:02:00": 120.0,
    "Wed, 01 May 2024 11:00:00 GMT": 0.0,
    "Wednesday, 01-May-24 12:02:00 GMT": 120.0,
    "Wed May  1 12:02:00 2024": 120.0,
}


def test_retry_after_is_seconds_or_a_date() -> None:
    assert {header: retry_after_s(header, NOW) for header in WAITS} == WAITS


COMMONS = "https://upload.wikimedia.org/wikipedia/commons"
ORIGINAL, THUMBNAIL = f"{COMMONS}/a/ab/Cat.jpg", f"{COMMONS}/thumb/a/ab/Cat.jpg/500px-Cat.jpg"
CONFIG = FetchConfig(consent=ConsentConfig(ignore=("robots.txt",)), backoff_s=0.001)

TOO_LARGE = bytes(100)

Answer = bytes | Exception


@dataclass
class FakeResponse:
    url: str
    body: bytes
    status: int = 200
    headers: Message = field(default_factory=Message)

    def __enter__(self) -> "FakeResponse":
        return self

    def __exit__(self, *args: object) -> None:
        """Nothing is open."""

    def copy_to(self, sink: IO[bytes]) -> None:
        sink.write(self.body)
        if self.body == TOO_LARGE:
            raise FetchError("too_large")


class FakeWeb:
    """Answers by URL: a body, or what is raised; the last answer of a list is given for ever."""

    def __init__(self, answers: dict[str, list[Answer]]) -> None:
        self.answers = answers
        self.redirects: dict[str, list[str]] = {}
        self.asked: Counter[str] = Counter()
        self.before: Callable[[], None] = lambda: None  # is called as a request begins

    def get(self, url: str, *, deadline: Deadline, hooks: Hooks) -> FakeResponse:
        self.before()
        hooks.before_connect(parse_url(url))
        for target in self.redirects.get(url, ()):
            hooks.before_hop(parse_url(target))
        answer = self.answers[url][: self.asked[url] + 1][-1]
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


def opener_of(web: FakeWeb, hosts: Hosts, *urls: str, **options: Any) -> Opener:
    """The opener of some URLs, by default those that the web has."""
    client: Any = web
    config = replace(CONFIG, **options)
    return Opener(urls or [*web.answers], config, client, hosts, on_begin=lambda url: None, new_body=io.BytesIO)


def outcome(opener: Opener, url: str) -> bytes | str:
    """The body, or the reason, of a URL that is asked for as often as it is to be."""
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


def outcomes(opener: Opener) -> list[bytes | str]:
    return [outcome(opener, url) for url in opener.states]


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
    assert outcomes(opener_of(web, hosts, ORIGINAL, retries=1)) == [outcome]
    assert web.asked == asked


def test_a_parser_that_trips_over_an_answer_costs_one_row(hosts: Hosts) -> None:
    answers: list[list[Answer]] = [[b"one"], [KeyError("what nobody foresaw")], [ValueError("once only"), b"three"]]
    web = FakeWeb({f"http://a.example/{number}": found for number, found in enumerate(answers)})
    opener = opener_of(web, hosts, retries=1)
    assert outcomes(opener) == [b"one", "fetch_lost", b"three"]
    assert "KeyError" in str(opener.states["http://a.example/1"].failure)
    assert opener.failure is None


def test_trouble_of_the_machine_ends_the_shard(hosts: Hosts) -> None:
    for trouble in (OSError(28, "No space"), DiskError("No space"), PipelineError("No space")):
        web = FakeWeb({"http://a.example/1": [trouble], "http://a.example/2": [b"never asked for"]})
        opener = opener_of(web, hosts)
        for url in web.answers:
            with pytest.raises(type(trouble), match="No space"):
                opener.open(Request(url))
        assert opener.failure is trouble
        assert web.asked == {"http://a.example/1": 1}


def test_a_host_behind_a_redirect_that_wants_time_does_not_hold_up_those_that_lead_to_it(hosts: Hosts) -> None:
    elsewhere = http(429, retry_after_s=86_400.0)
    elsewhere.url = "http://b.example/moved"
    urls = ["http://a.example/0", "http://a.example/1", "http://b.example/"]
    web = FakeWeb(dict(zip(urls, ([elsewhere], [b"here"], [b"not asked any more"]), strict=True)))
    opener = opener_of(web, hosts)
    assert outcomes(opener) == ["http_429", b"here", "http_429"]
    assert web.asked["http://b.example/"] == 0
    assert opener.states["http://b.example/"].final_url == "http://b.example/"


def test_a_host_that_refuses_whatever_is_asked_is_given_up(hosts: Hosts) -> None:
    urls = [f"http://a.example/{number}" for number in range(200)]
    web = FakeWeb({url: [http(429, retry_after_s=0.01)] for url in urls})
    assert outcomes(opener_of(web, hosts)) == ["http_429"] * 200
    assert web.asked.total() <= 3 * 8 + 3  # three tries of all that may be asked at once


def test_a_row_whose_host_rests_is_asked_later_and_not_charged_with_a_try(hosts: Hosts) -> None:
    web = FakeWeb({"http://a.example/0": [http(503, retry_after_s=100.0)], "http://a.example/1": [b"x"]})
    opener = opener_of(web, hosts)
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
    # What a server may ask for is no limit of a backoff.
    opener = opener_of(web, hosts, backoff_s=2.0, retries=20, max_wait_s=0.1)
    for number in range(1, 11):
        started = time.monotonic()
        with pytest.raises(LaterError):
            opener.open(Request(url))
        least = min(300.0, 2.0**number)
        assert least <= opener.states[url].due - started <= 1.5 * least + 1


@pytest.mark.parametrize(
    ("body", "limits", "ours", "theirs"),
    [
        (b"x" * 90, {"max_host_bytes": 250}, [b"x" * 90] * 3, b"another"),
        (b"x" * 125, {"max_host_bytes": 250}, [b"x" * 125] * 2, b"another"),
        (TOO_LARGE, {"max_host_bytes": 250}, ["too_large"] * 3, b"another"),
        (b"x" * 90, {"max_shard_bytes": 250}, [b"x" * 90] * 3, "byte_budget"),
    ],
)
def test_what_is_over_the_bytes_of_a_host_or_of_the_shard_is_not_asked_for(
    body: bytes, limits: dict[str, int], ours: list[bytes | str], theirs: bytes | str, hosts: Hosts
) -> None:
    urls = [f"http://a.example/{number}" for number in range(5)]
    web = FakeWeb({url: [body] for url in urls} | {"http://b.example/": [b"another"]})
    opener = opener_of(web, hosts, **limits)
    assert outcomes(opener) == [*ours, *["byte_budget"] * (5 - len(ours)), theirs]
    assert sum(web.asked[url] for url in urls) == len(ours)
    whose = "a.example" if "max_host_bytes" in limits else "the shard"
    assert f"250 bytes of {whose}" in str(opener.states[urls[4]].failure)


@pytest.mark.parametrize(
    ("original", "thumbnail"),
    [
        ("a/ab/Cat.JPEG", "a/ab/Cat.JPEG/500px-Cat.JPEG"),
        ("a/ab/Map.svg", "a/ab/Map.svg/500px-Map.svg.png"),
        ("a/ab/Scan.tiff", "a/ab/Scan.tiff/lossy-page1-500px-Scan.tiff.jpg"),
        (f"a/ab/{'n' * 162}.jpg", f"a/ab/{'n' * 162}.jpg/500px-thumbnail.jpg"),
        (f"a/ab/{'n' * 161}.jpg", f"a/ab/{'n' * 161}.jpg/500px-{'n' * 161}.jpg"),
        ("thumb/a/ab/Cat.jpg/300px-Cat.jpg", None),
        ("a/ab/Cat.gif", None),
        ("a/ab/Cat.jpg?download", None),
        ("archive/a/ab/2010%21Cat.jpg", None),
    ],
)
def test_wikimedias_originals_have_thumbnails(original: str, thumbnail: str | None) -> None:
    for wiki in (COMMONS, "http://upload.wikimedia.org/wikipedia/zh-min-nan"):
        url, expected = f"{wiki}/{original}", thumbnail and f"{wiki}/thumb/{thumbnail}"
        assert (thumbnail_url(url, 500), thumbnail_url(url, 0)) == (expected, None)
        assert thumbnail_url(url.replace(".org", ".org.evil.example"), 500) is None
        if expected is not None:
            assert parse_url(expected).url == expected
            assert thumbnail_url(expected, 500) is None


def test_placeholders_are_known_by_where_a_redirect_leads() -> None:
    placeholders = ["en-us/photo_unavailable.png", "removed.png", "no-image.gif", "NoPhotoAvailable.jpg", "404.jpg"]
    placeholders += ["placeholder-300x200.png?x=1", "image_not_found"]
    pictures = ["cat.jpg", "piano-images.jpg", "casino_photo.jpg", "missing-link-monument.jpg", "removed/cat.jpg"]
    asked_for = "http://example.org/asked-for.jpg"
    names = [*placeholders, *pictures, "4042.jpg"]
    assert [name for name in names if is_placeholder(asked_for, f"https://example.org/img/{name}")] == placeholders
    for name in names:
        assert not is_placeholder(f"http://example.org/{name}", f"https://www.example.org/img/{name}")
