"""How much faster a cluster translates and fetches: python benchmarks/cluster.py.

Dask clusters of 1, 2, 4 and 8 processes on this machine translate 24,000 captions in shards of 1,000. The engine is a
program that sleeps 10 ms a caption (2 with `--quick`): it stands for machines, of which this one has too few. Planning,
sending and recording are part of the time; starting processes and opening the engine are not. Then 1 and 2 processes
translate captions of drawn scenes with the Argos package that ships.

Clusters of workers at addresses of their own, which count as machines, fetch 1,600 images from 160 hosts that answer
after 1 s, with at most two requests at once each. Every fetching process has 16 threads. The server's log shows how
many requests a host had at once.

`--quick` has 1 and 4 processes, and no Argos.
"""

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from threading import Event
from typing import Any

from harness import Goals, in_turn, judge, options_of, print_table, work_folder
from loopback_server import LoopbackServer, most_at_once, request_table, serving

NUM_SHARDS, SHARD = 24, 1_000
NUM_HOSTS, IMAGES_A_HOST, AT_ONCE = 160, 10, 2
GOALS: Goals = {
    "efficiency_of_4": (">=", 0.9),
    "efficiency_of_8": (">=", 0.75),
    "argos_2_processes": (">=", 1.6),
    "fetch_efficiency_of_4": (">=", 0.9),
    "fetch_efficiency_of_8": (">=", 0.75),
    "fetch_at_once": ("<=", AT_ONCE),
}
SLEEPS = """
import sys, time
for line in sys.stdin:
    time.sleep(SECONDS)
    print(line.strip().upper(), flush=True)
"""


def translate_all(windows: Any, shards: Sequence[Sequence[str]]) -> None:
    """Translate shards as a build does: each begins when the one before it has planned its windows."""
    ended = []
    with ThreadPoolExecutor(len(shards)) as pool:
        for captions in shards:
            planned = Event()
            ended.append(pool.submit(windows.translate, captions, title="translate", planned=planned.set))
            planned.wait()
    for each in ended:
        each.result()


def seconds(work: Path, num_processes: int, overrides: Sequence[str], shards: Sequence[Sequence[str]]) -> float:
    """Return the seconds in which a cluster translates shards."""
    from flows.build.windows import EngineElsewhere, Windows
    from flows.orchestration.dask_executor import local_cluster, spread_on
    from flows.recipe.engines import engine_route, open_recipes_engine
    from flows.recipe.recipe import load_recipe
    from translation.memory import TranslationMemory

    root = work / f"{num_processes}-{time.monotonic_ns()}"
    (root / "work").mkdir(parents=True)
    recipe = load_recipe("scenes", root=root, overrides=overrides)
    elsewhere = EngineElsewhere(
        config=recipe.translate,
        route=engine_route(recipe),
        cache_dir=root / "packages",
        fingerprint=open_recipes_engine(recipe, root).fingerprint,
    )
    memory = TranslationMemory(root / "memory", elsewhere.fingerprint)
    with local_cluster(num_processes) as cluster:
        spread = partial(spread_on, cluster.client)
        first = [f"warm up {number}" for number in range(16 * num_processes)]
        translate_all(Windows(memory, elsewhere, spread, size=1), [first])
        started = time.perf_counter()
        translate_all(Windows(memory, elsewhere, spread), shards)
        return time.perf_counter() - started


def fetch_seconds(work: Path, num_machines: int, server: LoopbackServer) -> tuple[float, int]:
    """Return the seconds in which the machines of a cluster fetch, and the most requests that a host had at once."""
    from distributed import Client, Nanny, Scheduler, SpecCluster

    from data_catalog.fetch.config import FetchConfig
    from data_catalog.fetch.workers import ImageWorkers
    from flows.orchestration.dask_owners import DaskOwners

    config = FetchConfig(allow_loopback=True, threads=16, host_concurrency=AT_ONCE, host_requests_per_s=0)
    urls = [
        f"http://127.0.{1 + host // 200}.{1 + host % 200}:{server.port}/{number}.jpg"
        for number in range(IMAGES_A_HOST)
        for host in range(NUM_HOSTS)
    ]
    folder = work / f"fetch-{num_machines}-{time.monotonic_ns()}"
    folder.mkdir()
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
    options = {"nthreads": 1, "memory_limit": 0}
    specs = {
        number: {"cls": Nanny, "options": {**options, "host": f"127.0.0.{2 + number}"}}
        for number in range(num_machines)
    }
    with SpecCluster(specs, scheduler) as cluster, Client(cluster) as client, ImageWorkers() as workers:
        client.wait_for_workers(num_machines)
        owners = DaskOwners(client, lambda call: call, folder / "hosts")
        # Each machine starts its process.
        first = [url.replace("/0.jpg", "/robots.txt") for url in urls[:NUM_HOSTS]]
        workers.fetch(request_table(first), config, folder / "first", owners=owners)
        log_size, started = server.log_size(), time.perf_counter()
        workers.fetch(request_table(urls), config, folder / "raw", owners=owners)
        took = time.perf_counter() - started
        owners.close()
    return took, max(most_at_once(server.requests(log_size)).values())


def fetch_all(work: Path, sizes: Sequence[int], rounds: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return rows of the table, and values of claims."""
    slow = {f"127.0.{1 + host // 200}.{1 + host % 200}": 1.0 for host in range(NUM_HOSTS)}
    with serving(None, work / "log", slow) as server:
        found = in_turn({size: lambda size=size: fetch_seconds(work, size, server) for size in sizes}, rounds)
    took = {size: median(seconds for seconds, _ in found[size]) for size in sizes}
    values: dict[str, float] = {f"fetch_efficiency_of_{size}": took[1] / took[size] / size for size in sizes}
    values["fetch_at_once"] = max(most for results in found.values() for _, most in results)
    rows = [
        {
            "what": "fetch",
            "processes": size,
            "a second": round(NUM_HOSTS * IMAGES_A_HOST / took[size]),
            "efficiency": f"{values[f'fetch_efficiency_of_{size}']:.2f}",
        }
        for size in sizes
    ]
    return rows, values


def main(arguments: Sequence[str] | None = None) -> int:
    """Translate and fetch, and print a table and claims."""
    options = options_of(__doc__).parse_args(arguments)
    sizes, rounds = ((1, 4), 1) if options.quick else ((1, 2, 4, 8), 3)
    rows, values = [], {}
    with work_folder(None) as work:
        os.chdir(work)
        (work / "sleeps.py").write_text(SLEEPS.replace("SECONDS", "0.002" if options.quick else "0.01"))
        sleeping = [
            'translate.engine="command"',
            "translate.package=[]",
            f'translate.command=["{sys.executable}", "{work}/sleeps.py"]',
        ]
        shards = [
            [f"caption {number}" for number in range(at, at + SHARD)] for at in range(0, NUM_SHARDS * SHARD, SHARD)
        ]
        found = in_turn({size: lambda size=size: seconds(work, size, sleeping, shards) for size in sizes}, rounds)
        for size in sizes:
            took = median(found[size])
            values[f"efficiency_of_{size}"] = median(found[1]) / took / size
            row = {"what": "translate, sleeping", "processes": size, "a second": round(NUM_SHARDS * SHARD / took)}
            rows.append(row | {"efficiency": f"{values[f'efficiency_of_{size}']:.2f}"})
        if not options.quick:
            from data_catalog.sample.grammar import write_pairs

            write_pairs(work / "pairs.tsv", seed=1, num_pairs=12_000)
            lines = (work / "pairs.tsv").read_text("utf-8").splitlines()
            english = list(dict.fromkeys(line.partition("\t")[0] for line in lines))
            parts = [english[at : at + 500] for at in range(0, len(english), 500)]
            argos = in_turn({size: lambda size=size: seconds(work, size, (), parts) for size in (1, 2)}, 5)
            values["argos_2_processes"] = median(argos[1]) / median(argos[2])
            for size in (1, 2):
                took = median(argos[size])
                row = {"what": "translate, Argos", "processes": size, "a second": round(len(english) / took)}
                rows.append(row | {"efficiency": f"{median(argos[1]) / took / size:.2f}"})
        fetched, more = fetch_all(work, sizes, rounds)
    print_table([*rows, *fetched], f"Medians of {rounds} rounds (Argos: 5)")
    values |= more
    return judge({name: values[name] for name in GOALS if name in values}, GOALS)


if __name__ == "__main__":
    sys.exit(main())
