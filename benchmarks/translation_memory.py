"""How captions pass through memory and output, with an engine that costs nothing.

python benchmarks/translation_memory.py [--quick]

Real Parquet shards of caption rows (5,000 images of five captions), real step outputs, a real memory on disk; only the
engine is a stand-in. Every run is a process of its own; its peak memory counts from what it held after its imports. The
second build is another one over the same captions, which asks the engine for nothing.
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
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.dataset  # loaded by the first reading of a file otherwise

from data_catalog.schema import CAPTIONS, PENDING
from data_catalog.storage.shards import save_parquet, sha256_of
from data_catalog.storage.work import Commit, WorkStore
from flows.build.engine import call_of
from flows.build.steps import STEPS
from translation.engine import Translation
from translation.memory import TranslationMemory

CAPTIONS_FILE = Path(__file__).resolve().parents[2] / "shared" / "data" / "multi30k" / "train.en.gz"
SAMPLES_PER_SHARD, CAPTIONS_PER_SAMPLE = 5_000, 5
SIZES, QUICK_SIZES = (100_000, 1_000_000), (25_000, 100_000)  # a full shard at least
ADJECTIVES = ("blurred", "bright", "old", "distant", "grainy", "dark", "wide", "sharp")
RATES = ("total", "cpu", "second build")
TRANSLATE = next(step for step in STEPS if step.name == "translate")
GOAL_RATE, GOAL_GROWTH = 50_000, 1.5


class UpperCase:
    """A stand-in `translation.engine.Translator` that costs next to nothing."""

    fingerprint, from_code, to_code, max_chunk_size = "benchmark:en-it:upper-case", "en", "it", None
    num_asked = 0

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """See `translation.engine.Translator`."""
        self.num_asked += len(captions)
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
    """One build's translating, then that of a second build over the same captions."""
    paths = sorted(shards_folder.iterdir())
    shards = [Commit(folder=shards_folder, files={path.name: sha256_of(path)}, facts={}) for path in paths]
    before_mb, started, started_cpu = peak_mb(), time.perf_counter(), time.process_time()
    build(shards, folder, "first")
    total, cpu, peak = time.perf_counter() - started, time.process_time() - started_cpu, peak_mb() - before_mb
    started = time.perf_counter()
    num_asked = build(shards, folder, "second")
    assert num_asked == 0
    return {"total": total, "cpu": cpu, "peak": peak, "second build": time.perf_counter() - started}


def build(shards: Sequence[Commit], folder: Path, name: str) -> int:
    """Translate a build's shards one after the other, as the engine's lane has it; how many captions were asked for."""
    work, translator = WorkStore(folder / name), UpperCase()
    tools = SimpleNamespace(translator=translator, memory=TranslationMemory(folder / "memory", translator.fingerprint))
    settings = {"engine": translator.fingerprint, "from_code": translator.from_code}
    for number, shard in enumerate(shards):
        call_of(TRANSLATE, {"screen": shard}, settings, work=work, number=number, tools=tools)()
    return translator.num_asked


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
