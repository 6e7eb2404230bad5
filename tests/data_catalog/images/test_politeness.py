"""What hosts see of us where something slow, a redirect or a long pause lies between a row and its request."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

from data_catalog.fetch.config import FetchConfig, HostLimits
from data_catalog.fetch.consent import ConsentConfig

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
