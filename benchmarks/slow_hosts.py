"""A shard on slow, busy and quick hosts beside the least time that it can take: benchmarks/slow_hosts.py [--quick].

5,000 images on 500 hosts, ten each: 50 hosts answer everything after 10 s; 20 say 429 with `Retry-After: 30` to all
that is asked within 30 s of their first request. All hosts are addresses of this machine, of one server. No shard can
be faster than its slowest host by itself, nor than the seconds of all requests divided by the threads.
"""

import math
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from harness import judge, options_of, tell
from loopback_server import serving

from data_catalog.fetch.config import FetchConfig
from data_catalog.images.workers import ImageWorkers

IMAGES_A_HOST = 10


@dataclass(frozen=True, slots=True)
class Size:
    """Rounds, hosts (slow and busy ones among them), threads, seconds that a slow one takes and a busy one asks for."""

    rounds: int
    num_hosts: int
    num_slow: int
    num_busy: int
    threads: int
    slow_s: float
    busy_s: float


SIZES = {"quick": Size(1, 100, 10, 4, 20, 3.0, 8.0), "full": Size(5, 500, 50, 20, 128, 10.0, 30.0)}


def least_s(size: Size, config: FetchConfig, seconds: float) -> float:
    """What no way of asking can be faster than: a host by itself, or the requests' seconds over the threads."""
    waves = math.ceil(IMAGES_A_HOST / config.host_concurrency)
    slow = size.slow_s * (1 + waves)  # robots.txt first
    busy = size.busy_s + (1 + IMAGES_A_HOST) / config.host_requests_per_s
    return max(slow, busy, seconds / size.threads)


def measure(size: Size, folder: Path) -> tuple[float, float]:
    """Fetch the shard once; its wall seconds, and the least that they could be."""
    config = FetchConfig(allow_loopback=True, threads=size.threads, timeout_s=60, deadline_s=120)
    hosts = [f"127.0.{2 + number // 250}.{1 + number % 250}" for number in range(size.num_hosts)]
    slow, busy = hosts[: size.num_slow], hosts[size.num_slow : size.num_slow + size.num_busy]
    patience = dict.fromkeys(slow, size.slow_s), dict.fromkeys(busy, size.busy_s)
    with serving(None, folder / "log", *patience) as server, ImageWorkers() as workers:
        urls = [f"http://{host}:{server.port}/{number}.jpg" for host in hosts for number in range(IMAGES_A_HOST)]
        workers.fetch(requests_of([f"http://127.0.9.9:{server.port}/warm.jpg"]), config, folder / "warm")
        before, started = server.log_size(), time.monotonic()
        workers.fetch(requests_of(urls), config, folder / "raw")
        wall_s = time.monotonic() - started
        asked_s = sum(request.took_s for request in server.requests(before))
    reasons = pq.read_table(folder / "raw")["drop_reason"]
    if reasons.null_count != len(urls):
        raise SystemExit(f"{len(urls) - reasons.null_count} images did not come: {reasons.value_counts().to_pylist()}")
    return wall_s, least_s(size, config, asked_s)


def requests_of(urls: list[str]) -> pa.Table:
    nothing = pa.nulls(len(urls), pa.string())
    return pa.table({"sample_id": urls, "url": urls, "path": nothing, "location": nothing})


def main() -> int:
    """Measure and judge."""
    size = SIZES["quick" if options_of(__doc__).parse_args().quick else "full"]
    rows = []
    for _ in range(size.rounds):
        with tempfile.TemporaryDirectory(prefix="vernaclip-benchmark-") as name:
            wall_s, ideal_s = measure(size, Path(name))
        rows.append({"wall s": round(wall_s, 1), "least s": round(ideal_s, 1), "ratio": wall_s / ideal_s})
    tell(rows, f"{size.num_hosts * IMAGES_A_HOST:,} images on {size.num_hosts} hosts; {size}")
    ratio = statistics.median(row["ratio"] for row in rows)
    return judge({"slow-hosts-to-least-time": ratio}, {"slow-hosts-to-least-time": ("<=", 1.3)})


if __name__ == "__main__":
    sys.exit(main())
