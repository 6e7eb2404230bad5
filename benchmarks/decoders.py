"""Decoders of images beside each other: python benchmarks/decoders.py [--quick] [--photos FOLDER].

Decode, resize to a shorter side of 256 by area (or the nearest that a library has), encode as JPEG of quality 95; our
whole `normalise_image` does that and checks the header, converts profiles and hashes. Each contestant lives in a
process of its own and runs in turn; what counts is CPU time. Photographs are those of a folder, or smooth noise where
there is none: once as the web has them (640 pixels wide, quality 75), once as cameras make them (2,000 wide, quality
90). libvips takes part where pyvips is installed.
"""

import argparse
import importlib.util
import io
import multiprocessing
import multiprocessing.connection
import os
import random
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from image_decoders import CONTESTANTS, QUALITY, SIDE, ours

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco" / "train2017"
# Rounds, photographs of the web's size, of a camera's.
SIZES = {"quick": (7, 40, 6), "full": (15, 80, 24)}
GOALS = {"web-cpu-to-img2dataset": 1.05, "camera-cpu-to-img2dataset": 1.5}


def web_and_camera(folder: Path, num_web: int, num_camera: int) -> dict[str, list[bytes]]:
    """JPEG files of both sizes, from the folder's photographs or from smooth noise."""
    from PIL import Image

    paths = sorted(folder.glob("*.jpg")) if folder.is_dir() else []
    random.Random(1).shuffle(paths)
    photos = [Image.open(path).convert("RGB") for path in paths[:num_web]] or list(map(smooth_noise, range(num_web)))
    web = [file_of(photo, 75) for photo in photos]
    wide = [photo.resize((2000, round(2000 * photo.height / photo.width))) for photo in photos[:num_camera]]
    return {"web": web, "camera": [file_of(photo, 90) for photo in wide]}


def smooth_noise(seed: int) -> Any:
    """Noise of all scales, as photographs have it."""
    import cv2
    import numpy as np
    from PIL import Image

    numbers = np.random.default_rng(seed)
    layers = [cv2.resize(numbers.random((2**n, 2**n, 3)), (640, 480)) / n for n in range(2, 10)]
    total = sum(layers)
    return Image.fromarray((255 * (total - total.min()) / np.ptp(total)).astype(np.uint8))


def file_of(image: Any, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def serve(name: str, pipe: multiprocessing.connection.Connection) -> None:
    """In a contestant's process: do a list of files, say how many CPU seconds it took; until told None."""
    work = CONTESTANTS[name]()
    while (files := pipe.recv()) is not None:
        started = time.process_time()
        for raw in files:
            work(raw)
        pipe.send(time.process_time() - started)


def race(names: list[str], sets: dict[str, list[bytes]], rounds: int) -> dict[tuple[str, str], float]:
    """Milliseconds of CPU a photograph, medians over interleaved rounds, by (set, contestant)."""
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for name in names:
        mine, its = context.Pipe()
        context.Process(target=serve, args=(name, its), daemon=True).start()
        pipes[name] = mine
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds + 1):
        for label, files in sets.items():
            for name in names:
                pipes[name].send(files)
                seconds = pipes[name].recv()
                if turn:  # the first one warms up
                    times.setdefault((label, name), []).append(1000 * seconds / len(files))
    for pipe in pipes.values():
        pipe.send(None)
    return {key: statistics.median(found) for key, found in times.items()}


def stages(files: list[bytes], rounds: int) -> dict[str, float]:
    """Milliseconds of CPU for what `normalise_image` does, medians; each stage is fed with what it is fed there."""
    from data_catalog.images import opening, pixels

    whole, opened = ours(), [opening.open_image(raw) for raw in files]
    whole(files[0])
    white = (255, 255, 255)
    options: dict[str, Any] = {"only_if_bigger": True, "interpolations": ("area", "lanczos")}
    plans = [pixels.ResizePlan.of(image.size, SIDE, "keep_ratio", **options) for image in opened]
    pairs = list(zip(files, opened, strict=True))
    decoded = [pixels.decode(raw, image, white, fraction=1, profiles=True).pixels for raw, image in pairs]
    small = [pixels.resized(full, plan) if plan else full for full, plan in zip(decoded, plans, strict=True)]
    steps: dict[str, Callable[[int], Any]] = {
        "header": lambda at: opening.open_image(files[at]),
        "decode": lambda at: pixels.decode(files[at], opened[at], white, fraction=1, profiles=True),
        "resize": lambda at: pixels.resized(decoded[at], plans[at]) if plans[at] else None,
        "hash": lambda at: pixels.perceptual_hash(pixels.grey_miniature(small[at])),
        "encode": lambda at: pixels.encoded(small[at], "jpg", QUALITY),
        "all": lambda at: whole(files[at]),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.process_time()
            for at in range(len(files)):
                step(at)
            times[name].append(1000 * (time.process_time() - started) / len(files))
    return {name: statistics.median(found) for name, found in times.items()}


def robustness(names: list[str]) -> dict[str, dict[str, str]]:
    """What becomes of awkward files, by contestant: each in a process of its own, since one may need gigabytes."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, dict[str, str]] = {}
    for name in names:
        for case in awkward_files():
            mine, its = context.Pipe()
            process = context.Process(target=try_one, args=(name, case, its))
            process.start()
            its.close()
            try:
                found.setdefault(name, {})[case] = mine.recv()
            except EOFError:
                found.setdefault(name, {})[case] = "dies"
            process.join()
    return found


def awkward_files() -> dict[str, bytes]:
    """A red picture, 96 wide and 64 high, with something to it that decoders differ in."""
    from PIL import Image

    def saved(image: Any, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    red = Image.linear_gradient("L").resize((96, 64)).point(lambda value: 200 + value // 8)
    picture = Image.merge("RGB", (red, Image.new("L", red.size, 20), Image.new("L", red.size, 20)))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = saved(smooth_noise(1), "JPEG")
    return {
        "CMYK": saved(picture.convert("CMYK"), "JPEG"),
        "AVIF": saved(picture, "AVIF"),
        "EXIF turned": saved(picture, "JPEG", exif=exif),
        "cut in half": photo[: len(photo) // 2],
        "150 Mpx PNG": saved(Image.new("1", (15_000, 10_000)), "PNG"),
    }


def try_one(name: str, case: str, pipe: multiprocessing.connection.Connection) -> None:
    warnings.simplefilter("ignore")
    work, raw = CONTESTANTS[name](), awkward_files()[case]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        outcome = told(work(raw), case)
    except Exception as error:  # noqa: BLE001  whatever it is, it is the result
        outcome = f"refused ({getattr(error, 'reason', type(error).__name__)})"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    pipe.send(f"{outcome}, {grown:.0f} MB" if "Mpx" in case else outcome)


def told(data: bytes, case: str) -> str:
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    if case == "EXIF turned":
        return "upright" if image.height > image.width else "on its side"
    if case in ("CMYK", "AVIF"):
        red, green, blue = image.convert("RGB").getpixel((image.width // 2, image.height // 2))  # type: ignore[misc]
        return "right colour" if red > 180 and max(green, blue) < 60 else "wrong colour"
    return "taken"


def tell(times: dict[tuple[str, str], float], names: list[str], rounds: int) -> dict[str, float]:
    """Print the table; returns the claims' values."""
    reference = "img2dataset's Resizer"
    print(f"{os.cpu_count()} CPUs, {rounds} rounds interleaved, medians of CPU time")
    print(f"{'':<22} {'web ms':>8} {'images/s':>9} {'x img2ds':>9} {'camera ms':>10} {'images/s':>9} {'x img2ds':>9}")
    for name in names:
        web, camera = times["web", name], times["camera", name]
        ratios = (times["web", reference] / web, times["camera", reference] / camera)
        print(
            f"{name:<22} {web:>8.2f} {1000 / web:>9.0f} {ratios[0]:>9.2f}"
            f" {camera:>10.2f} {1000 / camera:>9.0f} {ratios[1]:>9.2f}"
        )
    mine = next(iter(CONTESTANTS))
    return {
        "web-cpu-to-img2dataset": times["web", reference] / times["web", mine],
        "camera-cpu-to-img2dataset": times["camera", reference] / times["camera", mine],
    }


def main() -> int:
    """Race, try awkward files, and judge the claims."""
    parser = argparse.ArgumentParser(description="Decoders of images beside each other.")
    parser.add_argument("--quick", action="store_true", help="fewer photographs and rounds")
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="a folder of JPEG files")
    options = parser.parse_args()
    rounds, num_web, num_camera = SIZES["quick" if options.quick else "full"]
    names = [name for name in CONTESTANTS if name != "libvips" or importlib.util.find_spec("pyvips")]
    sets = web_and_camera(options.photos, num_web, num_camera)
    values = tell(race(names, sets, rounds), names, rounds)
    print(
        "stages of ours, web ms: " + ", ".join(f"{name} {ms:.2f}" for name, ms in stages(sets["web"], rounds).items())
    )
    for name, outcomes in robustness([name for name in names if name not in ("Pillow", "cv2, reduced by 2")]).items():
        print(f"{name:<22} " + "; ".join(f"{case}: {outcome}" for case, outcome in outcomes.items()))
    for claim, goal in GOALS.items():
        judged = "ok" if values[claim] >= goal else "short"
        print(f"claim decoders-{claim} {values[claim]:.2f} goal >={goal} {judged}")
    return int(any(values[name] < goal for name, goal in GOALS.items()))


if __name__ == "__main__":
    sys.exit(main())
