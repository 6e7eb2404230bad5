"""Speed of fetching and normalising images, compared with img2dataset: python benchmarks/download.py [--quick].

Download: both get the same photographs from the same server on loopback, with the same number of threads in all,
resizing and encoding, two processes that decode, and Parquet output. Each run is a new process, as a user starts it.
Ours requests robots.txt, limits the rate for each host, fetches several shards at a time in one process and writes raw
images before it normalises them in two, as a build does; img2dataset does all in two. Neither reads the EXIF of the
originals: img2dataset would only store it as text, and we do not store it.

Decoders: `normalise_image`, which also checks the header, converts profiles and hashes, takes turns with img2dataset's
Resizer. Output is a shorter side of 256 as JPEG of quality 95; CPU time is measured. Photographs have the size of the
web (640 pixels wide, quality 75) and that of cameras (2,000 wide, quality 90).
"""

import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import Goals, in_new_process, in_turn, judge, medians, options_of, print_table, race, ratio
from loopback_server import LoopbackServer, request_table, serving
from pictures import jpeg, write_photographs

from data_catalog.fetch.config import FetchConfig, HostLimits
from data_catalog.fetch.workers import ImageWorkers
from data_catalog.images.normalise import NormaliseConfig, load_decoders, normalise_image
from flows.recipe.recipe import BuildConfig

ADDRESS = "127.0.0.1"
THREADS, PROCESSES = 32, 2  # threads of each process of img2dataset
SHARDS_AT_ONCE = BuildConfig().fetch_workers
# Rounds, images, images in each shard.
SIZES = {"quick": (3, 600, 100), "full": (5, 5_000, 500)}
# Rounds, photographs of the web's size, photographs of a camera's size.
DECODED = {"quick": (7, 40, 6), "full": (15, 80, 24)}
OURS, THEIRS = "vernaclip", "img2dataset"
FAR = 8  # a larger difference of a value, of 255, counts as far
GOALS: Goals = {
    "download-speed-to-img2dataset": (">=", 1.5),
    "download-pixels-mean-difference": ("<=", 0.5),
    f"download-pixels-share-beyond-{FAR}": ("<=", 0.001),
    "download-metadata-missing": ("<=", 0),
    "decoders-web-cpu-to-img2dataset": (">=", 1.05),
    "decoders-camera-cpu-to-img2dataset": (">=", 1.5),
}
Run = tuple[float, float, Path]  # wall seconds, seconds from the first request on, the output
# img2dataset's columns and ours; its status and error_message are our drop_reason and detail.
SAME_FACTS = ("width", "height", "original_width", "original_height", "sha256")
COUNTERPARTS = {**{name: name for name in SAME_FACTS}, "url": "final_url", "key": "sample_id", "jpg": "bytes"}
COUNTERPARTS |= {"status": "drop_reason", "error_message": "detail"}


def fetch_and_normalise(requests: Path, out: Path) -> None:
    """Fetch shards one by one with vernaclip, and normalise each as soon as it is complete; called in a new process."""
    fetch = FetchConfig(
        allow_loopback=True, threads=PROCESSES * THREADS, hosts={ADDRESS: HostLimits(concurrency=64, requests_per_s=0)}
    )
    normalise = NormaliseConfig(image_size=256, resize_mode="keep_ratio", encode_format="jpg", encode_quality=95)
    out.mkdir()
    with ImageWorkers() as workers, ThreadPoolExecutor(SHARDS_AT_ONCE) as lane, ThreadPoolExecutor(PROCESSES) as pool:
        workers.prepare(fetching=True, normalising=True)

        def fetch_one(path: Path) -> Path:
            raw = out / f"{path.stem}.raw"
            workers.fetch(pq.read_table(path), fetch, raw)
            return raw

        def normalise_one(raw: Path) -> None:
            workers.normalise([raw], normalise, out / f"{raw.stem}.parquet")
            raw.unlink()

        fetched = lane.map(fetch_one, sorted(requests.glob("*.parquet")))
        for done in [pool.submit(normalise_one, raw) for raw in fetched]:
            done.result()


def run_img2dataset(urls: Path, out: Path, shard_rows: int) -> None:
    fixed = (
        *("input_format=txt", "output_format=parquet", "image_size=256", "resize_mode=keep_ratio", "timeout=10"),
        *("resize_only_if_bigger=True", "encode_format=jpg", "encode_quality=95", "extract_exif=False"),
    )
    sizes = (f"processes_count={PROCESSES}", f"thread_count={THREADS}", f"number_sample_per_shard={shard_rows}")
    options = (f"--{option}" for option in (f"url_list={urls}", f"output_folder={out}", *fixed, *sizes))
    subprocess.run([str(Path(sys.executable).parent / "img2dataset"), *options], check=True, capture_output=True)


def run(name: str, folder: Path, shard_rows: int, server: LoopbackServer) -> Run:
    """Make one run in a new process, with the running server."""
    out = Path(tempfile.mkdtemp(dir=folder)) / "out"
    log_size, started = server.log_size(), time.time()
    if name == OURS:
        in_new_process(fetch_and_normalise, folder / "requests", out)
    else:
        run_img2dataset(folder / "urls.txt", out, shard_rows)
    ended = time.time()
    return ended - started, ended - server.requests(log_size)[0].time_s, out


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return all rows of a folder of Parquet files, by URL."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    rows = pa.concat_tables(tables).to_pylist()
    return {row["url"] if "url" in row else row["sample_id"]: row for row in rows}


def pixel_differences(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, float, int]:
    """Return mean difference, share of values that are far apart, and largest difference, of 255.

    Images of the same URL must have the same size.
    """
    means, far, largest = [], [], 0
    for url, row in ours.items():
        if row["bytes"] is None or theirs[url]["jpg"] is None:
            continue  # reported by `lacking`
        left, right = (
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in (row["bytes"], theirs[url]["jpg"])
        )
        difference = cv2.absdiff(left, right)
        means.append(float(difference.mean()))
        far.append(float((difference > FAR).mean()))
        largest = max(largest, int(difference.max()))
    return statistics.mean(means), statistics.mean(far), largest


def lacking(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    """Yield the columns, rows and values of img2dataset's output that ours does not have."""
    yield from sorted(set(next(iter(theirs.values()))) - set(COUNTERPARTS))
    for url, row in theirs.items():
        if url not in ours:
            yield url
        elif (row["status"] == "success") != (ours[url]["drop_reason"] is None):
            yield f"{url} status: {row['error_message']} here, {ours[url]['drop_reason']} there"
        else:
            yield from (f"{url} {name}" for name in SAME_FACTS if row[name] != ours[url][name])


def download(rounds: int, num_images: int, shard_rows: int) -> tuple[float, float, float, float]:
    """Run both in turn and compare the outputs; return the claims' values."""
    with tempfile.TemporaryDirectory(prefix="vernaclip-benchmark-") as name:
        folder, photographs = Path(name), Path(name) / "www"
        photographs.mkdir()
        origin = write_photographs(photographs, num_images)
        with serving(photographs, folder / "requests.log") as server:
            urls = [f"http://{ADDRESS}:{server.port}/{number:06d}.jpg" for number in range(num_images)]
            (folder / "urls.txt").write_text("\n".join(urls) + "\n", encoding="utf-8")
            (folder / "requests").mkdir()
            for start in range(0, num_images, shard_rows):
                shard = request_table(urls[start : start + shard_rows])
                pq.write_table(shard, folder / "requests" / f"{start:06d}.parquet")
            runs = in_turn({who: partial(run, who, folder, shard_rows, server) for who in (THEIRS, OURS)}, rounds)
        ours, theirs = (rows_of(runs[who][-1][-1]) for who in (OURS, THEIRS))
    rows = []
    for who, found in runs.items():
        wall_s, steady_s, _ = zip(*found, strict=True)
        rows.append({"": who, "wall s": f"{statistics.median(wall_s):.1f}", "highest": f"{max(wall_s):.1f}"})
        rows[-1] |= {"steady images/s": f"{num_images / statistics.median(steady_s):.0f}"}
    print_table(rows, f"{num_images:,} images ({origin}), medians of {rounds} rounds")
    mean, share_far, largest = pixel_differences(ours, theirs)
    missing = list(lacking(ours, theirs))
    print(f"pixels: the largest difference is {largest} of 255; missing: {', '.join(missing[:10]) or 'nothing'}")
    speed = ratio(*([wall_s for wall_s, *_ in runs[who]] for who in (THEIRS, OURS)))
    return speed, mean, share_far, len(missing)


def decode(rounds: int, num_web: int, num_camera: int) -> tuple[float, float]:
    """Print CPU milliseconds a photograph; return img2dataset's CPU time over ours, for the web's and a camera's."""
    from PIL import Image

    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        from img2dataset.resizer import Resizer

        write_photographs(Path(folder), num_web)
        photos = [Image.open(path).convert("RGB") for path in sorted(Path(folder).iterdir())]
    resizer, config = Resizer(256, "keep_ratio", True), NormaliseConfig()
    load_decoders()  # the decoding child process does this first
    wide = [photo.resize((2000, round(2000 * photo.height / photo.width))) for photo in photos[:num_camera]]
    sets = {"web": [jpeg(photo, 75) for photo in photos], "camera": [jpeg(photo, 90) for photo in wide]}

    def ours(files: list[bytes]) -> None:
        for raw in files:
            normalise_image(raw, config)

    def theirs(files: list[bytes]) -> None:
        for raw in files:
            if error := resizer(io.BytesIO(raw))[-1]:
                raise ValueError(error)

    ways = {OURS: ours, THEIRS: theirs}
    works = {(name, kind): partial(ways[name], sets[kind]) for kind in sets for name in ways}
    found = medians(race(works, rounds, clock=time.process_time, warm_up=True))
    ms = {key: 1000 * seconds / len(sets[key[1]]) for key, seconds in found.items()}
    rows = [{"ms of CPU a photograph": name, **{kind: f"{ms[name, kind]:.2f}" for kind in sets}} for name in ways]
    print_table(rows, f"medians of {rounds} interleaved rounds")
    return ms[THEIRS, "web"] / ms[OURS, "web"], ms[THEIRS, "camera"] / ms[OURS, "camera"]


def main() -> int:
    """Measure both parts, and judge the claims."""
    size = "quick" if options_of(__doc__).parse_args().quick else "full"
    return judge(dict(zip(GOALS, (*download(*SIZES[size]), *decode(*DECODED[size])), strict=True)), GOALS)


if __name__ == "__main__":
    sys.exit(main())
