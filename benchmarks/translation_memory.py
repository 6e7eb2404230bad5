"""How captions pass through plan, memory and output, with an engine that costs nothing.

python benchmarks/translation_memory.py [--quick]

Real Parquet shards of caption rows (5,000 images of five captions), real step outputs, a real memory on disk; only the
engine is a stand-in. Every run is a process of its own; its peak memory counts from what it held after its imports. The
second plan is that of another build over the same captions.
"""

import argparse
import gzip
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset  # loaded by the first reading of a file otherwise

from data_catalog.schema import CAPTIONS, PENDING
from data_catalog.storage.shards import save_parquet, sha256_of
from data_catalog.storage.work import WorkStore
from flows.build.captions import join_translations, plan_translation, translate_chunks
from flows.build.step_outputs import Shard
from translation.engine import Translation
from translation.memory import TranslationMemory

CAPTIONS_FILE = Path(__file__).resolve().parents[2] / "shared" / "data" / "multi30k" / "train.en.gz"
SAMPLES_PER_SHARD, CAPTIONS_PER_SAMPLE, CHUNK_SIZE = 5_000, 5, 20_000
SIZES, QUICK_SIZES = (100_000, 1_000_000), (25_000, 100_000)  # a full shard at least
ADJECTIVES = ("blurred", "bright", "old", "distant", "grainy", "dark", "wide", "sharp")
RATES = ("total", "cpu", "plan", "translate", "join", "second plan")
GOAL_RATE, GOAL_GROWTH = 50_000, 1.5


class UpperCase:
    """A stand-in `translation.engine.Translator` that costs next to nothing."""

    fingerprint, from_code, to_code, max_chunk_size = "benchmark:en-it:upper-case", "en", "it", None

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """See `translation.engine.Translator`."""
        found = [Translation(text=caption.upper(), score=-len(caption) / 100) for caption in captions]
        if on_done is not None:
            on_done(len(captions))
        return found


def captions(count: int) -> Iterator[str]:
    """Multi30k's captions, then the same with other numbers and adjectives appended: nearly all are distinct."""
    with gzip.open(CAPTIONS_FILE, "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    for number in range(count):
        line, variation = lines[number % len(lines)], number // len(lines)
        adjective = ADJECTIVES[variation % len(ADJECTIVES)]
        yield f"{line.rstrip('.')}, photo {variation}, {adjective}." if variation else line


def prepare(count: int, folder: Path) -> None:
    """Write shards of cleaned caption rows, as they reach the translate step."""
    rows = enumerate(captions(count))
    number = 0
    while part := list(islice(rows, SAMPLES_PER_SHARD * CAPTIONS_PER_SAMPLE)):
        save_parquet(_shard_table(part), folder / f"{number:05d}.parquet")
        number += 1


def _shard_table(rows: Sequence[tuple[int, str]]) -> pa.Table:
    texts = [caption for _, caption in rows]
    values = {
        "sample_id": [f"mscoco:{number // CAPTIONS_PER_SAMPLE}" for number, _ in rows],
        "caption_id": [f"mscoco:{number // CAPTIONS_PER_SAMPLE}#{number}" for number, _ in rows],
        "source": ["mscoco"] * len(rows),
        "url": [f"http://example.org/{number // CAPTIONS_PER_SAMPLE}.jpg" for number, _ in rows],
        "source_caption": texts,
        "source_lang": ["en"] * len(rows),
        "clean_caption": texts,
        "target_lang": ["it"] * len(rows),
        "upstream_file": ["captions_train2014.json"] * len(rows),
        "upstream_line": [number + 1 for number, _ in rows],
        "outcome": [PENDING] * len(rows),
    }
    return pa.table(
        [pa.array(values.get(field.name, [None] * len(rows)), field.type) for field in CAPTIONS], schema=CAPTIONS
    )


def measure(shards_folder: Path, folder: Path) -> dict[str, float]:
    """One build's planning, translating and joining, then the planning of a second build over the same captions."""
    paths = sorted(shards_folder.iterdir())
    shards = [Shard(shard_id=number, path=path, sha256=sha256_of(path), counts={}) for number, path in enumerate(paths)]
    seconds: dict[str, float] = {}
    before_mb, started, started_cpu = peak_mb(), time.perf_counter(), time.process_time()
    build(shards, folder, seconds)
    total, cpu, peak = time.perf_counter() - started, time.process_time() - started_cpu, peak_mb() - before_mb
    with timed(seconds, "second plan"):
        memory = TranslationMemory(folder / "memory", UpperCase.fingerprint)
        second = plan_translation(WorkStore(folder / "second"), shards, UpperCase(), memory, chunk_size=CHUNK_SIZE)
    assert second.facts["num_captions"] == 0
    return {"total": total, "cpu": cpu, "peak": peak, **seconds}


def build(shards: Sequence[Shard], folder: Path, seconds: dict[str, float]) -> None:
    """The steps of a build, in its order: a shard is joined as soon as its captions are translated."""
    work, translator = WorkStore(folder / "work"), UpperCase()
    memory = TranslationMemory(folder / "memory", translator.fingerprint)
    with timed(seconds, "plan"):
        plan = plan_translation(work, shards, translator, memory, chunk_size=CHUNK_SIZE)
    num_joined = 0
    for number in range(plan.facts["num_chunks"]):
        with timed(seconds, "translate"):
            translate_chunks(plan, [number], translator, memory)
        num_ready = sum(after <= number + 1 for after in plan.facts["ready_after"])
        with timed(seconds, "join"):
            for shard in shards[num_joined:num_ready]:
                join_translations(work, shard, memory, translator.from_code)
        num_joined = num_ready
    assert num_joined == len(shards)


@contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Add the wall-clock time of a block to its phase."""
    started = time.perf_counter()
    yield
    seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - started


def peak_mb() -> float:
    """The most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_child(*arguments: str) -> str:
    """Run this file as a process of its own; what it printed."""
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def run(sizes: tuple[int, int], rounds: int, folder: Path) -> dict[int, list[dict[str, float]]]:
    """All rounds, sizes interleaved."""
    for size in sizes:
        (folder / str(size)).mkdir()
        in_child("--prepare", str(size), str(folder / str(size)))
    results: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            out = folder / "out"
            results[size].append(json.loads(in_child("--measure", str(folder / str(size)), str(out))))
            shutil.rmtree(out)
    return results


def report(results: dict[int, list[dict[str, float]]], rounds: int) -> int:
    """Print the table and the claims; 1 if one is short."""
    median = {
        size: {name: statistics.median(found[name] for found in all_rounds) for name in all_rounds[0]}
        for size, all_rounds in results.items()
    }
    print(f"captions a second, by wall clock and by CPU time; medians of {rounds} rounds, sizes interleaved")
    print("captions", *(f"{name:>12}" for name in (*RATES, "peak MB")))
    for size, found in median.items():
        print(f"{size:>8}", *(f"{size / found[name]:>12,.0f}" for name in RATES), f"{found['peak']:>12,.0f}")
    small, large = sorted(results)
    rate, growth = large / median[large]["total"], median[large]["peak"] / median[small]["peak"]
    print(f"rate at {large:,} captions beside that at {small:,}: {rate * median[small]['total'] / small:.2f}")
    claims = [
        (f"captions-per-second-at-{large}", f"{rate:,.0f}", f">={GOAL_RATE:,}", rate >= GOAL_RATE),
        (f"peak-memory-at-{large}-beside-{small}", f"{growth:.2f}", f"<={GOAL_GROWTH}", growth <= GOAL_GROWTH),
    ]
    for name, value, goal, met in claims:
        print(f"claim {name} {value} goal {goal} {'ok' if met else 'short'}")
    return int(not all(met for *_, met in claims))


def main() -> int:
    """Measure, or be the child that prepares or measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="25,000 and 100,000 captions, fewer rounds")
    parser.add_argument("--prepare", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare(int(options.prepare[0]), Path(options.prepare[1]))
        return 0
    if options.measure:
        print(json.dumps(measure(Path(options.measure[0]), Path(options.measure[1]))))
        return 0
    if not CAPTIONS_FILE.is_file():
        print(f"{CAPTIONS_FILE} is missing: put Multi30k's English training captions there", file=sys.stderr)
        return 2
    rounds = 3 if options.quick else 5
    with tempfile.TemporaryDirectory() as folder:
        return report(run(QUICK_SIZES if options.quick else SIZES, rounds, Path(folder)), rounds)


if __name__ == "__main__":
    sys.exit(main())
