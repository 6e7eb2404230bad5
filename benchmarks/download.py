"""Images fetched and normalised beside img2dataset's own command line: python benchmarks/download.py [--quick].

Both get the same photographs from the same server on loopback, with the same number of threads, resizing and encoding,
two processes that decode, and Parquet at the end; both are cold processes each time, as a user starts them. Ours asks
for robots.txt, keeps the pace of hosts, fetches in a process of its own and writes raw images before it normalises
them in two, as a build does; img2dataset does all of it in two. The EXIF of the originals is read by neither:
img2dataset would only keep it as a text, and we do not keep it.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from loopback_server import LoopbackServer, serving
from photographs import write_photographs

from data_catalog.fetch.config import FetchConfig, HostLimits
from data_catalog.images.normalise import NormaliseConfig, normalise_image
from data_catalog.images.workers import ImageWorkers

ADDRESS = "127.0.0.1"
THREADS = 32
PROCESSES = 2
# Rounds, images, images a shard.
SIZES = {"quick": (3, 600, 100), "full": (5, 5_000, 500)}
OURS, THEIRS = "vernaclip", "img2dataset"
# The images that the decoder alone is timed with.
NUM_DECODED = 300
# Of 255: the mean over all pixels of all images, and the share of pixels that differ by more than 8.
MAX_MEAN_DIFFERENCE = 0.5
MAX_SHARE_FAR = 0.001
FAR = 8
SPEED_GOAL = 1.5
# What img2dataset says of an image, and where we have it; its status and error_message are our drop_reason and detail.
SAME_FACTS = ("width", "height", "original_width", "original_height", "sha256")
COUNTERPARTS = {**{name: name for name in SAME_FACTS}, "url": "final_url", "key": "sample_id", "jpg": "bytes"}
COUNTERPARTS |= {"status": "drop_reason", "error_message": "detail"}


@dataclass(slots=True)
class Times:
    """One contestant's rounds: wall and CPU seconds of all, and images a second from the first request on."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    steady: list[float] = field(default_factory=list)


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


def our_command(folder: Path, out: Path) -> list[str]:
    return [sys.executable, __file__, "--ours", str(folder / "requests"), str(out)]


def their_command(folder: Path, out: Path, shard_rows: int) -> list[str]:
    options: dict[str, object] = {
        "url_list": folder / "urls.txt",
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
    return [str(program), *(f"--{name}={value}" for name, value in options.items())]


def race(rounds: int, commands: dict[str, Callable[[Path], list[str]]], num_images: int, server: LoopbackServer) -> Any:
    """Run the commands in turn; returns their times, and the folder of each one's last output."""
    times: dict[str, Times] = {name: Times() for name in commands}
    outputs: dict[str, Path] = {}
    for number in range(rounds):
        for name, command in commands.items():
            outputs[name] = Path(tempfile.mkdtemp(dir=server.log.parent)) / f"round{number}"
            log_size, cpu_before = server.log_size(), children_cpu_s()
            started = time.time()
            with (outputs[name].parent / "printed.txt").open("wb") as printed:
                subprocess.run(command(outputs[name]), check=True, stdout=printed, stderr=printed)
            ended = time.time()
            times[name].wall_s.append(ended - started)
            times[name].cpu_s.append(children_cpu_s() - cpu_before)
            times[name].steady.append(num_images / (ended - server.requests(log_size)[0].time_s))
    return times, outputs


def children_cpu_s() -> float:
    """CPU seconds of all processes that have ended so far, theirs included; the server runs on."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """All rows of a folder of Parquet files, by URL."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    rows = pa.concat_tables(tables).to_pylist()
    return {row["url"] if "url" in row else row["sample_id"]: row for row in rows}


def decoder_rates(photographs: Path) -> dict[str, float]:
    """Images a second of one core: OpenCV's calls alone, and all that we do to an image."""
    files = [path.read_bytes() for path in sorted(photographs.glob("*.jpg"))[:NUM_DECODED]]
    cv2.setNumThreads(1)
    config = NormaliseConfig()
    ways = {"OpenCV alone": opencv_alone, "normalise_image": lambda raw: normalise_image(raw, config)}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(3):
        for name, way in ways.items():
            started = time.process_time()
            for file in files:
                way(file)
            rates[name].append(len(files) / (time.process_time() - started))
    return {name: statistics.median(found) for name, found in rates.items()}


def opencv_alone(raw: bytes) -> Any:
    """Decoded, resized and encoded, with nothing checked."""
    pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    scale = 256 / min(pixels.shape[:2])
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 95])


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


def tell(times: dict[str, Times], num_images: int) -> float:
    """Print the table; returns how many times as fast ours is."""
    heads = ("wall s", "lowest", "highest", "images/s", "steady", "CPU ms/image")
    print(f"{'':<14}" + "".join(f"{head:>14}" for head in heads))
    for name, found in times.items():
        wall_s = statistics.median(found.wall_s)
        cpu_ms = 1000 * statistics.median(found.cpu_s) / num_images
        values = (wall_s, min(found.wall_s), max(found.wall_s), num_images / wall_s, statistics.median(found.steady))
        print(f"{name:<14}" + "".join(f"{value:>14.1f}" for value in values) + f"{cpu_ms:>14.2f}")
    pairs = zip(times[THEIRS].wall_s, times[OURS].wall_s, strict=True)
    return statistics.median(theirs / ours for theirs, ours in pairs)


def judged(claims: Sequence[tuple[str, float, str, bool]]) -> int:
    """Print a line a claim (name, value, goal, whether it is reached); returns the exit status."""
    for name, value, goal, is_reached in claims:
        print(f"claim download-{name} {value:.4g} goal {goal} {'ok' if is_reached else 'short'}")
    return int(not all(is_reached for *_, is_reached in claims))


def compare(rounds: int, num_images: int, shard_rows: int) -> int:
    """The whole benchmark, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="vernaclip-benchmark-") as name:
        folder = Path(name)
        photographs, work = folder / "www", folder / "work"
        photographs.mkdir()
        work.mkdir()
        origin = write_photographs(photographs, num_images)
        size = sum(path.stat().st_size for path in photographs.iterdir()) / num_images
        with serving(photographs, [ADDRESS], work) as server:
            urls = [f"http://{ADDRESS}:{server.port}/{number:06d}.jpg" for number in range(num_images)]
            (folder / "urls.txt").write_text("\n".join(urls) + "\n", encoding="utf-8")
            request_shards(urls, shard_rows, folder / "requests")
            commands = {
                THEIRS: lambda out: their_command(folder, out, shard_rows),
                OURS: lambda out: our_command(folder, out),
            }
            times, outputs = race(rounds, commands, num_images, server)
        print(f"{num_images:,} images of {size / 1000:.0f} KB ({origin}) from {server.name}, {rounds} rounds, medians")
        return report(times, outputs, decoder_rates(photographs), num_images)


def report(times: dict[str, Times], outputs: dict[str, Path], rates: dict[str, float], num_images: int) -> int:
    """Tables and claims."""
    ratio = tell(times, num_images)
    per_core = {name: 1 / (statistics.median(found.cpu_s) / num_images) for name, found in times.items()}
    for name, rate in (rates | per_core).items():
        print(f"one core's images/s: {name:<16} {rate:>8.0f}")
    ours, theirs = rows_of(outputs[OURS]), rows_of(outputs[THEIRS])
    mean, share_far, largest = pixel_differences(ours, theirs)
    print(f"pixels: the largest difference of all is {largest} of 255")
    missing = list(lacking(ours, theirs))
    print("".join(f"missing: {what}\n" for what in missing[:10]), end="")
    return judged(
        [
            ("speed-to-img2dataset", ratio, f">={SPEED_GOAL}", ratio >= SPEED_GOAL),
            ("pixels-mean-difference", mean, f"<={MAX_MEAN_DIFFERENCE}", mean <= MAX_MEAN_DIFFERENCE),
            (f"pixels-share-beyond-{FAR}", share_far, f"<={MAX_SHARE_FAR}", share_far <= MAX_SHARE_FAR),
            ("metadata-missing", len(missing), "0", not missing),
        ]
    )


def main() -> int:
    """Compare; or, with --ours, be one of the two."""
    parser = argparse.ArgumentParser(description="Downloads beside img2dataset's.")
    parser.add_argument("--quick", action="store_true", help="fewer images")
    parser.add_argument("--ours", nargs=2, type=Path, metavar=("REQUESTS", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        fetch_and_normalise(*options.ours)
        return 0
    return compare(*SIZES["quick" if options.quick else "full"])


if __name__ == "__main__":
    sys.exit(main())
