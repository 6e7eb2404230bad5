"""How much faster a cluster translates: python benchmarks/cluster.py.

Dask clusters of 1, 2, 4 and 8 processes on this machine translate 24,000 captions in shards of 1,000. The engine is a
program that sleeps 2 ms a caption: it stands for machines, of which this one has too few. Planning, sending and
recording are part of the time; starting processes and opening the engine are not. Then 1 and 2 processes translate
captions of drawn scenes with the Argos package that ships. `--quick` has 1 and 4 sleeping processes.
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

from harness import in_turn, judge, options_of, print_table, work_folder

NUM_SHARDS, SHARD = 24, 1_000
GOALS = {"efficiency_of_4": (">=", 0.9), "efficiency_of_8": (">=", 0.75), "argos_2_processes": (">=", 1.6)}
QUICK_GOALS = {"efficiency_of_4": (">=", 0.9)}
SLEEPS = """
import sys, time
for line in sys.stdin:
    time.sleep(0.002)
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Translate, and print a table and claims."""
    options = options_of(__doc__).parse_args(arguments)
    sizes, rounds = ((1, 4), 1) if options.quick else ((1, 2, 4, 8), 3)
    rows, values = [], {}
    with work_folder(None) as work:
        os.chdir(work)
        (work / "sleeps.py").write_text(SLEEPS)
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
            row = {"engine": "sleeps", "processes": size, "captions/s": round(NUM_SHARDS * SHARD / took)}
            rows.append(row | {"efficiency": f"{values[f'efficiency_of_{size}']:.2f}"})
        if not options.quick:
            from data_catalog.sample.grammar import write_pairs

            write_pairs(work / "pairs.tsv", seed=1, num_pairs=12_000, lang="it")
            lines = (work / "pairs.tsv").read_text("utf-8").splitlines()
            english = list(dict.fromkeys(line.partition("\t")[0] for line in lines))
            parts = [english[at : at + 500] for at in range(0, len(english), 500)]
            argos = in_turn({size: lambda size=size: seconds(work, size, (), parts) for size in (1, 2)}, 5)
            values["argos_2_processes"] = median(argos[1]) / median(argos[2])
            rows += [
                {"engine": "Argos", "processes": size, "captions/s": round(len(english) / median(argos[size]))}
                for size in (1, 2)
            ]
    print_table(rows, f"Medians of {rounds} rounds (Argos: 5)")
    goals = QUICK_GOALS if options.quick else GOALS
    return judge({name: values[name] for name in goals}, goals)


if __name__ == "__main__":
    sys.exit(main())
