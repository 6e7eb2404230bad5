"""Speed of the search for the images nearest to a text: python benchmarks/search_speed.py [--quick].

There are a million random unit features of 512 numbers, and the search returns the ten best for one query. It takes
turns with a plain implementation (all products, then a sort) and with FAISS's exact index (`pip install faiss-cpu`), if
that is installed. Answers are compared with those in float64. Memory is the peak of a new process beyond features and
queries; FAISS's index copies the features, and the copy is counted.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from harness import Goals, in_new_process, judge, options_of, peak_mb, print_table, race, ratio

from training.use.search import nearest

K, DIM = 10, 512
HAS_FAISS = find_spec("faiss") is not None
CHECKED = 50  # queries whose answers are compared
# Rows and rounds.
SIZES = {"quick": (100_000, 9), "full": (1_000_000, 15)}
OURS, PLAIN, FAISS = "nearest", "products, argsort", "faiss.IndexFlatIP"
GOALS: Goals = {"wrong-answers": ("<=", 0), "plain-over-ours": (">=", 1.0), "faiss-over-ours": (">=", 0.8)}
Matrix = Any
Search = Callable[[Matrix], Matrix]


def unit_rows(count: int, seed: int) -> Matrix:
    """Return random unit rows; some occur twice, as images of a collection do."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((count, DIM), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if count > CHECKED:
        rows[count // 2 : count // 2 + count // 100] = rows[: count // 100]
    return rows


def ways(features: Matrix, *, with_faiss: bool) -> dict[str, Search]:
    """Return the compared searches by name. Each takes one query and returns the places of the best rows."""
    found: dict[str, Search] = {
        OURS: lambda query: nearest(features, query, K)[0],
        PLAIN: lambda query: np.argsort(-(features @ query), kind="stable")[:K],
    }
    if with_faiss:
        import faiss

        index = faiss.IndexFlatIP(DIM)
        index.add(features)
        found[FAISS] = lambda query: index.search(query[None], K)[1][0]
    return found


def exact(features: Matrix, queries: Matrix) -> Matrix:
    """Return the answers in float64; equal rows are ordered by index."""
    starts, wanted = range(0, len(features), 50_000), queries.astype(np.float64).T
    cosines = np.concatenate([features[at : at + 50_000].astype(np.float64) @ wanted for at in starts])
    # Equal rows may differ in their last digits, because the order of sums depends on the position in a block.
    return np.stack([np.argsort(-np.round(column, 13), kind="stable")[:K] for column in cosines.T])


def memory_mb(name: str, path: Path) -> float:
    """Return the memory in MB of a search in a new process, beyond features, query and libraries."""
    features, (query,) = np.load(path), unit_rows(1, seed=2)
    if HAS_FAISS:
        import faiss  # noqa: F401 -- the memory of its libraries is not counted
    before = peak_mb("VmRSS")
    ways(features, with_faiss=name == FAISS)[name](query)
    return peak_mb() - before


def main() -> int:
    """Time searches over features in memory, then check answers and memory; return 1 if a claim is short."""
    num_rows, rounds = SIZES["quick" if options_of(__doc__).parse_args().quick else "full"]
    with tempfile.TemporaryDirectory(prefix="search-speed-") as folder:
        path = Path(folder) / "features.npy"
        features, queries = unit_rows(num_rows, seed=1), unit_rows(CHECKED, seed=2)
        np.save(path, features)
        searches = ways(features, with_faiss=HAS_FAISS)
        times = race({name: lambda name=name: searches[name](queries[0]) for name in searches}, rounds)
        mapped = np.load(path, mmap_mode="r")
        from_file = race({"mapped": lambda: nearest(mapped, queries[0], K)}, rounds)["mapped"]
        answers = exact(features, queries)
        right = {
            name: sum(np.array_equal(search(query), answer) for query, answer in zip(queries, answers, strict=True))
            for name, search in searches.items()
        }
        searches.clear()
        del features
        memory = {name: in_new_process(memory_mb, name, path) for name in times}
    rows = [
        {"exact search": name, "s": f"{statistics.median(found):.3f}", "more MB": round(memory[name])}
        | {f"answers equal to float64's, of {CHECKED}": right[name]}
        for name, found in times.items()
    ]
    print_table(rows, f"{num_rows:,} features of {DIM} numbers, the {K} best; medians of {rounds} rounds")
    print(f"over a mapped file: {statistics.median(from_file):.3f} s\n")
    values = {"wrong-answers": float(CHECKED - right[OURS])}
    for name, short in ((PLAIN, "plain"), (FAISS, "faiss")):
        if name in times:
            values[f"{short}-over-ours"] = ratio(times[name], times[OURS])
        else:
            print(f"claim {short}-over-ours not measured: FAISS is not installed")
    return judge(values, GOALS)


if __name__ == "__main__":
    sys.exit(main())
