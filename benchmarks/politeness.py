"""A slow host and a hundred others asked in one build, as the server saw it: python benchmarks/politeness.py [--quick].

Two sources of native captions with images by URL, built as every dataset is: all images of one are on one host, those
of the other on a hundred. Each host is to be asked five times a second at most. The first source must never exceed
that, and the second must be fetched as fast as in a build of its own. All hosts are addresses of this machine.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from harness import Goals, in_turn, judge, options_of, ratio, tell
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
GOALS: Goals = {
    "busiest-second": ("<=", REQUESTS_PER_S),
    "requests-per-s": ("<=", REQUESTS_PER_S),
    "others-to-alone": (">=", 0.9),
}
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


def rate(requests: Sequence[Request]) -> float:
    """Requests a second, by the gaps between them; they are in the order of their times."""
    return (len(requests) - 1) / (requests[-1].time_s - requests[0].time_s)


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


def main() -> int:
    """Build the second source alone and both together, in turn; tables and claims."""
    rounds, num_slow, num_each = SIZES["quick" if options_of(__doc__).parse_args().quick else "full"]
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
    shown = {"a hundred hosts alone": alone, "a hundred hosts beside the one": together, "the one host": slow}
    rows = [
        {"asked": name, "requests": len(seen[0]), "a second": f"{statistics.median(map(rate, seen)):.1f}"}
        for name, seen in shown.items()
    ]
    tell(rows, f"{num_slow} images on one host, {num_each} on each of {len(MANY_HOSTS)}, {rounds} rounds, medians")
    others = ratio([rate(seen) for seen in together], [rate(seen) for seen in alone])
    values = {"busiest-second": max(map(busiest_second, slow)), "requests-per-s": max(map(rate, slow))}
    return judge(values | {"others-to-alone": others}, GOALS, "politeness-")


if __name__ == "__main__":
    sys.exit(main())
