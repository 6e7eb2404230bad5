"""What a run cost: seconds and joules of each attempt, in `effort.json` beside the model.

It is none of a model's own files, which are the same for an interrupted and an uninterrupted run. An attempt is noted
anew whenever a resume state is about to be written: of one that was killed, what came after that is not counted.
"""

import datetime
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from data_catalog.errors import DamagedError
from data_catalog.storage.shards import read_json, write_json
from training.fit.energy import EnergyMeter, gpu_counters, rapl_counters
from training.processes import process_count, processes_here


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One start of a run.

    Args:
        started: date and time, UTC.
        seconds: from then to the last note.
        first_step: step at which it began.
        last_step: step of the last note.
        device: "cpu" or "cuda".
        hardware: names of processor and GPUs.
        processes: that trained together; seconds and joules are of the first one's machine.
        joules: by counter.
        not_measured: what has no joules, and why.
    """

    started: str
    seconds: float
    first_step: int
    last_step: int
    device: str
    hardware: tuple[str, ...]
    processes: int
    joules: dict[str, float] = field(default_factory=dict)
    not_measured: tuple[str, ...] = ()


class EffortLog:
    """Notes the attempt that is under way in `effort.json`, behind those before it."""

    def __init__(self, path: Path, device: torch.device, *, step: int) -> None:
        """Begin to measure.

        Raises:
            DamagedError: the file is damaged.
        """
        self._path, self._before = path, read_attempts(path)
        self._began, self._started = time.monotonic(), _now()
        self._device, self._first_step = device.type, step
        self._hardware = tuple(_hardware(device))
        self._meter = _meter(device)

    def note(self, step: int) -> None:
        """Write what was spent up to now."""
        energy = self._meter.sample()
        attempt = Attempt(
            started=self._started,
            seconds=round(time.monotonic() - self._began, 3),
            first_step=self._first_step,
            last_step=step,
            device=self._device,
            hardware=self._hardware,
            processes=process_count(),
            joules={name: round(value, 3) for name, value in energy.joules.items()},
            not_measured=energy.not_measured,
        )
        write_json(self._path, {"attempts": [asdict(found) for found in (*self._before, attempt)]})

    def close(self) -> None:
        """Measure no more."""
        self._meter.close()


def read_attempts(path: Path) -> tuple[Attempt, ...]:
    """All attempts of a run; none where nothing was noted.

    Raises:
        DamagedError: the file is damaged.
    """
    if not path.is_file():
        return ()
    try:
        attempts = read_json(path)["attempts"]
        if not isinstance(attempts, list):
            raise TypeError("attempts is no list")
        return tuple(_attempt(found) for found in attempts)
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{path} is damaged ({type(error).__name__}): remove it, and what was spent up to now is not known"
        ) from error


def _attempt(values: dict[str, Any]) -> Attempt:
    lists = {name: tuple(values[name]) for name in ("hardware", "not_measured")}
    for number in (values["seconds"], *values["joules"].values()):
        if not isinstance(number, int | float):
            raise TypeError(f"{number!r} is no number")
    return Attempt(**{**values, **lists})


def _meter(device: torch.device) -> EnergyMeter:
    counters, problems = rapl_counters()
    if device.type == "cuda":
        found, more = gpu_counters(_gpu_uuids(device))
        counters, problems = [*counters, *found], [*problems, *more]
    return EnergyMeter(counters, problems)


def _gpus(device: torch.device) -> list[int]:
    """Those of this machine's processes: one each."""
    return list(range(processes_here())) if processes_here() > 1 else [device.index or 0]


def _gpu_uuids(device: torch.device) -> list[str]:

    return [str(torch.cuda.get_device_properties(number).uuid) for number in _gpus(device)]


def _hardware(device: torch.device) -> list[str]:

    gpus = [torch.cuda.get_device_name(number) for number in _gpus(device)] if device.type == "cuda" else []
    return [_processor(), *gpus]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
