"""Energy counters of NVIDIA GPUs by NVML, the library that comes with the driver; no package is needed."""

import ctypes
from collections.abc import Callable, Sequence

from training.energy import Counter

_LIBRARY = "libnvidia-ml.so.1"


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
            counter = Counter(name=f"GPU {number}", read=_reader(library, uuid))
            counter.read()
        except OSError as error:
            problems.append(f"GPU {number}: {error}")
        else:
            found.append(counter)
    return found, problems


def _reader(library: ctypes.CDLL, uuid: str) -> Callable[[], int]:
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    if library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode(), ctypes.byref(handle)) != 0:
        raise OSError("NVML knows no such GPU")

    def read() -> int:
        if library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)) != 0:
            raise OSError("it has no energy counter")
        return millijoules.value * 1000

    return read
