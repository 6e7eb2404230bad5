"""Speed of the search for the images nearest to a text: python benchmarks/search_speed.py [--quick].

There are a million random unit features of 512 numbers. The search returns the ten best for one query and for a
thousand. It takes turns with a plain implementation (all products, then a sort) and with FAISS's exact index (`pip
install faiss-cpu`), if that is installed. Every answer is compared with the answer in float64. Memory is the peak of a
new process beyond features and queries; FAISS's index copies the features, and the copy is counted.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from harness import Goals, in_new_process, judge, options_of, peak_mb, print_table, race, ratio

from training.use.search import nearest

K, DIM = 10, 512
HAS_FAISS = find_spec("faiss") is not None
MANY, CHECKED = 1000, 50  # queries; queries whose answers are compared
# Rows and rounds.
SIZES = {"quick": (100_000, 3), "full": (1_000_000, 5)}
OURS, PLAIN, FAISS = "nearest", "products, argsort", "faiss.IndexFlatIP"
PLAIN_QUERIES = 20  # queries of the plain implementation in each round; a thousand would take minutes
GOALS: Goals = {
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
    """Return random unit rows; some occur twice, as images of a collection do."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((count, DIM), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if count > MANY:
        rows[count // 2 : count // 2 + count // 100] = rows[: count // 100]
    return rows


def plain(features: Matrix, queries: Matrix) -> Matrix:
    """Return the answers of a plain implementation."""
    return np.stack([np.argsort(-(features @ query), kind="stable")[:K] for query in queries])


def ways(features: Matrix, *, with_faiss: bool) -> dict[str, Search]:
    """Return the compared searches by name."""
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


def compare(searches: Mapping[str, Search], queries: Matrix, rounds: int) -> dict[str, list[float]]:
    """Return seconds of each search in each round, in turn; the plain one is scaled up from fewer queries."""
    some = {name: queries[:PLAIN_QUERIES] if name == PLAIN else queries for name in searches}
    times = race({name: lambda name=name: searches[name](some[name]) for name in searches}, rounds)
    return {name: [s * len(queries) / len(some[name]) for s in found] for name, found in times.items()}


def wrong(features: Matrix, queries: Matrix, found: Matrix) -> int:
    """Return the number of queries whose answer differs from float64's; equal rows are ordered by index."""
    starts, wanted = range(0, len(features), 50_000), queries.astype(np.float64).T
    cosines = np.concatenate([features[at : at + 50_000].astype(np.float64) @ wanted for at in starts])
    # Equal rows may differ in their last digits, because the order of sums depends on the position in a block.
    best = [np.argsort(-np.round(column, 13), kind="stable")[:K] for column in cosines.T]
    return sum(not np.array_equal(a, b) for a, b in zip(best, found, strict=True))


def memory_mb(name: str, path: Path, num_queries: int) -> float:
    """Return the memory in MB of a search in a new process, beyond features, queries and libraries."""
    features, queries = np.load(path), unit_rows(num_queries, seed=2)
    if HAS_FAISS:
        import faiss  # noqa: F401 -- the memory of its libraries is not counted
    before = peak_mb("VmRSS")
    ways(features, with_faiss=name == FAISS)[name](queries[:PLAIN_QUERIES] if name == PLAIN else queries)
    return peak_mb() - before


def main() -> int:
    """Time searches over features in memory, then check answers and memory; return 1 if a claim is short."""
    num_rows, rounds = SIZES["quick" if options_of(__doc__).parse_args().quick else "full"]
    with tempfile.TemporaryDirectory(prefix="search-speed-") as folder:
        path = Path(folder) / "features.npy"
        features, queries = unit_rows(num_rows, seed=1), unit_rows(MANY, seed=2)
        np.save(path, features)
        searches = ways(features, with_faiss=HAS_FAISS)
        one, many = compare(searches, queries[:1], 3 * rounds), compare(searches, queries, rounds)
        mapped, some = np.load(path, mmap_mode="r"), queries[:CHECKED]
        from_file = race({"mapped": lambda: nearest(mapped, queries[:1], K)}, rounds)["mapped"]
        answers = nearest(mapped, queries, K).indices[:CHECKED]
        num_wrong = wrong(features, some, answers)
        same = {name: int((search(some) == answers).all(axis=1).sum()) for name, search in searches.items()}
        del searches, features
        memory = {name: [in_new_process(memory_mb, name, path, count) for count in (1, MANY)] for name in one}
    rows = [
        {"exact search": name, "1 query, s": f"{statistics.median(one[name]):.3f}", "more MB": round(memory[name][0])}
        | {"1,000 queries, s": f"{statistics.median(many[name]):.1f}", "and MB": round(memory[name][1])}
        | {f"answers equal to ours, of {CHECKED}": same[name]}
        for name in one
    ]
    print_table(
        rows, f"{num_rows:,} features of {DIM} numbers, the {K} best; medians of {3 * rounds} and {rounds} rounds"
    )
    print(f"plain sorting is scaled up from {PLAIN_QUERIES} queries; {num_wrong} answers differ from float64's")
    print(f"one query over a mapped file: {statistics.median(from_file):.3f} s\n")
    values = {"wrong-answers": float(num_wrong), "thousand-queries-memory-mb": memory[OURS][1]}
    for label, times in (("one-query", one), ("thousand-queries", many)):
        for name, short in ((PLAIN, "plain"), (FAISS, "faiss")):
            if name in times:
                values[f"{label}-{short}-over-ours"] = ratio(times[name], times[OURS])
            else:
                print(f"claim {label}-{short}-over-ours not measured: FAISS is not installed")
    return judge(values, GOALS)


if __name__ == "__main__":
    sys.exit(main())
