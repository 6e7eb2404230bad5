"""What keeping freed memory saves (`training.runs.processes.prepare_for_torch`): python benchmarks/freed_memory.py.

Encodes images with EfficientNet-Lite0 (random weights), in new processes that give freed memory back to the system, as
glibc does by itself, or keep it. `--quick` encodes fewer.
"""

import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from statistics import median

from harness import in_new_process, judge, peak_mb, print_table, ratio

ROUNDS = 5
BATCH = 64
GOALS = {"cpu_saved": (">=", 1.3), "peak_memory": ("<=", 1.2)}


def encode(num_batches: int, keeps: bool) -> tuple[float, float, float]:
    """Return wall and CPU milliseconds an image, and the peak memory in MB."""
    if keeps:
        from training.runs.processes import prepare_for_torch

        prepare_for_torch()
    else:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # the other part of the preparation, for both
    import timm
    import torch

    tower = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval().to(memory_format=torch.channels_last)
    pixels = torch.rand(BATCH, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        tower(pixels)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(num_batches):
            tower(pixels)
    images = num_batches * BATCH / 1000
    return (time.perf_counter() - wall) / images, (time.process_time() - cpu) / images, peak_mb()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table and claims."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    num_batches = 1 if parser.parse_args(arguments).quick else 4
    found: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for keeps, measured in found.items():
            measured.append(in_new_process(encode, num_batches, keeps))
    columns = {keeps: list(zip(*measured, strict=True)) for keeps, measured in found.items()}
    names = ("ms/image", "CPU ms/image", "MB")
    rows = [
        {"freed memory": "kept" if keeps else "given back"}
        | {name: f"{median(some):.1f}" for name, some in zip(names, three, strict=True)}
        for keeps, three in columns.items()
    ]
    print_table(rows, f"medians of {ROUNDS} rounds")
    plain, kept = columns[False], columns[True]
    return judge({"cpu_saved": ratio(plain[1], kept[1]), "peak_memory": ratio(kept[2], plain[2])}, GOALS)


if __name__ == "__main__":
    sys.exit(main())
