"""Torch's process-wide settings: number of threads, how they wait for each other, determinism."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from training.processes import processes_here

if TYPE_CHECKING:
    import torch


def let_threads_sleep() -> None:
    """Make OpenMP's threads sleep while they wait, where torch is not loaded yet; what the user set stays.

    By default they spin: on a busy machine a step then takes several times as long (4.4 s against 1.1 s, seen with two
    threads on two cores that others used too), while an idle machine shows no difference. OpenMP reads the setting
    once, when torch is loaded.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def deterministic_torch(*, seed: int, num_threads: int, device: "torch.device") -> Iterator[int]:
    """Deterministic algorithms, a number of threads, a seeded generator; the caller's settings come back afterwards.

    Args:
        device: that the work is done on; a GPU's own algorithms are left as they are, since many have no other.
        num_threads: 0 takes all processors that the process may use, or its part of them where several train together.

    Yields:
        The number of threads.
    """
    let_threads_sleep()
    import torch
    from torch.utils import deterministic

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    num_threads = num_threads or max(1, len(os.sched_getaffinity(0)) // processes_here())
    torch.set_num_threads(num_threads)
    torch.use_deterministic_algorithms(device.type == "cpu")
    # Only slows down: nothing here reads memory that was not written.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
            torch.manual_seed(seed)
            yield num_threads
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
