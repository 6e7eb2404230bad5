"""Fetching from slow, busy and rate-limited hosts, as a server sees it: python benchmarks/hosts.py [--quick].

Politeness: two sources of native captions with images by URL are built. All images of one source are on one host, those
of the other on a hundred hosts. Each host allows five requests a second. The first source must never exceed that, and
the second must be fetched as fast as in a build of its own.

Slow hosts: a shard of 5,000 images on 500 hosts, ten each, is compared with its least possible time. 50 hosts answer
everything after 10 s; 20 answer 429 with `Retry-After: 30` to all requests within 30 s of their first request. No shard
can be faster than its slowest host alone, nor than the seconds of all requests divided by the threads.

All hosts are addresses of this machine, served by one server.
"""

import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pyarrow.parquet as pq
from harness import Goals, in_turn, judge, options_of, print_table, ratio
from loopback_server import LoopbackServer, Request, request_table, serving
from pictures import write_photographs

from data_catalog.fetch.config import FetchConfig
from data_catalog.fetch.workers import ImageWorkers
from data_catalog.sample.grammar import parallel_pairs
from flows.build.execution import LocalExecutor
from flows.datasets import build_dataset
from flows.recipe.recipe import load_recipe

SLOW_HOST = "127.0.2.1"
MANY_HOSTS = [f"127.0.1.{number}" for number in range(1, 101)]
REQUESTS_PER_S = 5
# Rounds, images of the single host, images of each of the others.
SIZES = {"quick": (2, 30, 15), "full": (5, 100, 50)}
PHOTOGRAPH_SIZE = (160, 120)
IMAGES_A_HOST = 10
GOALS: Goals = {
    "politeness-busiest-second": ("<=", REQUESTS_PER_S),
    "politeness-requests-per-s": ("<=", REQUESTS_PER_S),
    "politeness-others-to-alone": (">=", 0.9),
    "slow-hosts-to-least-time": ("<=", 1.3),
}
RECIPE = f"""\
target_language = "it"
build = {{ shard_size = 500, workers = 2, fetch_workers = 2 }}
fetch = {{ allow_loopback = true, contact = "vernaclip@localhost", host_requests_per_s = {REQUESTS_PER_S} }}
"""
SOURCE = """
[sources.{name}]
kind = "pairs"
files = ["{file}"]
caption_column = "caption"
url_column = "url"
lang = "it"
"""


def rate(requests: Sequence[Request]) -> float:
    """Return requests a second, by the gaps between them; requests are in the order of their times."""
    return (len(requests) - 1) / (requests[-1].time_s - requests[0].time_s)


def busiest_second(requests: Sequence[Request]) -> int:
    """Return the most requests within any window of one second."""
    times = [request.time_s for request in requests]
    return max(sum(start <= time < start + 1.0 for time in times) for start in times)


def write_sources(folder: Path, port: int, num_slow: int, num_each: int) -> dict[str, Path]:
    """Write files of captions and URLs; every image has a different caption."""
    num_many = num_each * len(MANY_HOSTS)
    pairs = parallel_pairs(seed=5, num_pairs=4 * (num_slow + num_many))
    captions = iter(dict.fromkeys(caption for _, caption in pairs))
    hosts = {"slow": [SLOW_HOST] * num_slow, "many": [host for host, _ in zip(cycle(MANY_HOSTS), range(num_many))]}
    numbers = iter(range(num_slow + num_many))
    files: dict[str, Path] = {}
    for name, places in hosts.items():
        rows = [{"url": f"http://{host}:{port}/{next(numbers):06d}.jpg", "caption": next(captions)} for host in places]
        files[name] = folder / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files


def measured(server: LoopbackServer, folder: Path, files: dict[str, Path]) -> dict[str, list[Request]]:
    """Build a dataset of some sources in a new root; return the requests that the server got for each source."""
    start, root = server.log_size(), Path(tempfile.mkdtemp(dir=folder))
    recipe = root / "polite.toml"
    sources = "".join(SOURCE.format(name=name, file=file) for name, file in files.items())
    recipe.write_text(RECIPE + sources, encoding="utf-8")
    with LocalExecutor() as executor:
        build_dataset(load_recipe(str(recipe), root=root), root=root, executor=executor)
    seen: dict[str, list[Request]] = {"slow": [], "many": []}
    for request in server.requests(start):
        seen["slow" if request.address == SLOW_HOST else "many"].append(request)
    return seen


def politeness(rounds: int, num_slow: int, num_each: int) -> dict[str, float]:
    """Build the second source alone and both together, in turn; return the claims' values."""
    with tempfile.TemporaryDirectory(prefix="vernaclip-benchmark-") as name:
        folder, photographs = Path(name), Path(name) / "www"
        photographs.mkdir()
        write_photographs(photographs, num_slow + num_each * len(MANY_HOSTS), PHOTOGRAPH_SIZE)
        with serving(photographs, folder / "requests.log") as server:
            files = write_sources(folder, server.port, num_slow, num_each)
            chosen = {"alone": {"many": files["many"]}, "together": files}
            works = {name: lambda some=some: measured(server, folder, some) for name, some in chosen.items()}
            found = in_turn(works, rounds)
    alone, together = ([seen["many"] for seen in found[name]] for name in ("alone", "together"))
    slow = [seen["slow"] for seen in found["together"]]
    shown = {"a hundred hosts alone": alone, "a hundred hosts with the one host": together, "the one host": slow}
    rows = [
        {"hosts": name, "requests": len(seen[0]), "a second": f"{statistics.median(map(rate, seen)):.1f}"}
        for name, seen in shown.items()
    ]
    print_table(
        rows, f"{num_slow} images on one host, {num_each} on each of {len(MANY_HOSTS)}; medians of {rounds} rounds"
    )
    others = ratio([rate(seen) for seen in together], [rate(seen) for seen in alone])
    found = (max(map(busiest_second, slow)), max(map(rate, slow)), others)
    return dict(zip(GOALS, found, strict=False))


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a measurement.

    Args:
        rounds: number of rounds.
        num_hosts: hosts, slow and busy ones included.
        num_slow: slow hosts.
        num_busy: busy hosts.
        threads: threads that fetch.
        slow_s: seconds until a slow host answers.
        busy_s: seconds that a busy host asks to wait.
    """

    rounds: int
    num_hosts: int
    num_slow: int
    num_busy: int
    threads: int
    slow_s: float
    busy_s: float


HOST_SIZES = {"quick": Size(1, 100, 10, 4, 20, 3.0, 8.0), "full": Size(5, 500, 50, 20, 128, 10.0, 30.0)}


def measure(size: Size, folder: Path) -> tuple[float, float]:
    """Fetch the shard once; return its wall-clock seconds, and the least possible seconds."""
    config = FetchConfig(allow_loopback=True, threads=size.threads, timeout_s=60, deadline_s=120)
    hosts = [f"127.0.{2 + number // 250}.{1 + number % 250}" for number in range(size.num_hosts)]
    slow, busy = hosts[: size.num_slow], hosts[size.num_slow : size.num_slow + size.num_busy]
    patience = dict.fromkeys(slow, size.slow_s), dict.fromkeys(busy, size.busy_s)
    with serving(None, folder / "log", *patience) as server, ImageWorkers() as workers:
        urls = [f"http://{host}:{server.port}/{number}.jpg" for host in hosts for number in range(IMAGES_A_HOST)]
        workers.fetch(request_table([f"http://127.0.9.9:{server.port}/warm.jpg"]), config, folder / "warm")
        before, started = server.log_size(), time.monotonic()
        workers.fetch(request_table(urls), config, folder / "raw")
        wall_s = time.monotonic() - started
        asked_s = sum(request.took_s for request in server.requests(before))
    reasons = pq.read_table(folder / "raw")["drop_reason"]
    if reasons.null_count != len(urls):
        raise SystemExit(f"{len(urls) - reasons.null_count} images failed: {reasons.value_counts().to_pylist()}")
    # The time is at least that of the slowest host alone, and the seconds of all requests divided by the threads.
    slow_s = size.slow_s * (1 + math.ceil(IMAGES_A_HOST / config.host_concurrency))  # robots.txt comes first
    busy_s = size.busy_s + (1 + IMAGES_A_HOST) / config.host_requests_per_s
    return wall_s, max(slow_s, busy_s, asked_s / size.threads)


def main() -> int:
    """Measure and judge."""
    size = "quick" if options_of(__doc__).parse_args().quick else "full"
    values, rows, hosts = politeness(*SIZES[size]), [], HOST_SIZES[size]
    for _ in range(hosts.rounds):
        with tempfile.TemporaryDirectory(prefix="vernaclip-benchmark-") as name:
            wall_s, ideal_s = measure(hosts, Path(name))
        rows.append({"wall s": round(wall_s, 1), "least s": round(ideal_s, 1), "ratio": wall_s / ideal_s})
    print_table(rows, f"{hosts.num_hosts * IMAGES_A_HOST:,} images on {hosts.num_hosts} hosts; {hosts}")
    return judge(values | {"slow-hosts-to-least-time": statistics.median(row["ratio"] for row in rows)}, GOALS)


if __name__ == "__main__":
    sys.exit(main())
