"""How fast `vernaclip train` learns: beside open_clip_train, in bfloat16, with frozen towers, waiting for data or not.

python benchmarks/training_speed.py [--quick] [--root CATALOG]

Both trainers take the same model (`compact`), tokenizer, encoded images on the disk, batches of 128, crops, AdamW,
clipping, schedule and threads; open_clip_train reads what `vernaclip export --format webdataset` writes. Each run is a
process of its own, and they take turns; told are medians, and the median of each round's ratios. A run's clock starts
with everything imported and stops when the trainer returns. open_clip_train decodes in each epoch, in two workers,
which on two cores were about as fast as none and faster than one; we decode once and keep the pixels
(`train.cache_max_bytes`), and a row says what that is worth. It takes an image's first caption, we take any. It needs
no workaround but the model's config by name. The share of time spent waiting for data is told, not claimed: epochs of
six batches, as here, wait for the first of each, which longer ones do not notice.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# This folder has a cleaning.py of its own: the package is to be found before it.
sys.path.append(sys.path.pop(0))

from recipe import build
from training_contestants import OURS, THEIRS, Told, run_apart

from data_catalog.plain_text import plain_table
from training.config import TrainConfig
from training.data.pairs import read_captions
from training.towers.model import read_model_config
from training.towers.tokenizer import save_tokenizer, train_tokenizer

BATCH_SIZE, VIT_BATCH_SIZE, THEIR_WORKERS = 128, 256, 2
# Images drawn, rounds, epochs of a run (with all weights), epochs with frozen towers. With 400 images open_clip_train's
# workers were seen to wait for ever.
SIZES = {"quick": (1000, 1, 2, 2), "full": (1000, 5, 3, 6)}
GOALS = {
    "samples-per-second-over-open_clip_train": (">=", 1.0),
    "bf16-over-fp32": (">=", 1.5),
    "bf16-loss-difference": ("<=", 0.05),
    "cached-frozen-tower-over-full-step": (">=", 2.5),
}
VIT: Mapping[str, Any] = {
    "embed_dim": 128,
    "custom_text": True,
    "vision_cfg": {"image_size": 64, "patch_size": 8, "layers": 4, "width": 128, "head_width": 32},
    "text_cfg": {"context_length": 40, "width": 128, "heads": 4, "layers": 4, "hf_tokenizer_name": "tokenizer"},
}
FP32, BF16, NOT_KEPT = "vernaclip, fp32", "vernaclip, bf16", "vernaclip, fp32, decoding in each epoch"
THEIR_FP32, THEIR_BF16 = "open_clip_train, fp32", "open_clip_train, bf16"
VIT_FP32, VIT_BF16 = "ViT, fp32", "ViT, bf16"
FROZEN, VIT_FROZEN = "compact, frozen first", "ViT, frozen first"
# Rows of the table: a run, and what it is compared with.
BESIDE = (
    (FP32, THEIR_FP32),
    (NOT_KEPT, THEIR_FP32),
    (BF16, THEIR_BF16),
    (BF16, FP32),
    (THEIR_FP32, THEIR_FP32),
    (THEIR_BF16, THEIR_FP32),
    (VIT_FP32, VIT_FP32),
    (VIT_BF16, VIT_FP32),
)
QUICK = (FP32, THEIR_FP32, VIT_FP32, VIT_BF16, FROZEN)
Runs = dict[str, list[Told]]


def prepare(root: Path, num_images: int, folder: Path) -> dict[str, Any]:
    """The sample's train split for both trainers: what `contestants` needs."""
    files = build(root, num_images).train
    export = [sys.executable, "-m", "flows.cli", "export", "scenes", "--format", "webdataset", "--root", str(root)]
    # Many small shards, so that each of its workers gets as much as the others.
    export += ["--out", str(folder / "tars"), "--samples-per-shard", "100"]
    subprocess.run(export, check=True, capture_output=True, cwd=Path(__file__).resolve().parent.parent)
    shards = sorted((folder / "tars").glob("train-*.tar"))
    captions = read_captions(files)
    texts = (text for sample in captions for text in sample.as_py())
    tokenizer = train_tokenizer(texts, vocab_size=TrainConfig().vocab_size)
    save_tokenizer(tokenizer, folder / "tokenizer", context_length=40)
    (folder / "configs").mkdir()
    model = read_model_config("compact")
    model["text_cfg"] |= {"vocab_size": tokenizer.get_vocab_size(), "hf_tokenizer_name": str(folder / "tokenizer")}
    (folder / "configs" / "compact.json").write_text(json.dumps(model), encoding="utf-8")
    (folder / "vit.json").write_text(json.dumps(VIT), encoding="utf-8")
    return {
        "files": [str(path) for path in files],
        "tars": f"{folder}/tars/train-{{000000..{len(shards) - 1:06d}}}.tar",
        "model_configs": str(folder / "configs"),
        "vit": str(folder / "vit.json"),
    }


def ours(prepared: Mapping[str, Any], **settings: Any) -> Told:
    return run_apart(OURS, {"files": prepared["files"], "settings": settings})


def theirs(prepared: Mapping[str, Any], *, epochs: int, precision: str) -> Told:
    """open_clip_train with our settings, which it has under other names, logging the ends of an epoch only."""
    config = TrainConfig()
    options = {
        "dataset-type": "webdataset",
        "train-data": prepared["tars"],
        "model": "compact",
        "workers": THEIR_WORKERS,
        "batch-size": BATCH_SIZE,
        "epochs": epochs,
        "device": "cpu",
        "precision": precision,
        "lr": config.lr,
        "wd": config.weight_decay,
        "warmup": config.warmup_steps,
        "beta2": 0.98,
        "eps": 1e-6,
        "grad-clip-norm": config.max_grad_norm,
        "aug-cfg": "scale=(0.9,1.0)",
        "save-frequency": 0,
        "log-every-n-steps": 1_000_000,
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    job = {"arguments": arguments, "batch_size": BATCH_SIZE, "model_configs": prepared["model_configs"]}
    return run_apart(THEIRS, job)


def contestants(prepared: Mapping[str, Any], epochs: int, frozen_epochs: int) -> dict[str, Callable[[], Told]]:
    """All runs, by name."""
    vit = {"model": prepared["vit"], "batch_size": VIT_BATCH_SIZE}
    frozen = {"augment": [], "frozen_epochs": frozen_epochs, "patience": frozen_epochs + epochs}
    mine, its = partial(ours, prepared, epochs=epochs), partial(theirs, prepared, epochs=epochs)
    return {
        FP32: partial(mine, precision="fp32"),
        THEIR_FP32: partial(its, precision="fp32"),
        NOT_KEPT: partial(mine, precision="fp32", cache_max_bytes=0),
        BF16: partial(mine, precision="bf16"),
        THEIR_BF16: partial(its, precision="amp_bf16"),
        VIT_FP32: partial(mine, precision="fp32", **vit),
        VIT_BF16: partial(mine, precision="bf16", **vit),
        FROZEN: partial(mine, **frozen),
        VIT_FROZEN: partial(mine, **frozen, **vit),
    }


def race(ways: Mapping[str, Callable[[], Told]], rounds: int) -> Runs:
    """Every way once a round, in turn."""
    runs: Runs = {name: [] for name in ways}
    for turn in range(rounds):
        for name, way in ways.items():
            runs[name].append(way())
            print(f"round {turn + 1}: {name}: {runs[name][-1].rate:.0f} samples/s", file=sys.stderr, flush=True)
    return runs


def ratio(runs: Runs, above: str, below: str, of: Callable[[Told], float]) -> float:
    """The median of each round's ratio."""
    return statistics.median(of(a) / of(b) for a, b in zip(runs[above], runs[below], strict=True))


def later(told: Told) -> float:
    """Samples a second of an epoch, the first one aside, which decodes, draws up a tokenizer and hashes."""
    return statistics.median(told.rates(slice(1, None)))


def speed_rows(runs: Runs) -> list[dict[str, str]]:
    """The table of whole runs, and what each is compared with."""
    rows = []
    for name, base in BESIDE:
        if name not in runs:
            continue
        told = runs[name]
        shares = [statistics.mean(run.waiting) for run in told if run.waiting]
        rows.append(
            {
                "run": name,
                "samples/s": f"{statistics.median(run.rate for run in told):.0f}",
                "after the first epoch": f"{statistics.median(map(later, told)):.0f}",
                "s of the process": f"{statistics.median(run.process_seconds for run in told):.1f}",
                "waiting for data": f"{statistics.median(shares):.1%}" if shares else "not told",
                "beside": base,
                "ratio": f"{ratio(runs, name, base, lambda run: run.rate):.2f}",
                "after the first": f"{ratio(runs, name, base, later):.2f}",
            }
        )
    return rows


def frozen_ratio(runs: Sequence[Told], frozen_epochs: int, *, with_first: bool) -> float:
    """Samples a second while towers are frozen, beside those of all weights.

    Args:
        with_first: over all epochs, of which the first computes what is kept of images, and of the captions that it
            draws; else the median of the later ones, which still meet new captions.
    """

    def frozen_seconds(run: Told) -> float:
        seconds = run.epoch_seconds[:frozen_epochs]
        return statistics.mean(seconds) if with_first else statistics.median(seconds[1:])

    return statistics.median(statistics.median(run.epoch_seconds[frozen_epochs:]) / frozen_seconds(run) for run in runs)


def frozen_rows(runs: Runs, frozen_epochs: int) -> list[dict[str, str]]:
    """The table of the phase with frozen towers."""

    def rate(name: str, epochs: slice) -> str:
        return f"{statistics.median(statistics.median(run.rates(epochs)) for run in runs[name]):.0f}"

    return [
        {
            "run": name,
            "all weights, samples/s": rate(name, slice(frozen_epochs, None)),
            "frozen, the first epoch": rate(name, slice(0, 1)),
            "later": rate(name, slice(1, frozen_epochs)),
            "ratio": f"{frozen_ratio(runs[name], frozen_epochs, with_first=False):.2f}",
            "with the first": f"{frozen_ratio(runs[name], frozen_epochs, with_first=True):.2f}",
        }
        for name in (FROZEN, VIT_FROZEN)
        if name in runs
    ]


def loss_rows(runs: Runs) -> list[dict[str, str]]:
    """Each epoch's train loss in both precisions; all rounds have the same."""
    pairs = zip(runs[VIT_FP32][0].losses, runs[VIT_BF16][0].losses, strict=True)
    return [
        {"epoch of ViT": str(epoch), "loss in fp32": f"{fp32:.4f}", "in bf16": f"{bf16:.4f}"}
        for epoch, (fp32, bf16) in enumerate(pairs, start=1)
    ]


def values(runs: Runs, frozen_epochs: int) -> dict[str, float]:
    """What is claimed; no number where the trainer does not tell it."""
    losses = zip(runs[VIT_FP32][0].losses, runs[VIT_BF16][0].losses, strict=True)
    return {
        "samples-per-second-over-open_clip_train": ratio(runs, FP32, THEIR_FP32, lambda run: run.rate),
        "bf16-over-fp32": ratio(runs, VIT_BF16, VIT_FP32, later),
        "bf16-loss-difference": statistics.mean(abs(bf16 - fp32) / fp32 for fp32, bf16 in losses),
        "cached-frozen-tower-over-full-step": frozen_ratio(runs[FROZEN], frozen_epochs, with_first=False),
    }


def judge(found: Mapping[str, float], *, quick: bool) -> int:
    """Print a line a claim; 1 where one is short. Few images tell nothing: then any number will do."""
    worst = 0
    for name, (sign, goal) in GOALS.items():
        if quick:
            goal = 0.0 if sign == ">=" else 1.0
        is_met = found[name] >= goal if sign == ">=" else found[name] <= goal
        worst |= not is_met
        print(f"claim {name} {found[name]:.3f} goal {sign}{goal:g} {'ok' if is_met else 'short'}")
    return int(worst)


def main(arguments: Sequence[str]) -> int:
    """Build, export, train by turns, print; 1 where a claim is short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, two epochs")
    parser.add_argument("--root", type=Path, help="catalog to build in, or to take the dataset from, if it is there")
    options = parser.parse_args(arguments)
    num_images, rounds, epochs, frozen_epochs = SIZES["quick" if options.quick else "full"]
    with tempfile.TemporaryDirectory(prefix="training-speed-") as name:
        folder = Path(name)
        prepared = prepare(options.root or folder / "root", num_images, folder)
        ways = contestants(prepared, epochs, frozen_epochs)
        runs = race({name: ways[name] for name in QUICK} if options.quick else ways, rounds)
    for rows in (speed_rows(runs), frozen_rows(runs, frozen_epochs), loss_rows(runs)):
        print(plain_table(rows), end="\n\n")
    return judge(values(runs, frozen_epochs), quick=options.quick)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
