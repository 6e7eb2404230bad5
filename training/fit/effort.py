"""What a run cost: seconds and joules of each attempt, in `effort.json` beside the model.

It is none of a model's own files, which are the same for an interrupted and an uninterrupted run. An attempt is noted
anew whenever a resume state is about to be written: of one that was killed, what came after that is not counted.

Energy is what hardware says it spent. RAPL (https://www.kernel.org/doc/html/latest/power/powercap/powercap.html) counts
microjoules of a whole processor package, whoever used it, and starts anew at its largest number, after some minutes on
a busy machine: it is read often enough to see that. On most systems only the administrator may read it. GPUs of NVIDIA
have counters in NVML, from Volta on.
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

from data_catalog.errors import DamagedError
from data_catalog.storage.shards import read_json, write_json
from training.processes import process_count, processes_here

POWERCAP = Path("/sys/class/powercap")
# The largest packages take some 500 W, and counters hold 65 kJ at the least.
SAMPLE_SECONDS = 60.0
_LIBRARY = "libnvidia-ml.so.1"  # NVML, which comes with the driver; no package is needed


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
        self._began, self._started = time.monotonic(), datetime.datetime.now(datetime.UTC)
        self._device, self._first_step = device.type, step
        self._hardware = [_processor()]
        gpus = []
        if device.type == "cuda":  # this machine's processes have one each
            gpus = list(range(processes_here())) if processes_here() > 1 else [device.index or 0]
        self._hardware += [torch.cuda.get_device_name(number) for number in gpus]
        self._meter = EnergyMeter([str(torch.cuda.get_device_properties(number).uuid) for number in gpus])

    def note(self, step: int) -> None:
        """Write what was spent up to now."""
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
        """Measure no more."""
        self._meter.close()


def read_attempts(path: Path) -> tuple[Attempt, ...]:
    """Return all attempts of a run; none where nothing was noted.

    Raises:
        DamagedError: the file is damaged.
    """
    if not path.is_file():
        return ()
    attempts = []
    try:
        noted = read_json(path)["attempts"]
        if not isinstance(noted, list):
            raise TypeError("attempts is no list")
        for values in noted:
            for number in (values["seconds"], *values["joules"].values()):
                if not isinstance(number, int | float):
                    raise TypeError(f"{number!r} is no number")
            lists = {name: tuple(values[name]) for name in ("hardware", "not_measured")}
            attempts.append(Attempt(**{**values, **lists}))
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{path} is damaged ({type(error).__name__}): remove it, and what was spent up to now is not known"
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
    """One counter of energy.

    Args:
        read: microjoules since some moment; raises OSError where it cannot be read any more.
        wraps_at: microjoules after which it starts anew at 0; 0 for never.
        spent: microjoules since it was found.
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
        if spent < 0:  # it began anew at its largest number, or as after its driver did
            spent = spent + self.wraps_at if self.wraps_at else value
        self.spent, self.last = self.spent + spent, value


class EnergyMeter:
    """Adds up counters from when it was made; a thread of its own reads them, where there are any, until `close`.

    Args:
        gpus: uuids, as torch and nvidia-smi have them, without "GPU-".
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
        """Find packages and memory beside them; a core's energy is in its package's, a platform's holds all of them."""
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
                self._not_measured.append(f"processor: {zone.name}/energy_uj may be read by the administrator only")
            except (OSError, ValueError) as error:
                self._not_measured.append(f"processor: {zone.name} cannot be read ({type(error).__name__})")
        if not self._counters and not self._not_measured:
            self._not_measured.append("processor: this system shows no RAPL counters")

    def _find_gpus(self, uuids: Sequence[str]) -> None:
        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError:
            self._not_measured.append(f"GPU: the driver's {_LIBRARY} is not there")
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
                    raise OSError("NVML knows no such GPU")
                self._counters[f"GPU {number}"] = _Counter(partial(read, handle))
            except OSError as error:
                self._not_measured.append(f"GPU {number}: {error}")

    def sample(self) -> tuple[dict[str, float], tuple[str, ...]]:
        """Return the joules that were spent up to now by counter, and what has none and why.

        A counter that cannot be read any more is not measured at all.
        """
        with self._lock:
            for name, counter in list(self._counters.items()):
                try:
                    counter.add()
                except (OSError, ValueError) as error:
                    del self._counters[name]
                    self._not_measured.append(f"{name}: its counter went away ({type(error).__name__})")
            return {name: found.spent / 1e6 for name, found in self._counters.items()}, tuple(self._not_measured)

    def _keep_sampling(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.sample()

    def close(self) -> None:
        """Let the thread go."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()


def _number(path: Path) -> int:
    return int(path.read_text())
