"""A shard of nothing but files as large as the settings allow, all at once: memory stays what it is for small ones."""

from collections.abc import Callable
from typing import Any

import pytest

from data_catalog.fetch.config import FetchConfig, HostLimits

NUM_FILES = 40
MEMORY_MB = 600


@pytest.mark.slow
def test_memory_does_not_grow_with_what_is_fetched(server: Any, run_apart: Callable[..., Any]) -> None:
    limits = HostLimits(concurrency=64, requests_per_s=0)
    config = FetchConfig(hosts={"127.0.0.1": limits}, allow_loopback=True)
    body = bytes(config.max_bytes)
    paths = [f"/large/{number}" for number in range(NUM_FILES)]
    server.behaviours.update(dict.fromkeys(paths, lambda it: it.answer(200, body)))
    run = run_apart("the largest files", [server.url(path) for path in paths], config)
    assert {row["num_bytes"] for row in run.raw.values()} == {config.max_bytes}
    assert {row["drop_reason"] for row in run.images.values()} == {"not_an_image"}
    assert 0 < run.one_peak_mb < MEMORY_MB
    assert 0 < run.all_peak_mb < MEMORY_MB
