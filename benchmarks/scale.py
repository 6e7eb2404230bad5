"""Millions of caption rows through the steps that judge them: python benchmarks/scale.py [--rows N] [--quick].

Real captions recombined, one row in ten a near-duplicate of known truth (planted_captions.py), one image in fifty of
the same bytes as another, in shards of caption rows as ingest writes them, five captions an image. The steps are those
of a build: clean, clusters of near-duplicate captions, join (all captions are native), check, find duplicates of
images, finish, split. A run is a process of its own, which holds nothing but what the steps hold; a tenth of the rows
and all of them take turns, and the growth is that of the seconds a row.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from planted_captions import Labels, Planted, function_words, planted, real_captions

CAPTIONS_PER_SAMPLE, SAMPLES_PER_SHARD = 5, 5_000
SIMILARITY, CAP = 0.85, 100
ROWS, QUICK_ROWS = 1_000_000, 100_000
ROUNDS, QUICK_ROUNDS = 1, 1
GOALS = {"recall": (">=", 0.95), "precision": (">=", 0.95), "growth": ("<=", 1.25), "peak-mb": ("<=", 4_000)}
STEPS = ("clean", "cluster", "join", "check", "find duplicates", "finish", "split")


def prepare(count: int, folder: Path) -> Labels:
    """Write shards of caption rows and of images; what each row is."""
    labels, rows = Labels(), planted(real_captions("en"), count, function_words("en"))
    for name in ("captions", "images"):
        (folder / name).mkdir(parents=True)
    number = 0
    while part := list(islice(rows, CAPTIONS_PER_SAMPLE * SAMPLES_PER_SHARD)):
        write_shard(folder, number, len(labels), part)
        for row in part:
            labels.add(row.base, row.kind)
        number += 1
    return labels


def write_shard(folder: Path, number: int, start: int, rows: Sequence[Planted]) -> None:
    from data_catalog.schema import CAPTIONS, IMAGES, PENDING
    from data_catalog.shards import save_parquet

    samples = [(start + place) // CAPTIONS_PER_SAMPLE for place in range(len(rows))]
    captions = {
        "sample_id": [f"mscoco:{sample}" for sample in samples],
        "caption_id": [f"mscoco:{sample}#{start + place}" for place, sample in enumerate(samples)],
        "source": ["mscoco"] * len(rows),
        "url": [f"http://example.org/{sample}.jpg" for sample in samples],
        "source_caption": [row.caption for row in rows],
        "source_lang": ["en"] * len(rows),
        "target_lang": ["en"] * len(rows),
        "upstream_file": ["captions.json"] * len(rows),
        "upstream_line": [start + place + 1 for place in range(len(rows))],
        "outcome": [PENDING] * len(rows),
    }
    distinct = sorted(set(samples))
    images = {
        "sample_id": [f"mscoco:{sample}" for sample in distinct],
        "final_url": [f"http://example.org/{sample}.jpg" for sample in distinct],
        "sha256": [f"{sample - 7 if sample % 50 == 49 else sample:064x}" for sample in distinct],
    }
    name = f"{number:05d}.parquet"
    save_parquet(table_of(captions, CAPTIONS), folder / "captions" / name)
    save_parquet(table_of(images, IMAGES), folder / "images" / name)


def table_of(values: dict[str, list[Any]], schema: pa.Schema) -> pa.Table:
    count = len(values["sample_id"])
    return pa.table([pa.array(values.get(field.name, [None] * count), field.type) for field in schema], schema=schema)


def run(folder: Path, num_shards: int) -> dict[str, float]:
    """All steps over some shards; seconds by step, peak megabytes, and what was counted. Writes `first_rows.npy`."""
    from cleaning.config import CheckConfig, CleanConfig
    from cleaning.near_captions import crowded_rows
    from data_catalog.publish import SplitConfig, split_of
    from data_catalog.work import WorkStore
    from flows import caption_steps, image_steps
    from flows.language_packs import language_pack

    seconds: dict[str, float] = {}
    captions, images = (shards_of(folder / name, num_shards) for name in ("captions", "images"))
    with tempfile.TemporaryDirectory(dir=folder) as root:
        work, pack = WorkStore(Path(root) / "work"), language_pack("en")
        with timed(seconds, "clean"):
            cleaned = [caption_steps.clean(work, shard, CleanConfig(), {"en": pack}) for shard in captions]
        with timed(seconds, "cluster"):
            first_rows = cluster(cleaned, Path(root) / "scratch")
            num_crowded = len(crowded_rows(first_rows[first_rows >= 0], CAP))
        with timed(seconds, "join"):
            joined = [caption_steps.join_translations(work, shard, None, None) for shard in cleaned]
        with timed(seconds, "check"):
            checked = [caption_steps.check(work, shard, CheckConfig(), pack) for shard in joined]
        with timed(seconds, "find duplicates"):
            duplicates = image_steps.find_duplicates(work, images, ["mscoco"])
        with timed(seconds, "finish"):
            pairs = zip(checked, images, strict=True)
            done = [image_steps.finish(work, shard, image, duplicates) for shard, image in pairs]
        with timed(seconds, "split"):
            for shard in done:
                for sample_id in pq.read_table(shard.path, columns=["sample_id"]).column(0).unique().to_pylist():
                    split_of(sample_id, SplitConfig())
        num_kept = sum(int(pending(shard.path).sum()) for shard in done)
    np.save(folder / "first_rows.npy", first_rows)
    return {**seconds, "peak": peak_mb(), "kept": num_kept, "crowded": num_crowded}


def shards_of(folder: Path, count: int) -> list[Any]:
    from data_catalog.shards import sha256_of
    from flows.step_outputs import Shard

    paths = sorted(folder.iterdir())[:count]
    return [Shard(shard_id=number, path=path, sha256=sha256_of(path), counts={}) for number, path in enumerate(paths)]


def pending(path: Path) -> np.ndarray[Any, np.dtype[np.bool_]]:
    from data_catalog.schema import PENDING

    outcomes = pq.read_table(path, columns=["outcome"]).column(0)
    return np.asarray(pc.equal(outcomes, PENDING))


def cluster(shards: Sequence[Any], scratch: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """First row of the cluster of each row that is still pending; -1 for the others."""
    from cleaning.near_captions import cluster_captions

    is_pending = np.concatenate([pending(shard.path) for shard in shards])

    def read() -> Iterator[list[str]]:
        for shard in shards:
            table = pq.read_table(shard.path, columns=["clean_caption", "outcome"])
            yield table.filter(pa.array(pending(shard.path))).column("clean_caption").to_pylist()

    words = function_words("en")
    found = cluster_captions(read, similarity=SIMILARITY, scratch=scratch, function_words=words, threads=2)
    rows = np.flatnonzero(is_pending)
    first_rows = np.full(len(is_pending), -1)
    first_rows[rows] = rows[found]
    return first_rows


@contextmanager
def timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Note the wall-clock time of a block."""
    started = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - started


def peak_mb() -> float:
    """The most memory that this process ever held; what `getrusage` tells includes the parent's."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(folder: Path, num_shards: int) -> dict[str, float]:
    """A run in a process of its own."""
    command = [sys.executable, __file__, "--run", str(folder), str(num_shards)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found


def tell(count: int, runs: Sequence[dict[str, float]]) -> float:
    """One line of the table; returns the median of the seconds of all steps."""
    per_step = {step: statistics.median(found[step] for found in runs) for step in STEPS}
    total = statistics.median(sum(found[step] for step in STEPS) for found in runs)
    rates = " ".join(f"{count / per_step[step]:>15,.0f}" for step in STEPS)
    peak = max(found["peak"] for found in runs)
    print(f"{count:>10,} {rates} {count / total:>9,.0f} {total:>8.1f} {peak:>8.0f}", flush=True)
    return total


def compare(rows: int, rounds: int, folder: Path) -> dict[str, float]:
    """Write the rows, run a tenth and all of them in turn, print the table; returns the claims' values."""
    labels = prepare(rows, folder)
    num_shards = len(list((folder / "captions").iterdir()))
    small = max(1, num_shards // 10)
    sizes = {small: min(rows, small * CAPTIONS_PER_SAMPLE * SAMPLES_PER_SHARD), num_shards: rows}
    runs: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            runs[size].append(measure(folder, size))
    print(f"{rounds} rounds, medians; rows/s of each step and of all, seconds of all, peak MB")
    print(f"{'rows':>10} {' '.join(f'{step:>15}' for step in STEPS)} {'all':>9} {'s':>8} {'MB':>8}")
    totals = {size: tell(sizes[size], found) for size, found in runs.items()}
    truth = labels.judge(np.load(folder / "first_rows.npy"))
    last = runs[num_shards][-1]
    print(f"{last['kept']:,.0f} rows kept; {last['crowded']:,.0f} in clusters of more than {CAP}")
    for kind, number in sorted(truth.num_planted.items()):
        print(f"  {kind:<22} {number:>9,} planted, {truth.num_found[kind] / max(number, 1):.4f} found")
    growth = totals[num_shards] / rows / (totals[small] / sizes[small])
    peak = max(found["peak"] for found in runs[num_shards])
    return {"recall": truth.recall, "precision": truth.precision, "growth": growth, "peak-mb": peak}


def main() -> int:
    """Write, run, and judge the claims."""
    parser = argparse.ArgumentParser(description="Millions of caption rows through the steps that judge them.")
    parser.add_argument("--rows", type=int, default=ROWS, help="caption rows of the large run")
    parser.add_argument("--quick", action="store_true", help="fewer rows, about a minute")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each size runs")
    parser.add_argument("--scratch", type=Path, help="a folder on a disk with 1 KB free a row (default: temporary)")
    parser.add_argument("--run", nargs=2, metavar=("FOLDER", "SHARDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run(Path(options.run[0]), int(options.run[1]))))
        return 0
    if not real_captions("en"):
        print("no real captions here: nothing to measure")
        return 0
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        values = compare(QUICK_ROWS if options.quick else options.rows, options.rounds, Path(folder))
    missed = 0
    for claim, (relation, goal) in GOALS.items():
        met = values[claim] >= goal if relation == ">=" else values[claim] <= goal
        missed += not met
        print(f"claim scale-{claim} {values[claim]:.4g} goal {relation}{goal} {'ok' if met else 'short'}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
