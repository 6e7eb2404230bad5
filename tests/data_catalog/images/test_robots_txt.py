"""robots.txt is asked for once a host, whoever wants it, and remembered for the next process."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from data_catalog.fetch.client import Deadline, GuardedClient, Hooks, Limits
from data_catalog.fetch.config import HostPace
from data_catalog.fetch.hosts import Hosts
from data_catalog.fetch.opener import RobotsCache
from data_catalog.fetch.urls import FetchError, Target, parse_url

LIMITS = Limits(timeout_s=5.0, deadline_s=5.0, max_bytes=100, max_redirects=2, user_agent="a/1", allow_loopback=True)


PACE = HostPace(requests_per_s=0)


def cache(folder: Path) -> RobotsCache:
    return RobotsCache(Hosts(folder, {}, PACE), GuardedClient(LIMITS), "vernaclip")


def check(robots: RobotsCache, url: str, deadline_s: float = 5.0) -> float | str:
    """The delay, or the reason of the failure."""
    try:
        return robots.check(parse_url(url), Deadline(deadline_s), Hooks()).crawl_delay
    except FetchError as error:
        return error.reason


def test_many_threads_ask_once_and_the_next_process_not_at_all(make_site: Callable[[], Any], tmp_path: Path) -> None:
    site = make_site()
    everybody = threading.Barrier(16)
    site.behaviours["/robots.txt"] = lambda it: (
        it.server.stopping.wait(0.1),
        it.answer(200, b"User-agent: *\nDisallow: /no\nCrawl-delay: 2"),
    )
    robots = cache(tmp_path)

    def ask(number: int) -> float | str:
        everybody.wait()
        return check(robots, site.url(f"/{'no' if number % 2 else 'yes'}/{number}"))

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(ask, range(16))) == [2.0, "robots_txt"] * 8
    assert site.hits["/robots.txt"] == 1
    assert check(cache(tmp_path), site.url("/yes")) == 2.0
    assert site.hits["/robots.txt"] == 1


def test_those_who_wait_share_a_failure_and_those_who_come_later_ask_again(
    make_site: Callable[[], Any], tmp_path: Path
) -> None:
    site = make_site()
    asked, go_on = threading.Event(), threading.Event()

    def fail(it: Any) -> None:
        asked.set()
        go_on.wait()
        it.reset()

    site.behaviours["/robots.txt"] = fail
    robots = cache(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(check, robots, site.url("/a"))
        asked.wait()
        others = [threads.submit(check, robots, site.url(f"/{number}")) for number in range(7)]
        while not all(future.running() for future in others):
            """All come before the failure is known; the last of them may yet be a moment too late."""
        site.stopping.wait(0.3)
        go_on.set()
        assert {first.result(), *(future.result() for future in others)} == {"connect"}
    assert site.hits["/robots.txt"] <= 3
    site.behaviours["/robots.txt"] = lambda it: it.answer(404, b"")
    assert check(robots, site.url("/later")) == 0.0


def test_nobody_waits_longer_than_there_is_time(make_site: Callable[[], Any], tmp_path: Path) -> None:
    site = make_site()
    asked = threading.Event()
    site.behaviours["/robots.txt"] = lambda it: (asked.set(), it.server.stopping.wait(10))[0]
    robots = cache(tmp_path)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(check, robots, site.url("/a"), 1.0)
        asked.wait()
        assert check(robots, site.url("/b"), 0.01) == "timeout"
        assert first.result() == "timeout"


def test_a_server_in_trouble_is_left_alone_for_a_while(make_site: Callable[[], Any], tmp_path: Path) -> None:
    site = make_site()
    site.behaviours["/robots.txt"] = lambda it: it.answer(503, b"")
    robots = cache(tmp_path)
    for _ in range(3):
        with pytest.raises(FetchError) as refused:
            robots.check(parse_url(site.url("/a")), Deadline(5.0), Hooks())
        assert (refused.value.reason, refused.value.http_status) == ("robots_unreachable", 503)
    assert site.hits["/robots.txt"] == 1


def test_what_a_server_in_trouble_asks_for_is_told(make_site: Callable[[], Any], tmp_path: Path) -> None:
    site = make_site()
    site.behaviours["/robots.txt"] = lambda it: it.answer(503, b"", Retry_After="7")
    with pytest.raises(FetchError) as refused:
        cache(tmp_path).check(parse_url(site.url("/a")), Deadline(5.0), Hooks())
    assert refused.value.retry_after_s == 7.0


def test_its_size_does_not_depend_on_the_cap_of_images(make_site: Callable[[], Any], tmp_path: Path) -> None:
    site = make_site()
    site.files["/robots.txt"] = (
        b"# a hundred bytes are all that an image may have here\n" * 100 + b"User-agent: *\nDisallow: /"
    )
    assert check(cache(tmp_path), site.url("/a")) == "robots_txt"


def test_what_is_asked_for_is_announced(make_site: Callable[[], Any], tmp_path: Path) -> None:
    site = make_site()
    site.behaviours["/robots.txt"] = lambda it: it.answer(302, b"", Location="/other.txt")
    announced: list[Target] = []
    cache(tmp_path).check(parse_url(site.url("/a")), Deadline(5.0), Hooks(before_connect=announced.append))
    assert [target.path for target in announced] == ["/robots.txt", "/other.txt"]


def test_far_more_hosts_than_memory_is_given_to_are_all_right(make_site: Callable[[], Any], tmp_path: Path) -> None:
    sites = [make_site() for _ in range(12)]
    for site in sites:
        site.files["/robots.txt"] = b"User-agent: *\nDisallow: /no\n#" + b"x" * 510_000
    robots = cache(tmp_path)
    for _ in range(2):
        assert [check(robots, site.url("/no")) for site in sites] == ["robots_txt"] * 12
        assert [check(robots, site.url("/yes")) for site in sites] == [0.0] * 12
    assert {site.hits["/robots.txt"] for site in sites} == {1}


def test_what_comes_before_the_answer_is_not_taken_for_it(make_site: Callable[[], Any], tmp_path: Path) -> None:
    site = make_site()
    site.behaviours["/robots.txt"] = lambda it: it.wfile.write(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\nUser-agent: *\nDisallow: /no"
    )
    robots = cache(tmp_path)
    assert [check(robots, site.url(path)) for path in ("/no/a.jpg", "/yes.jpg")] == ["robots_txt", 0.0]
