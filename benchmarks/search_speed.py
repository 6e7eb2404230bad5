"""How fast the images nearest to a text are found: python benchmarks/search_speed.py [--quick].

A million random unit features of 512 numbers; the ten best for one query and for a thousand, in turn with what one
would write oneself (all products, then a sort of them) and with FAISS's exact index (`pip install faiss-cpu`), if that
is installed. Every answer is compared with that of float64 throughout. Memory is what a fresh process takes at its
peak beyond features and queries; FAISS's index is a copy of the features, which is counted.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.plain_text import plain_table
from training.use.nearest import nearest

K, DIM = 10, 512
MANY, CHECKED = 1000, 50  # queries; those whose answers are compared
# Rows and rounds.
SIZES = {"quick": (100_000, 3), "full": (1_000_000, 5)}
OURS, PLAIN, FAISS = "nearest", "products, argsort", "faiss.IndexFlatIP"
PLAIN_QUERIES = 20  # of the thousand that are sorted plainly a round: all of them take minutes
GOALS: dict[str, tuple[str, float]] = {
    "wrong-answers": ("<=", 0),
    "one-query-plain-over-ours": (">=", 1.0),
    "one-query-faiss-over-ours": (">=", 0.8),
    "thousand-queries-plain-over-ours": (">=", 2.0),
    "thousand-queries-faiss-over-ours": (">=", 0.8),
    "thousand-queries-memory-mb": ("<=", 150),
}
Matrix = Any
Search = Callable[[Matrix], Matrix]


def unit_rows(count: int, seed: int) -> Matrix:
    """Random unit rows; some are there twice, as images of a collection are."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((count, DIM), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if count > MANY:
        rows[count // 2 : count // 2 + count // 100] = rows[: count // 100]
    return rows


def plain(features: Matrix, queries: Matrix) -> Matrix:
    """What one would write oneself."""
    return np.stack([np.argsort(-(features @ query), kind="stable")[:K] for query in queries])


def ways(features: Matrix, *, with_faiss: bool) -> dict[str, Search]:
    """What is compared, by name."""
    found: dict[str, Search] = {
        OURS: lambda queries: nearest(features, queries, K).indices,
        PLAIN: lambda queries: plain(features, queries),
    }
    if with_faiss:
        import faiss

        index = faiss.IndexFlatIP(DIM)
        index.add(features)
        found[FAISS] = lambda queries: index.search(queries, K)[1]
    return found


def has_faiss() -> bool:
    return find_spec("faiss") is not None


def seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def race(searches: Mapping[str, Search], queries: Matrix, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, round by round, in turn; of plain sorting scaled up from fewer queries."""
    times: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(rounds):
        for name, search in searches.items():
            some = queries[:PLAIN_QUERIES] if name == PLAIN else queries
            times[name].append(seconds(lambda s=search, q=some: s(q)) * len(queries) / len(some))
    return times


def wrong(features: Matrix, queries: Matrix, found: Matrix) -> int:
    """Queries whose answer is not that of float64, equal rows in the order of their places."""
    starts, wanted = range(0, len(features), 50_000), queries.astype(np.float64).T
    cosines = np.concatenate([features[at : at + 50_000].astype(np.float64) @ wanted for at in starts])
    # Equal rows may differ in their last digits here, where the place in a block decides how sums are taken.
    best = [np.argsort(-np.round(column, 13), kind="stable")[:K] for column in cosines.T]
    return sum(not np.array_equal(a, b) for a, b in zip(best, found, strict=True))


def peak_mb(name: str, path: Path, num_queries: int) -> float:
    """Memory of a fresh process that searches, beyond features, queries and libraries, in MB."""
    command = [sys.executable, __file__, "--measure", name, str(path), str(num_queries)]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def measure(name: str, path: Path, num_queries: int) -> None:
    features, queries = np.load(path), unit_rows(num_queries, seed=2)
    if has_faiss():
        import faiss  # noqa: F401 -- its libraries are no part of a search
    before = status_mb("VmRSS")
    ways(features, with_faiss=name == FAISS)[name](queries[:PLAIN_QUERIES] if name == PLAIN else queries)
    print(status_mb("VmHWM") - before)


def status_mb(key: str) -> float:
    """Memory of this process, now (VmRSS) or at its peak (VmHWM); `getrusage` would tell a parent's peak as well."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def values(one: dict[str, list[float]], many: dict[str, list[float]]) -> dict[str, float]:
    """Medians of each round's ratio."""
    found = {}
    for label, times in (("one-query", one), ("thousand-queries", many)):
        for name, short in ((PLAIN, "plain"), (FAISS, "faiss")):
            if name in times:
                ratios = [a / b for a, b in zip(times[name], times[OURS], strict=True)]
                found[f"{label}-{short}-over-ours"] = statistics.median(ratios)
    return found


def judge(found: Mapping[str, float]) -> int:
    """Print a line a claim; 1 where one is short."""
    worst = 0
    for name, (sign, goal) in GOALS.items():
        if name not in found:
            print(f"claim {name} not measured: FAISS is not installed")
            continue
        is_met = found[name] >= goal if sign == ">=" else found[name] <= goal
        worst |= not is_met
        print(f"claim {name} {found[name]:.2f} goal {sign}{goal:g} {'ok' if is_met else 'short'}")
    return int(worst)


def main(arguments: Sequence[str]) -> int:
    """Draw features, race, compare answers, print; 1 where a claim is short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a hundred thousand rows")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        name, path, num_queries = options.measure
        measure(name, Path(path), int(num_queries))
        return 0
    num_rows, rounds = SIZES["quick" if options.quick else "full"]
    with tempfile.TemporaryDirectory(prefix="search-speed-") as folder:
        return compare(Path(folder) / "features.npy", num_rows, rounds)


def compare(path: Path, num_rows: int, rounds: int) -> int:
    """Race over features in memory, then look at answers and memory; 1 where a claim is short."""
    features, queries = unit_rows(num_rows, seed=1), unit_rows(MANY, seed=2)
    np.save(path, features)
    searches = ways(features, with_faiss=has_faiss())
    one, many = race(searches, queries[:1], 3 * rounds), race(searches, queries, rounds)
    mapped, some = np.load(path, mmap_mode="r"), queries[:CHECKED]
    from_file = statistics.median(seconds(lambda index=mapped: nearest(index, queries[:1], K)) for _ in range(rounds))
    answers = nearest(mapped, queries, K).indices[:CHECKED]
    num_wrong = wrong(features, some, answers)
    same = {name: int((search(some) == answers).all(axis=1).sum()) for name, search in searches.items()}
    del searches, features, mapped
    memory = {name: (peak_mb(name, path, 1), peak_mb(name, path, MANY)) for name in one}
    print(
        f"{num_rows:,} features of {DIM} numbers, the {K} best; medians of {3 * rounds} and {rounds} rounds, in turn\n"
    )
    print(plain_table([row(name, one[name], many[name], memory[name], same[name]) for name in one]))
    print(f"\none query over a mapped file: {from_file:.3f} s; answers unlike float64's: {num_wrong} of {CHECKED}\n")
    found = {**values(one, many), "wrong-answers": float(num_wrong), "thousand-queries-memory-mb": memory[OURS][1]}
    return judge(found)


def row(
    name: str, one: Sequence[float], many: Sequence[float], memory: tuple[float, float], same: int
) -> dict[str, str]:
    """A way's line of the table; of plain sorting, a thousand queries are scaled up from fewer."""
    note = f" (of {PLAIN_QUERIES})" if name == PLAIN else ""
    return {
        "exact search": name,
        "1 query, s": f"{statistics.median(one):.3f}",
        "more MB": f"{memory[0]:.0f}",
        "1,000 queries, s": f"{statistics.median(many):.1f}{note}",
        "and MB": f"{memory[1]:.0f}{note}",
        f"answers like ours, of {CHECKED}": str(same),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
