"""Bytes have a budget, for each host and for a whole shard: what is over it is not asked for, and every row says so."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_catalog.errors import SettingsError
from data_catalog.fetch.config import FetchConfig
from data_catalog.images.workers import ImageWorkers

BODY = b"x" * 100_000


@pytest.fixture
def sites(make_site: Callable[[], Any]) -> list[Any]:
    """Two hosts of many large files."""
    found = [make_site(), make_site()]
    for site in found:
        site.files.update({f"/{number}": BODY for number in range(10)})
    return found


def fetched(
    sites: list[Any], config: FetchConfig, workers: ImageWorkers, make_requests: Callable[..., Any], folder: Path
) -> Counter[tuple[str, str | None]]:
    """How many rows of each host ended with each reason, of ten that were asked for."""
    urls = [site.url(f"/{number}") for number in range(10) for site in sites]
    workers.fetch(make_requests(*urls), config, folder / "raw.parquet")
    rows = pq.read_table(folder / "raw.parquet").to_pylist()
    assert len(rows) == len(urls)
    assert all((row["bytes"] is None) == (row["drop_reason"] is not None) for row in rows)
    hosts = [str(site.server_address[0]) for site in sites] * 10
    return Counter((host, row["drop_reason"]) for host, row in zip(hosts, rows, strict=True))


def test_a_host_that_has_sent_its_share_is_asked_no_more_and_others_are(
    sites: list[Any], quick: FetchConfig, workers: ImageWorkers, make_requests: Callable[..., Any], tmp_path: Path
) -> None:
    sites[1].files.update(dict.fromkeys(sites[1].files, b"small"))
    config = replace(quick, threads=1, max_host_bytes=250_000)
    greedy, modest = (str(site.server_address[0]) for site in sites)
    found = fetched(sites, config, workers, make_requests, tmp_path)
    assert found == {(greedy, None): 3, (greedy, "byte_budget"): 7, (modest, None): 10}
    assert sites[0].hits.total() - sites[0].hits["/robots.txt"] == 3
    details = {row["detail"] for row in pq.read_table(tmp_path / "raw.parquet").to_pylist() if row["drop_reason"]}
    assert details == {f"250000 bytes of {greedy}"}


def test_what_is_thrown_away_counts_too(
    sites: list[Any], quick: FetchConfig, workers: ImageWorkers, make_requests: Callable[..., Any], tmp_path: Path
) -> None:
    config = replace(quick, threads=1, max_bytes=90_000, max_host_bytes=250_000)
    for site in sites:  # as no length is announced, they have to come to be too large
        site.behaviours.update(
            {path: lambda it: it.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + BODY) for path in site.files}
        )
    found = fetched(sites[:1], config, workers, make_requests, tmp_path)
    host = str(sites[0].server_address[0])
    assert found == {(host, "too_large"): 3, (host, "byte_budget"): 7}


def test_many_hosts_share_what_a_shard_may_bring(
    sites: list[Any], quick: FetchConfig, workers: ImageWorkers, make_requests: Callable[..., Any], tmp_path: Path
) -> None:
    config = replace(quick, threads=1, max_shard_bytes=450_000)
    found = fetched(sites, config, workers, make_requests, tmp_path)
    assert Counter(reason for _, reason in found.elements()) == {None: 5, "byte_budget": 15}
    assert {row["detail"] for row in pq.read_table(tmp_path / "raw.parquet").to_pylist() if row["drop_reason"]} == {
        "450000 bytes of the shard"
    }


def test_budgets_are_at_least_a_byte() -> None:
    for name in ("max_host_bytes", "max_shard_bytes"):
        with pytest.raises(SettingsError, match=rf"fetch\.{name} must be between"):
            FetchConfig(**{name: 0})
