"""The client: where it connects, and what it makes of any bytes; URLs of thumbnails and placeholders."""

import io
import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_catalog.fetch.client import GuardedClient, retry_after_s
from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.urls import FetchError, parse_url, thumbnail_url
from data_catalog.fetch.visits import is_placeholder
from data_catalog.rows.fetch_reasons import FETCH_REASONS

CAP = 1000
LIMITS = FetchConfig(timeout_s=5, deadline_s=5, max_bytes=CAP, allow_loopback=True)


def read(url: str, **options: Any) -> bytes:
    with GuardedClient(LIMITS, **options).get(parse_url(url)) as response:
        return response.read_start(100)


def test_the_next_address_is_tried_where_the_first_refuses_and_proxies_of_the_environment_are_not_used(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/direct"] = b"here"
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    assert read(server.url("/direct"), resolver=lambda host, port: ["127.0.0.2", "::1", "127.0.0.1"]) == b"here"


def test_a_request_waits_for_its_turn_after_the_look_up_so_that_a_slow_one_delays_no_turn(server: Any) -> None:
    server.files["/turn"] = b"here"
    order: list[str] = []
    client = GuardedClient(LIMITS, resolver=lambda host, port: (order.append("look up"), ["127.0.0.1"])[1])
    client.get(parse_url(server.url("/turn")), before_connect=lambda: order.append("turn")).close()
    # The name is looked up once, so that rebinding gains nothing.
    assert order == ["look up", "turn"]


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
        with GuardedClient(LIMITS, resolver=only_here).get(parse_url(server.url("/noise"))) as response:
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


@pytest.mark.parametrize(
    ("original", "thumbnail"),
    [
        ("a/ab/Cat.JPEG", "a/ab/Cat.JPEG/500px-Cat.JPEG"),
        ("a/ab/Scan.tiff", "a/ab/Scan.tiff/lossy-page1-500px-Scan.tiff.jpg"),
        (f"a/ab/{'n' * 162}.jpg", f"a/ab/{'n' * 162}.jpg/500px-thumbnail.jpg"),
        (f"a/ab/{'n' * 161}.jpg", f"a/ab/{'n' * 161}.jpg/500px-{'n' * 161}.jpg"),
        ("thumb/a/ab/Cat.jpg/300px-Cat.jpg", None),
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


def test_a_resolver_that_hangs_is_left_at_the_deadline() -> None:
    go_on = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        go_on.wait()
        return ["127.0.0.1"]

    with pytest.raises(FetchError) as refused:
        GuardedClient(replace(LIMITS, deadline_s=0.1), resolver=hang).get(parse_url("http://slow.example/"))
    go_on.set()
    assert (refused.value.reason, refused.value.detail) == ("dns", "no answer about slow.example in time")
