"""Shared code of the benchmarks: options, interleaved rounds, new processes, tables, and one line for each claim.

A benchmark prints tables, then `claim NAME VALUE goal GOAL ok|short` for each of its claims. It exits with 1 if a claim
is short, and with 2 if its data or tools are missing. `--quick` takes about a minute; where it measures too little to
claim anything, it prints the tables alone.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any, NoReturn, TypeVar

Goals = Mapping[str, tuple[str, float]]  # relation and goal of each claim
Work = Callable[[], object]
Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")

HERE = Path(__file__).resolve().parent
# This folder contains a cleaning.py, and the package of that name must be found first.
sys.path[:] = [*(place for place in sys.path if place != str(HERE)), str(HERE)]


def options_of(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of options that has `--quick`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure less, in about a minute")
    return parser


def race(
    works: Mapping[Key, Work], rounds: int = 5, *, clock: Callable[[], float] = time.perf_counter, warm_up: bool = False
) -> dict[Key, list[float]]:
    """Return the seconds of each work in each round; works take turns. A warm-up round is not counted."""

    def timed(work: Work) -> float:
        started = clock()
        work()
        return clock() - started

    times = in_turn({key: partial(timed, work) for key, work in works.items()}, rounds + warm_up)
    return {key: found[warm_up:] for key, found in times.items()}


def in_turn(works: Mapping[Key, Callable[[], Result]], rounds: int = 5) -> dict[Key, list[Result]]:
    """Return the results of each work in each round; works take turns."""
    found: dict[Key, list[Result]] = {key: [] for key in works}
    for _ in range(rounds):
        for key, work in works.items():
            found[key].append(work())
    return found


def medians(times: Mapping[Key, Sequence[float]]) -> dict[Key, float]:
    """Return the median of each work."""
    return {key: statistics.median(found) for key, found in times.items()}


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def _as_a_program() -> None:
    set_start_method(None, force=True)


def in_new_process(work: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a new process, which starts child processes as a program does; return its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_as_a_program) as pool:
        return pool.submit(work, *arguments).result()


def peak_mb(key: str = "VmHWM") -> float:
    """Return this process's peak memory in MB, or its present memory (VmRSS).

    `getrusage` would include the parent's memory.
    """
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.split(f"{key}:")[1].split()[0]) / 1024


def table_of(values: Mapping[str, Any], schema: Any) -> Any:
    """Return an Arrow table with these columns, lists or arrays, and nulls in the schema's other columns."""
    import pyarrow as pa

    nothing = [None] * len(next(iter(values.values())))

    def column(name: str, kind: pa.DataType) -> pa.Array:
        found = values.get(name, nothing)
        return pa.array(found, kind) if isinstance(found, list) else found.cast(kind)

    return pa.table([column(field.name, field.type) for field in schema], schema=schema)


def print_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print a table, followed by an empty line."""
    from data_catalog.base.plain_text import plain_table

    print(f"{title}\n" * bool(title) + plain_table(rows), end="\n\n", flush=True)


def judge(values: Mapping[str, float], goals: Goals, prefix: str = "") -> int:
    """Print one line for each claim; return 1 if one is short, else 0."""
    is_short = False
    for name, value in values.items():
        relation, goal = goals[name]
        holds = {">=": value >= goal, ">": value > goal, "<=": value <= goal, "<": value < goal}[relation]
        is_short |= not holds
        print(f"claim {prefix}{name} {value:.4g} goal {relation}{goal:g} {'ok' if holds else 'short'}")
    return int(is_short)


@contextmanager
def work_folder(kept: Path | None) -> Iterator[Path]:
    """Yield a folder that is kept, which is made if it is not there, or else a temporary one."""
    with nullcontext(kept) if kept else tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        work = Path(folder).resolve()
        work.mkdir(parents=True, exist_ok=True)
        yield work


def exit_without(what: str) -> NoReturn:
    """Print what is missing, and exit with 2."""
    print(f"nothing was measured: {what}")
    sys.exit(2)
