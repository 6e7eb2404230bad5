"""What benchmarks share: options, rounds in turn, processes of their own, tables, and one line a claim.

A benchmark prints tables, then `claim NAME VALUE goal GOAL ok|short` for each of its claims, and exits with 1 if one is
short, with 2 where it lacks what it measures with. `--quick` takes about a minute.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any, NoReturn, TypeVar

Goals = Mapping[str, tuple[str, float]]  # by claim: how a value is to be to what
Work = Callable[[], object]
Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")

HERE = Path(__file__).resolve().parent
# This folder has a cleaning.py of its own: the package is to be found before it.
sys.path[:] = [*(place for place in sys.path if place != str(HERE)), str(HERE)]


def options_of(description: str | None) -> argparse.ArgumentParser:
    """A parser of options that has `--quick`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of everything, about a minute")
    return parser


def race(
    works: Mapping[Key, Work], rounds: int = 5, *, clock: Callable[[], float] = time.perf_counter, warm_up: bool = False
) -> dict[Key, list[float]]:
    """Seconds of each work, round by round, all in turn; a round that warms up is not counted."""

    def timed(work: Work) -> float:
        started = clock()
        work()
        return clock() - started

    times = in_turn({key: partial(timed, work) for key, work in works.items()}, rounds + warm_up)
    return {key: found[warm_up:] for key, found in times.items()}


def in_turn(works: Mapping[Key, Callable[[], Result]], rounds: int = 5) -> dict[Key, list[Result]]:
    """What each work returns, round by round, all in turn."""
    found: dict[Key, list[Result]] = {key: [] for key in works}
    for _ in range(rounds):
        for key, work in works.items():
            found[key].append(work())
    return found


def medians(times: Mapping[Key, Sequence[float]]) -> dict[Key, float]:
    """The median of each."""
    return {key: statistics.median(found) for key, found in times.items()}


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of each round's ratio."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def _as_a_program() -> None:
    set_start_method(None, force=True)


def apart(work: Callable[..., Result], *arguments: Any) -> Result:
    """What a function of a module returns, called in a fresh process, which starts others as a program does."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_as_a_program) as pool:
        return pool.submit(work, *arguments).result()


def peak_mb(key: str = "VmHWM") -> float:
    """Memory of this process at its peak, or now (VmRSS); what `getrusage` tells includes the parent's."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.split(f"{key}:")[1].split()[0]) / 1024


def table_of(values: Mapping[str, Any], schema: Any) -> Any:
    """An Arrow table of some of a schema's columns, lists or arrays, and of nulls in the others."""
    import pyarrow as pa

    nothing = [None] * len(next(iter(values.values())))

    def column(name: str, kind: pa.DataType) -> pa.Array:
        found = values.get(name, nothing)
        return pa.array(found, kind) if isinstance(found, list) else found.cast(kind)

    return pa.table([column(field.name, field.type) for field in schema], schema=schema)


def tell(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print a table, with an empty line after it."""
    from data_catalog.plain_text import plain_table

    print(f"{title}\n" * bool(title) + plain_table(rows), end="\n\n", flush=True)


def judge(values: Mapping[str, float], goals: Goals, prefix: str = "") -> int:
    """Print a line a claim; 1 if one is short."""
    is_short = False
    for name, value in values.items():
        relation, goal = goals[name]
        holds = {">=": value >= goal, "<=": value <= goal, "<": value < goal}[relation]
        is_short |= not holds
        print(f"claim {prefix}{name} {value:.4g} goal {relation}{goal:g} {'ok' if holds else 'short'}")
    return int(is_short)


def lacks(what: str) -> NoReturn:
    """Say what is not there, and end."""
    print(f"nothing is measured: {what}")
    sys.exit(2)
