"""A shard on slow, busy and quick hosts beside the least time that it can take: benchmarks/slow_hosts.py [--quick].

5,000 images on 500 hosts, ten each: 50 hosts answer everything after 10 s; 20 say 429 with `Retry-After: 30` to all
that is asked within 30 s of their first request. All hosts are addresses of this machine, of one server. No shard can
be faster than its slowest host by itself, nor than the seconds of all requests divided by the threads.
"""

import argparse
import asyncio
import math
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_catalog.fetch.config import FetchConfig
from data_catalog.images.workers import ImageWorkers

GOAL = 1.3
IMAGES_A_HOST = 10
BODY = b"\xff\xd8" + bytes(20_000)


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


def hosts_of(size: Size) -> list[str]:
    """The slow ones first, then the busy ones."""
    return [f"127.0.{2 + number // 250}.{1 + number % 250}" for number in range(size.num_hosts)]


async def serve(size: Size) -> None:
    """Answer on all addresses; print the port, then a line a request: the host, and the seconds that it took."""
    hosts = hosts_of(size)
    slow, busy = set(hosts[: size.num_slow]), set(hosts[size.num_slow : size.num_slow + size.num_busy])
    first: dict[str, float] = {}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        started = time.monotonic()
        line = await reader.readline()
        while (await reader.readline()).strip():
            """The head is read to its end."""
        host = writer.get_extra_info("sockname")[0]
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
        body = BODY
        if host in slow:
            await asyncio.sleep(size.slow_s)
        if host in busy and started - first.setdefault(host, started) < size.busy_s:
            head, body = b"HTTP/1.1 429 Busy\r\nRetry-After: %d\r\nContent-Length: 0\r\n\r\n" % size.busy_s, b""
        elif b"/robots.txt" in line:
            head, body = b"HTTP/1.1 404 None\r\nContent-Length: 0\r\n\r\n", b""
        writer.write(head + body)
        await writer.drain()
        writer.close()
        print(host, time.monotonic() - started, flush=True)

    server = await asyncio.start_server(answer, "0.0.0.0", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def least_s(size: Size, config: FetchConfig, seconds: float) -> float:
    """What no way of asking can be faster than: a host by itself, or the requests' seconds over the threads."""
    waves = math.ceil(IMAGES_A_HOST / config.host_concurrency)
    slow = size.slow_s * (1 + waves)  # robots.txt first
    busy = size.busy_s + (1 + IMAGES_A_HOST) / config.host_requests_per_s
    return max(slow, busy, seconds / size.threads)


def measure(size: Size, folder: Path) -> tuple[float, float]:
    """Fetch the shard once; its wall seconds, and the least that they could be."""
    config = FetchConfig(allow_loopback=True, threads=size.threads, timeout_s=60, deadline_s=120)
    log = folder / "log"
    with log.open("wb") as out:
        server = subprocess.Popen([sys.executable, __file__, "--serve", repr(size)], stdout=out)
    try:
        while not (lines := log.read_text().splitlines()):
            time.sleep(0.05)
        urls = [f"http://{host}:{lines[0]}/{number}.jpg" for host in hosts_of(size) for number in range(IMAGES_A_HOST)]
        with ImageWorkers() as workers:
            workers.fetch(requests_of(["http://127.0.9.9:" + lines[0] + "/warm.jpg"]), config, folder / "warm")
            started = time.monotonic()
            workers.fetch(requests_of(urls), config, folder / "raw")
            wall_s = time.monotonic() - started
    finally:
        server.kill()
        server.wait()
    reasons = pq.read_table(folder / "raw")["drop_reason"]
    if reasons.null_count != len(urls):
        raise SystemExit(f"{len(urls) - reasons.null_count} images did not come: {reasons.value_counts().to_pylist()}")
    return wall_s, least_s(size, config, sum(float(line.split()[1]) for line in log.read_text().splitlines()[1:]))


def requests_of(urls: list[str]) -> pa.Table:
    nothing = pa.nulls(len(urls), pa.string())
    return pa.table({"sample_id": urls, "url": urls, "path": nothing, "location": nothing})


def main() -> int:
    """Measure and judge; or, with --serve, be the server."""
    parser = argparse.ArgumentParser(description="Slow and busy hosts in one shard.")
    parser.add_argument("--quick", action="store_true", help="fewer hosts, shorter waits")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(eval(options.serve)))  # a Size, as this program wrote it
        return 0
    size = SIZES["quick" if options.quick else "full"]
    ratios = []
    print(f"{size.num_hosts * IMAGES_A_HOST:,} images on {size.num_hosts} hosts, {size.threads} threads; {size}")
    print(f"{'wall s':>10} {'least s':>10} {'ratio':>10}")
    for _ in range(size.rounds):
        with tempfile.TemporaryDirectory(prefix="vernaclip-benchmark-") as name:
            wall_s, ideal_s = measure(size, Path(name))
        ratios.append(wall_s / ideal_s)
        print(f"{wall_s:>10.1f} {ideal_s:>10.1f} {ratios[-1]:>10.2f}", flush=True)
    ratio = statistics.median(ratios)
    print(f"claim slow-hosts-to-least-time {ratio:.3g} goal <={GOAL} {'ok' if ratio <= GOAL else 'short'}")
    return int(ratio > GOAL)


if __name__ == "__main__":
    sys.exit(main())
