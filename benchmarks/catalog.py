"""Queries of a catalog with ten million caption rows in 2,000 shards: python benchmarks/catalog.py [--quick].

Rows are synthetic, with ids, URLs, steps and reasons as in real sources, and without pixels; texts are from a small
pool. Files and manifest are written by the code of builds. Every query runs once to warm up and then in rounds: in one
process, and as a command with the start-up of Python included. Tables show wall-clock seconds and CPU seconds of all
threads. Manifests are written, read and made into views for a quarter, half and all of the shards.
"""

import hashlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from harness import in_new_process, judge, options_of, peak_mb, print_table, table_of

ROWS, SHARDS, ROUNDS = 10_000_000, 2_000, 5
QUICK_ROWS, QUICK_SHARDS = 200_000, 40
QUESTION_S, GROWTH, PEAK_MB = 1.0, 1.5, 2_000
START_UP_S = 0.5  # of a command: Python, its modules, and DuckDB's opening of 2,000 files
GROUP_BYS = {
    "drop-reasons": "FROM drop_reasons",
    "by-source-and-language": "SELECT source, source_lang, outcome, count(*) FROM captions GROUP BY ALL",
    "rejects-by-step": "SELECT step, count(*) FROM rejects GROUP BY ALL",
}
Times = list[tuple[float, float]]


CAPTIONS_PER_SAMPLE = 2
# Share of the shards, URL template and caption languages of each source.
SOURCES: Mapping[str, tuple[float, str | None, tuple[str, ...]]] = {
    "cc12m": (0.5, "https://images{host}.example.com/photos/{n}/view-{n}.jpg?size=large", ("en",)),
    "flickr30k": (0.05, None, ("en",)),
    "mscoco": (0.15, "http://images.cocodataset.org/train2017/{n:012d}.jpg", ("en",)),
    "wit": (0.3, "https://upload.wikimedia.org/wikipedia/commons/{host:x}/{n}_Piazza.jpg", ("en", "it", "fr")),
}
# Dropped caption rows by step and drop reason, in thousandths of all rows; the others are kept.
ENDS: Mapping[str, Mapping[str, int]] = {
    "clean": {"caption_too_short": 40, "wrong_language": 25, "caption_boilerplate": 15},
    "screen": {"near_duplicate_caption": 20, "common_caption": 20},
    "check": {"mostly_proper_nouns": 60, "length_ratio": 10, "numbers_lost": 15},
    "fetch": {"http_404": 150, "dns": 60, "timeout": 35},
    "normalise": {"too_small": 20, "not_an_image": 15},
    "deduplicate": {"duplicate_image": 25, "near_duplicate_image": 20},
}
WORDS = (
    *("a", "two", "red", "old", "dog", "bridge", "in", "the"),
    *("snow", "market", "near", "river", "with", "child", "boat"),
)
Columns = dict[str, pa.Array]


def write_catalog(root: Path, *, rows: int, shards: int, dataset: str = "synthetic") -> Any:
    """Write one snapshot of `rows` caption rows in `shards` shards, with its manifest; return it."""
    from data_catalog.catalog.duckdb_file import rebuild, recounted
    from data_catalog.catalog.manifest import MANIFEST_FORMAT, Snapshot, commit_snapshot, snapshot_folder
    from flows.build.build import step_entries
    from flows.build.steps import STEPS

    snapshot_id = hashlib.sha256(f"{rows} {shards}".encode()).hexdigest()[:12]
    folder = snapshot_folder(root, dataset, snapshot_id)
    samples = max(1, rows // shards // CAPTIONS_PER_SAMPLE)
    with ProcessPoolExecutor(2) as pool:
        found = list(pool.map(partial(write_shard, folder, samples, shards), range(shards), chunksize=8))
    files: dict[str, Any] = {
        kind: [e for shard in found for e in shard[kind]] for kind in ("pairs", "captions", "images")
    }
    sources: dict[str, Any] = {}
    for shard in found:
        empty = {"selected": 0, "malformed": 0, "unselected": {}, "files": [], "license": f"as {shard['source']} says"}
        sources.setdefault(shard["source"], empty)["selected"] += shard["captions"][0]["rows"]
    manifest = {
        "format": MANIFEST_FORMAT,
        "dataset": dataset,
        "snapshot": snapshot_id,
        "build_key": snapshot_id,
        "attempt": 0,
        "tombstones": {"digest": None},
        "documents": [],
        "settings": {"target_language": "it", "shard_size": samples},
        "target_lang": "it",
        "translator": "argos-en_it-1.0",
        "sources": sources,
        "test_sets": {},
        "steps": step_entries([step for step in STEPS if step.name != "forget"]),
        "funnel": [],
        "files": files,
    }
    made = Snapshot(dataset=dataset, snapshot=snapshot_id, folder=folder, manifest=manifest)
    snapshot = commit_snapshot(root, {**manifest, **recounted(made)})
    rebuild(root)
    return snapshot


def write_shard(folder: Path, samples: int, shards: int, shard: int) -> dict[str, Any]:
    """Write the files of one shard; return its source and the manifest's entries by kind."""
    from data_catalog.catalog.manifest import file_entry
    from data_catalog.disk.files import open_image_writer, save_parquet, write_named_atomically
    from data_catalog.rows.schema import CAPTIONS, OUTCOMES, PAIRS

    # Each source has its own shards, in the order of the names.
    bounds = np.cumsum([share for share, _, _ in SOURCES.values()])
    source = list(SOURCES)[int(np.searchsorted(bounds[:-1], (shard + 0.5) / shards, side="right"))]
    drawn = draw(shard, samples, source)
    captions, images = captions_of(drawn), images_of(drawn)

    def place(kind: str, stem: str, table: pa.Table, **more: Any) -> dict[str, Any]:
        def write(path: Path) -> None:
            if kind != "pairs":
                save_parquet(table, path)
                return
            with open_image_writer(path, PAIRS) as writer:
                writer.write_table(table)

        path = write_named_atomically(folder / kind, lambda found: f"{stem}-{shard:05d}-{found[:12]}.parquet", write)
        return file_entry(path, folder, rows=table.num_rows, shard=shard, **more)

    pairs = dict(pairs_of(drawn, captions, images))
    return {
        "source": source,
        "captions": [place("captions", "captions", table_of(captions, CAPTIONS))],
        "images": [place("images", "images", table_of(images, OUTCOMES))],
        "pairs": [place("pairs", split, table_of(rows, PAIRS), split=split) for split, rows in pairs.items()],
    }


def draw(shard: int, samples: int, source: str) -> Any:
    """Return the samples of a shard, one row each; all captions of a sample have the same outcome."""
    rng = np.random.default_rng(shard)
    numbers = np.arange(samples, dtype=np.int64) + shard * samples
    template = SOURCES[source][1]
    urls = [template.format(n=n, host=n % 997) if template else None for n in numbers.tolist()]
    ids = [f"{source}:{n}" for n in numbers.tolist()]
    if source in ("wit", "cc12m"):
        ids = [f"{source}:{hashlib.sha1(str(url).encode(), usedforsecurity=False).hexdigest()}" for url in urls]
    ends = [(step, reason, count) for step, reasons in ENDS.items() for reason, count in reasons.items()]
    drawn = np.searchsorted(np.cumsum([end[2] for end in ends]), rng.integers(0, 1000, samples), side="right")
    steps, reasons = (pa.array([*(end[at] for end in ends), None]).take(pa.array(drawn)) for at in (0, 1))
    columns = {"sample_ids": pa.array(ids), "urls": pa.array(urls, pa.string()), "steps": steps, "reasons": reasons}
    return SimpleNamespace(source=source, numbers=numbers, **columns)


_DRAWN = np.random.default_rng(7).integers(0, len(WORDS), (20_000, 10)).tolist()
_TEXTS = [" ".join(WORDS[word] for word in line) for line in _DRAWN]
POOLS = {language: pa.array([f"{language} {text}" for text in _TEXTS]) for language in ("en", "it", "fr")}


def where(mask: pa.Array) -> Callable[[pa.Array], pa.Array]:
    """Return a function that sets values to null where the mask is false."""
    return lambda values: pc.if_else(mask, values, pa.scalar(None, values.type))


def captions_of(drawn: Any) -> Columns:
    """Return the columns of the caption rows."""
    rng = np.random.default_rng(int(drawn.numbers[0]) + 1)
    of_sample = np.repeat(np.arange(len(drawn.numbers)), CAPTIONS_PER_SAMPLE)
    count = len(of_sample)
    sample_ids = drawn.sample_ids.take(pa.array(of_sample))
    numbers = pa.array(of_sample + drawn.numbers[0] * 7).cast(pa.string())
    which = pa.array(np.tile(np.arange(CAPTIONS_PER_SAMPLE), len(drawn.numbers))).cast(pa.string())
    _, url, spoken = SOURCES[drawn.source]
    languages = np.array(spoken)[rng.integers(0, len(spoken), count)]
    texts, steps = pa.array(rng.integers(0, len(POOLS["it"]), count)), drawn.steps.take(pa.array(of_sample))
    pools = [POOLS[language].take(texts) for language in ("en", "fr", "it")]
    source_caption = pc.choose(pa.array(np.searchsorted(["en", "fr", "it"], languages)), *pools)
    where_translated = where(pc.fill_null(pc.invert(pc.is_in(steps, pa.array(["clean", "screen"]))), True))
    fixed = {"source": drawn.source, "upstream_split": "train", "target_lang": "it"}
    fixed["upstream_file"] = f"{drawn.source}/part-{int(drawn.numbers[0]) % 40:03d}.tsv.gz"
    columns = {
        "sample_id": sample_ids,
        "caption_id": pc.binary_join_element_wise(sample_ids, pc.binary_join_element_wise(numbers, which, ""), "#"),
        **{name: pa.array([value] * count) for name, value in fixed.items()},
        "url": drawn.urls.take(pa.array(of_sample)),
        "source_caption": source_caption,
        "source_lang": pa.array(languages),
        "clean_caption": source_caption,
        "detected_source_lang": pa.array(languages),
        "detected_source_probability": pa.array(rng.random(count, dtype=np.float32)),
        "caption": where_translated(POOLS["it"].take(texts)),
        "origin": where_translated(pa.array(["machine_translation"] * count)),
        "translator": where_translated(pa.array(["argos-en_it-1.0"] * count)),
        "translation_score": where_translated(pa.array(rng.normal(-0.5, 0.2, count).astype(np.float32))),
        "length_ratio": where_translated(pa.array(rng.normal(1.1, 0.1, count).astype(np.float32))),
        "upstream_line": pa.array(rng.integers(1, 10_000_000, count)),
        "outcome": pc.if_else(pc.is_null(steps), "kept", "rejected"),
        "step": steps,
        "drop_reason": drawn.reasons.take(pa.array(of_sample)),
    }
    if url is None:
        columns["path"] = pc.binary_join_element_wise(numbers, "jpg", ".")
    if drawn.source == "wit":
        columns["page_url"] = pc.binary_join_element_wise("https://en.wikipedia.org/wiki/", numbers, "")
        columns["license"] = pa.array(["CC BY-SA 3.0"] * count)
    return columns


def images_of(drawn: Any) -> Columns:
    """Return the columns of the image outcomes, for samples with a caption that reached the images."""
    image_steps = ["fetch", "normalise"]
    asked = pc.fill_null(pc.is_in(drawn.steps, pa.array([*image_steps, "deduplicate", None], pa.string())), True)
    steps = drawn.steps.filter(asked)
    where_lost = where(pc.is_in(steps, pa.array(image_steps)))
    ids, urls = drawn.sample_ids.filter(asked), drawn.urls.filter(asked)
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in ids.to_pylist()]
    where_came = where(pc.invert(pc.fill_null(pc.equal(steps, "fetch"), False)))
    side = where_came(pa.array([512] * len(ids)))
    return {
        "sample_id": ids,
        "source": pa.array([drawn.source] * len(ids)),
        "url": urls,
        "path": pc.if_else(pc.is_null(urls), ids, pa.scalar(None, pa.string())),
        "step": where_lost(steps),
        "drop_reason": where_lost(drawn.reasons.filter(asked)),
        "final_url": where_came(urls),
        "num_bytes": where_came(pa.array([60_000] * len(ids))),
        "sha256": where_came(pa.array(hashes)),
        "phash": where_came(pa.array([one[:16] for one in hashes])),
        **dict.fromkeys(("width", "height", "original_width", "original_height"), side),
    }


def pairs_of(drawn: Any, captions: Columns, images: Columns) -> Iterator[tuple[str, Columns]]:
    """Yield the columns of the published pairs by split; an image is one byte."""
    kept_rows, kept = pc.is_null(captions["step"]), pc.is_null(drawn.steps)
    ids = drawn.sample_ids.filter(kept)
    published = pc.is_in(images["sample_id"], ids)
    count = len(ids)
    offsets = pa.array(np.arange(count + 1) * CAPTIONS_PER_SAMPLE, pa.int32())
    copied = ("width", "height", "original_width", "original_height", "sha256", "phash", "url")
    lists = {"caption_ids": "caption_id", "captions": "caption", "source_captions": "source_caption"}
    lists |= {"source_langs": "source_lang", "translators": "translator", "origins": "origin"}
    lists["scores"] = "translation_score"
    values = {
        "sample_id": ids,
        "source": pa.array([drawn.source] * count),
        "image": pa.StructArray.from_arrays(
            [pa.array([b"x"] * count), pa.nulls(count, pa.string())], ["bytes", "path"]
        ),
        **{name: images[name].filter(published) for name in copied},
        **{name: pa.ListArray.from_arrays(offsets, captions[of].filter(kept_rows)) for name, of in lists.items()},
    }
    is_val = np.arange(count) % 20 == 0
    for split, chosen in (("train", ~is_val), ("val", is_val)):
        if chosen.any():
            rows = {name: column.filter(pa.array(chosen)) for name, column in values.items()}
            yield split, rows | {"split": pa.array([split] * int(chosen.sum()))}


def ids_of(root: Path) -> dict[str, str]:
    """Return the ids that are looked up: those of a row in the middle, and missing ones."""
    import pyarrow.parquet as pq

    from data_catalog.catalog.manifest import current_snapshots

    files = next(iter(current_snapshots(root))).files("captions")
    names = ["sample_id", "caption_id", "url"]
    row = pq.read_table(files[len(files) // 4], columns=names).slice(7, 1).to_pylist()[0]
    return {
        "sample": row["sample_id"],
        "caption": row["caption_id"],
        "url": row["url"].replace("https://", "HTTPS://"),
        "missing-sample": "mscoco:987654321987",
        "missing-url": "https://example.net/not-there.jpg",
    }


def questions(root: Path) -> dict[str, Callable[[], object]]:
    """Return all queries as functions that run in this process."""
    from data_catalog.catalog.manifest import current_snapshots
    from data_catalog.catalog.overview import overview
    from data_catalog.catalog.query import query
    from data_catalog.catalog.why import find_sample_records, not_found_text

    def why(identity: str, is_there: bool) -> None:
        snapshots = list(current_snapshots(root))
        found = [story for snapshot in snapshots for story in find_sample_records(snapshot, identity)]
        assert len(found) == is_there, (identity, len(found))
        assert all(len(story["captions"]) == 2 for story in found)
        if not found:
            not_found_text(snapshots, identity)

    asked: dict[str, Callable[[], object]] = {"overview": lambda: overview(root, list(current_snapshots(root)))}
    for name, identity in ids_of(root).items():
        asked[f"why-{name}"] = lambda identity=identity, name=name: why(identity, "missing" not in name)
    for name, sql in GROUP_BYS.items():
        asked[name] = lambda sql=sql: query(root, sql)
    return asked


def ask_in_one_process(root: Path, rounds: int) -> tuple[dict[str, Times], float]:
    """Return the times by query, and the peak memory of this process in MB."""
    return timed(questions(root), rounds, RUSAGE_SELF), peak_mb()


def ask_as_commands(root: Path, rounds: int) -> dict[str, Times]:
    """Return wall-clock and CPU seconds of commands; each must answer, or report that the id is missing."""
    asked = {"overview": ["catalog"]}
    asked |= {f"why-{name}": ["why", identity] for name, identity in ids_of(root).items()}
    asked |= {name: ["sql", sql] for name, sql in GROUP_BYS.items()}

    def run(name: str) -> None:
        command = [sys.executable, "-m", "flows.cli", *asked[name], "--root", str(root)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == int("missing" in name), found.stderr

    return timed({name: partial(run, name) for name in asked}, rounds, RUSAGE_CHILDREN)


def timed(works: Mapping[str, Callable[[], object]], rounds: int, whose: int) -> dict[str, Times]:
    """Return wall-clock and CPU seconds of each work in turn, after one warm-up."""
    times: dict[str, Times] = {}
    for name, work in works.items():
        for turn in range(rounds + 1):
            before, started = getrusage(whose), time.perf_counter()
            work()
            wall, after = time.perf_counter() - started, getrusage(whose)
            if turn:
                cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                times.setdefault(name, []).append((wall, cpu))
    return times


def handle_manifests(snapshot: Any, counts: Sequence[int], rounds: int, folder: Path) -> dict[int, dict[str, float]]:
    """Return median CPU seconds to write, read and make views of a manifest, by its number of shards."""
    from data_catalog.catalog.duckdb_file import rebuild
    from data_catalog.catalog.manifest import commit_snapshot, read_snapshot, snapshot_folder

    found: dict[int, dict[str, float]] = {}
    for count in counts:
        files = {
            kind: [entry for entry in entries if entry.get("shard", 0) < count]
            for kind, entries in snapshot.manifest["files"].items()
        }
        manifest, root = {**snapshot.manifest, "files": files}, folder / f"of-{count}"
        there = snapshot_folder(root, snapshot.dataset, snapshot.snapshot)
        there.mkdir(parents=True)
        for kind in files:
            (there / kind).symlink_to(snapshot.folder.absolute() / kind, target_is_directory=True)
        work = {
            "write": partial(commit_snapshot, root, manifest),
            "read": partial(read_snapshot, root, snapshot.dataset, snapshot.snapshot),
            "rebuild": partial(rebuild, root),
        }
        times = timed(work, rounds, RUSAGE_SELF)
        found[count] = {name: statistics.median(cpu for _, cpu in each) for name, each in times.items()}
    return found


def tell_times(title: str, times: dict[str, Times]) -> dict[str, float]:
    """Print medians; return the wall-clock ones by query."""
    found = {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in times.items()}
    print_table([{title: name, "s": f"{wall:.3f}", "CPU s": f"{cpu:.3f}"} for name, (wall, cpu) in found.items()])
    return {name: wall for name, (wall, _) in found.items()}


def measure(root: Path, snapshot: Any, rounds: int, folder: Path) -> dict[str, tuple[float, float]]:
    """Run the queries, print, and return each claim's value and goal."""
    shards = len(snapshot.manifest["files"]["captions"])
    size = sum(entry["bytes"] for entry in snapshot.entries()) / 1e9
    print(f"{sum(e['rows'] for e in snapshot.manifest['files']['captions']):,} rows, {shards:,} shards, {size:.2f} GB")
    times, peak = in_new_process(ask_in_one_process, root, rounds)
    claims = {f"{name}-s": (s, QUESTION_S) for name, s in tell_times("in one process", times).items()}
    for name, seconds in tell_times("as a command", ask_as_commands(root, rounds)).items():
        claims[f"{name}-command-s"] = (seconds, QUESTION_S + START_UP_S)
    found = handle_manifests(snapshot, [max(1, shards // 4), max(1, shards // 2), shards], rounds, folder)
    rows = [{"shards": n, **{name: f"{s:.3f}" for name, s in spent.items()}} for n, spent in found.items()]
    print_table(rows, "CPU seconds, medians")
    few, many = min(found), max(found)
    growth = sum(found[many].values()) / many / (sum(found[few].values()) / few)
    return claims | {"manifest-growth": (growth, GROWTH), "peak-mb": (peak, PEAK_MB)}


def main() -> int:
    """Write the catalog, query it, and judge the claims."""
    from data_catalog.catalog.manifest import current_snapshots

    parser = options_of(__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--shards", type=int, default=SHARDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--scratch", type=Path, help="folder with 0.3 KB free for each row (default: temporary)")
    parser.add_argument("--root", type=Path, help="write the catalog there and keep it, or use the one there")
    options = parser.parse_args()
    rows, shards = (QUICK_ROWS, QUICK_SHARDS) if options.quick else (options.rows, options.shards)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        root = options.root or Path(folder) / "catalog"
        snapshot = next(iter(current_snapshots(root)), None) or write_catalog(root, rows=rows, shards=shards)
        claims = measure(root, snapshot, options.rounds, Path(folder))
    values = {name: value for name, (value, _) in claims.items()}
    return judge(values, {name: ("<=", goal) for name, (_, goal) in claims.items()}, "catalog-")


if __name__ == "__main__":
    sys.exit(main())
