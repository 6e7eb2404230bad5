"""A slow host and a hundred others asked in one build, as the server saw it: python benchmarks/politeness.py [--quick].

Two sources of native captions with images by URL, built as every dataset is: all images of one are on one host, those
of the other on a hundred. Each host is to be asked five times a second at most. The first source must never exceed
that, and the second must be fetched as fast as in a build of its own. All hosts are addresses of this machine.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from loopback_server import LoopbackServer, Request, serving
from photographs import write_photographs

from data_catalog.sample.grammar import parallel_pairs
from flows.build.execution import LocalExecutor
from flows.jobs import build_dataset
from flows.recipe.recipe import load_recipe

SLOW_HOST = "127.0.2.1"
MANY_HOSTS = [f"127.0.1.{number}" for number in range(1, 101)]
REQUESTS_PER_S = 5
# Rounds, images of the slow host, images of each of the others.
SIZES = {"quick": (2, 30, 15), "full": (5, 100, 50)}
PHOTOGRAPH_SIZE = (160, 120)
SPEED_GOAL = 0.9
RECIPE = """\
target_language = "it"

[build]
shard_size = 500
workers = 2
fetch_workers = 2

[fetch]
allow_loopback = true
contact = "vernaclip@localhost"
host_requests_per_s = {rate}
"""
SOURCE = """
[sources.{name}]
kind = "pairs"
files = ["{file}"]
caption_column = "caption"
url_column = "url"
lang = "it"
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the server saw of some hosts: how many requests, from the first to the last."""

    num_requests: int
    seconds: float

    @classmethod
    def of(cls, requests: Sequence[Request]) -> "Seen":
        """Of requests in the order of their times."""
        return cls(len(requests), requests[-1].time_s - requests[0].time_s)

    @property
    def rate(self) -> float:
        """Requests a second, by the gaps between them."""
        return (self.num_requests - 1) / self.seconds


def busiest_second(requests: Sequence[Request]) -> int:
    """The most requests that came within any window of one second."""
    times = [request.time_s for request in requests]
    return max(sum(start <= time < start + 1.0 for time in times) for start in times)


def write_sources(folder: Path, port: int, num_slow: int, num_each: int) -> dict[str, Path]:
    """Files of captions and URLs; every image has a caption of its own."""
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


def build(folder: Path, files: dict[str, Path]) -> None:
    """Build a dataset of some sources, in a new root."""
    root = Path(tempfile.mkdtemp(dir=folder))
    sources = "".join(SOURCE.format(name=name, file=file) for name, file in files.items())
    recipe = root / "polite.toml"
    recipe.write_text(RECIPE.format(rate=REQUESTS_PER_S) + sources, encoding="utf-8")
    with LocalExecutor() as executor:
        build_dataset(load_recipe(str(recipe), root=root), root=root, executor=executor)


def measured(server: LoopbackServer, folder: Path, files: dict[str, Path]) -> dict[str, list[Request]]:
    """Build, and give back what the server was asked for each source."""
    start = server.log_size()
    build(folder, files)
    requests = server.requests(start)
    slow = [request for request in requests if request.address == SLOW_HOST]
    many = [request for request in requests if request.address != SLOW_HOST]
    return {"slow": slow, "many": many}


def rounds_of(size: tuple[int, int, int], folder: Path) -> int:
    """Build the second source alone and both together, in turn; tables and claims."""
    rounds, num_slow, num_each = size
    photographs, work = folder / "www", folder / "work"
    photographs.mkdir()
    work.mkdir()
    write_photographs(photographs, num_slow + num_each * len(MANY_HOSTS), PHOTOGRAPH_SIZE)
    alone, together = [], []
    with serving(photographs, [SLOW_HOST, *MANY_HOSTS], work) as server:
        files = write_sources(folder, server.port, num_slow, num_each)
        print(f"{num_slow} images on one host, {num_each} on each of {len(MANY_HOSTS)}, {server.name}, {rounds} rounds")
        for _ in range(rounds):
            alone.append(measured(server, folder, {"many": files["many"]}))
            together.append(measured(server, folder, files))
    return tell(alone, together)


def tell(alone: Sequence[dict[str, list[Request]]], together: Sequence[dict[str, list[Request]]]) -> int:
    """Print what was seen; returns the exit status."""
    print(f"{'':<32} {'requests':>9} {'seconds':>9} {'a second':>9}")
    for name, found in {
        "a hundred hosts alone": [Seen.of(seen["many"]) for seen in alone],
        "a hundred hosts beside the one": [Seen.of(seen["many"]) for seen in together],
        "the one host": [Seen.of(seen["slow"]) for seen in together],
    }.items():
        seconds = statistics.median(seen.seconds for seen in found)
        rate = statistics.median(seen.rate for seen in found)
        print(f"{name:<32} {found[0].num_requests:>9,} {seconds:>9.2f} {rate:>9.1f}")
    busiest = max(busiest_second(seen["slow"]) for seen in together)
    rate = max(Seen.of(seen["slow"]).rate for seen in together)
    ratios = [
        Seen.of(seen["many"]).rate / Seen.of(by_itself["many"]).rate
        for seen, by_itself in zip(together, alone, strict=True)
    ]
    ratio = statistics.median(ratios)
    claims = {
        "politeness-busiest-second": (busiest, f"<={REQUESTS_PER_S}", busiest <= REQUESTS_PER_S),
        "politeness-requests-per-s": (rate, f"<={REQUESTS_PER_S}", rate <= REQUESTS_PER_S),
        "politeness-others-to-alone": (ratio, f">={SPEED_GOAL}", ratio >= SPEED_GOAL),
    }
    for name, (value, goal, is_reached) in claims.items():
        print(f"claim {name} {value:.4g} goal {goal} {'ok' if is_reached else 'short'}")
    return int(not all(is_reached for *_, is_reached in claims.values()))


def main() -> int:
    """Build and judge."""
    parser = argparse.ArgumentParser(description="The pace of hosts, as a server sees it.")
    parser.add_argument("--quick", action="store_true", help="fewer images and rounds")
    size = SIZES["quick" if parser.parse_args().quick else "full"]
    with tempfile.TemporaryDirectory(prefix="vernaclip-benchmark-") as name:
        return rounds_of(size, Path(name))


if __name__ == "__main__":
    sys.exit(main())
