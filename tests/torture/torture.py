"""Kill builds, let disks fail under them, and see that all end as if nothing had been: `make torture`.

A four-source build of the sample that ships, translated, is the measure. Others are killed at random moments and at
each failpoint, have full and failing disks, or other numbers of workers; every one is run again, by the same command,
until it is done, and must then be equal to the measure, byte for byte.
"""

import argparse
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from faults import Outcome, Series, all_failpoints, failpoint_errors, failpoint_kills, random_kills
from full_disk import small_disks
from on_cluster import builds_on_clusters, engine_settings
from trials import Trial

from data_catalog.base.plain_text import plain_table
from data_catalog.sample.server import serve

NUM_IMAGES = 44
SMALL = (
    f"scenes.num_images={NUM_IMAGES}",
    "build.shard_size=12",
    "build.fetch_workers=1",
    "split.val=0.2",
    'duplicates.sources=["wit","mscoco","cc3m","flickr8k"]',
)


def main(arguments: Sequence[str]) -> int:
    """Run all series, print a table; 1 where anything was not as it should be."""
    options = parser().parse_args(arguments)
    started, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="torture-", dir=options.folder))
    try:
        outcomes = tortured(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    problems = [problem for outcome in outcomes for problem in outcome.problems]
    say(plain_table([row for outcome in outcomes for row in _rows(outcome)]))
    for problem in problems:
        say(f"PROBLEM {problem}")
    num_faults = sum(outcome.counts.total() for outcome in outcomes)
    num_builds = sum(outcome.num_builds for outcome in outcomes)
    verdict = f"{len(problems)} problems" if problems else "all of them equal, byte for byte"
    say(f"\n{num_faults} faults, {num_builds} builds compared, {verdict}; {time.monotonic() - started:,.0f} s")
    return 1 if problems else 0


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    command = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    command.add_argument("--kills", type=int, default=200, metavar="N", help="SIGKILLs at random moments")
    command.add_argument("--failpoints", default="all", metavar="NAME,...", help="at which to kill: all, none, or some")
    command.add_argument("--errors", default="all", metavar="NAME,...", help="at which disks fail: all, none, or some")
    command.add_argument("--no-variants", action="store_true", help="leave out other numbers of workers")
    command.add_argument("--no-small-disks", action="store_true", help="leave out disks that are really full")
    command.add_argument("--on-clusters", type=int, default=20, metavar="N", help="builds killed on Dask clusters")
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--folder", type=Path, help="where all is done (default: the system's temporary folder)")
    command.add_argument("--reference", type=Path, metavar="ROOT", help="a root built from the same settings")
    command.add_argument("--build-s", type=float, default=8.0, metavar="S", help="what that takes, about")
    command.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    return command


def tortured(options: argparse.Namespace, folder: Path) -> list[Outcome]:
    """All series that are asked for."""
    port = _unused_port()
    overrides = options.overrides or [*SMALL, f'scenes.base_url="http://127.0.0.1:{port}"', f"serve.port={port}"]
    numbers = iter(range(1_000_000))

    def trial(*more: str) -> Trial:
        return Trial(folder / f"root-{next(numbers):03d}", [*overrides, *more])

    rng, outcomes = random.Random(options.seed), list[Outcome]()
    if options.on_clusters:
        settings = engine_settings(folder / "engine")
        measured = _measured(lambda: trial(*settings), None, 0)
        # The web outlives a flow: what workers ask for in the moment after its death must not be lost.
        elsewhere = f"serve.port={_unused_port()}"
        with serve(measured.reference / "upstream" / "www", port):
            outcomes.append(
                builds_on_clusters(
                    lambda *executor: replace(trial(*settings, elsewhere), executor=executor),
                    measured,
                    options.on_clusters,
                    rng,
                )
            )
    series = _measured(trial, options.reference, options.build_s)
    outcomes += [random_kills(series, options.kills, rng)] if options.kills else []
    if names := _chosen(options.failpoints):
        outcomes.append(failpoint_kills(series, names, rng, later=options.failpoints == "all"))
    if names := _chosen(options.errors):
        outcomes.append(failpoint_errors(series, names, rng, later=options.errors == "all"))
    if not options.no_small_disks:
        outcomes.append(small_disks(series))
    if not options.no_variants:
        for number in (1, 4):
            outcome = Outcome(f"{number} workers")
            series.finish(trial(f"build.workers={number}", f"build.fetch_workers={number}"), outcome)
            outcomes.append(outcome)
    return outcomes


def _measured(trial: Callable[..., Trial], reference: Path | None, seconds: float) -> Series:
    """Build the root that others must come to, where none is given."""
    if reference is None:
        started = time.monotonic()
        measure = trial()
        if measure.run() != 0:
            raise SystemExit(f"the build that is the measure fails: {measure.said()}")
        reference, seconds = measure.root, time.monotonic() - started
    return Series(trial, reference, seconds, tell)


def _rows(outcome: Outcome) -> list[dict[str, object]]:
    equal = "all equal" if not outcome.problems else "NOT EQUAL"
    rows: list[dict[str, object]] = [
        {"series": outcome.name, "hit": hit, "faults": count, "builds": "", "": ""}
        for hit, count in sorted(outcome.counts.items())
    ]
    total = {"series": outcome.name, "hit": "in all", "faults": outcome.counts.total(), "builds": outcome.num_builds}
    return [*rows, {**total, "": equal}]


def _chosen(text: str) -> list[str]:
    return {"all": all_failpoints(), "none": []}.get(text, text.split(","))


def _unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def say(text: str) -> None:
    """Print a result."""
    sys.stdout.write(text + "\n")


def tell(text: str) -> None:
    """Print how far it is."""
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
