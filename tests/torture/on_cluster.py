"""Builds on a Dask cluster whose workers and flows are killed, with an engine whose texts depend on their window."""

import json
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client, Nanny, Scheduler, SpecCluster
from faults import Outcome, Series
from trials import Trial, manifest_is_whole

SETTINGS = ('translate.engine="command"', "translate.package=[]", "build.shard_size=4", "build.fetch_workers=4")
SIZES = (1, 2, 4)
# A window of other captions gives other texts. The sleep makes windows that are under way when a process dies.
_PROGRAM = """
import hashlib
import sys
import time

NOUNS = "cane gatto treno ponte fiore cavallo violino aereo tavolo albero fiume campo muro piatto cielo bambino".split()
PLACES = "spiaggia strada montagna cucina piazza neve finestra collina barca panchina".split()
COLOURS = "rosso verde giallo bianco nero grigio azzurro".split()


def _text(told):
    number = int(hashlib.sha256(told.encode()).hexdigest(), 16)
    words = []
    for choices in (NOUNS, COLOURS, NOUNS, COLOURS, PLACES):
        number, place = divmod(number, len(choices))
        words.append(choices[place])
    first, colour, second, other, where = words
    return f"Un {first} {colour} si trova accanto a un {second} {other}, vicino alla {where}"


captions = sys.stdin.read().splitlines()
time.sleep(0.2)
for caption in captions:
    print(_text(f"{caption} {len(captions)} {captions[0]} {captions[-1]}"))
"""


def engine_settings(folder: Path) -> tuple[str, ...]:
    """Write the engine into a folder, and return the settings of a build with it."""
    folder.mkdir()
    (folder / "engine.py").write_text(_PROGRAM, "utf-8")
    return (*SETTINGS, f"translate.command={json.dumps([sys.executable, str(folder / 'engine.py')])}")


def builds_on_clusters(new_trial: Callable[..., Trial], series: Series, num_builds: int, rng: random.Random) -> Outcome:
    """Build on clusters of one, two and four workers in turn, and kill workers and flows meanwhile."""
    outcome = Outcome("killed on a cluster")
    for size in SIZES:
        with _cluster(size) as client:
            address = client.scheduler_info()["address"]
            for number in range(-(-num_builds // len(SIZES))):
                trial = new_trial("--executor", "dask", "--dask-address", address)
                code = _killed_thrice(trial, client, rng, outcome, seconds=series.seconds)
                outcome.num_builds += 1
                if code == 0:
                    series.compare(trial, outcome)
                else:
                    outcome.problems.append(f"{trial.root.name}: ended with {code}: {trial.said()[-500:]}")
                series.tell(f"{outcome.name}: build {number + 1} with {size} workers")
    return outcome


@contextmanager
def _cluster(size: int) -> Iterator[Client]:
    """Workers at addresses of their own, each a machine with a fetching process."""
    options = {"nthreads": 1, "memory_limit": 0, "env": {"DASK_LOGGING__DISTRIBUTED": "error"}}
    specs = {number: {"cls": Nanny, "options": {**options, "host": f"127.0.0.{2 + number}"}} for number in range(size)}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
    with SpecCluster(specs, scheduler, silence_logs=logging.ERROR) as cluster, Client(cluster) as client:
        client.wait_for_workers(size)
        yield client


def _killed_thrice(trial: Trial, client: Client, rng: random.Random, outcome: Outcome, *, seconds: float) -> int:
    """Build until the end, and return the exit status. A killed flow is run again; a killed worker starts anew."""
    process = trial.start()
    for _ in range(3):
        while not _works(trial.root) and process.poll() is None:
            time.sleep(0.02)
        time.sleep(seconds * rng.uniform(0, 0.4))
        if process.poll() is not None:
            break
        workers = sorted(client.run(os.getpid, on_error="ignore").values())  # type: ignore[no-untyped-call]
        victim = rng.choice(("worker", "worker", "flow")) if workers else "flow"  # the only worker may still be dead
        trial.kill([rng.choice(workers) if victim == "worker" else process.pid])
        outcome.counts[victim] += 1
        if victim == "flow":
            process.wait()
            trial.left_over()
            if not manifest_is_whole(trial.root):
                outcome.problems.append(f"{trial.root.name}: a reader saw a torn snapshot")
            process = trial.start()
    return process.wait()


def _works(root: Path) -> bool:
    return any((root / "work").glob("*/ingest/*/commit.json"))
