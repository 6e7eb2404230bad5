"""Images fetched and normalised beside img2dataset's own command line: python benchmarks/download.py [--quick].

Both get the same photographs from the same server on loopback, with the same number of threads, resizing and encoding,
two processes that decode, and Parquet at the end; both are cold processes each time, as a user starts them. Ours asks
for robots.txt, keeps the pace of hosts, fetches in a process of its own and writes raw images before it normalises
them in two, as a build does; img2dataset does all of it in two. The EXIF of the originals is read by neither:
img2dataset would only keep it as a text, and we do not keep it.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import Goals, apart, in_turn, judge, options_of, ratio, tell
from loopback_server import LoopbackServer, serving
from photographs import write_photographs

from data_catalog.fetch.config import FetchConfig, HostLimits
from data_catalog.images.normalise import NormaliseConfig
from data_catalog.images.workers import ImageWorkers

ADDRESS = "127.0.0.1"
THREADS = 32
PROCESSES = 2
# Rounds, images, images a shard.
SIZES = {"quick": (3, 600, 100), "full": (5, 5_000, 500)}
OURS, THEIRS = "vernaclip", "img2dataset"
# Of 255: the mean over all pixels of all images, and the share of pixels that differ by more than 8.
FAR = 8
GOALS: Goals = {
    "speed-to-img2dataset": (">=", 1.5),
    "pixels-mean-difference": ("<=", 0.5),
    f"pixels-share-beyond-{FAR}": ("<=", 0.001),
    "metadata-missing": ("<=", 0),
}
Run = tuple[float, float, float, Path]  # wall and CPU seconds, images a second from the first request on, the output
# What img2dataset says of an image, and where we have it; its status and error_message are our drop_reason and detail.
SAME_FACTS = ("width", "height", "original_width", "original_height", "sha256")
COUNTERPARTS = {**{name: name for name in SAME_FACTS}, "url": "final_url", "key": "sample_id", "jpg": "bytes"}
COUNTERPARTS |= {"status": "drop_reason", "error_message": "detail"}


def request_shards(urls: Sequence[str], shard_rows: int, folder: Path) -> None:
    """Write what a build asks its workers for, a file a shard."""
    folder.mkdir()
    for number, start in enumerate(range(0, len(urls), shard_rows)):
        mine = urls[start : start + shard_rows]
        nothing = pa.nulls(len(mine), pa.string())
        table = pa.table({"sample_id": mine, "url": mine, "path": nothing, "location": nothing})
        pq.write_table(table, folder / f"{number:05d}.parquet")


def fetch_and_normalise(requests: Path, out: Path) -> None:
    """Our side, in a process of its own: shards are fetched one by one, and normalised as soon as they are there."""
    fetch = FetchConfig(
        allow_loopback=True, threads=THREADS, hosts={ADDRESS: HostLimits(concurrency=64, requests_per_s=0)}
    )
    normalise = NormaliseConfig(image_size=256, resize_mode="keep_ratio", encode_format="jpg", encode_quality=95)
    out.mkdir()
    with ImageWorkers() as workers, ThreadPoolExecutor(1) as lane, ThreadPoolExecutor(PROCESSES) as pool:
        workers.prepare(normalise, fetching=1, normalising=PROCESSES)

        def fetch_one(path: Path) -> Path:
            raw = out / f"{path.stem}.raw"
            workers.fetch(pq.read_table(path), fetch, raw)
            return raw

        def normalise_one(raw: Path) -> None:
            workers.normalise(raw, normalise, out / f"{raw.stem}.parquet")
            raw.unlink()

        fetched = lane.map(fetch_one, sorted(requests.glob("*.parquet")))
        for done in [pool.submit(normalise_one, raw) for raw in fetched]:
            done.result()


def be_img2dataset(urls: Path, out: Path, shard_rows: int) -> None:
    options: dict[str, object] = {
        "url_list": urls,
        "input_format": "txt",
        "output_folder": out,
        "output_format": "parquet",
        "processes_count": PROCESSES,
        "thread_count": THREADS,
        "number_sample_per_shard": shard_rows,
        "image_size": 256,
        "resize_mode": "keep_ratio",
        "resize_only_if_bigger": True,
        "encode_format": "jpg",
        "encode_quality": 95,
        "extract_exif": False,
        "timeout": 10,
    }
    program = Path(sys.executable).parent / "img2dataset"
    command = [str(program), *(f"--{name}={value}" for name, value in options.items())]
    subprocess.run(command, check=True, capture_output=True)


def run(name: str, folder: Path, shard_rows: int, server: LoopbackServer) -> Run:
    """One cold run; the server runs on."""
    out = Path(tempfile.mkdtemp(dir=folder)) / "out"
    log_size, before, started = server.log_size(), getrusage(RUSAGE_CHILDREN), time.time()
    if name == OURS:
        apart(fetch_and_normalise, folder / "requests", out)
    else:
        be_img2dataset(folder / "urls.txt", out, shard_rows)
    ended, after = time.time(), getrusage(RUSAGE_CHILDREN)
    requests = server.requests(log_size)
    steady = len(requests) / (ended - requests[0].time_s)
    return ended - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, steady, out


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """All rows of a folder of Parquet files, by URL."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    rows = pa.concat_tables(tables).to_pylist()
    return {row["url"] if "url" in row else row["sample_id"]: row for row in rows}


def pixel_differences(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, float, int]:
    """Mean difference, share of values that are far apart, largest difference; of 255. Sizes must be the same."""
    means, far, largest = [], [], 0
    for url, row in ours.items():
        if row["bytes"] is None or theirs[url]["jpg"] is None:
            continue  # `lacking` tells of it
        left, right = (
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in (row["bytes"], theirs[url]["jpg"])
        )
        difference = cv2.absdiff(left, right)
        means.append(float(difference.mean()))
        far.append(float((difference > FAR).mean()))
        largest = max(largest, int(difference.max()))
    return statistics.mean(means), statistics.mean(far), largest


def lacking(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    """What img2dataset's output says and ours does not: columns, rows, values."""
    yield from sorted(set(next(iter(theirs.values()))) - set(COUNTERPARTS))
    for url, row in theirs.items():
        if url not in ours:
            yield url
        elif (row["status"] == "success") != (ours[url]["drop_reason"] is None):
            yield f"{url} status: {row['error_message']} here, {ours[url]['drop_reason']} there"
        else:
            yield from (f"{url} {name}" for name in SAME_FACTS if row[name] != ours[url][name])


def main() -> int:
    """Race, compare what came out, and judge the claims."""
    rounds, num_images, shard_rows = SIZES["quick" if options_of(__doc__).parse_args().quick else "full"]
    with tempfile.TemporaryDirectory(prefix="vernaclip-benchmark-") as name:
        folder, photographs = Path(name), Path(name) / "www"
        photographs.mkdir()
        origin = write_photographs(photographs, num_images)
        with serving(photographs, folder / "requests.log") as server:
            urls = [f"http://{ADDRESS}:{server.port}/{number:06d}.jpg" for number in range(num_images)]
            (folder / "urls.txt").write_text("\n".join(urls) + "\n", encoding="utf-8")
            request_shards(urls, shard_rows, folder / "requests")
            runs = in_turn({who: partial(run, who, folder, shard_rows, server) for who in (THEIRS, OURS)}, rounds)
        ours, theirs = (rows_of(runs[who][-1][-1]) for who in (OURS, THEIRS))
    rows = []
    for who, found in runs.items():
        wall_s, cpu_s, steady, _ = zip(*found, strict=True)
        cpu_ms = f"{1000 * statistics.median(cpu_s) / num_images:.2f}"
        rows.append({"": who, "wall s": f"{statistics.median(wall_s):.1f}", "highest": f"{max(wall_s):.1f}"})
        rows[-1] |= {"steady images/s": f"{statistics.median(steady):.0f}", "CPU ms/image": cpu_ms}
    tell(rows, f"{num_images:,} images ({origin}), {rounds} rounds, medians")
    mean, share_far, largest = pixel_differences(ours, theirs)
    missing = list(lacking(ours, theirs))
    print(f"pixels: the largest difference of all is {largest} of 255; missing: {', '.join(missing[:10]) or 'nothing'}")
    speed = ratio(*([wall_s for wall_s, *_ in runs[who]] for who in (THEIRS, OURS)))
    values = {"speed-to-img2dataset": speed, "pixels-mean-difference": mean, f"pixels-share-beyond-{FAR}": share_far}
    return judge(values | {"metadata-missing": len(missing)}, GOALS, "download-")


if __name__ == "__main__":
    sys.exit(main())
