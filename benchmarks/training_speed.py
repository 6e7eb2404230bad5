"""Speed of `vernaclip train`: compared with open_clip_train, in bfloat16, with frozen towers, and its wait for data.

python benchmarks/training_speed.py [--quick] [--at-size fp32 bf16] [--root CATALOG]

Both trainers use the same model (`compact`), tokenizer, encoded images on disk, batches of 128, crops, AdamW, clipping,
schedule and threads; open_clip_train reads the output of `vernaclip export --format webdataset`. Each run is a new
process, and runs take turns. The tables have medians, and the median of each round's ratios. A run's clock starts after
all imports and stops when the trainer returns, so that it includes reading, hashing, a tokenizer and weights on disk.
Epoch times are from the trainers' logs. open_clip_train decodes images in each epoch, in two workers, which on two
cores were about as fast as none and faster than one. We decode once and keep the pixels (`train.cache_max_bytes`); one
row shows the effect. open_clip_train uses an image's first caption, we use any. It needs no workaround except the
model's config by name.

`--at-size` compares both trainers on 50,000 images, in one epoch, which decodes all of them in both. With --quick,
images are too few to mean anything, and nothing is claimed.
"""

import json
import logging
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from harness import HERE, Goals, in_new_process, in_turn, judge, options_of, print_table, ratio

from data_catalog.base.precision import native_precision

BATCH_SIZE, VIT_BATCH_SIZE, THEIR_WORKERS = 128, 256, 2
# Images drawn, rounds, epochs of a run (with all weights), epochs with frozen towers. With 400 images, workers of
# open_clip_train waited forever.
SIZES = {"quick": (1000, 1, 2, 2), "full": (1000, 5, 3, 6), "large": (50_000, 5, 1, 1)}
GOALS: Goals = {
    "samples-per-second-over-open_clip_train": (">=", 1.0),
    "bf16-over-fp32": (">=", 1.5),
    "bf16-loss-difference": ("<=", 0.05),
    "cached-frozen-tower-over-full-step": (">=", 2.5),
}
# Modules that the trainers and their libraries import at first use.
WARM_UP = (
    *("numpy", "PIL.Image", "pyarrow.parquet", "timm.optim", "timm.utils.agc", "torchvision.transforms.v2"),
    *("transformers.models.auto.tokenization_auto", "open_clip_train.main", "training.fit.clip"),
)
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
# Rows of the table: a run, and the run that it is compared with.
COMPARISONS = (
    *((FP32, THEIR_FP32), (NOT_KEPT, THEIR_FP32), (BF16, THEIR_BF16), (BF16, FP32), (THEIR_FP32, THEIR_FP32)),
    *((THEIR_BF16, THEIR_FP32), (VIT_FP32, VIT_FP32), (VIT_BF16, VIT_FP32)),
)
QUICK = (FP32, THEIR_FP32, VIT_FP32, VIT_BF16, FROZEN)
AT_SIZE = {"fp32": (FP32, THEIR_FP32), "bf16": (BF16, THEIR_BF16)}
LEAST_AT_SIZE = 1.5
Runs = dict[str, list["RunResult"]]
_OUR_EPOCH = re.compile(r"epoch (\d+), step \d+:")
_THEIR_STEP = re.compile(r"Train Epoch: (\d+) .*/(\d+) \(")


@dataclass(slots=True, kw_only=True)
class RunResult:
    """The results of a run.

    Args:
        seconds: from the call of the trainer to its return.
        samples: images that went through the model, over all epochs.
        epoch_seconds: seconds of each epoch; the first includes everything before it.
        losses: mean loss of each epoch; empty for open_clip_train.
    """

    seconds: float
    samples: int
    epoch_seconds: list[float]
    losses: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Return samples a second over the whole run."""
        return self.samples / self.seconds

    def rates(self, epochs: slice) -> list[float]:
        """Return samples a second of some epochs."""
        return [self.samples / len(self.epoch_seconds) / seconds for seconds in self.epoch_seconds[epochs]]


class Marks(logging.Handler):
    """A handler that records log messages with their times."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[float, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Record a message."""
        self.found.append((time.perf_counter(), record.getMessage()))


def warm_run(train: Callable[[Mapping[str, Any], Path], RunResult], job: Mapping[str, Any]) -> RunResult:
    """Import everything, and train; called in a new process."""
    from training.runs.processes import prepare_for_torch

    prepare_for_torch()  # our trainer does so itself, before it loads torch; it does not affect the other one
    for name in WARM_UP:
        import_module(name)
    with tempfile.TemporaryDirectory(prefix="training-") as folder:
        return train(job, Path(folder))


def train_ours(job: Mapping[str, Any], folder: Path) -> RunResult:
    """Train with vernaclip; `job` has the pair shards of the train split and the settings. Nothing is held out."""
    from training.config import TrainConfig
    from training.data.pairs import PairFiles
    from training.fit.clip import train

    marks = Marks()
    for name in ("training", "data_catalog"):  # lines beside the progress are of the latter
        logging.getLogger(name).addHandler(marks)
        logging.getLogger(name).setLevel(logging.DEBUG)
    config = TrainConfig(**{**job["settings"], "augment": tuple(job["settings"].get("augment", ("crop",)))})
    started = time.perf_counter()
    result = train(PairFiles(train=tuple(map(Path, job["files"]))), config, folder / "run")
    seconds = time.perf_counter() - started
    ends = [at for at, message in marks.found if _OUR_EPOCH.search(message)]
    lines = (folder / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
    return RunResult(
        seconds=seconds,
        samples=result.steps * min(config.batch_size, result.num_samples),
        epoch_seconds=np.diff([started, *ends]).tolist(),
        losses=[json.loads(line)["train_loss"] for line in lines],
    )


def train_theirs(job: Mapping[str, Any], folder: Path) -> RunResult:
    """Train with open_clip_train.

    `job` has its command line, and the folder of the model's config, which it knows by name.
    """
    import open_clip

    open_clip.add_model_config(job["model_configs"])
    marks = Marks()
    logging.getLogger().addHandler(marks)
    started = time.perf_counter()
    with redirect_stderr(StringIO()):  # it prints the whole model
        import_module("open_clip_train.main").main([*job["arguments"], "--logs", str(folder), "--name", "run"])
    seconds = time.perf_counter() - started
    steps = [(at, found) for at, message in marks.found if (found := _THEIR_STEP.search(message))]
    last = {found[1]: (at, int(found[2])) for at, found in steps}
    ends = [at for at, _ in last.values()]
    samples = sum(count for _, count in last.values())
    return RunResult(seconds=seconds, samples=samples, epoch_seconds=np.diff([started, *ends]).tolist())


def prepare(root: Path, num_images: int, folder: Path) -> dict[str, Any]:
    """Write the sample's train split for both trainers; return the arguments of `contestants`."""
    from recipe import build_scenes

    from training.config import TrainConfig
    from training.data.pairs import read_captions
    from training.towers.plan import read_model_config
    from training.towers.tokenizer import save_tokenizer, train_tokenizer

    files = build_scenes(root, (f"scenes.num_images={num_images}", "split.test=0.1"))[0].train
    export = [sys.executable, "-m", "flows.cli", "export", "scenes", "--format", "webdataset", "--root", str(root)]
    # Many small shards, so that open_clip_train's workers get equal shares.
    export += ["--out", str(folder / "tars"), "--samples-per-shard", "100"]
    subprocess.run(export, check=True, capture_output=True, cwd=HERE.parent)
    shards = sorted((folder / "tars").glob("train-*.tar"))
    texts = (text for sample in read_captions(files) for text in sample.as_py())
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


def theirs(prepared: Mapping[str, Any], *, epochs: int, precision: str) -> RunResult:
    """Run open_clip_train with our settings under its names; it logs only the ends of epochs."""
    from training.config import TrainConfig

    config = TrainConfig()
    options = f"dataset-type=webdataset model=compact device=cpu beta2=0.98 eps=1e-6 train-data={prepared['tars']} "
    options += f"aug-cfg=scale=(0.9,1.0) save-frequency=0 log-every-n-steps=1000000 workers={THEIR_WORKERS} "
    options += f"batch-size={BATCH_SIZE} epochs={epochs} precision={precision} lr={config.lr} wd={config.weight_decay} "
    options += f"warmup={config.warmup_steps} grad-clip-norm={config.max_grad_norm}"
    arguments = [word for option in options.split() for word in f"--{option}".split("=", 1)]
    return in_new_process(warm_run, train_theirs, {"arguments": arguments, "model_configs": prepared["model_configs"]})


def contestants(prepared: Mapping[str, Any], epochs: int, frozen_epochs: int) -> dict[str, Callable[[], RunResult]]:
    """Return all runs by name."""
    vit = {"model": prepared["vit"], "batch_size": VIT_BATCH_SIZE}
    frozen = {"augment": [], "frozen_epochs": frozen_epochs, "patience": frozen_epochs + epochs}

    def mine(**settings: Any) -> Callable[[], RunResult]:
        job = {"files": prepared["files"], "settings": {"epochs": epochs, **settings}}
        return partial(in_new_process, warm_run, train_ours, job)

    its = partial(partial, theirs, prepared, epochs=epochs)
    found = {
        FP32: mine(precision="fp32"),
        THEIR_FP32: its(precision="fp32"),
        NOT_KEPT: mine(precision="fp32", cache_max_bytes=0),
        BF16: mine(precision="bf16"),
        THEIR_BF16: its(precision="amp_bf16"),
        VIT_FP32: mine(precision="fp32", **vit),
        VIT_BF16: mine(precision="bf16", **vit),
        FROZEN: mine(**frozen),
        VIT_FROZEN: mine(**frozen, **vit),
    }
    return {name: run for name, run in found.items() if "bf16" not in name or native_precision() == "bf16"}


def later(run: RunResult) -> float:
    """Return samples a second of an epoch, without the first one, which decodes, trains a tokenizer and hashes."""
    return statistics.median(run.rates(slice(1, None)))


def speed_rows(runs: Runs) -> list[dict[str, Any]]:
    """Return the rows of whole runs, each with its comparison."""
    rows = []
    for name, base in COMPARISONS:
        if {name, base} <= runs.keys():
            rate = statistics.median(run.rate for run in runs[name])
            rows.append({"run": name, "samples/s": round(rate), "compared with": base})
            rows[-1] |= {"ratio": f"{ratio_of(runs, name, base, lambda run: run.rate):.2f}"}
            if len(runs[name][0].epoch_seconds) > 1:
                rows[-1] |= {"after the first epoch": f"{ratio_of(runs, name, base, later):.2f}"}
    return rows


def frozen_ratio(runs: Sequence[RunResult], frozen_epochs: int) -> float:
    """Return samples a second with frozen towers, divided by those with all weights.

    The first epoch, which computes the stored image features, is left out. Later epochs still encode new captions.
    """
    seconds = [run.epoch_seconds for run in runs]
    return ratio(
        [statistics.median(taken[frozen_epochs:]) for taken in seconds],
        [statistics.median(taken[1:frozen_epochs]) for taken in seconds],
    )


def frozen_rows(runs: Runs, frozen_epochs: int) -> list[dict[str, Any]]:
    """Return the rows of the phase with frozen towers, in samples a second."""
    rows = []
    for name in (FROZEN, VIT_FROZEN):
        if name in runs:
            rows.append({"frozen first": name, "ratio": f"{frozen_ratio(runs[name], frozen_epochs):.2f}"})
            for part, epochs in (("frozen", slice(1, frozen_epochs)), ("all weights", slice(frozen_epochs, None))):
                rows[-1][part] = round(statistics.median(statistics.median(run.rates(epochs)) for run in runs[name]))
    return rows


def ratio_of(runs: Runs, above: str, below: str, of: Callable[[RunResult], float]) -> float:
    return ratio(list(map(of, runs[above])), list(map(of, runs[below])))


def main() -> int:
    """Build, export, train in turn, print; return 1 if a claim is short."""
    parser = options_of(__doc__)
    parser.add_argument("--root", type=Path, help="catalog to build in, or that already contains the dataset")
    parser.add_argument(
        "--at-size", nargs="+", default=[], choices=sorted(AT_SIZE), help="compare on 50,000 images, in this precision"
    )
    options = parser.parse_args()
    size = "quick" if options.quick else "large" if options.at_size else "full"
    num_images, rounds, epochs, frozen_epochs = SIZES[size]
    with tempfile.TemporaryDirectory(prefix="training-speed-") as name:
        folder = Path(name)
        prepared = prepare(options.root or folder / "root", num_images, folder)
        ways = contestants(prepared, epochs, frozen_epochs)
        chosen = QUICK if options.quick else [name for each in options.at_size for name in AT_SIZE[each]] or ways
        runs: Runs = in_turn({name: way for name, way in ways.items() if name in chosen}, rounds)
    print_table(speed_rows(runs))
    if size == "large":
        ratios = {each: ratio_of(runs, *AT_SIZE[each], lambda run: run.rate) for each in options.at_size}
        names = {each: f"samples-per-second-over-open_clip_train-{each}-at-{num_images}" for each in ratios}
        return judge(
            {names[each]: value for each, value in ratios.items()},
            {names[each]: (">=", LEAST_AT_SIZE) for each in ratios},
        )
    print_table(frozen_rows(runs, frozen_epochs))
    values = {}
    if VIT_BF16 in runs:
        losses = list(zip(runs[VIT_FP32][0].losses, runs[VIT_BF16][0].losses, strict=True))  # equal in all rounds
        print_table(
            [{"epoch of ViT": at, "fp32": f"{a:.4f}", "bf16": f"{b:.4f}"} for at, (a, b) in enumerate(losses, 1)]
        )
        values["bf16-loss-difference"] = statistics.mean(abs(bf16 - fp32) / fp32 for fp32, bf16 in losses)
        values["bf16-over-fp32"] = ratio_of(runs, VIT_BF16, VIT_FP32, later)
    else:
        print("This processor does not compute bfloat16 itself: nothing is claimed about it.")
    if options.quick:
        return 0
    values |= {
        "samples-per-second-over-open_clip_train": ratio_of(runs, FP32, THEIR_FP32, lambda run: run.rate),
        "cached-frozen-tower-over-full-step": frozen_ratio(runs[FROZEN], frozen_epochs),
    }
    return judge(values, {name: GOALS[name] for name in values})


if __name__ == "__main__":
    sys.exit(main())
