"""Questions to a catalog of ten million caption rows in 2,000 shards: python benchmarks/catalog.py [--quick].

Rows are synthetic (synthetic_catalog.py), files and manifest are those of a build. Every question is asked once to warm
up and then in rounds: in one process, and as a command of its own, start-up of Python included. CPU seconds, of all
threads, stand beside wall-clock ones. Manifests are written, read and made into views for a quarter, half and all of
the shards.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

from harness import apart, judge, options_of, peak_mb, tell
from synthetic_catalog import write_catalog

ROWS, SHARDS, ROUNDS = 10_000_000, 2_000, 5
QUICK_ROWS, QUICK_SHARDS = 200_000, 40
QUESTION_S, GROWTH, PEAK_MB = 1.0, 1.5, 2_000
START_UP_S = 0.5  # of a command: Python, its modules, and DuckDB opening 2,000 files anew
GROUP_BYS = {
    "drop-reasons": "FROM drop_reasons",
    "by-source-and-language": "SELECT source, source_lang, outcome, count(*) FROM captions GROUP BY ALL",
    "rejects-by-step": "SELECT step, count(*) FROM rejects GROUP BY ALL",
}
Times = list[tuple[float, float]]


def ids_of(root: Path) -> dict[str, str]:
    """What is asked after: of a row in the middle, and what is not there."""
    import pyarrow.parquet as pq

    from data_catalog.storage.manifest import current_snapshots

    files = next(iter(current_snapshots(root))).caption_files()
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
    """Every question, as a function of one process."""
    from data_catalog.database.catalog import query
    from data_catalog.database.story import find_stories
    from data_catalog.near_misses import near_misses
    from data_catalog.overview import overview
    from data_catalog.storage.manifest import current_snapshots

    def why(identity: str, is_there: bool) -> None:
        snapshots = list(current_snapshots(root))
        found = [story for snapshot in snapshots for story in find_stories(snapshot, identity)]
        assert len(found) == is_there, (identity, len(found))
        assert all(len(story.captions) == 2 for story in found)
        if not found:
            near_misses(snapshots, identity)

    asked: dict[str, Callable[[], object]] = {"overview": lambda: overview(root, list(current_snapshots(root)))}
    for name, identity in ids_of(root).items():
        asked[f"why-{name}"] = lambda identity=identity, name=name: why(identity, "missing" not in name)
    for name, sql in GROUP_BYS.items():
        asked[name] = lambda sql=sql: query(root, sql)
    return asked


def ask_in_one_process(root: Path, rounds: int) -> tuple[dict[str, Times], float]:
    """Times by question, and the most memory that this process held."""
    times: dict[str, Times] = {}
    for name, question in questions(root).items():
        question()
        times[name] = [timed(question) for _ in range(rounds)]
    return times, peak_mb()


def ask_as_commands(root: Path, rounds: int) -> dict[str, Times]:
    """Wall-clock and CPU seconds of commands; each must answer, or say that nothing is there."""
    asked = {"overview": ["catalog"]}
    asked |= {f"why-{name}": ["why", identity] for name, identity in ids_of(root).items()}
    asked |= {name: ["sql", sql] for name, sql in GROUP_BYS.items()}
    times: dict[str, Times] = {}
    for name, words in asked.items():
        runs = [run_command([*words, "--root", str(root)], "missing" in name) for _ in range(rounds + 1)]
        times[name] = runs[1:]
    return times


def timed(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def run_command(words: Sequence[str], expected: int) -> tuple[float, float]:
    before, started = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    found = subprocess.run([sys.executable, "-m", "flows.cli", *words], capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - started, getrusage(RUSAGE_CHILDREN)
    assert found.returncode == expected, found.stderr
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def handle_manifests(snapshot: Any, counts: Sequence[int], rounds: int, folder: Path) -> dict[int, dict[str, float]]:
    """Median CPU seconds to write, read and make views of the manifest of so many shards."""
    from data_catalog.database.catalog import rebuild
    from data_catalog.storage.manifest import commit_snapshot, read_snapshot, snapshot_folder

    found: dict[int, dict[str, float]] = {}
    for count in counts:
        part, root = first_shards(snapshot, count), folder / f"of-{count}"
        there = snapshot_folder(root, part.dataset, part.snapshot)
        there.mkdir(parents=True)
        for kind in part.manifest["files"]:
            (there / kind).symlink_to(snapshot.folder.absolute() / kind, target_is_directory=True)
        work: dict[str, Callable[[], object]] = {
            "write": lambda root=root, part=part: commit_snapshot(root, part.manifest),
            "read": lambda root=root, part=part: read_snapshot(root, part.dataset, part.snapshot),
            "rebuild": lambda root=root: rebuild(root),
        }
        found[count] = {name: statistics.median(timed(step)[1] for _ in range(rounds)) for name, step in work.items()}
    return found


def first_shards(snapshot: Any, count: int) -> Any:
    files = {
        kind: [entry for entry in entries if entry.get("shard", 0) < count]
        for kind, entries in snapshot.manifest["files"].items()
    }
    return replace(snapshot, manifest={**snapshot.manifest, "files": files})


def tell_times(title: str, times: dict[str, Times]) -> dict[str, float]:
    """Print medians; wall-clock ones by question."""
    found = {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in times.items()}
    tell([{title: name, "s": f"{wall:.3f}", "CPU s": f"{cpu:.3f}"} for name, (wall, cpu) in found.items()])
    return {name: wall for name, (wall, _) in found.items()}


def measure(root: Path, snapshot: Any, rounds: int, folder: Path) -> dict[str, tuple[float, float]]:
    """Ask, print, and return each claim's value and goal."""
    shards = len(snapshot.manifest["files"]["captions"])
    size = sum(entry["bytes"] for entry in snapshot.entries()) / 1e9
    print(f"{sum(e['rows'] for e in snapshot.manifest['files']['captions']):,} rows, {shards:,} shards, {size:.2f} GB")
    times, peak = apart(ask_in_one_process, root, rounds)
    claims = {f"{name}-s": (s, QUESTION_S) for name, s in tell_times("in one process", times).items()}
    for name, seconds in tell_times("as a command", ask_as_commands(root, rounds)).items():
        claims[f"{name}-command-s"] = (seconds, QUESTION_S + START_UP_S)
    found = handle_manifests(snapshot, [max(1, shards // 4), max(1, shards // 2), shards], rounds, folder)
    rows = [{"shards": n, **{name: f"{s:.3f}" for name, s in spent.items()}} for n, spent in found.items()]
    tell(rows, "CPU seconds, medians")
    few, many = min(found), max(found)
    growth = sum(found[many].values()) / many / (sum(found[few].values()) / few)
    return claims | {"manifest-growth": (growth, GROWTH), "peak-mb": (peak, PEAK_MB)}


def main() -> int:
    """Write the catalog, ask, and judge the claims."""
    parser = options_of(__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--shards", type=int, default=SHARDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--scratch", type=Path, help="a folder on a disk with 0.3 KB free a row (default: temporary)")
    parser.add_argument("--root", type=Path, help="a catalog that an earlier run wrote and kept (see --keep)")
    parser.add_argument("--keep", type=Path, metavar="ROOT", help="write the catalog there, and leave it")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.shards = QUICK_ROWS, QUICK_SHARDS
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        root = options.root or options.keep or Path(folder) / "catalog"
        claims = measure(root, snapshot_of(root, options), options.rounds, Path(folder))
    values = {name: value for name, (value, _) in claims.items()}
    return judge(values, {name: ("<=", goal) for name, (_, goal) in claims.items()}, "catalog-")


def snapshot_of(root: Path, options: argparse.Namespace) -> Any:
    from data_catalog.storage.manifest import current_snapshots

    if options.root:
        return next(iter(current_snapshots(root)))
    started = time.perf_counter()
    snapshot = write_catalog(root, rows=options.rows, shards=options.shards)
    print(f"written in {time.perf_counter() - started:.0f} s")
    return snapshot


if __name__ == "__main__":
    sys.exit(main())
