"""Time that the feature store saves a repeated scoreboard: python benchmarks/feature_store.py [--quick].

Noise images and captions are encoded by a ViT-B/32 with random weights, in turn: without a store, with an empty store,
and with the filled store. The other claims are the overhead of filling the store, and that stored features equal those
of the model.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from harness import Goals, judge, medians, options_of, print_table, race, ratio
from pictures import drawn, jpeg
from PIL import Image

from training.data.features import Encoder, FeatureStore, ImageEncoder, TextEncoder
from training.runs.processes import prepare_for_torch
from training.scores.encoders import tensors_sha256

# Images (and as many captions), and rounds.
SIZES = {"quick": (48, 5), "full": (384, 5)}
WIDTH, HEIGHT = 480, 320
ANEW, FIRST, AGAIN = "anew", "first", "again"
GOALS: Goals = {"anew-over-again": (">=", 3.0), "first-over-anew": ("<=", 1.3), "largest-difference": ("<=", 1e-5)}
Features = Any
Run = Callable[[], tuple[Features, Features]]


def vit() -> Encoder:
    """Return a ViT-B/32 of open_clip with random weights."""
    torch.manual_seed(0)
    module, _, prepare = open_clip.create_model_and_transforms("ViT-B-32")
    tokenize = open_clip.get_tokenizer("ViT-B-32")
    module.eval()
    identity = tensors_sha256(module.state_dict())
    return Encoder(
        name="ViT-B-32",
        origin="random",
        image=ImageEncoder(prepare=prepare, encode=module.encode_image, identity=identity),
        text=TextEncoder(encode=lambda texts: module.encode_text(tokenize(list(texts))), identity=identity),
    )


def ways(encoder: Encoder, images: Mapping[str, bytes], folder: Path) -> dict[str, Run]:
    """Return the compared runs by name; "again" reads the features that "first" has stored."""
    names = list(images)
    captions = [f"una foto della cosa numero {number} su un prato" for number in range(len(images))]

    def anew() -> tuple[Features, Features]:
        pictures, _ = FeatureStore(encoder).images(names, images.__getitem__)
        return pictures, FeatureStore(encoder).texts(captions)

    def again() -> tuple[Features, Features]:
        pictures, _ = FeatureStore(encoder, folder).images(names, images.__getitem__)
        return pictures, FeatureStore(encoder, folder).texts(captions)

    def first() -> tuple[Features, Features]:
        for path in folder.rglob("*.parquet"):
            path.unlink()
        return again()

    return {ANEW: anew, FIRST: first, AGAIN: again}


def main() -> int:
    """Run in turn, print a table and claims."""
    count, rounds = SIZES["quick" if options_of(__doc__).parse_args().quick else "full"]
    prepare_for_torch()
    images = {f"{number}.jpg": jpeg(Image.fromarray(drawn(number, (WIDTH, HEIGHT)))) for number in range(count)}
    made: dict[str, list[tuple[Features, Features]]] = {ANEW: [], FIRST: [], AGAIN: []}
    with tempfile.TemporaryDirectory(prefix="feature-store-") as folder:
        runs = ways(vit(), images, Path(folder))
        times = race({name: lambda name=name: made[name].append(runs[name]()) for name in runs}, rounds)
    gaps = [
        float(np.abs(a - b).max())
        for name in (FIRST, AGAIN)
        for turn in range(rounds)
        for a, b in zip(made[name][turn], made[ANEW][turn], strict=True)
    ]
    rows = [{"features": name, "s": f"{seconds:.2f}"} for name, seconds in medians(times).items()]
    print_table(rows, f"{count} images and {count} captions by a ViT-B/32; medians of {rounds} interleaved rounds\n")
    values = {"anew-over-again": ratio(times[ANEW], times[AGAIN]), "first-over-anew": ratio(times[FIRST], times[ANEW])}
    return judge(values | {"largest-difference": max(gaps)}, GOALS)


if __name__ == "__main__":
    sys.exit(main())
