"""Record the time and energy of each attempt of a run in `effort.json` beside the model.

The file is separate from the model's own files, which are the same for an interrupted and an uninterrupted run. It is
updated before each resume state is written. If a run is killed, its time after the last resume state is not counted.

Energy comes from hardware counters. RAPL (https://www.kernel.org/doc/html/latest/power/powercap/powercap.html) counts
the microjoules of a whole processor package, whichever program used them. Its counters wrap around after some minutes
on a busy machine, so they are sampled often enough to notice. On most systems only the administrator may read them.
NVIDIA GPUs have NVML counters from the Volta generation on.
"""

import ctypes
import datetime
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch

from data_catalog.base.errors import DamagedError
from data_catalog.disk.files import read_json, write_json
from training.processes import local_process_count, process_count

POWERCAP = Path("/sys/class/powercap")
# The largest packages use about 500 W, and the smallest counters hold 65 kJ.
SAMPLE_SECONDS = 60.0
_LIBRARY = "libnvidia-ml.so.1"  # NVML, which comes with the driver


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt of a run, from its start or resumption to its end or interruption.

    Args:
        started: date and time of the start, UTC.
        seconds: seconds from the start to the last update.
        first_step: step at which it began.
        last_step: step of the last update.
        device: "cpu" or "cuda".
        hardware: names of the processor and the GPUs.
        processes: number of processes that trained together. Seconds and joules are those of the first one's machine.
        joules: energy by counter, in joules.
        not_measured: what was not measured, and why.
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
    """A writer of `effort.json`, which keeps earlier attempts and updates the current one."""

    def __init__(self, path: Path, device: torch.device, *, step: int) -> None:
        """Start measuring.

        Args:
            path: the `effort.json` file.
            device: device that trains.
            step: step at which this attempt begins.

        Raises:
            DamagedError: the file is damaged.
        """
        self._path, self._before = path, read_attempts(path)
        self._began, self._started = time.monotonic(), datetime.datetime.now(datetime.UTC)
        self._device, self._first_step = device.type, step
        self._hardware = [_processor()]
        gpus = []
        if device.type == "cuda":  # each process of this machine has one GPU
            gpus = list(range(local_process_count())) if local_process_count() > 1 else [device.index or 0]
        self._hardware += [torch.cuda.get_device_name(number) for number in gpus]
        self._meter = EnergyMeter([str(torch.cuda.get_device_properties(number).uuid) for number in gpus])

    @property
    def noted_step(self) -> int:
        """Return the last step that earlier attempts noted."""
        return max((attempt.last_step for attempt in self._before), default=0)

    def note(self, step: int) -> None:
        """Write the time and energy of this attempt up to now."""
        joules, not_measured = self._meter.sample()
        attempt = Attempt(
            started=self._started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - self._began, 3),
            first_step=self._first_step,
            last_step=step,
            device=self._device,
            hardware=tuple(self._hardware),
            processes=process_count(),
            joules={name: round(value, 3) for name, value in joules.items()},
            not_measured=not_measured,
        )
        write_json(self._path, {"attempts": [asdict(found) for found in (*self._before, attempt)]})

    def close(self) -> None:
        """Stop measuring."""
        self._meter.close()


def read_attempts(path: Path) -> tuple[Attempt, ...]:
    """Return all attempts of a run, or none if there is no file.

    Raises:
        DamagedError: the file is damaged.
    """
    if not path.is_file():
        return ()
    attempts = []
    try:
        noted = read_json(path)["attempts"]
        if not isinstance(noted, list):
            raise TypeError("attempts is not a list")
        for values in noted:
            for number in (values["seconds"], *values["joules"].values()):
                if not isinstance(number, int | float):
                    raise TypeError(f"{number!r} is not a number")
            lists = {name: tuple(values[name]) for name in ("hardware", "not_measured")}
            attempts.append(Attempt(**{**values, **lists}))
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{path} is damaged ({type(error).__name__}): remove it. The time and energy spent so far are then unknown"
        ) from error
    return tuple(attempts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


@dataclass(slots=True)
class _Counter:
    """An energy counter.

    Args:
        read: returns microjoules since an arbitrary moment. Raises OSError if the counter cannot be read any more.
        wraps_at: value after which the counter starts again at 0, in microjoules; 0 for never.
        spent: microjoules since this object was created.
    """

    read: Callable[[], int]
    wraps_at: int = 0
    spent: int = 0
    last: int = field(init=False)

    def __post_init__(self) -> None:
        self.last = self.read()

    def add(self) -> None:
        value = self.read()
        spent = value - self.last
        if spent < 0:  # it wrapped around, or its driver was restarted
            spent = spent + self.wraps_at if self.wraps_at else value
        self.spent, self.last = self.spent + spent, value


class EnergyMeter:
    """A sampler of all energy counters from its creation on. A thread reads them until `close`.

    Args:
        gpus: UUIDs of the GPUs as torch has them, without "GPU-".
        powercap: folder of the RAPL counters.
    """

    def __init__(self, gpus: Sequence[str] = (), *, powercap: Path = POWERCAP) -> None:
        self._counters: dict[str, _Counter] = {}
        self._not_measured: list[str] = []
        self._find_processors(powercap)
        if gpus:
            self._find_gpus(gpus)
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep_sampling, daemon=True)
        if self._counters:
            self._thread.start()

    def _find_processors(self, powercap: Path) -> None:
        """Find the counters of packages and their memory. Cores are part of packages, so they are not added."""
        for zone in sorted(powercap.glob("intel-rapl:*")):
            try:
                name = (zone / "name").read_text().strip()
            except (OSError, ValueError):
                continue
            if name == "dram":
                name = f"{name}-{zone.name.split(':')[1]}"
            elif not name.startswith("package"):
                continue
            try:
                largest = int((zone / "max_energy_range_uj").read_text())
                self._counters[name] = _Counter(partial(_number, zone / "energy_uj"), wraps_at=largest)
            except PermissionError:
                self._not_measured.append(f"processor: only the administrator may read {zone.name}/energy_uj")
            except (OSError, ValueError) as error:
                self._not_measured.append(f"processor: {zone.name} cannot be read ({type(error).__name__})")
        if not self._counters and not self._not_measured:
            self._not_measured.append("processor: this system has no RAPL counters")

    def _find_gpus(self, uuids: Sequence[str]) -> None:
        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError:
            self._not_measured.append(f"GPU: the driver's library {_LIBRARY} is missing")
            return
        if library.nvmlInit_v2() != 0:
            self._not_measured.append("GPU: NVML does not start")
            return

        def read(handle: ctypes.c_void_p) -> int:
            millijoules = ctypes.c_ulonglong()
            if library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)) != 0:
                raise OSError("it has no energy counter")
            return millijoules.value * 1000

        for number, uuid in enumerate(uuids):
            handle = ctypes.c_void_p()
            try:
                if library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode(), ctypes.byref(handle)) != 0:
                    raise OSError("NVML does not list this GPU")
                self._counters[f"GPU {number}"] = _Counter(partial(read, handle))
            except OSError as error:
                self._not_measured.append(f"GPU {number}: {error}")

    def sample(self) -> tuple[dict[str, float], tuple[str, ...]]:
        """Return the joules spent so far by counter, and what is not measured and why.

        A counter that can no longer be read is removed from the joules.
        """
        with self._lock:
            for name, counter in list(self._counters.items()):
                try:
                    counter.add()
                except (OSError, ValueError) as error:
                    del self._counters[name]
                    self._not_measured.append(f"{name}: its counter disappeared ({type(error).__name__})")
            return {name: found.spent / 1e6 for name, found in self._counters.items()}, tuple(self._not_measured)

    def _keep_sampling(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.sample()

    def close(self) -> None:
        """Stop the sampling thread."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()


def _number(path: Path) -> int:
    return int(path.read_text())
