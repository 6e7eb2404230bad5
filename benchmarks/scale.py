"""Millions of caption rows through the steps that judge them: python benchmarks/scale.py [--rows N] [--data FOLDER].

Real captions recombined, one row in ten a near-duplicate of known truth (planted_captions.py), one image in fifty of
the same bytes as another, in shards of caption rows as ingest writes them, five captions an image. The steps are those
of a build: clean, find-repeats, screen, translate (all captions are native), check, find-duplicates, deduplicate; then
the split of each sample. A run is
a process of its own, which holds nothing but what the steps hold; a tenth of the rows and all of them take turns, and
the growth is that of the CPU seconds a row.
"""

import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from data_folder import options_with_data
from harness import Goals, apart, in_turn, judge, peak_mb, tell
from planted_captions import Labels, Planted, planted, real_captions

CAPTIONS_PER_SAMPLE, SAMPLES_PER_SHARD = 5, 5_000
SIMILARITY = 0.85
ROWS, QUICK_ROWS = 1_000_000, 100_000
ROUNDS = 1
GOALS: Goals = {"recall": (">=", 0.95), "precision": (">=", 0.95), "growth": ("<=", 1.25), "peak-mb": ("<=", 4_000)}
STEPS = ("clean", "find-repeats", "screen", "translate", "check", "find-duplicates", "deduplicate", "split")
Rows = np.ndarray[Any, np.dtype[np.int64]]


def prepare(count: int, real: Sequence[str], folder: Path) -> Labels:
    """Write shards of caption rows and of images; what each row is."""
    labels, rows = Labels(), planted(real, count)
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
    from data_catalog.storage.shards import save_parquet

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
    looks = [hashlib.sha256(str(sample - 7 if sample % 50 == 49 else sample).encode()) for sample in distinct]
    images = {
        "sample_id": [f"mscoco:{sample}" for sample in distinct],
        "final_url": [f"http://example.org/{sample}.jpg" for sample in distinct],
        "sha256": [look.hexdigest() for look in looks],
        "phash": [look.hexdigest()[:16] for look in looks],
        "thumbnail": [look.digest() * 6 for look in looks],
        **{name: [256] * len(distinct) for name in ("width", "height", "original_width", "original_height")},
    }
    name = f"{number:05d}.parquet"
    save_parquet(table_of(captions, CAPTIONS), folder / "captions" / name)
    save_parquet(table_of(images, IMAGES), folder / "images" / name)


def table_of(values: dict[str, list[Any]], schema: pa.Schema) -> pa.Table:
    count = len(values["sample_id"])
    return pa.table([pa.array(values.get(field.name, [None] * count), field.type) for field in schema], schema=schema)


def run(folder: Path, num_shards: int) -> dict[str, float]:
    """All steps over some shards; seconds by step, peak megabytes, and what was counted. Writes `first_rows.npy`."""
    from data_catalog.publish import SplitConfig, split_of
    from data_catalog.storage.work import WorkStore

    seconds: dict[str, float] = {}
    captions, images = (shards_of(folder / name, num_shards) for name in ("captions", "images"))
    with tempfile.TemporaryDirectory(dir=folder) as root:
        work = WorkStore(Path(root))
        checked, first_rows = judge_captions(work, captions, seconds)
        done = judge_images(work, checked, images, seconds)
        with timed(seconds, "split"):
            for shard in done:
                for sample_id in pq.read_table(shard.only_file, columns=["sample_id"]).column(0).unique().to_pylist():
                    split_of(sample_id, SplitConfig())
        num_kept = sum(int(pending(shard.only_file).sum()) for shard in done)
    np.save(folder / "first_rows.npy", first_rows)
    return {**seconds, "cpu": time.process_time(), "peak": peak_mb(), "kept": num_kept}


def judge_captions(work: Any, shards: Sequence[Any], seconds: dict[str, float]) -> tuple[list[Any], Rows]:
    """The steps before images; the checked shards, and the first row of the cluster of each row, or -1."""
    from cleaning.checks import CheckConfig, CleanConfig
    from cleaning.duplicates.captions import RepeatsConfig
    from cleaning.leaks import LeaksConfig
    from data_catalog.language_pack import all_function_words
    from flows.build.screen import Threads
    from flows.recipe.language_packs import language_pack

    packs, leaks = {"en": language_pack("en")}, LeaksConfig()
    comparing = {
        "config": RepeatsConfig(min_similarity=SIMILARITY),
        "function_words": sorted(all_function_words(packs)),
    }
    screening: dict[str, Any] = {**comparing, "leaks": leaks, "kinds": {"mscoco": "mscoco"}, "test_sets": []}
    checking: dict[str, Any] = {"config": CheckConfig(), "packs": packs, "target": "en", "tagger": None, "leaks": leaks}
    checking |= {"source_engine": None, "test_sets": []}
    with timed(seconds, "clean"):
        cleaned = [call(work, "clean", {"forget": shard}, config=CleanConfig(), packs=packs) for shard in shards]
    with timed(seconds, "find-repeats"):
        found = call(work, "find-repeats", {"clean": tuple(cleaned)}, **comparing, threads=Threads(2))
    with timed(seconds, "screen"):
        screened = [
            call(work, "screen", {"clean": shard, "find-repeats": own(found, number)}, **screening)
            for number, shard in enumerate(cleaned)
        ]
    with timed(seconds, "translate"):
        native = [call(work, "translate", {"screen": shard}, engine=None, from_code=None) for shard in screened]
    with timed(seconds, "check"):
        checked = [call(work, "check", {"round-trip": shard}, **checking) for shard in native]
    return checked, first_rows_of(cleaned, found)


def call(work: Any, name: str, inputs: dict[str, Any], **settings: Any) -> Any:
    """What a step of the table writes."""
    from flows.build.engine import call_of
    from flows.build.steps import STEPS

    (step,) = [step for step in STEPS if step.name == name]
    return call_of(step, inputs, settings, work=work, tools=SimpleNamespace(tagger=None))().commit


def own(commit: Any, number: int) -> Any:
    """A shard's own file of an output."""
    name = f"{number:05d}.parquet"
    return replace(commit, files={name: commit.files[name]})


def first_rows_of(shards: Sequence[Any], repeats: Any) -> Rows:
    """What `find_repeats` says, with the rows that it did not look at."""
    rows = np.flatnonzero(np.concatenate([pending(shard.only_file) for shard in shards]))
    labels = [pq.read_table(repeats.path(name)).column("cluster").to_numpy() for name in sorted(repeats.files)]
    first_rows = np.full(sum(pq.read_metadata(shard.only_file).num_rows for shard in shards), -1)
    first_rows[rows] = rows[np.concatenate(labels)]
    return first_rows


def judge_images(work: Any, captions: Sequence[Any], images: Sequence[Any], seconds: dict[str, float]) -> list[Any]:
    """The steps after images; the finished shards."""
    from cleaning.duplicates.images import DuplicatesConfig
    from cleaning.leaks import LeaksConfig
    from data_catalog.publish import SplitConfig
    from flows.build.duplicates import decisive_settings

    leaks = LeaksConfig()
    deciding: dict[str, Any] = {"sources": ["mscoco"], "config": decisive_settings(DuplicatesConfig()), "leaks": leaks}
    deciding |= {"split": SplitConfig(), "test_sets": []}
    with timed(seconds, "find-duplicates"):
        all_shards = {"check": tuple(captions), "forget-images": tuple(images)}
        found = call(work, "find-duplicates", all_shards, **deciding)
    with timed(seconds, "deduplicate"):
        reads = [
            {"check": shard, "forget-images": image, "find-duplicates": found}
            for shard, image in zip(captions, images, strict=True)
        ]
        return [call(work, "deduplicate", read, leaks=leaks, drop_repeated_captions=True) for read in reads]


def shards_of(folder: Path, count: int) -> list[Any]:
    from data_catalog.storage.shards import sha256_of
    from data_catalog.storage.work import Commit

    return [
        Commit(folder=folder, files={path.name: sha256_of(path)}, facts={}) for path in sorted(folder.iterdir())[:count]
    ]


def pending(path: Path) -> np.ndarray[Any, np.dtype[np.bool_]]:
    from data_catalog.schema import PENDING

    outcomes = pq.read_table(path, columns=["outcome"]).column(0)
    return np.asarray(pc.equal(outcomes, PENDING))


@contextmanager
def timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Note the wall-clock time of a block."""
    started = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - started


def compare(rows: int, rounds: int, real: Sequence[str], folder: Path) -> dict[str, float]:
    """Write the rows, run a tenth and all of them in turn, print the table; returns the claims' values."""
    labels = prepare(rows, real, folder)
    num_shards = len(list((folder / "captions").iterdir()))
    small = max(1, num_shards // 10)
    sizes = {small: min(rows, small * CAPTIONS_PER_SAMPLE * SAMPLES_PER_SHARD), num_shards: rows}
    runs = in_turn({size: partial(apart, run, folder, size) for size in sizes}, rounds)
    lines, cpu = [], {}
    for size, found in runs.items():
        count, seconds = sizes[size], {step: statistics.median(one[step] for one in found) for step in STEPS}
        cpu[size] = statistics.median(one["cpu"] for one in found)
        rates = {step: round(count / taken) for step, taken in {**seconds, "all": sum(seconds.values())}.items()}
        lines.append({"rows": count, **rates, "s": round(sum(seconds.values()), 1), "CPU s": round(cpu[size], 1)})
        lines[-1]["peak MB"] = round(max(one["peak"] for one in found))
    tell(lines, f"{rounds} rounds, medians; rows/s of each step and of all")
    print(f"{runs[num_shards][-1]['kept']:,.0f} rows kept")
    truth = labels.judge(np.load(folder / "first_rows.npy"))
    truth.tell()
    growth = cpu[num_shards] / rows / (cpu[small] / sizes[small])
    peak = max(found["peak"] for found in runs[num_shards])
    return {"recall": truth.recall, "precision": truth.precision, "growth": growth, "peak-mb": peak}


def main() -> int:
    """Write, run, and judge the claims."""
    parser = options_with_data(__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="caption rows of the large run")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each size runs")
    parser.add_argument("--scratch", type=Path, help="a folder on a disk with 1 KB free a row (default: temporary)")
    options = parser.parse_args()
    real = real_captions(options.data)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        values = compare(QUICK_ROWS if options.quick else options.rows, options.rounds, real, Path(folder))
    return judge(values, GOALS, "scale-")


if __name__ == "__main__":
    sys.exit(main())
