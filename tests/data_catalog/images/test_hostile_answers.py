"""The golden table of a hostile server's answers: each row is fetched, normalised, and ends with this reason."""

import gzip
import io
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.reasons import FETCH_REASONS, NORMALISE_REASONS

Outcome = tuple[str | None, str | None]
Behaviour = Callable[[Any], None]

GOOD: Outcome = (None, None)
BROKEN_OFF = ("truncated_body", "the connection broke off")
NO_ANSWER = ("timeout", "no answer in time")
SLOW_BODY = ("timeout", "not all of the body in time")
MEMORY_MB = 600


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((120, 80)).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


PICTURE = picture()
LENGTH = len(PICTURE)


def page(status: int, body: bytes = b"") -> Behaviour:
    return lambda it: it.answer(status, body)


def raw(*pieces: bytes) -> Behaviour:
    """Sends exactly these bytes, and closes the connection."""
    return lambda it: it.wfile.write(b"".join(pieces))


def headed(*lines: str, body: bytes = PICTURE) -> Behaviour:
    """An answer 200 with these header lines and no others."""
    return raw("\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode("latin-1"), body)


def chunked(body: bytes) -> Behaviour:
    return headed("Transfer-Encoding: chunked", body=body)


def redirect(location: str, status: int = 302) -> Behaviour:
    return lambda it: it.answer(status, b"", Location=location)


def tagged(*values: str) -> Behaviour:
    return headed(*(f"X-Robots-Tag: {value}" for value in values), f"Content-Length: {LENGTH}")


def endless(head: bytes, piece: bytes) -> Behaviour:
    """As fast as they are taken, until the client has had enough."""

    def send(it: Any) -> None:
        it.wfile.write(head)
        while not it.server.stopping.is_set():
            it.wfile.write(piece)

    return send


def dripping(head: bytes, piece: bytes = b"x") -> Behaviour:
    return lambda it: it.drip(head, piece)


def silent(head: bytes = b"") -> Behaviour:
    return lambda it: (it.wfile.write(head), it.server.stopping.wait(10))[0]


HEAD = b"HTTP/1.1 200 OK\r\n"
CONTINUE, PROCESSING = b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n"
# Its fields are those of the hint: a length there says nothing of the picture.
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nContent-Length: 3\r\n\r\n"
LONG_HINTS = b"Link: <%b>\r\n" % (b"a" * 60_000)
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ONE_CHUNK = b"%x\r\n%b\r\n" % (LENGTH, PICTURE)

STATUSES: dict[str, tuple[Behaviour, Outcome]] = {
    f"status-{status}": (page(status, b"x" if status not in (204, 304) else b""), (reason, f"HTTP {status}"))
    for status, reason in {
        101: "http_other",
        204: "http_2xx",
        206: "http_2xx",
        304: "http_3xx",
        300: "http_3xx",
        302: "http_3xx",
        400: "http_400",
        401: "http_401",
        403: "http_403",
        404: "http_404",
        408: "http_408",
        410: "http_410",
        418: "http_4xx",
        451: "http_451",
        500: "http_500",
        502: "http_502",
        504: "http_504",
        520: "http_5xx",
        600: "http_other",
        999: "http_other",
    }.items()
} | {"status-203": (page(203, PICTURE), GOOD)}

PROTOCOL: dict[str, tuple[Behaviour, Outcome]] = {
    "ssh": (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), ("not_http", "BadStatusLine")),
    "http-0.9": (raw(PICTURE), ("not_http", "BadStatusLine")),
    "http-2": (raw(b"HTTP/2 200 OK\r\n\r\n", PICTURE), ("not_http", "UnknownProtocol")),
    "icy": (raw(b"ICY 200 OK\r\n\r\n", PICTURE), ("not_http", "BadStatusLine")),
    "no-status": (raw(b"HTTP/1.1 OK\r\n\r\n"), ("not_http", "BadStatusLine")),
    "status-of-four-digits": (raw(b"HTTP/1.1 2000 OK\r\n\r\n"), ("not_http", "BadStatusLine")),
    "long-status-line": (raw(b"HTTP/1.1 200 ", b"O" * 70_000, b"\r\n\r\n"), ("not_http", "LineTooLong")),
    "many-headers": (headed(*(f"X-{n}: {n}" for n in range(200))), ("not_http", "HTTPException")),
    "endless-headers": (endless(HEAD, b"X-Flood: yes\r\n" * 50), ("not_http", "HTTPException")),
    "long-header": (headed("X-Long: " + "a" * 70_000), ("not_http", "LineTooLong")),
    "long-headers": (headed(*("X-Long: " + "a" * 60_000 for _ in range(40))), ("not_http", "LineTooLong")),
    "endless-header": (endless(HEAD + b"X-Long: ", b"a" * 9000), ("not_http", "LineTooLong")),
    "flood-of-100": (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50), ("not_http", "LineTooLong")),
    "flood-of-103": (endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50), ("not_http", "HTTPException")),
    "long-103": (endless(b"", b"HTTP/1.1 103 Early Hints\r\n%b\r\n" % LONG_HINTS), ("not_http", "LineTooLong")),
    "only-103": (raw(EARLY_HINTS), ("connect", "closed without an answer")),
    "102-before": (raw(PROCESSING, HEAD, b"\r\n", PICTURE), GOOD),
    "103-before": (raw(EARLY_HINTS, HEAD, b"\r\n", PICTURE), GOOD),
    "all-1xx-before": (raw(CONTINUE, PROCESSING, EARLY_HINTS * 3, HEAD, b"\r\n", PICTURE), GOOD),
    "103-before-a-redirect": (raw(EARLY_HINTS, b"HTTP/1.1 302 Found\r\nLocation: /plain\r\n\r\n"), GOOD),
    "103-before-404": (raw(EARLY_HINTS, b"HTTP/1.1 404 Not Found\r\n\r\n"), ("http_404", "HTTP 404")),
    "103-before-101": (raw(EARLY_HINTS, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), ("http_other", "HTTP 101")),
    "some-100": (raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 20, HEAD, b"\r\n", PICTURE), GOOD),
    "only-newlines": (endless(b"", b"\r\n" * 100), ("not_http", "BadStatusLine")),
    "nul-bytes": (raw(bytes(1000)), ("not_http", "BadStatusLine")),
    "headers-of-noise": (raw(HEAD, bytes(range(128, 256)), b"\r\n\r\n", PICTURE), GOOD),
    "no-header": (raw(HEAD, b"\r\n", PICTURE), GOOD),
    "bare-newlines": (raw(b"HTTP/1.1 200 OK\n\n", PICTURE), GOOD),
    "header-cut": (raw(b"HTTP/1.1 200 OK\r\nContent-Le"), ("empty_body", None)),
    "reset": (lambda it: it.reset(), ("connect", "Connection reset by peer")),
    "closed": (lambda it: it.connection.close(), ("connect", "closed without an answer")),
    "hang": (silent(), NO_ANSWER),
    "hang-in-header": (silent(HEAD + b"X-A: "), NO_ANSWER),
    "drip-status": (dripping(b"HTTP/1.1 200 "), NO_ANSWER),
    "drip-header": (dripping(HEAD + b"X-Long: "), NO_ANSWER),
    "drip-100": (dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), NO_ANSWER),
}

BODIES: dict[str, tuple[Behaviour, Outcome]] = {
    "plain": (page(200, PICTURE), GOOD),
    "empty": (page(200), ("empty_body", None)),
    "empty-without-length": (raw(HEAD, b"\r\n"), ("empty_body", None)),
    "short": (lambda it: it.answer(200, PICTURE[:100], 200), ("truncated_body", "100 of 200 bytes")),
    "length-too-short": (headed("Content-Length: 50"), ("truncated", "JPEG")),
    "length-negative": (headed("Content-Length: -1"), GOOD),
    "length-no-number": (headed("Content-Length: many"), GOOD),
    "length-of-5000-digits": (headed("Content-Length: " + "9" * 5000), GOOD),
    "length-of-400-digits": (headed("Content-Length: " + "9" * 400), ("too_large", "9" * 100)),
    "two-lengths": (headed(f"Content-Length: {LENGTH}", "Content-Length: 5"), GOOD),
    "two-lengths-list": (headed(f"Content-Length: {LENGTH}, {LENGTH}"), GOOD),
    "length-and-chunked": (
        headed("Content-Length: 5", "Transfer-Encoding: chunked", body=ONE_CHUNK + b"0\r\n\r\n"),
        GOOD,
    ),
    "hang-in-body": (lambda it: (it.answer(200, b"x", 100), it.server.stopping.wait(10))[0], SLOW_BODY),
    "drip-body": (dripping(HEAD + b"\r\n"), SLOW_BODY),
    "drip-chunks": (dripping(CHUNKED, b"1\r\nx\r\n"), SLOW_BODY),
    "huge-announced": (lambda it: it.answer(200, b"", 5_000_000), ("too_large", "5000000 bytes announced")),
    "huge": (headed(body=bytes(1_200_000)), ("too_large", "more than 1000000 bytes")),
    "endless": (endless(HEAD + b"\r\n", bytes(65536)), ("too_large", "more than 1000000 bytes")),
    "endless-chunks": (endless(CHUNKED, b"8000\r\n%b\r\n" % bytes(0x8000)), ("too_large", "more than 1000000 bytes")),
    "chunked": (chunked(ONE_CHUNK + b"0\r\n\r\n"), GOOD),
    "chunked-by-byte": (chunked(b"".join(b"1\r\n%c\r\n" % byte for byte in PICTURE) + b"0\r\n\r\n"), GOOD),
    "chunk-extensions": (chunked(b"%x;a=b\r\n%b\r\n0;z\r\nTrailer: 1\r\n\r\n" % (LENGTH, PICTURE)), GOOD),
    "chunk-cut": (chunked(ONE_CHUNK[:200]), BROKEN_OFF),
    "chunk-without-end": (chunked(ONE_CHUNK), BROKEN_OFF),
    "chunk-garbage": (chunked(b"zzz\r\n" + PICTURE), BROKEN_OFF),
    "chunk-empty-size": (chunked(b"\r\n\r\n" + PICTURE), BROKEN_OFF),
    "chunk-size-negative": (chunked(b"-5\r\n" + PICTURE), BROKEN_OFF),
    "chunk-size-overflows": (chunked(b"F" * 40 + b"\r\n" + PICTURE), BROKEN_OFF),
    "chunk-size-long": (chunked(b"0" * 70_000), BROKEN_OFF),
    "chunk-minus-one-endless": (endless(CHUNKED + b"-1\r\n", bytes(65536)), ("too_large", "more than 1000000 bytes")),
    "endless-trailers": (endless(CHUNKED + ONE_CHUNK + b"0\r\n", b"X-A: b\r\n" * 500), SLOW_BODY),
    "gzip-and-chunked": (headed("Transfer-Encoding: gzip, chunked", body=ONE_CHUNK), ("not_an_image", "unknown bytes")),
    "gzipped": (headed("Content-Encoding: gzip", body=gzip.compress(PICTURE)), ("not_an_image", "gzip")),
    "gzip-bomb": (
        headed("Content-Encoding: gzip", body=gzip.compress(bytes(300_000_000), 9)),
        ("not_an_image", "gzip"),
    ),
    "deflate-bomb": (
        headed("Content-Encoding: deflate", body=zlib.compress(bytes(300_000_000), 9)),
        ("not_an_image", "unknown bytes"),
    ),
    "type-of-text": (headed("Content-Type: text/html"), GOOD),
    "page-as-image": (headed("Content-Type: image/jpeg", body=b"<!DOCTYPE html><p>Gone"), ("not_an_image", "HTML")),
}

REDIRECTS: dict[str, tuple[Behaviour, Outcome]] = {
    **{f"hop-{status}": (redirect("/plain", status), GOOD) for status in (301, 302, 303, 307, 308)},
    "hop-to-é": (redirect("/plain é".encode().decode("latin-1")), GOOD),
    "hop-of-latin-1": (redirect("/caf\xe9"), ("http_404", "HTTP 404")),
    "loop": (redirect("/loop"), ("redirects", "more than 3")),
    "hop-to-nowhere": (redirect(""), ("redirects", "more than 3")),
    "to-file": (redirect("file:///etc/passwd"), ("scheme", "file")),
    "to-ftp": (redirect("ftp://127.0.0.1/a.jpg"), ("scheme", "ftp")),
    "to-data": (redirect("data:image/gif;base64,R0lGODlhAQABAAAAACw="), ("scheme", "data")),
    "to-javascript": (redirect("javascript:alert(1)"), ("scheme", "javascript")),
    "to-private": (redirect("http://10.0.0.1/a.jpg"), ("private_address", "10.0.0.1")),
    "to-metadata": (redirect("//169.254.169.254/latest/meta-data/"), ("private_address", "169.254.169.254")),
    "to-userinfo": (redirect("http://me:secret@127.0.0.1/a.jpg"), ("userinfo", None)),
    "to-port": (redirect("http://8.8.8.8:22/a.jpg"), ("port", "22")),
    "to-bad-host": (redirect("http://a..b/"), ("bad_url", "host is no name")),
    "to-bracket": (redirect("http://[::1"), ("bad_url", "not a URL")),
    "to-port-of-letters": (redirect("http://example.org:x/"), ("bad_url", "not a URL")),
    "to-long": (redirect("/" + "a" * 9000), ("bad_url", "too long")),
    "to-two-lines": (raw(b"HTTP/1.1 302 Found\r\nLocation: /plain\r\n  folded\r\n\r\n"), ("http_404", "HTTP 404")),
    "to-two-places": (raw(b"HTTP/1.1 302 Found\r\nLocation: /plain\r\nLocation: file:///\r\n\r\n"), GOOD),
    "to-removed": (redirect("/removed.png"), ("placeholder", None)),
    "to-unavailable": (redirect("/en/photo_unavailable.png"), ("placeholder", None)),
    "removed.png": (page(200, PICTURE), GOOD),
    "en/photo_unavailable.png": (page(200, PICTURE), GOOD),
}

TAGS: dict[str, tuple[Behaviour, Outcome]] = {
    **{
        f"tag-{tag}": (tagged(tag), ("robots_tag", tag))
        for tag in ("noai", "noimageai", "noindex", "noimageindex", "noml", "none", "NoAI, NoImageAI", "nofollow, noml")
    },
    "tag-for-us": (tagged("vernaclip: noindex"), ("robots_tag", "vernaclip: noindex")),
    "tag-for-another": (tagged("otherbot: noai"), GOOD),
    "tag-all": (tagged("all, nofollow, nosnippet, noarchive"), GOOD),
    "tag-with-date": (
        tagged("unavailable_after: 25 Jun 2010 15:00:00 PST, noai"),
        ("robots_tag", "unavailable_after: 25 Jun 2010 15:00:00 PST, noai"),
    ),
    "tag-with-date-only": (tagged("unavailable_after: 25 Jun 2010 15:00:00 PST"), GOOD),
    "tag-twice": (
        tagged("otherbot: none", "max-snippet: 5", "noai"),
        ("robots_tag", "otherbot: none; max-snippet: 5; noai"),
    ),
    "tag-megabyte": (tagged(*["nofollow," * 6000] * 3), GOOD),
    "tag-with-semicolon": (tagged("noai; noimageai"), ("robots_tag", "noai; noimageai")),
    "tag-with-blank": (tagged("noai noimageai"), ("robots_tag", "noai noimageai")),
    "tag-for-another-and-for-us": (
        tagged("otherbot: noai, vernaclip: noai"),
        ("robots_tag", "otherbot: noai, vernaclip: noai"),
    ),
    "tdm-reserved": (
        headed("TDM-Reservation: 1", "TDM-Policy: https://example.org/policy.json"),
        ("robots_tag", "tdm-reservation: 1"),
    ),
    "tdm-of-two-minds": (
        headed("TDM-Reservation: 0, 1", "TDM-Reservation: 0"),
        ("robots_tag", "tdm-reservation: 0; tdm-reservation: 1; tdm-reservation: 0"),
    ),
    "tdm-not-reserved": (headed("TDM-Reservation: 0"), GOOD),
    "tdm-reserved-and-tagged": (
        headed("tdm-reservation:1", "X-Robots-Tag: all"),
        ("robots_tag", "all; tdm-reservation: 1"),
    ),
    "tag-on-404": (lambda it: it.answer(404, b"", X_Robots_Tag="noai"), ("http_404", "HTTP 404")),
}

TABLE = STATUSES | PROTOCOL | BODIES | REDIRECTS | TAGS


@pytest.fixture(scope="module")
def run(server: Any, quick: FetchConfig, run_apart: Callable[..., Any]) -> Any:
    server.behaviours.update({f"/{name}": behaviour for name, (behaviour, _) in TABLE.items()})
    server.files["/plain é"] = PICTURE
    return run_apart("hostile answers", [server.url(f"/{name}") for name in TABLE], quick)


def test_the_table_is_as_long_as_promised() -> None:
    assert len(TABLE) >= 80


def test_outcomes(run: Any, server: Any) -> None:
    expected = {name: outcome for name, (_, outcome) in TABLE.items()}
    expected |= {
        "to-removed": ("placeholder", server.url("/removed.png")),
        "to-unavailable": ("placeholder", server.url("/en/photo_unavailable.png")),
    }
    rows = {name: run.images[server.url(f"/{name}")] for name in TABLE}
    found = {name: (row["drop_reason"], row["detail"]) for name, row in rows.items()}
    assert {name: (found[name], expected[name]) for name in TABLE if found[name] != expected[name]} == {}
    assert {reason for reason, _ in found.values() if reason} <= FETCH_REASONS.keys() | NORMALISE_REASONS.keys()


def test_bytes_come_exactly_where_there_is_no_reason(run: Any, server: Any) -> None:
    assert all((row["bytes"] is None) == (row["drop_reason"] is not None) for row in run.raw.values())
    assert all((row["bytes"] is None) == (row["drop_reason"] is not None) for row in run.images.values())
    for name in ("plain", "chunked", "chunked-by-byte", "hop-308", "some-100", "103-before", "all-1xx-before"):
        assert run.raw[server.url(f"/{name}")]["bytes"] == PICTURE


def test_what_is_known_of_an_answer_is_kept(run: Any, server: Any) -> None:
    def fact(name: str, column: str) -> Any:
        return run.raw[server.url(f"/{name}")][column]

    assert fact("status-404", "http_status") == 404
    assert fact("hop-301", "final_url") == server.url("/plain")
    assert fact("hop-to-é", "final_url") == server.url("/plain%20%C3%A9")
    assert fact("to-private", "final_url") == "http://10.0.0.1/a.jpg"
    assert fact("tag-for-another", "robots_tag") == "otherbot: noai"
    assert fact("tdm-not-reserved", "robots_tag") == "tdm-reservation: 0"
    assert len(fact("tag-megabyte", "robots_tag")) == 1000


def test_requests_are_honest(run: Any, server: Any, quick: FetchConfig) -> None:
    headers = server.seen["/plain"]
    assert headers["User-Agent"] == quick.limits().user_agent
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Host"] == server.url("").removeprefix("http://")


def test_memory(run: Any) -> None:
    assert 0 < run.one_peak_mb < MEMORY_MB
    assert 0 < run.all_peak_mb < MEMORY_MB
