"""Millions of caption rows through the steps that judge them: python benchmarks/scale.py [--rows N] [--data FOLDER].

Captions are recombined from real ones; one row in ten is a known near-duplicate (planted_captions.py), and one image in
fifty has the bytes of another. Shards of caption rows are as ingest writes them, with five captions an image. The steps
are those of a build: clean, find-repeats, screen, translate (all captions are native), check, find-duplicates,
deduplicate; then the split of each sample. A run is a new process with only the memory of the steps. A tenth of the
rows and all rows take turns, and growth is measured in CPU seconds a row.
"""

import hashlib
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from data_folder import options_with_data
from harness import Goals, in_new_process, in_turn, judge, peak_mb, print_table, table_of
from planted_captions import Labels, planted, real_captions

CAPTIONS_PER_SAMPLE, SAMPLES_PER_SHARD = 5, 5_000
SIMILARITY = 0.85
ROWS, QUICK_ROWS = 1_000_000, 100_000
ROUNDS = 1
GOALS: Goals = {"recall": (">=", 0.95), "precision": (">=", 0.95), "growth": ("<=", 1.25), "peak-mb": ("<=", 4_000)}
STEPS = ("clean", "find-repeats", "screen", "translate", "check", "find-duplicates", "deduplicate", "split")


def prepare(count: int, real: Sequence[str], folder: Path) -> Labels:
    """Write shards of caption rows and of images; return the true labels of the rows."""
    from data_catalog.disk.files import save_parquet
    from data_catalog.rows.schema import CAPTIONS, IMAGES

    labels, rows, size = Labels(), planted(real, count), CAPTIONS_PER_SAMPLE * SAMPLES_PER_SHARD
    for name in ("captions", "images"):
        (folder / name).mkdir(parents=True)
    for start in range(0, count, size):
        part, name = list(itertools.islice(rows, size)), f"{start // size:05d}.parquet"
        labels.add(part)
        captions = caption_columns([row.caption for row in part], start, CAPTIONS_PER_SAMPLE)
        samples = sorted({(start + place) // CAPTIONS_PER_SAMPLE for place in range(len(part))})
        looks = [hashlib.sha256(str(sample - 7 if sample % 50 == 49 else sample).encode()) for sample in samples]
        images = {
            "sample_id": [f"mscoco:{sample}" for sample in samples],
            "final_url": [f"http://example.org/{sample}.jpg" for sample in samples],
            "sha256": [look.hexdigest() for look in looks],
            "phash": [look.hexdigest()[:16] for look in looks],
            "thumbnail": [look.digest() * 6 for look in looks],
            **{name: [256] * len(samples) for name in ("width", "height", "original_width", "original_height")},
        }
        save_parquet(table_of(captions, CAPTIONS), folder / "captions" / name)
        save_parquet(table_of(images, IMAGES), folder / "images" / name)
    return labels


def caption_columns(texts: Sequence[str], start: int, captions_per_sample: int) -> dict[str, list[Any]]:
    """Return columns of English caption rows as ingest writes them; the first row has the number `start`."""
    numbers = range(start, start + len(texts))
    samples = [number // captions_per_sample for number in numbers]
    fixed = {"source": "mscoco", "source_lang": "en", "target_lang": "en", "upstream_file": "captions.json"}
    return {
        **{name: [value] * len(texts) for name, value in fixed.items()},
        "sample_id": [f"mscoco:{sample}" for sample in samples],
        "caption_id": [f"mscoco:{sample}#{number}" for sample, number in zip(samples, numbers, strict=True)],
        "url": [f"http://example.org/{sample}.jpg" for sample in samples],
        "source_caption": list(texts),
        "upstream_line": [number + 1 for number in numbers],
        "outcome": ["pending"] * len(texts),
    }


def run(folder: Path, num_shards: int) -> dict[str, float]:
    """Run all steps over some shards; return seconds by step, peak megabytes and counts. Writes `first_rows.npy`."""
    from cleaning.checks import CheckConfig, CleanConfig
    from cleaning.duplicates.captions import RepeatsConfig
    from cleaning.duplicates.images import DuplicatesConfig
    from cleaning.leaks import LeaksConfig
    from data_catalog.base.language_pack import function_word_meanings
    from data_catalog.catalog.work import WorkStore
    from data_catalog.publish.publish import SplitConfig, split_of
    from flows.build.captions import Threads
    from flows.build.engine import call_of
    from flows.build.images import decisive_settings
    from flows.build.steps import STEPS
    from flows.recipe.language_packs import language_pack

    packs, leaks, seconds = {"en": language_pack("en")}, LeaksConfig(), {}
    comparing = {"config": RepeatsConfig(min_similarity=SIMILARITY), "function_words": function_word_meanings(packs)}
    screening: dict[str, Any] = {**comparing, "leaks": leaks, "kinds": {"mscoco": "mscoco"}, "test_sets": []}
    checking: dict[str, Any] = {"config": CheckConfig(), "packs": packs, "target": "en", "tagger": None, "leaks": leaks}
    checking |= {"source_engine": None, "test_sets": []}
    deciding: dict[str, Any] = {"sources": ["mscoco"], "config": decisive_settings(DuplicatesConfig()), "leaks": leaks}
    deciding |= {"split": SplitConfig(), "test_sets": []}
    captions, images = (shards_of(folder / name, num_shards) for name in ("captions", "images"))
    with tempfile.TemporaryDirectory(dir=folder) as root:
        work, tools = WorkStore(Path(root)), SimpleNamespace(tagger=None)

        def step(name: str, inputs: Iterable[dict[str, Any]], **settings: Any) -> list[Any]:
            started, (found,) = time.perf_counter(), [step for step in STEPS if step.name == name]
            reads = ({name: one if isinstance(one, tuple) else (one,) for name, one in read.items()} for read in inputs)
            done = [call_of(found, read, settings, work=work, tools=tools)().commit for read in reads]
            seconds[name] = time.perf_counter() - started
            return done

        cleaned = step("clean", ({"forget": shard} for shard in captions), config=CleanConfig(), packs=packs)
        (repeats,) = step("find-repeats", [{"clean": tuple(cleaned)}], **comparing, threads=Threads(2))
        parts = [replace(repeats, files={name: repeats.files[name]}) for name in sorted(repeats.files)]
        both = zip(cleaned, parts, strict=True)
        screened = step("screen", ({"clean": shard, "find-repeats": part} for shard, part in both), **screening)
        native = step("translate", ({"screen": shard} for shard in screened), engine=None, from_code=None)
        checked = step("check", ({"round-trip": shard} for shard in native), **checking)
        everything = {"fit": tuple(checked), "forget-images": tuple(images)}
        (found,) = step("find-duplicates", [everything], **deciding)
        pairs = zip(checked, images, strict=True)
        reads = ({"fit": shard, "forget-images": image, "find-duplicates": found} for shard, image in pairs)
        done = step("deduplicate", reads, leaks=leaks, drop_repeated_captions=True)
        started = time.perf_counter()
        for shard in done:
            for sample_id in pq.read_table(shard.only_file, columns=["sample_id"]).column(0).unique().to_pylist():
                split_of(sample_id, SplitConfig())
        seconds["split"] = time.perf_counter() - started
        num_kept = sum(int(pending(shard.only_file).sum()) for shard in done)
        # The clusters of find-repeats, with -1 for rows that it did not read.
        looked_at = np.concatenate([pending(shard.only_file) for shard in cleaned])
        clusters = [pq.read_table(part.only_file).column("cluster").to_numpy() for part in parts]
        first_rows = np.full(len(looked_at), -1)
        first_rows[looked_at] = np.flatnonzero(looked_at)[np.concatenate(clusters)]
    np.save(folder / "first_rows.npy", first_rows)
    return {**seconds, "cpu": time.process_time(), "peak": peak_mb(), "kept": num_kept}


def shards_of(folder: Path, count: int | None = None) -> list[Any]:
    """Return the first files of a folder as commits of a step, one for each shard."""
    from data_catalog.catalog.work import Commit
    from data_catalog.disk.files import sha256_of

    paths = sorted(folder.iterdir())[:count]
    return [Commit(folder=folder, files={path.name: sha256_of(path)}, facts={}) for path in paths]


def pending(path: Path) -> np.ndarray[Any, np.dtype[np.bool_]]:
    from data_catalog.rows.schema import PENDING

    outcomes = pq.read_table(path, columns=["outcome"]).column(0)
    return np.asarray(pc.equal(outcomes, PENDING))


def compare(rows: int, rounds: int, real: Sequence[str], folder: Path) -> dict[str, float]:
    """Write the rows, run a tenth and all of them in turn, print the table; return the claims' values."""
    labels = prepare(rows, real, folder)
    num_shards = len(list((folder / "captions").iterdir()))
    small = max(1, num_shards // 10)
    sizes = {small: min(rows, small * CAPTIONS_PER_SAMPLE * SAMPLES_PER_SHARD), num_shards: rows}
    runs = in_turn({size: partial(in_new_process, run, folder, size) for size in sizes}, rounds)
    lines, cpu = [], {}
    for size, found in runs.items():
        count, seconds = sizes[size], {step: statistics.median(one[step] for one in found) for step in STEPS}
        cpu[size] = statistics.median(one["cpu"] for one in found)
        rates = {step: round(count / taken) for step, taken in {**seconds, "all": sum(seconds.values())}.items()}
        lines.append({"rows": count, **rates, "s": round(sum(seconds.values()), 1), "CPU s": round(cpu[size], 1)})
        lines[-1]["peak MB"] = round(max(one["peak"] for one in found))
    print_table(lines, f"rows a second of each step and of all; medians of {rounds} rounds")
    print(f"{runs[num_shards][-1]['kept']:,.0f} rows kept")
    recall, precision = labels.judge(np.load(folder / "first_rows.npy"), shown=True)
    growth = cpu[num_shards] / rows / (cpu[small] / sizes[small])
    peak = max(found["peak"] for found in runs[num_shards])
    return {"recall": recall, "precision": precision, "growth": growth, "peak-mb": peak}


def main() -> int:
    """Write, run, and judge the claims."""
    parser = options_with_data(__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="caption rows of the large run")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="number of runs of each size")
    parser.add_argument("--scratch", type=Path, help="folder with 1 KB free for each row (default: temporary)")
    options = parser.parse_args()
    real = real_captions(options.data)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        values = compare(QUICK_ROWS if options.quick else options.rows, options.rounds, real, Path(folder))
    return judge(values, GOALS, "scale-")


if __name__ == "__main__":
    sys.exit(main())
