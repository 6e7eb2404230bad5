"""Near-duplicate captions beside what else is there: python benchmarks/near_captions.py [--quick] [--data FOLDER].

Real captions recombined, one row in ten a variation of another as people vary them (planted_captions.py): a typo, a
function word changed, added or dropped, other punctuation and case, singular and plural, neighbours swapped, a word
twice. Found clusters are held against that truth. Each run has a process of its own, which reads the captions from a
file; contestants and sizes take turns.

- ours: `cleaning.duplicates.captions.cluster_captions` at 0.85, with function words, two threads.
- rensa, datasketch (where installed): sets of words into MinHash, 128 permutations, and their LSH; the first caption
  that comes back is the cluster. Buckets fill up with captions that share function words: a million captions take
  rensa more than ten minutes.
- all pairs: rapidfuzz on each caption and all before it, on the smallest size only.
"""

import argparse
import importlib.util
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# This folder has a cleaning.py of its own: the package is to be found before it.
sys.path.append(sys.path.pop(0))

import numpy as np
from data_folder import add_data_option
from planted_captions import Labels, Recombined, Truth, function_words, planted, real_captions, varied

SIMILARITY = 0.85
BATCH = 10_000
Run = tuple[float, float, list[int]]  # seconds, peak megabytes, first rows
# Rounds; rows of the small, the middle and the large run; the middle one is where libraries run too.
SIZES = {"quick": (5, 1_000, 50_000, 100_000), "full": (5, 5_000, 100_000, 1_000_000)}
# The large run may take so much longer a row than the middle one.
GOALS = {"recall": (">=", 0.95), "precision": (">=", 0.95), "growth": ("<=", 1.25), "peak-mb": ("<=", 500)}


def batches(path: Path, count: int) -> Iterator[list[str]]:
    """The first captions of a file of JSON lines."""
    with path.open(encoding="utf-8") as file:
        lines = itertools.islice(file, count)
        while batch := [json.loads(line)[0] for line in itertools.islice(lines, BATCH)]:
            yield batch


def ours(path: Path, count: int) -> list[int]:
    from cleaning.duplicates.captions import cluster_captions

    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"similarity": SIMILARITY, "scratch": Path(folder), "threads": 2}
        found = cluster_captions(lambda: batches(path, count), function_words=function_words("en"), **options)
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


def all_pairs(path: Path, count: int) -> list[int]:
    from rapidfuzz import fuzz, process

    texts: list[str] = []
    first_rows: list[int] = []
    for caption in itertools.chain.from_iterable(batches(path, count)):
        text = caption.lower()
        near = process.extractOne(text, texts, scorer=fuzz.token_sort_ratio, score_cutoff=100 * SIMILARITY)
        first_rows.append(first_rows[near[2]] if near else len(texts))
        texts.append(text)
    return first_rows


CONTESTANTS = {"ours": ours, "rensa": with_rensa, "datasketch": with_datasketch, "all pairs": all_pairs}


def run(name: str, path: Path, count: int, pipe: multiprocessing.connection.Connection) -> None:
    """In a process of its own: seconds, peak megabytes, first rows."""
    started = time.perf_counter()
    first_rows = CONTESTANTS[name](path, count)
    seconds = time.perf_counter() - started
    pipe.send((seconds, peak_mb(), first_rows))


def peak_mb() -> float:
    """The most memory that this process ever held; what `getrusage` tells includes the parent's."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(name: str, path: Path, count: int) -> Run:
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=run, args=(name, path, count, its))
    process.start()
    its.close()
    found: Run = mine.recv()
    process.join()
    return found


def write_captions(path: Path, count: int, real: Sequence[str]) -> Labels:
    """Write captions to a file of JSON lines; what each is."""
    labels = Labels()
    with path.open("w", encoding="utf-8") as file:
        for row in planted(real, count, function_words("en")):
            file.write(json.dumps([row.caption]) + "\n")
            labels.add(row.base, row.kind)
    return labels


def check_truth(sample: int, real: Sequence[str]) -> int:
    """Compare all pairs of some distinct captions: how many of them are near-duplicates after all."""
    from rapidfuzz import fuzz, process

    source = Recombined(real, function_words("en"))
    step = 1_000_000 // sample
    captions = [source.caption(number * step).lower() for number in range(sample)]
    scores = [process.cdist(captions, captions, scorer=scorer) for scorer in (fuzz.ratio, fuzz.token_sort_ratio)]
    return (int((np.maximum(*scores) >= 100 * SIMILARITY).sum()) - sample) // 2


def short_captions(count: int, captions: Sequence[str]) -> float:
    """Recall on real captions of five to nine words, as they are, each beside one variation: the hardest."""
    import random

    from cleaning.duplicates.captions import cluster_captions

    words, numbers = function_words("en"), random.Random(9)
    real = [text for text in dict.fromkeys(captions) if 5 <= len(text.split()) <= 9][:count]
    found, total = 0, 0
    for kind in ("typo", "function word changed", "function word added", "singular or plural", "words swapped"):
        changed = [varied(text, kind, numbers, words) for text in real]
        pairs = [(text, other) for text, other in zip(real, changed, strict=True) if other is not None]
        texts = [text for text, _ in pairs] + [text for _, text in pairs]
        with tempfile.TemporaryDirectory() as folder:
            options: dict[str, Any] = {"similarity": SIMILARITY, "scratch": Path(folder), "function_words": words}
            first_rows = cluster_captions(lambda texts=texts: iter([texts]), **options)
        half = len(pairs)
        found += int((first_rows[half:] == first_rows[:half]).sum())
        total += half
    return found / total


def tell(name: str, count: int, runs: Sequence[Run], truth: Truth) -> float:
    """One line of the table; returns the median seconds."""
    seconds = statistics.median(found[0] for found in runs)
    print(
        f"{name:<10} {count:>9,} {seconds:>8.2f} {count / seconds:>9,.0f} {max(found[1] for found in runs):>8.0f}"
        f" {truth.recall:>8.4f} {truth.precision:>9.4f}",
        flush=True,
    )
    return seconds


def race(path: Path, labels: Labels, sizes: Sequence[int], rounds: int) -> dict[str, float]:
    """Run all in turn, print the table; returns the claims' values."""
    small, middle, large = sizes
    libraries = [name for name in ("rensa", "datasketch") if importlib.util.find_spec(name)]
    jobs = [
        ("all pairs", small),
        ("ours", small),
        *((name, middle) for name in libraries),
        ("ours", middle),
        ("ours", large),
    ]
    runs: dict[tuple[str, int], list[Run]] = {job: [] for job in jobs}
    for _ in range(rounds):
        for job in jobs:
            runs[job].append(measure(job[0], path, job[1]))
    print(f"{os.cpu_count()} CPUs, {rounds} rounds interleaved, medians; MB: peak of memory")
    print(f"{'':<10} {'rows':>9} {'s':>8} {'rows/s':>9} {'MB':>8} {'recall':>8} {'precision':>9}")
    truths = {job: labels.judge(np.array(found[0][2], np.int64)) for job, found in runs.items()}
    seconds = {job: tell(*job, found, truths[job]) for job, found in runs.items()}
    assert all(found[0][2] == other[2] for found in runs.values() for other in found), "two runs differ"
    truth = truths["ours", large]
    for kind, number in sorted(truth.num_planted.items()):
        print(f"  {kind:<22} {number:>7,} planted, {truth.num_found[kind] / number:.4f} found")
    values = {"recall": truth.recall, "precision": truth.precision}
    values["growth"] = seconds["ours", large] / large / (seconds["ours", middle] / middle)
    values["peak-mb"] = max(found[1] for found in runs["ours", large])
    values |= {f"times-{name}": seconds[name, middle] / seconds["ours", middle] for name in libraries}
    return values


def main() -> int:
    """Plant, race, and judge the claims."""
    parser = argparse.ArgumentParser(description="Near-duplicate captions beside what else is there.")
    parser.add_argument("--quick", action="store_true", help="fewer captions")
    add_data_option(parser)
    options = parser.parse_args()
    rounds, *sizes = SIZES["quick" if options.quick else "full"]
    real = real_captions("en", options.data)
    if not real:
        print(f"no real captions in {options.data}: nothing to measure")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "captions.jsonl"
        values = race(path, write_captions(path, max(sizes), real), sizes, rounds)
    values["short-recall"] = short_captions(1_000 if options.quick else 4_000, real)
    print(f"near-duplicates among the pairs of 3,000 captions that are to be distinct: {check_truth(3_000, real)}")
    goals = GOALS | {"short-recall": (">=", 0.95)} | {name: (">=", 1.5) for name in values if name.startswith("times-")}
    missed = 0
    for claim, (relation, goal) in goals.items():
        met = values[claim] >= goal if relation == ">=" else values[claim] <= goal
        missed += not met
        print(f"claim near-captions-{claim} {values[claim]:.4g} goal {relation}{goal} {'ok' if met else 'short'}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
