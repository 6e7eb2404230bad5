"""What hosts see of us, and their limits, kept by several processes together, of which one may be killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import SettingsError
from data_catalog.fetch.client import Deadline, GuardedClient, Hooks, Limits
from data_catalog.fetch.config import KNOWN_HOSTS, FetchConfig, HostLimits, HostPace, group_of
from data_catalog.fetch.consent import ConsentConfig
from data_catalog.fetch.hosts import Hosts, LaterError
from data_catalog.fetch.opener import RobotsCache
from data_catalog.fetch.urls import FetchError, Target, parse_url

CONFIG = FetchConfig(
    allow_loopback=True, retries=0, host_requests_per_s=0, consent=ConsentConfig(ignore=("robots.txt",))
)


def are_good(rows: list[dict[str, Any]]) -> bool:
    return {row["drop_reason"] for row in rows} == {None}


def test_those_who_wait_for_one_robots_txt_do_not_all_begin_when_it_comes(
    make_site: Any, request_log: Any, fetch: Any
) -> None:
    site, log = make_site(), request_log()
    site.behaviours["/robots.txt"] = lambda it: (it.server.stopping.wait(0.7), it.answer(404, b""))
    urls = [site.url(f"/{number}") for number in range(7)]
    site.behaviours |= dict.fromkeys([f"/{number}" for number in range(7)], lambda it: log.answer(it, b"x"))
    assert are_good(fetch(*urls, config=replace(CONFIG, host_requests_per_s=5, consent=ConsentConfig())))
    # Two in time; one more, or two, that a busy machine holds up.
    assert max(sum(start <= time < start + 0.3 for time in log.times) for start in log.times) <= 4


@pytest.mark.parametrize("answers", [[500], [503, 502], [204]])
def test_a_robots_txt_is_asked_for_again_with_the_retries_of_the_images(
    answers: list[int], make_site: Any, fetch: Any
) -> None:
    """An answer without content is a file without rules."""
    site = make_site()
    left = list(answers)
    site.behaviours["/robots.txt"] = lambda it: it.answer(left.pop(0) if left else 404, b"")
    site.files |= dict.fromkeys(["/0", "/1"], b"x")
    config = replace(CONFIG, retries=2, backoff_s=0.1, consent=ConsentConfig())
    assert are_good(fetch(site.url("/0"), site.url("/1"), config=config))
    assert site.hits["/robots.txt"] == len(answers) + (answers != [204])


def test_waiting_for_its_turn_is_not_taken_off_the_time_of_a_row(make_site: Any, fetch: Any) -> None:
    site = make_site()
    site.behaviours["/0"] = lambda it: it.answer(302, b"", Location="/to/0")
    site.files["/to/0"] = b"x"
    assert are_good(fetch(site.url("/0"), config=replace(CONFIG, host_requests_per_s=1, deadline_s=0.9)))


def test_a_crawl_delay_holds_from_the_first_request_and_for_the_next_shards(
    make_site: Any, request_log: Any, fetch: Any
) -> None:
    site, log = make_site(), request_log()
    site.behaviours["/robots.txt"] = lambda it: log.answer(it, b"User-agent: *\nCrawl-delay: 0.8\n")
    for number in range(2):
        site.behaviours[f"/{number}"] = lambda it: log.answer(it, b"x")
        assert are_good(fetch(site.url(f"/{number}"), config=replace(CONFIG, consent=ConsentConfig())))
    times = sorted(log.times)
    assert len(times) == 3
    assert min(later - earlier for earlier, later in pairwise(times)) > 0.5


def test_the_concurrency_of_a_host_holds_for_those_whom_redirects_lead_to_it(
    make_site: Any, request_log: Any, fetch: Any
) -> None:
    target, log = make_site(), request_log()
    urls = [target.url(f"/{number}") for number in range(4)]
    for site in [make_site() for _ in range(4)]:
        for number in range(3):
            path = f"/{site.server_address[0]}/{number}"
            site.behaviours[path] = lambda it, path=path: it.answer(302, b"", Location=target.url(path))
            target.behaviours[path] = lambda it: log.answer(it, b"x", 0.1)
            urls.append(site.url(path))
    target.behaviours |= dict.fromkeys([f"/{number}" for number in range(4)], lambda it: log.answer(it, b"x", 0.1))
    hosts = {target.server_address[0]: HostLimits(concurrency=2, requests_per_s=0)}
    assert are_good(fetch(*urls, config=replace(CONFIG, hosts=hosts)))
    assert len(log.times) == 16
    assert log.most == 2


def test_hosts_that_lead_to_each_other_do_not_hold_each_other_up(make_site: Any, fetch: Any) -> None:
    sites = [make_site(), make_site()]
    for site, other in (sites, sites[::-1]):
        for number in range(8):
            site.behaviours[f"/{number}"] = lambda it, other=other: it.answer(302, b"", Location=other.url("/image"))
        site.files["/image"] = b"x"
    urls = [site.url(f"/{number}") for number in range(8) for site in sites]
    assert are_good(fetch(*urls, config=replace(CONFIG, host_concurrency=1)))


def test_a_host_with_its_own_rate_does_not_hold_up_the_others(make_site: Any, fetch: Any) -> None:
    slow, fast = make_site(), make_site()
    order: list[str] = []
    for name, site in (("slow", slow), ("fast", fast)):
        for number in range(12):
            site.behaviours[f"/{number}"] = lambda it, name=name: (order.append(name), it.answer(200, b"x"))
    hosts = {slow.server_address[0]: HostLimits(concurrency=1, requests_per_s=10)}
    urls = [site.url(f"/{number}") for site in (slow, fast) for number in range(12)]
    assert are_good(fetch(*urls, config=replace(CONFIG, threads=4, hosts=hosts)))
    # The slow host's rows come first in the shard, and yet the fast one's are done before some of them.
    assert order[:18].count("fast") == 12


A_DAY_S = 86400.0


def test_a_limit_of_a_domain_holds_for_all_its_hosts() -> None:
    named = {"example.org": HostPace(), "img.example.org": HostPace()}
    groups = {"www.example.org": "example.org", "a.b.IMG.example.org": "img.example.org", "example.org.": "example.org"}
    groups |= {host: host for host in ("notexample.org", "org", "::1")}
    assert {host: group_of(host, named) for host in groups} == groups


def test_what_a_recipe_leaves_out_of_a_host_stays_as_it_is() -> None:
    hosts = {
        "upload.wikimedia.org": (HostLimits(concurrency=1), HostPace(concurrency=1, requests_per_s=10)),
        "thumb.wikimedia.org": (HostLimits(requests_per_s=0), HostPace(concurrency=2, requests_per_s=0)),
        "images.cocodataset.org": (HostLimits(), KNOWN_HOSTS["images.cocodataset.org"]),
        "live.staticflickr.com": (HostLimits(requests_per_s=1), HostPace(concurrency=8, requests_per_s=1)),
        "example.org": (HostLimits(concurrency=5), HostPace(concurrency=5, requests_per_s=2)),
    }
    limits = {name: limits for name, (limits, _) in hosts.items()}
    config = FetchConfig(host_concurrency=3, host_requests_per_s=2, hosts=limits)
    assert config.named_limits == {**KNOWN_HOSTS, **{name: pace for name, (_, pace) in hosts.items()}}
    assert FetchConfig.from_values(config.to_values()) == config


def test_settings_out_of_range_name_their_field() -> None:
    fields: list[tuple[str, Any]] = [("max_bytes", 0), ("max_host_bytes", 0), ("timeout_s", 0), ("threads", 0)]
    fields += [("retries", 21), ("user_agent", "two\nlines"), ("contact", ""), ("contact", "someone")]
    for field, value in [*fields, ("wikimedia_width", 300), ("ports", (0,))]:
        with pytest.raises(SettingsError, match=rf"\.{field} must be"):
            FetchConfig(**{field: value})
    for name in ("", "http://example.org", "example.org/a", "example.org:80", "*.org", "Example.org"):
        with pytest.raises(SettingsError, match="hosts"):
            FetchConfig(hosts={name: HostLimits()})
    for limits in ({"concurrency": 0}, {"requests_per_s": -1}, {"requests_per_s": 10_001}):
        with pytest.raises(SettingsError, match="hosts"):
            HostLimits(**limits)


ONE = HostPace(concurrency=1, requests_per_s=0)
SAID = FetchError("http_503", "HTTP 503", http_status=503)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Hosts, Hosts]]:
    """The hosts as two processes keep them: all may be asked by one at a time, and "b" once an hour."""
    named = {"b": HostPace(concurrency=9, requests_per_s=1 / 3600)}
    with closing(Hosts(tmp_path, named, ONE)) as one, closing(Hosts(tmp_path, named, ONE)) as other:
        yield one, other


def test_processes_share_moments_and_a_wait_that_is_too_long_reserves_nothing(two: tuple[Hosts, Hosts]) -> None:
    one, other = two
    assert one.wait_to_begin("b", 0) == 0
    for hosts in (one, other, one, other):
        with pytest.raises(LaterError) as later:
            hosts.wait_to_begin("b", 10)
        assert 3600 < later.value.wait_s < 3800


def test_a_host_that_wants_a_rest_gets_it_from_all_processes_and_later_runs(
    two: tuple[Hosts, Hosts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    one.pause("a", SAID, 1000.0)
    one.pause("a", SAID, 10.0)  # a shorter one changes nothing
    with pytest.raises(LaterError) as later:
        other.wait_to_begin("a", 10)
    assert 900 < later.value.wait_s <= 1000
    other.raise_if_paused("a", 2000.0)
    with pytest.raises(FetchError) as said:
        other.raise_if_paused("a", 300.0)
    assert (said.value.reason, said.value.detail, said.value.http_status) == ("http_503", "HTTP 503", 503)
    one.pause("c", SAID, 1e300)
    now = time.time()
    with closing(Hosts(tmp_path, {}, ONE)) as next_run:
        monkeypatch.setattr(time, "time", lambda: now + 1001.0)
        assert next_run.wait_to_begin("a", 0) == 0
        with pytest.raises(FetchError):
            next_run.raise_if_paused("c", 300.0)
        monkeypatch.setattr(time, "time", lambda: now + 40 * A_DAY_S)
        next_run.raise_if_paused("c", 300.0)


def test_a_clock_that_is_set_back_stops_nobody(two: tuple[Hosts, Hosts], monkeypatch: pytest.MonkeyPatch) -> None:
    hosts, _ = two
    assert hosts.wait_to_begin("b", 0) == 0
    for group in "bc":  # with a rate, and without
        hosts.pause(group, SAID, 30.0)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 30 * A_DAY_S)
    assert hosts.wait_to_begin("b", 0) == 0
    assert hosts.wait_to_begin("c", 0) == 0
    hosts.pause("c", SAID, 400.0)
    with pytest.raises(FetchError):
        hosts.raise_if_paused("c", 300.0)


# Several processes

PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
HOLD = """
import sys
from pathlib import Path
from data_catalog.fetch.config import HostPace
from data_catalog.fetch.hosts import Hosts
hosts = Hosts(Path(sys.argv[1]), {}, HostPace(concurrency=2))
print(*[hosts.acquire_slot("a", 0) for _ in range(2)], flush=True)
sys.stdin.read()
"""


def test_processes_share_slots_and_a_killed_one_has_none(tmp_path: Path) -> None:
    with (
        closing(Hosts(tmp_path, {}, HostPace(concurrency=2))) as hosts,
        subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], **PIPES) as holder,
    ):
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"0 1\n"
        assert hosts.acquire_slot("a", 0) is None
        assert hosts.acquire_slot("b", 0) == 0
        os.kill(holder.pid, signal.SIGKILL)
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie
        assert [hosts.acquire_slot("a", 0) for _ in range(3)] == [0, 1, None]


# robots.txt


@pytest.fixture
def robots_of(tmp_path: Path) -> Callable[[], Callable[..., float | str]]:
    """A process's cache of robots.txt files: what asks it for the delay, or the reason of the failure, for a URL."""
    limits = {"timeout_s": 5.0, "deadline_s": 5.0, "max_bytes": 100, "max_redirects": 2, "user_agent": "a/1"}
    client = GuardedClient(Limits(**limits, allow_loopback=True))

    def new() -> Callable[..., float | str]:
        cache = RobotsCache(Hosts(tmp_path, {}, HostPace(requests_per_s=0)), client, "vernaclip")

        def check(url: str, deadline_s: float = 5.0, hooks: Hooks = Hooks()) -> float | str:  # noqa: B008
            try:
                return cache.check(parse_url(url), Deadline(deadline_s), hooks).crawl_delay
            except FetchError as error:
                waits = "" if error.retry_after_s is None else f", wait {error.retry_after_s} s"
                return f"{error.reason}{waits}"

        return check

    return new


def test_many_threads_ask_for_robots_txt_once_and_the_next_process_not_at_all_for_a_day(
    make_site: Any, robots_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, check = make_site(), robots_of()
    everybody = threading.Barrier(16)
    rules = b"User-agent: *\nDisallow: /no\nCrawl-delay: 2"
    site.behaviours["/robots.txt"] = lambda it: (it.server.stopping.wait(0.1), it.answer(200, rules))

    def ask(number: int) -> float | str:
        everybody.wait()
        found: float | str = check(site.url(f"/{'no' if number % 2 else 'yes'}/{number}"))
        return found

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(ask, range(16))) == [2.0, "robots_txt"] * 8
    now = time.time()
    for later_s, num_requests in ((0.99 * A_DAY_S, 1), (1.01 * A_DAY_S, 2)):
        monkeypatch.setattr(time, "time", lambda later_s=later_s: now + later_s)
        assert robots_of()(site.url("/yes")) == 2.0
        assert site.hits["/robots.txt"] == num_requests


def test_a_server_in_trouble_is_left_alone_for_a_while(make_site: Any, robots_of: Any) -> None:
    for headers, waits, num_requests in (({}, "", 1), ({"Retry_After": "7"}, ", wait 7.0 s", 3)):
        site, check = make_site(), robots_of()
        site.behaviours["/robots.txt"] = lambda it, headers=headers: it.answer(503, b"", **headers)
        assert [check(site.url("/a")) for _ in range(3)] == [f"robots_unreachable{waits}"] * 3
        assert site.hits["/robots.txt"] == num_requests  # with a Retry-After, the host is paused


def test_each_request_for_robots_txt_is_announced_and_its_size_does_not_depend_on_the_cap_of_images(
    make_site: Any, robots_of: Any
) -> None:
    site = make_site()
    site.behaviours["/robots.txt"] = lambda it: it.answer(302, b"", Location="/other.txt")
    site.files["/other.txt"] = b"# a hundred bytes are all that an image may have\n" * 9 + b"User-agent: *\nDisallow: /"
    announced: list[Target] = []
    assert robots_of()(site.url("/a"), hooks=Hooks(before_connect=announced.append)) == "robots_txt"
    assert [target.path for target in announced] == ["/robots.txt", "/other.txt"]
