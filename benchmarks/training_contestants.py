"""One training run in a process of its own, ours or open_clip_train's, told as JSON: what training_speed.py compares.

What a trainer reports of itself is taken from its log: both say when an epoch ends. The clock of a run starts when
everything is imported, and stops when the trainer returns: reading, hashing, a tokenizer, weights on disk are in it.
"""

import json
import logging
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

OURS, THEIRS = "vernaclip", "open_clip_train"
# Both trainers and their libraries import much only when they first need it.
WARM_UP = (
    *("numpy", "PIL.Image", "pyarrow.parquet", "timm.optim", "timm.utils.agc", "torchvision.transforms.v2"),
    *("transformers.models.auto.tokenization_auto", "open_clip_train.main", "training.fit.loop"),
)
_OUR_EPOCH = re.compile(r"epoch (\d+): train loss")
_OUR_WAITING = re.compile(r"([\d.]+) ?% of the time waiting for data")
_THEIR_STEP = re.compile(r"Train Epoch: (\d+) .*/(\d+) \((\d+)%\)\] Data \(t\): ([\d.]+) Batch \(t\): ([\d.]+)")


@dataclass(slots=True, kw_only=True)
class Told:
    """What a run came to.

    Args:
        seconds: from the call of the trainer to its return.
        samples: images that went through the model, over all epochs.
        epoch_seconds: of each epoch; the first one also of everything before it.
        waiting: share of each epoch's time that was spent waiting for data, where the trainer tells it.
        losses: mean of each epoch, where it tells it.
        process_seconds: of the whole process, imports included.
    """

    seconds: float
    samples: int
    epoch_seconds: list[float]
    waiting: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    process_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Samples a second of the whole run."""
        return self.samples / self.seconds

    def rates(self, epochs: slice) -> list[float]:
        """Samples a second of some epochs."""
        return [self.samples / len(self.epoch_seconds) / seconds for seconds in self.epoch_seconds[epochs]]


class Marks(logging.Handler):
    """Log messages, and when they came."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[float, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note a message."""
        self.found.append((time.perf_counter(), record.getMessage()))


def run_apart(trainer: str, job: Mapping[str, Any]) -> Told:
    """One run in a process of its own."""
    here, started = Path(__file__).resolve().parent, time.perf_counter()
    program = f"import sys; sys.path.append({str(here)!r}); from training_contestants import tell; tell()"
    command = [sys.executable, "-c", program, trainer, json.dumps(job)]
    found = subprocess.run(command, cwd=here.parent, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if found.returncode:
        sys.exit(f"{trainer} failed: {found.stderr[-3000:]}")
    return Told(**{**json.loads(found.stdout.splitlines()[-1]), "process_seconds": seconds})


def tell() -> None:
    """In that process: do what the command line says, and print what it came to."""
    from training.threads import let_threads_sleep

    let_threads_sleep()  # ours does so by itself, where torch is not loaded yet; it does the other no harm
    for name in WARM_UP:
        import_module(name)
    work = {OURS: train_ours, THEIRS: train_theirs}[sys.argv[1]]
    with tempfile.TemporaryDirectory(prefix="training-") as folder:
        told = work(json.loads(sys.argv[2]), Path(folder))
    print(json.dumps(asdict(told)))


def train_ours(job: Mapping[str, Any], folder: Path) -> Told:
    """Ours: `job` has the pair shards of the train split and the settings; nothing is held out."""
    from training.config import TrainConfig
    from training.data.pairs import PairFiles
    from training.fit.loop import train

    marks, log = Marks(), logging.getLogger("training")
    log.addHandler(marks)
    log.setLevel(logging.DEBUG)
    config = TrainConfig(**{**job["settings"], "augment": tuple(job["settings"].get("augment", ("crop",)))})
    started = time.perf_counter()
    result = train(PairFiles(train=tuple(map(Path, job["files"]))), config, folder / "run")
    seconds = time.perf_counter() - started
    ends = [at for at, message in marks.found if _OUR_EPOCH.search(message)]
    shares = [_OUR_WAITING.search(message) for _, message in marks.found]
    lines = (folder / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
    return Told(
        seconds=seconds,
        samples=result.steps * min(config.batch_size, result.num_samples),
        epoch_seconds=_differences([started, *ends]),
        waiting=[float(share[1]) / 100 for share in shares if share],
        losses=[json.loads(line)["train_loss"] for line in lines],
    )


def train_theirs(job: Mapping[str, Any], folder: Path) -> Told:
    """open_clip_train: `job` has its command line, and a folder with the model's config, which it knows by name."""
    import open_clip

    open_clip.add_model_config(job["model_configs"])
    marks = Marks()
    logging.getLogger().addHandler(marks)
    started = time.perf_counter()
    import_module("open_clip_train.main").main([*job["arguments"], "--logs", str(folder), "--name", "run"])
    seconds = time.perf_counter() - started
    steps = [(at, found) for at, message in marks.found if (found := _THEIR_STEP.search(message))]
    last = {int(found[1]): (at, int(found[2])) for at, found in steps}
    return Told(
        seconds=seconds,
        samples=sum(samples for _, samples in last.values()),
        epoch_seconds=_differences([started, *(at for at, _ in last.values())]),
        waiting=[
            _waited([found for _, found in steps if int(found[1]) == epoch], job["batch_size"])
            for epoch in sorted(last)
        ],
    )


def _waited(steps: Sequence[re.Match[str]], batch_size: int) -> float:
    """Share of an epoch's time; it logs the first step, and means of all others with the last."""
    rest = int(steps[-1][2]) // batch_size - 1
    weights = (1, rest)
    data, whole = (
        sum(float(step[column]) * weight for step, weight in zip(steps, weights, strict=True)) for column in (4, 5)
    )
    return data / whole


def _differences(times: Sequence[float]) -> list[float]:
    return [end - start for start, end in pairwise(times)]
