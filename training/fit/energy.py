"""Energy that hardware says it spent: RAPL counters of processors, NVML's of NVIDIA GPUs.

RAPL (https://www.kernel.org/doc/html/latest/power/powercap/powercap.html) counts microjoules of a whole package,
whoever used it, and starts anew at its largest number, after some minutes on a busy machine: it is read often enough
to see that. On most systems only the administrator may read it.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
# The largest packages take some 500 W, and counters hold 65 kJ at the least.
SAMPLE_SECONDS = 60.0
_LIBRARY = "libnvidia-ml.so.1"  # NVML, which comes with the driver; no package is needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """One counter of energy.

    Args:
        name: such as "package-0" or "GPU 0".
        read: microjoules since some moment; raises OSError where it cannot be read any more.
        wraps_at: microjoules after which it starts anew at 0; 0 for never.
    """

    name: str
    read: Callable[[], int]
    wraps_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """What was measured, in joules by counter; and of what was not, why."""

    joules: dict[str, float]
    not_measured: tuple[str, ...]


def rapl_counters(folder: Path = POWERCAP) -> tuple[list[Counter], list[str]]:
    """Counters of processor packages and of memory beside them, and what keeps others from being read, in words."""
    found, problems = [], []
    for zone in sorted(_zones(folder)):
        try:
            name = _name(zone)
            counter = Counter(name=name, read=_reader(zone), wraps_at=int((zone / "max_energy_range_uj").read_text()))
            counter.read()
        except PermissionError:
            problems.append(f"processor: {zone.name}/energy_uj may be read by the administrator only")
        except (OSError, ValueError) as error:
            problems.append(f"processor: {zone.name} cannot be read ({type(error).__name__})")
        else:
            found.append(counter)
    if not found and not problems:
        problems.append("processor: this system shows no RAPL counters")
    return found, problems


def _zones(folder: Path) -> Iterator[Path]:
    """Packages, and their memory; a core's energy is part of its package's, a platform's holds all of them."""
    for zone in folder.glob("intel-rapl:*"):
        try:
            kind = (zone / "name").read_text().strip().partition("-")[0]
        except OSError:
            continue
        if kind == "package" or kind == "dram":
            yield zone


def _name(zone: Path) -> str:
    """A package by its own name; memory with its package's number."""
    name = (zone / "name").read_text().strip()
    return name if name.startswith("package") else f"{name}-{zone.name.split(':')[1]}"


def _reader(zone: Path) -> Callable[[], int]:
    return lambda: int((zone / "energy_uj").read_text())


def gpu_counters(uuids: Sequence[str]) -> tuple[list[Counter], list[str]]:
    """Counters of GPUs (Volta and later have them), and of those without one, why, in words.

    Args:
        uuids: of the GPUs, as torch and nvidia-smi have them, without "GPU-".
    """
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return [], [f"GPU: the driver's {_LIBRARY} is not there"]
    if library.nvmlInit_v2() != 0:
        return [], ["GPU: NVML does not start"]
    found, problems = [], []
    for number, uuid in enumerate(uuids):
        try:
            counter = Counter(name=f"GPU {number}", read=_gpu_reader(library, uuid))
            counter.read()
        except OSError as error:
            problems.append(f"GPU {number}: {error}")
        else:
            found.append(counter)
    return found, problems


def _gpu_reader(library: ctypes.CDLL, uuid: str) -> Callable[[], int]:
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    if library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode(), ctypes.byref(handle)) != 0:
        raise OSError("NVML knows no such GPU")

    def read() -> int:
        if library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)) != 0:
            raise OSError("it has no energy counter")
        return millijoules.value * 1000

    return read


class EnergyMeter:
    """Adds up counters from when it was made; a thread of its own reads them, where there are any, until `close`."""

    def __init__(self, counters: Sequence[Counter], not_measured: Sequence[str]) -> None:
        self._counters, self._not_measured = list(counters), list(not_measured)
        self._last = {counter.name: counter.read() for counter in counters}
        self._microjoules = dict.fromkeys(self._last, 0)
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep_sampling, daemon=True)
        if self._counters:
            self._thread.start()

    def sample(self) -> Energy:
        """What was spent up to now; a counter that cannot be read any more is not measured at all."""
        with self._lock:
            for counter in list(self._counters):
                self._add(counter)
            joules = {name: value / 1e6 for name, value in self._microjoules.items()}
            return Energy(joules=joules, not_measured=tuple(self._not_measured))

    def _add(self, counter: Counter) -> None:
        try:
            value = counter.read()
        except (OSError, ValueError) as error:
            self._counters.remove(counter)
            del self._microjoules[counter.name]
            self._not_measured.append(f"{counter.name}: its counter went away ({type(error).__name__})")
            return
        spent = value - self._last[counter.name]
        if spent < 0 and not counter.wraps_at:  # it began anew, as after its driver did
            spent = value
        self._microjoules[counter.name] += spent if spent >= 0 else spent + counter.wraps_at
        self._last[counter.name] = value

    def _keep_sampling(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.sample()

    def close(self) -> None:
        """Let the thread go."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
