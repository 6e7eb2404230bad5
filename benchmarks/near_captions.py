"""Near-duplicate captions, compared with other libraries: python benchmarks/near_captions.py [--quick] [--data FOLDER].

Captions are recombined from real ones, and one row in ten is a variation of another (planted_captions.py): a typo, a
function word changed, added or dropped, other punctuation and case, singular and plural, neighbours swapped, a word
doubled. Found clusters are compared with this truth. Each run is a new process that reads the captions from a file;
contestants and sizes take turns.

- ours: `cleaning.duplicates.near_captions.cluster_captions` at 0.85, with function words, two threads. - rensa,
datasketch (if installed): sets of words into MinHash, 128 permutations, and their LSH; the first caption that
  is returned is the cluster. Buckets fill up with captions that share function words: a million captions take rensa
  more than ten minutes.
"""

import importlib.util
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from data_folder import options_with_data
from harness import Goals, in_new_process, in_turn, judge, peak_mb, print_table
from planted_captions import Labels, english_meanings, function_words, planted, real_captions, varied

SIMILARITY = 0.85
BATCH = 10_000
Run = tuple[float, float, list[int]]  # seconds, peak megabytes, first rows
# Rounds; rows of the middle and the large run. Libraries run only the middle one.
SIZES = {"quick": (5, 50_000, 100_000), "full": (5, 100_000, 1_000_000)}
GOALS: Goals = {
    "recall": (">=", 0.95),
    "precision": (">=", 0.95),
    "growth": ("<=", 1.25),  # time for a row in the large run, divided by that in the middle run
    "peak-mb": ("<=", 500),
    "short-recall": (">=", 0.95),
    "times-rensa": (">=", 1.5),
    "times-datasketch": (">=", 1.5),
}


def batches(path: Path, count: int) -> Iterator[list[str]]:
    """Yield the first captions of a file of JSON lines, in batches."""
    with path.open(encoding="utf-8") as file:
        lines = itertools.islice(file, count)
        while batch := [json.loads(line)[0] for line in itertools.islice(lines, BATCH)]:
            yield batch


def in_english(captions: Iterable[Sequence[str]]) -> Callable[[], Iterator[list[tuple[str, str]]]]:
    return lambda: ([(caption, "en") for caption in batch] for batch in captions)


def ours(path: Path, count: int) -> list[int]:
    from cleaning.duplicates.near_captions import cluster_captions

    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"similarity": SIMILARITY, "scratch": Path(folder), "threads": 2}
        read = in_english(batches(path, count))
        found = cluster_captions(read, function_words=english_meanings(), **options)
    return [int(row) for row in found]


def with_rensa(path: Path, count: int) -> list[int]:
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(threshold=0.7, num_perm=128, num_bands=32)
    sketches: list[Any] = []
    first_rows: list[int] = []
    for batch in batches(path, count):
        words = [caption.lower().split() for caption in batch]
        for sketch in RMinHash.from_token_sets(words, num_perm=128, seed=1):
            row = len(sketches)
            near = [other for other in index.query(sketch) if sketch.jaccard(sketches[other]) >= 0.7]
            index.insert(row, sketch)
            sketches.append(sketch)
            first_rows.append(first_rows[min(near)] if near else row)
    return first_rows


def with_datasketch(path: Path, count: int) -> list[int]:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=0.7, num_perm=128)
    first_rows: list[int] = []
    for batch in batches(path, count):
        for sketch in MinHash.bulk([[word.encode() for word in text.lower().split()] for text in batch], num_perm=128):
            row = len(first_rows)
            near = index.query(sketch)
            index.insert(row, sketch)
            first_rows.append(first_rows[min(near)] if near else row)
    return first_rows


CONTESTANTS = {"ours": ours, "rensa": with_rensa, "datasketch": with_datasketch}


def run(name: str, path: Path, count: int) -> Run:
    """Return seconds, peak megabytes and first rows of one contestant; called in a new process."""
    started = time.perf_counter()
    first_rows = CONTESTANTS[name](path, count)
    return time.perf_counter() - started, peak_mb(), first_rows


def short_captions(count: int, captions: Sequence[str]) -> float:
    """Return the recall on real captions of five to nine words, each beside one variation; these are the hardest."""
    from cleaning.duplicates.near_captions import cluster_captions

    words, numbers = function_words(), random.Random(9)
    real = [text for text in dict.fromkeys(captions) if 5 <= len(text.split()) <= 9][:count]
    found, total = 0, 0
    for kind in ("typo", "function word changed", "function word added", "singular or plural", "words swapped"):
        changed = [varied(text, kind, numbers, words) for text in real]
        pairs = [(text, other) for text, other in zip(real, changed, strict=True) if other is not None]
        texts = [text for text, _ in pairs] + [text for _, text in pairs]
        with tempfile.TemporaryDirectory() as folder:
            options: dict[str, Any] = {"similarity": SIMILARITY, "scratch": Path(folder)}
            first_rows = cluster_captions(in_english([texts]), function_words=english_meanings(), **options)
        half = len(pairs)
        found += int((first_rows[half:] == first_rows[:half]).sum())
        total += half
    return found / total


def compare(path: Path, labels: Labels, sizes: Sequence[int], rounds: int) -> dict[str, float]:
    """Run all in turn and print the table; return the claims' values."""
    middle, large = sizes
    libraries = [name for name in ("rensa", "datasketch") if importlib.util.find_spec(name)]
    jobs = [*((name, middle) for name in libraries), ("ours", middle), ("ours", large)]
    runs = in_turn({(name, count): partial(in_new_process, run, name, path, count) for name, count in jobs}, rounds)
    assert all(found[0][2] == other[2] for found in runs.values() for other in found), "two runs differ"
    firsts = {job: np.array(found[0][2], np.int64) for job, found in runs.items()}
    truths = {job: labels.judge(rows, shown=job == ("ours", large)) for job, rows in firsts.items()}
    seconds = {job: statistics.median(taken for taken, *_ in found) for job, found in runs.items()}
    rows = [
        {"": job[0], "rows": job[1], "s": round(seconds[job], 2), "rows/s": round(job[1] / seconds[job])}
        | {"peak MB": round(max(found[1] for found in runs[job]))}
        | {name: f"{value:.4f}" for name, value in zip(("recall", "precision"), truths[job], strict=True)}
        for job in jobs
    ]
    print_table(rows, f"medians of {rounds} interleaved rounds")
    values = dict(zip(("recall", "precision"), truths["ours", large], strict=True))
    values["growth"] = seconds["ours", large] / large / (seconds["ours", middle] / middle)
    values["peak-mb"] = max(found[1] for found in runs["ours", large])
    return values | {f"times-{name}": seconds[name, middle] / seconds["ours", middle] for name in libraries}


def main() -> int:
    """Plant variations, run all contestants, and judge the claims."""
    options = options_with_data(__doc__).parse_args()
    rounds, *sizes = SIZES["quick" if options.quick else "full"]
    real = real_captions(options.data)
    with tempfile.TemporaryDirectory() as folder:
        path, rows = Path(folder) / "captions.jsonl", list(planted(real, max(sizes)))
        path.write_text("".join(json.dumps([row.caption]) + "\n" for row in rows), encoding="utf-8")
        labels = Labels()
        labels.add(rows)
        values = compare(path, labels, sizes, rounds)
    values["short-recall"] = short_captions(1_000 if options.quick else 4_000, real)
    return judge(values, GOALS, "near-captions-")


if __name__ == "__main__":
    sys.exit(main())
