"""The golden table of hostile hosts, each with its own robots.txt, pauses and redirects: how its images end."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest

from data_catalog.fetch.config import FetchConfig

Outcome = tuple[str | None, str | None]

GOOD: Outcome = (None, None)
FORBIDDEN: Outcome = ("robots_txt", None)
MEMORY_MB = 600

ALL_OUT = b"User-agent: *\nDisallow: /\n"


@dataclass(frozen=True)
class Host:
    """What a host answers when asked for its robots.txt, and for /a.jpg by number of the request."""

    robots: Callable[[Any], None]
    outcome: Outcome
    image: Callable[[Any, int], None] | None = None
    path: str = "/a.jpg"


def text(body: bytes, status: int = 200) -> Callable[[Any], None]:
    return lambda it: it.answer(status, body)


def to(location: str) -> Callable[[Any], None]:
    return lambda it: it.answer(302, b"", Location=location)


def no_robots(it: Any) -> None:
    it.answer(404, b"")


def lines(*pairs: str) -> Callable[[Any], None]:
    return text("\n".join(pairs).encode())


def busy_once(status: int, wait: Callable[[], str]) -> Callable[[Any, int], None]:
    """The first request is turned away with a Retry-After."""

    def answer(it: Any, number: int) -> None:
        if number == 1:
            it.answer(status, b"", Retry_After=wait())
        else:
            it.answer(200, it.server.files["/good"])

    return answer


def always(status: int, wait: str) -> Callable[[Any, int], None]:
    return lambda it, number: it.answer(status, b"", Retry_After=wait)


def now() -> str:
    return format_datetime(datetime.now(UTC), usegmt=True)


MANY_ROBOTS = b"".join(b"User-agent: a%d\n" % n for n in range(15_000)) + b"Disallow: /x\n" * 18_000

ROBOTS: dict[str, Host] = {
    "none": Host(no_robots, GOOD),
    "forbidden-file": Host(text(b"", 403), GOOD),
    "gone-file": Host(text(b"", 410), GOOD),
    "empty": Host(text(b""), GOOD),
    "broken-server": Host(text(b"", 500), ("robots_unreachable", "http_500: HTTP 500")),
    "busy-server": Host(text(b"", 429), ("robots_unreachable", "http_429: HTTP 429")),
    "hang": Host(lambda it: it.server.stopping.wait(10), ("timeout", "no answer in time")),
    "drip": Host(lambda it: it.drip(b"HTTP/1.1 200 OK\r\n\r\n", b"x"), ("timeout", "not all of the body in time")),
    "reset": Host(lambda it: it.reset(), ("connect", "Connection reset by peer")),
    "not-http": Host(lambda it: it.wfile.write(b"SSH-2.0\r\n"), ("robots_unreachable", "not_http: BadStatusLine")),
    "cut": Host(
        lambda it: it.answer(200, b"User-agent: *", 99), ("robots_unreachable", "truncated_body: 13 of 99 bytes")
    ),
    "page": Host(text(b"<!DOCTYPE html><p>Disallow: / all of it</p>"), GOOD),
    "noise": Host(text(bytes(range(256)) * 100), GOOD),
    "all-out": Host(text(ALL_OUT), FORBIDDEN),
    "mark": Host(text(b"\xef\xbb\xbf" + ALL_OUT), FORBIDDEN),
    "carriage-returns": Host(text(ALL_OUT.replace(b"\n", b"\r")), FORBIDDEN),
    "capitals": Host(text(ALL_OUT.upper()), FORBIDDEN),
    "nuls-behind": Host(text(ALL_OUT + bytes(1000)), FORBIDDEN),
    "gzip-claimed": Host(lambda it: it.answer(200, ALL_OUT, Content_Encoding="gzip"), FORBIDDEN),
    "two-megabytes": Host(text(ALL_OUT + b"# no more\n" * 200_000), FORBIDDEN),
    "too-far-down": Host(text(b"# nothing yet\n" * 200_000 + ALL_OUT), GOOD),
    "many-robots": Host(text(MANY_ROBOTS + ALL_OUT), FORBIDDEN),
    "many-rules": Host(text(b"User-agent: *\n" + b"Disallow: /*a*b*c*d\n" * 20_000), GOOD),
    "wildcards": Host(lines("User-agent: *", "Disallow: /*.jpg$"), FORBIDDEN),
    "wildcards-not-to-the-end": Host(lines("User-agent: *", "Disallow: /*.jp$"), GOOD),
    "slow-wildcards": Host(lines("User-agent: *", "Disallow: /" + "*a" * 500 + "*b"), GOOD, path="/" + "a" * 4000),
    "longer-allow": Host(lines("User-agent: *", "Disallow: /", "Allow: /a.jpg"), GOOD),
    "for-us": Host(lines("User-agent: *", "Allow: /", "", "User-agent: vernaclip", "Disallow: /"), FORBIDDEN),
    "for-us-among-others": Host(lines("User-agent: x", "User-agent: VernaClip/9", "Disallow: /"), GOOD),
    "for-all-but-us": Host(lines("User-agent: *", "Disallow: /", "", "User-agent: vernaclip", "Disallow:"), GOOD),
    "for-another": Host(lines("User-agent: otherbot", "Disallow: /"), GOOD),
    "crawl-delay": Host(lines("User-agent: *", "Crawl-delay: 0.1"), GOOD),
    "crawl-delay-none": Host(lines("User-agent: *", "Crawl-delay: 0.00000001"), GOOD),
    "crawl-delay-absurd": Host(lines("User-agent: *", "Crawl-delay: 1e999"), GOOD),
    "crawl-delay-negative": Host(lines("User-agent: *", "Crawl-delay: -5"), GOOD),
    "moved": Host(to("/elsewhere.txt"), FORBIDDEN),
    "moved-in-a-circle": Host(to("/robots.txt"), ("robots_unreachable", "redirects: more than 3")),
    "moved-to-private": Host(to("http://10.0.0.1/robots.txt"), ("private_address", "10.0.0.1")),
}

PAUSES: dict[str, Host] = {
    "seconds": Host(no_robots, GOOD, busy_once(429, lambda: "0")),
    "a-second": Host(no_robots, GOOD, busy_once(503, lambda: "1")),
    "date": Host(no_robots, GOOD, busy_once(503, now)),
    "date-long-ago": Host(no_robots, GOOD, busy_once(429, lambda: "Fri, 31 Dec 1999 23:59:59 GMT")),
    "garbage": Host(no_robots, GOOD, busy_once(503, lambda: "soon")),
    "negative": Host(no_robots, GOOD, busy_once(503, lambda: "-5")),
    "absurd-zone": Host(no_robots, GOOD, busy_once(429, lambda: f"Mon, 01 Jan 2024 00:00:00 +{'9' * 20}")),
    "absurd-year": Host(no_robots, GOOD, busy_once(429, lambda: f"Mon, 01 Jan {'9' * 30} 00:00:00 GMT")),
    "next-year": Host(no_robots, ("http_429", "HTTP 429"), always(429, "Fri, 31 Dec 9999 23:59:59 GMT")),
    "a-day": Host(no_robots, ("http_503", "HTTP 503"), always(503, "86400")),
    "long-number": Host(no_robots, ("http_503", "HTTP 503"), always(503, "9" * 400)),
    "again-and-again": Host(no_robots, ("http_429", "HTTP 429"), always(429, "0")),
}

TABLE = ROBOTS | PAUSES


@pytest.fixture(scope="module")
def sites(make_site: Callable[[], Any], pictures: dict[str, bytes]) -> dict[str, Any]:
    """A server for each row of the table, and two more for what lies between hosts."""
    servers = {name: make_site() for name in [*TABLE, "from", "closed"]}
    for name, host in TABLE.items():
        site = servers[name]
        site.files.update({"/good": pictures["plain.jpg"], host.path: pictures["plain.jpg"], "/elsewhere.txt": ALL_OUT})
        site.behaviours["/robots.txt"] = host.robots
        if host.image is not None:
            answer = host.image
            site.behaviours[host.path] = lambda it, answer=answer: answer(it, it.server.hits["/a.jpg"])
    servers["closed"].files.update({"/robots.txt": ALL_OUT, "/a.jpg": pictures["plain.jpg"]})
    for name in ("none", "closed"):
        servers["from"].behaviours[f"/to-{name}"] = to(servers[name].url("/a.jpg"))
    return servers


@pytest.fixture(scope="module")
def run(sites: dict[str, Any], quick: FetchConfig, run_apart: Callable[..., Any]) -> Any:
    urls = [sites[name].url(host.path) for name, host in TABLE.items()]
    urls += [sites["from"].url(path) for path in ("/to-none", "/to-closed")]
    urls += [sites["a-day"].url(f"/more/{number}") for number in range(20)]
    config = replace(
        quick, retries=1, backoff_s=0.01, max_wait_s=5.0, timeout_s=2.0, deadline_s=3.0, host_concurrency=1
    )
    return run_apart("hostile hosts", urls, config)


def outcome(row: dict[str, Any]) -> Outcome:
    return row["drop_reason"], row["detail"]


def test_outcomes(run: Any, sites: dict[str, Any]) -> None:
    found = {name: outcome(run.images[sites[name].url(host.path)]) for name, host in TABLE.items()}
    assert {name: (found[name], TABLE[name].outcome) for name in TABLE if found[name] != TABLE[name].outcome} == {}


def test_where_robots_txt_forbids_nothing_is_asked(run: Any, sites: dict[str, Any]) -> None:
    refused = [name for name, host in ROBOTS.items() if host.outcome != GOOD]
    assert {name: sites[name].hits[ROBOTS[name].path] for name in refused} == dict.fromkeys(refused, 0)
    assert {sites[name].hits["/robots.txt"] for name in ("none", "empty", "all-out", "mark")} == {1}


def test_the_robots_txt_of_each_host_on_the_way_counts(run: Any, sites: dict[str, Any]) -> None:
    assert outcome(run.images[sites["from"].url("/to-none")]) == GOOD
    closed = run.raw[sites["from"].url("/to-closed")]
    assert outcome(closed) == FORBIDDEN
    assert closed["final_url"] == sites["closed"].url("/a.jpg")
    assert sites["closed"].hits["/a.jpg"] == 0


def test_what_passes_is_asked_again_once_and_what_does_not_is_not(run: Any, sites: dict[str, Any]) -> None:
    twice = [name for name in PAUSES if name not in ("next-year", "a-day", "long-number")]
    assert {name: sites[name].hits["/a.jpg"] for name in twice} == dict.fromkeys(twice, 2)
    assert sites["reset"].hits["/robots.txt"] == 2
    assert sites["long-number"].hits["/a.jpg"] == sites["next-year"].hits["/a.jpg"] == 1


def test_a_host_that_wants_a_day_is_given_up_for_all_its_rows(run: Any, sites: dict[str, Any]) -> None:
    site = sites["a-day"]
    assert sum(count for path, count in site.hits.items() if path != "/robots.txt") == 1
    rows = [run.raw[site.url(f"/more/{number}")] for number in range(20)]
    assert {(row["drop_reason"], row["http_status"]) for row in rows} == {("http_503", 503)}


def test_memory(run: Any) -> None:
    assert 0 < run.one_peak_mb < MEMORY_MB
    assert 0 < run.all_peak_mb < MEMORY_MB
