"""What hosts see of us: their limits, their robots.txt and their pauses, which later processes keep too."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_catalog.base.errors import SettingsError
from data_catalog.fetch.config import KNOWN_HOSTS, FetchConfig, HostLimits, HostPace, group_of
from data_catalog.fetch.consent import ConsentConfig
from data_catalog.fetch.frontier import Frontier
from data_catalog.fetch.robots import HOSTS_FILE, HostStore
from data_catalog.fetch.urls import FetchError
from data_catalog.fetch.workers import ImageWorkers

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


def test_a_crawl_delay_holds_from_the_first_request_and_for_the_next_shards_whatever_an_image_may_weigh(
    make_site: Any, request_log: Any, fetch: Any
) -> None:
    site, log = make_site(), request_log()
    rules = b"# longer than an image may be here\n" * 9 + b"User-agent: *\nCrawl-delay: 0.6\nDisallow: /no\n"
    site.behaviours["/robots.txt"] = lambda it: log.answer(it, b"", status=302, Location="/other.txt")
    site.behaviours["/other.txt"] = lambda it: log.answer(it, rules)
    config = replace(CONFIG, consent=ConsentConfig(), max_bytes=100, host_requests_per_s=4)
    for number in range(2):
        site.behaviours[f"/{number}"] = lambda it: log.answer(it, b"x")
        assert are_good(fetch(site.url(f"/{number}"), config=config))
    assert [row["drop_reason"] for row in fetch(site.url("/no"), config=config)] == ["robots_txt"]
    to_rules, *gaps = [later - earlier for earlier, later in pairwise(sorted(log.times))]
    assert to_rules > 0.2, "requests for robots.txt keep the pace"
    assert len(gaps) == 2
    assert min(gaps) > 0.4


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


def test_settings_that_cannot_be_sent_or_served_name_their_field() -> None:
    for field, value in (("user_agent", "two\nlines"), ("contact", ""), ("contact", "me"), ("wikimedia_width", 300)):
        with pytest.raises(SettingsError, match=rf"\.{field}\b.* must be"):
            FetchConfig(**{field: value})
    for name in ("", "http://example.org", "example.org/a", "example.org:80", "*.org", "Example.org"):
        with pytest.raises(SettingsError, match="hosts"):
            FetchConfig(hosts={name: HostLimits()})


# What is kept on disk, for later processes


def change(hosts: Path, statement: str) -> None:
    with closing(sqlite3.connect(hosts / HOSTS_FILE)) as connection, connection:
        connection.execute(statement)


@pytest.fixture
def fetch_anew(fetch: Any, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """What comes of URLs that a new process fetches, which finds what earlier ones left in `tmp_path / "hosts"`."""

    def run(*urls: str, config: FetchConfig = CONFIG) -> list[dict[str, Any]]:
        with ImageWorkers(tmp_path / "hosts") as workers:
            rows: list[dict[str, Any]] = fetch(*urls, config=config, by=workers)
        return rows

    return run


def test_robots_txt_is_asked_for_once_by_many_rows_and_not_by_later_processes_for_a_day(
    make_site: Any, fetch_anew: Any, tmp_path: Path
) -> None:
    site, config = make_site(), replace(CONFIG, consent=ConsentConfig())
    rules = b"User-agent: *\nDisallow: /no"
    site.behaviours["/robots.txt"] = lambda it: (it.server.stopping.wait(0.1), it.answer(200, rules))
    site.files |= {f"/yes/{number}": b"x" for number in range(8)}
    urls = [site.url(f"/{'no' if number % 2 else 'yes'}/{number}") for number in range(8)]
    for age_s, num_requests in ((0, 1), (0.99 * A_DAY_S, 1), (1.01 * A_DAY_S, 2)):
        if age_s:
            change(tmp_path / "hosts", f"UPDATE robots SET time = {time.time() - age_s}")
        assert [row["drop_reason"] for row in fetch_anew(*urls, config=config)] == [None, "robots_txt"] * 4
        assert site.hits["/robots.txt"] == num_requests


def test_a_host_that_wants_a_rest_gets_it_from_later_processes_too(
    make_site: Any, fetch_anew: Any, tmp_path: Path
) -> None:
    site, hosts = make_site(), tmp_path / "hosts"
    site.behaviours["/busy"] = lambda it: it.answer(503, b"", Retry_After="1000")
    site.files["/image"] = b"x"
    config = replace(CONFIG, max_wait_s=300)

    def outcome(path: str) -> Any:
        (row,) = fetch_anew(site.url(path), config=config)
        return row["drop_reason"], row["detail"], row["http_status"]

    said = ("http_503", "HTTP 503", 503)
    assert [outcome("/busy"), outcome("/image")] == [said, said]
    assert site.hits["/image"] == 0
    change(hosts, f"UPDATE paused SET until = {time.time() + 1}")  # the last second of the rest is waited for
    assert outcome("/image") == (None, None, 200)


def test_a_stored_pause_is_neither_shortened_nor_endless(tmp_path: Path) -> None:
    store, said = HostStore(tmp_path), FetchError("http_429", "HTTP 429", http_status=429)
    for seconds in (3600.0, 1.0):
        store.store_pause("a.example", said, seconds)
    store.store_pause("b.example", said, 1e12)
    left = {host: seconds for host, seconds, _ in HostStore(tmp_path).pauses()}
    assert 3500 < left["a.example"] <= 3600
    assert left["b.example"] <= 31 * A_DAY_S


def test_a_host_that_rests_is_not_asked_for_its_robots_txt_by_a_redirect_either(
    make_site: Any, fetch_anew: Any, tmp_path: Path
) -> None:
    site, other = make_site(), make_site()
    site.behaviours["/robots.txt"] = lambda it: it.answer(302, b"", Location=other.url("/robots.txt"))
    HostStore(tmp_path / "hosts").store_pause(other.server_address[0], FetchError("http_429"), 1000)
    (row,) = fetch_anew(site.url("/a"), config=replace(CONFIG, consent=ConsentConfig()))
    assert row["drop_reason"] == "robots_unreachable"
    assert other.hits.total() == 0


def test_a_host_that_cannot_be_reached_or_is_in_trouble_is_tried_once_for_all_that_wait_for_its_robots_txt(
    make_site: Any, fetch: Any
) -> None:
    gone, broken, config = make_site(), make_site(), replace(CONFIG, consent=ConsentConfig())
    gone.behaviours["/robots.txt"] = lambda it: (it.server.stopping.wait(0.3), it.reset())
    broken.behaviours["/robots.txt"] = lambda it: it.answer(500, b"")
    rows = fetch(*[site.url(f"/{number}") for site in (gone, broken) for number in range(50)], config=config)
    assert [row["drop_reason"] for row in rows] == ["connect"] * 50 + ["robots_unreachable"] * 50
    assert gone.hits["/robots.txt"] <= 3
    assert broken.hits == {"/robots.txt": 1}


# The pace of a host counts from the real start of requests


def test_a_slow_look_up_brings_no_two_requests_together() -> None:
    frontier = Frontier({}, HostPace(concurrency=8, requests_per_s=20), max_wait_s=300)
    for number in range(4):
        frontier.add(SimpleNamespace(order=0, number=number), "a.example")
    turns = [frontier.next() for _ in range(4)]
    assert [request.number for request, _ in turns] == [0, 1, 2, 3]
    # All look-ups end at once.
    waits = [frontier.begin(turn) for _, turn in turns]
    assert waits[0] == 0
    assert all(later - earlier > 0.05 for earlier, later in pairwise(waits))


def test_a_turn_without_a_request_counts_for_nothing() -> None:
    frontier = Frontier({}, HostPace(concurrency=1, requests_per_s=0.001), max_wait_s=300)
    for _ in range(5):
        frontier.add(SimpleNamespace(order=0), "a.example")
    started = time.monotonic()
    for _ in range(5):
        frontier.end(frontier.next()[1])
    assert time.monotonic() - started < 60


def test_no_thread_waits_for_the_turn_after_one_whose_look_up_goes_on() -> None:
    frontier = Frontier({}, HostPace(concurrency=3, requests_per_s=5), max_wait_s=300)
    for _ in range(3):
        frontier.add(SimpleNamespace(order=0), "a.example")
    _, first = frontier.next()
    frontier.begin(first)
    _, second = frontier.next()
    frontier.end(first)
    looked_up = time.monotonic()
    frontier.next()
    assert time.monotonic() - looked_up > 0.15
    assert frontier.begin(second) == 0


def test_a_request_of_another_process_counts() -> None:
    frontier = Frontier({}, HostPace(concurrency=1, requests_per_s=2), max_wait_s=300)
    frontier.note_start("a.example", 0.1)
    frontier.add(SimpleNamespace(order=0), "a.example")
    started = time.monotonic()
    _, turn = frontier.next()
    frontier.begin(turn)
    assert time.monotonic() - started > 0.35


def test_of_many_hosts_those_are_forgotten_that_want_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_catalog.fetch.frontier._MANY_HOSTS", 10)
    frontier = Frontier({}, HostPace(concurrency=1, requests_per_s=0), max_wait_s=300)
    idle, said = frontier.host_of("idle.example"), FetchError("http_429")
    frontier.pause("paused.example", said, 1000)
    frontier.slow_down("slow.example", 5)
    frontier.add(SimpleNamespace(order=0), "waiting.example")
    for number in range(50):
        frontier.host_of(f"{number}.example")
    assert frontier.host_of("paused.example").paused_by is said
    assert frontier.host_of("slow.example").interval_s > 5
    assert frontier.host_of("waiting.example").waiting
    assert frontier.host_of("idle.example") is not idle
