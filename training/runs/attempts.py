"""Claim a model folder for a run, and record its result and the time of each attempt.

`run.json` says which run a folder contains, and `result.json` marks it as finished. `effort.json` has the attempts. It
is updated before each resume state is written, and differs between an interrupted and an uninterrupted run, unlike all
other files. If a run is killed, its time after the last resume state is not counted.
"""

import datetime
import json
import platform
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, SettingsError
from data_catalog.catalog.manifest import RUN_FILE
from data_catalog.disk.files import sweep_temporary, write_json
from data_catalog.disk.records import remove_folder_record
from training.runs.processes import barrier, local_process_count, process_count, process_rank

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

WEIGHTS_FILE = "model.safetensors"
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"
EFFORT_FILE = "effort.json"
STATE_FILE = "last/state.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a finished run."""

    key: str  # hash of everything that decides the weights
    model_sha256: str
    num_samples: int  # images, or pairs of sentences, that were trained on
    epochs: int
    frozen_epochs: int
    steps: int
    best_epoch: int  # 1-based; the last one without a validation split or with `train.steps`
    best_val_loss: float | None  # None without a validation split
    best_val_mrr: float | None = None  # MRR@10 from captions to images


def claim(
    folder: Path, key: str, settings: Mapping[str, Any], borrowed: Sequence[Mapping[str, str]], learned: Iterable[str]
) -> Result | None:
    """Claim a model folder for a run, and return its result if it is finished; refuse a folder with another run.

    `borrowed` are initial weights of other people, with their licenses; `learned` is the sha256 of the pair shards that
    decide the weights, also those of the start and of a teacher. A run whose weights were lost is not finished.
    """
    if process_rank() == 0:
        sweep_temporary([folder, (folder / STATE_FILE).parent])
        run = {"key": key, "settings": settings, "borrowed": borrowed, "learned": sorted(set(learned))}
        earlier = _read_run(folder)
        if earlier and earlier.get("key") != key:
            raise SettingsError(f"{folder} contains a run with other settings or data: train into another folder")
        if earlier != run:
            remove_folder_record(folder)  # a license was stated; the caller records the folder again
            write_json(folder / RUN_FILE, run)
        if not (folder / WEIGHTS_FILE).is_file():
            (folder / RESULT_FILE).unlink(missing_ok=True)
        elif (folder / RESULT_FILE).is_file():
            remove_state(folder)  # of a run that was killed at its end
    barrier()
    return read_result(folder / RESULT_FILE) if (folder / RESULT_FILE).is_file() else None


def remove_state(folder: Path) -> None:
    """Remove the resume state of a finished run."""
    shutil.rmtree((folder / STATE_FILE).parent, ignore_errors=True)


def key_of_folder(folder: Path) -> str | None:
    """Return the key of the run that a folder contains. None: no run has begun there."""
    return _read_run(folder).get("key")


def read_result(path: Path) -> Result:
    """Read the `result.json` of a finished run."""
    return _read(path, Result, f"remove {path.parent} and train again")


def best_record(folder: Path, result: Result) -> dict[str, Any]:
    """Return what the validation of the best epoch recorded; {} if the folder does not tell."""
    path = folder / METRICS_FILE
    with about(f"{path} is damaged", kind=DamagedError, remedy="restore it from an intact copy"):
        lines = map(json.loads, path.read_text("utf-8").splitlines() if path.is_file() else ())
        return next((line for line in lines if line["epoch"] == result.best_epoch), {})


def _read_run(folder: Path) -> dict[str, Any]:
    path = folder / RUN_FILE
    return _read(path, dict[str, Any], f"remove {folder} and train again") if path.is_file() else {}


def _read(path: Path, kind: type[T], remedy: str) -> T:
    with about(f"{path} is damaged", kind=DamagedError, remedy=remedy):
        return TypeAdapter(kind).validate_json(path.read_bytes(), strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt of a run, from its start or resumption to its end or interruption."""

    started: str
    seconds: float  # to the last update, of the first process
    first_step: int
    last_step: int
    device: str
    hardware: tuple[str, ...]  # processor and GPUs of the machine of the first process
    processes: int  # that trained together


class AttemptLog:
    """A writer of a run's `effort.json`, which keeps earlier attempts and updates one that begins at a step."""

    def __init__(self, folder: Path, device: "torch.device", *, step: int) -> None:
        self._path, self._earlier = folder / EFFORT_FILE, read_attempts(folder / EFFORT_FILE)
        self._began, self._started = time.monotonic(), datetime.datetime.now(datetime.UTC)
        self._device, self._first_step, self._hardware = device.type, step, _hardware(device)
        self.noted_step = max((attempt.last_step for attempt in self._earlier), default=0)  # by earlier attempts

    def note(self, step: int) -> None:
        """Write the time of this attempt up to now."""
        attempt = Attempt(
            started=self._started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - self._began, 3),
            first_step=self._first_step,
            last_step=step,
            device=self._device,
            hardware=self._hardware,
            processes=process_count(),
        )
        write_json(self._path, {"attempts": [asdict(each) for each in (*self._earlier, attempt)]})


def read_attempts(path: Path) -> tuple[Attempt, ...]:
    """Return all attempts from an `effort.json`, or none if there is no such file."""
    if not path.is_file():
        return ()
    remedy = "remove it. The time spent so far is then unknown"
    return _read(path, dict[str, tuple[Attempt, ...]], remedy).get("attempts", ())


def _hardware(device: "torch.device") -> tuple[str, ...]:
    """Return the names of the processor and, of work on GPUs, of those: each process of this machine has one."""
    import torch

    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    gpus = range(local_process_count()) if local_process_count() > 1 else [device.index or 0]
    names = [torch.cuda.get_device_name(number) for number in gpus] if device.type == "cuda" else []
    return next(named, platform.machine()), *names
