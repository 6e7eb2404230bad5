"""What keeping features saves a scoreboard that runs again: python benchmarks/kept_features.py [--quick].

Photographs of noise and captions by a ViT-B/32 with random weights, in turn: encoded anew, as without keeping; for the
first time, with an empty folder; and again. What keeping costs the first time is the other claim, and that features are
those that the model makes the third.
"""

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

from data_catalog.plain_text import plain_table
from training.scores.encoders import Encoder, encode_images, encode_texts, tensors_sha256
from training.scores.kept_features import FeatureStore
from training.threads import let_threads_sleep

# Images, as many captions, and rounds.
SIZES = {"quick": (48, 5), "full": (384, 5)}
WIDTH, HEIGHT = 480, 320
ANEW, FIRST, AGAIN = "anew", "first", "again"
GOALS: dict[str, tuple[str, float]] = {
    "anew-over-again": (">=", 3.0),
    "first-over-anew": ("<=", 1.3),
    "largest-difference": ("<=", 1e-5),
}
Features = Any
Run = Callable[[], tuple[Features, Features]]


def vit() -> Encoder:
    """A ViT-B/32 of open_clip with random weights."""
    torch.manual_seed(0)
    module, _, prepare = open_clip.create_model_and_transforms("ViT-B-32")
    tokenize = open_clip.get_tokenizer("ViT-B-32")
    module.eval()
    return Encoder(
        name="ViT-B-32",
        origin="random",
        prepare=prepare,
        encode_pixels=module.encode_image,
        encode_texts=lambda texts: module.encode_text(tokenize(list(texts))),
        tensors_sha256=tensors_sha256(module.state_dict()),
    )


def photographs(count: int) -> dict[str, bytes]:
    """JPEGs of smooth noise, by name."""
    generator = np.random.default_rng(1)
    found = {}
    for number in range(count):
        coarse = generator.integers(0, 256, (8, 12, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        found[f"{number}.jpg"] = buffer.getvalue()
    return found


def ways(encoder: Encoder, images: Mapping[str, bytes], folder: Path) -> dict[str, Run]:
    """What is compared, by name; "again" finds what "first" has kept."""
    names, captions = (
        list(images),
        [f"una foto della cosa numero {number} su un prato" for number in range(len(images))],
    )

    def anew() -> tuple[Features, Features]:
        return encode_images(encoder, names, images.__getitem__)[0], encode_texts(encoder, captions)

    def again() -> tuple[Features, Features]:
        pictures, _ = FeatureStore(encoder, folder).images(names, images.__getitem__)
        return pictures, FeatureStore(encoder, folder).texts(captions)

    def first() -> tuple[Features, Features]:
        for path in folder.rglob("*.parquet"):
            path.unlink()
        return again()

    return {ANEW: anew, FIRST: first, AGAIN: again}


def race(runs: Mapping[str, Run], rounds: int) -> tuple[dict[str, list[float]], float]:
    """Seconds of each way, round by round, in turn; and by how much a feature differs at most from one made anew."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    largest = 0.0
    for _ in range(rounds):
        made = {}
        for name, run in runs.items():
            started = time.perf_counter()
            made[name] = run()
            times[name].append(time.perf_counter() - started)
        gaps = (np.abs(a - b).max() for name in (FIRST, AGAIN) for a, b in zip(made[name], made[ANEW], strict=True))
        largest = max(largest, *map(float, gaps))
    return times, largest


def judge(found: Mapping[str, float]) -> int:
    """Print a line a claim; 1 where one is short."""
    worst = 0
    for name, (sign, goal) in GOALS.items():
        is_met = found[name] >= goal if sign == ">=" else found[name] <= goal
        worst |= not is_met
        print(f"claim {name} {found[name]:.3g} goal {sign}{goal:g} {'ok' if is_met else 'short'}")
    return int(worst)


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of each round's ratio."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def main(arguments: Sequence[str]) -> int:
    """Race, print a table and claims; 1 where a claim is short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images")
    count, rounds = SIZES["quick" if parser.parse_args(arguments).quick else "full"]
    let_threads_sleep()
    with tempfile.TemporaryDirectory(prefix="kept-features-") as folder:
        times, largest = race(ways(vit(), photographs(count), Path(folder)), rounds)
    print(f"{count} images and {count} captions by a ViT-B/32; medians of {rounds} rounds, in turn\n")
    print(plain_table([{"features": name, "s": f"{statistics.median(taken):.2f}"} for name, taken in times.items()]))
    print()
    return judge(
        {
            "anew-over-again": ratio(times[ANEW], times[AGAIN]),
            "first-over-anew": ratio(times[FIRST], times[ANEW]),
            "largest-difference": largest,
        }
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
