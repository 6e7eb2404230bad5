"""Speed and memory of the translate step, memory and output included, with an engine that takes no time.

python benchmarks/translation_memory.py [--quick]

Parquet shards of caption rows (5,000 images with five captions each), step outputs and the translation memory on disk
are real; only the engine is a stand-in. Each run is a new process; its peak memory is counted above its memory after
imports. The second build has the same captions, for which it does not call the engine.
"""

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pyarrow.dataset  # noqa: F401  otherwise the first reading of a file loads it
from data_folder import DATA, multi30k
from harness import exit_without, in_new_process, in_turn, judge, options_of, peak_mb, print_table, table_of
from scale import caption_columns, shards_of

from data_catalog.catalog.work import Commit, WorkStore
from data_catalog.disk.files import save_parquet
from data_catalog.rows.schema import CAPTIONS
from flows.build.engine import call_of
from flows.build.steps import STEPS
from translation.engine import Translation
from translation.memory import TranslationMemory

SAMPLES_PER_SHARD, CAPTIONS_PER_SAMPLE = 5_000, 5
SIZES, QUICK_SIZES = (100_000, 1_000_000), (25_000, 100_000)  # at least one full shard
ADJECTIVES = ("blurred", "bright", "old", "distant", "grainy", "dark", "wide", "sharp")
TRANSLATE = next(step for step in STEPS if step.name == "translate")


class UpperCase:
    """A stand-in `translation.engine.Translator` that takes almost no time."""

    fingerprint, from_code, to_code, max_chunk_size = "benchmark:en-it:upper-case", "en", "it", None
    num_asked = 0

    def translate(self, captions: Sequence[str], on_done: Callable[[int], object] | None = None) -> list[Translation]:
        """Return the captions in capitals; see `translation.engine.Translator`."""
        self.num_asked += len(captions)
        found = [Translation(text=caption.upper(), score=-len(caption) / 100) for caption in captions]
        if on_done is not None:
            on_done(len(captions))
        return found


def captions(lines: Sequence[str], count: int) -> Iterator[str]:
    """Yield Multi30k's captions, then the same with numbers and adjectives appended; nearly all are distinct."""
    for number in range(count):
        line, variation = lines[number % len(lines)], number // len(lines)
        adjective = ADJECTIVES[variation % len(ADJECTIVES)]
        yield f"{line.rstrip('.')}, photo {variation}, {adjective}." if variation else line


def prepare(lines: Sequence[str], count: int, folder: Path) -> None:
    """Write shards of cleaned caption rows, as the translate step reads them."""
    folder.mkdir()
    texts = list(captions(lines, count))
    for start in range(0, count, SAMPLES_PER_SHARD * CAPTIONS_PER_SAMPLE):
        part = texts[start : start + SAMPLES_PER_SHARD * CAPTIONS_PER_SAMPLE]
        more = {"clean_caption": part, "target_lang": ["it"] * len(part)}
        table = table_of(caption_columns(part, start, CAPTIONS_PER_SAMPLE) | more, CAPTIONS)
        save_parquet(table, folder / f"{start:09d}.parquet")


def measure(shards_folder: Path, folder: Path) -> dict[str, float]:
    """Translate the captions of one build, then of a second build with the same captions; return seconds and MB."""
    shards = shards_of(shards_folder)
    before_mb, started, started_cpu = peak_mb(), time.perf_counter(), time.process_time()
    build(shards, folder, "first")
    total, cpu, peak = time.perf_counter() - started, time.process_time() - started_cpu, peak_mb() - before_mb
    started = time.perf_counter()
    num_asked = build(shards, folder, "second")
    assert num_asked == 0
    second = time.perf_counter() - started
    shutil.rmtree(folder)
    return {"total": total, "cpu": cpu, "second build": second, "peak": peak}


def build(shards: Sequence[Commit], folder: Path, name: str) -> int:
    """Translate a build's shards in turn, as the engine's lane does; return how many captions the engine got."""
    work, translator = WorkStore(folder / name), UpperCase()
    memory = TranslationMemory(folder / "memory", translator.fingerprint)
    tools = SimpleNamespace(translator=translator, memory=memory, windows=None)
    settings = {"engine": translator.fingerprint, "from_code": translator.from_code}
    for number, shard in enumerate(shards):
        call_of(TRANSLATE, {"screen": (shard,)}, settings, work=work, number=number, tools=tools)()
    return translator.num_asked


def main() -> int:
    """Measure both sizes in turn, and judge the claims."""
    quick = options_of(__doc__).parse_args().quick
    (small, large), rounds = (QUICK_SIZES, 3) if quick else (SIZES, 5)
    lines = multi30k(DATA, "en") or exit_without(f"{DATA} does not contain Multi30k's English training captions")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in (small, large):
            prepare(lines, size, folder / str(size))
        works = {size: partial(in_new_process, measure, folder / str(size), folder / "out") for size in (small, large)}
        runs = in_turn(works, rounds)
    found = {size: {key: statistics.median(run[key] for run in each) for key in each[0]} for size, each in runs.items()}
    rates = {size: {key: round(size / found[size][key]) for key in ("total", "cpu", "second build")} for size in found}
    rows = [{"captions": size, **rates[size], "peak MB": round(found[size]["peak"])} for size in found]
    print_table(rows, f"captions a second, by wall clock and by CPU time; medians of {rounds} interleaved rounds")
    rate, memory = f"captions-per-second-at-{large}", f"peak-memory-at-{large}-beside-{small}"
    values = {rate: large / found[large]["total"], memory: found[large]["peak"] / found[small]["peak"]}
    return judge(values, {rate: (">=", 50_000), memory: ("<=", 1.5)})


if __name__ == "__main__":
    sys.exit(main())
