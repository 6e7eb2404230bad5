"""Processes that train: what each does for the others over torch.distributed, and torch's settings in each of them.

Where `torchrun` started several, each has the whole model and its slice of every batch. Features are gathered, so that
each image is told from those of all processes, and gradients are added up: what comes out is what one process would
make of the whole batch.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from data_catalog.errors import InputError, SettingsError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def process_rank() -> int:
    """Return the number of this process, from 0, which writes; a lone one is 0, whatever a cluster left in RANK."""
    return int(os.environ.get("RANK", "0")) if process_count() > 1 else 0


def process_count() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def processes_here() -> int:
    """Return how many of them share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def process_group(device: "torch.device") -> Iterator[None]:
    """Connect the processes that `torchrun` started, if it did; they part at the end.

    Args:
        device: of this process.

    Raises:
        SettingsError: `torchrun` did not start them, though WORLD_SIZE says that there are several.
        InputError: another process ended, or is out of reach.
    """
    if process_count() == 1:
        yield
        return
    import torch.distributed as dist

    try:
        # Numbers and objects go by gloo; tensors go by what their device has.
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    except ValueError as error:
        raise SettingsError(
            f"WORLD_SIZE is {process_count()}, and the processes cannot find each other ({error}): start them by "
            "torchrun, or unset WORLD_SIZE to train by one"
        ) from error
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise InputError(
                "another of the processes that train together has ended, or is out of reach: see what it said, then "
                "start all again, which go on from the last resume state"
            ) from error
        raise
    finally:
        dist.destroy_process_group()


def refuse_another(what: str, value: object) -> None:
    """Make sure that all processes have the same; each would train a model of its own, and nobody would notice.

    Raises:
        SettingsError: this one has another value than the first.
    """
    if of_first(value) != value:
        raise SettingsError(
            f"process {process_rank()} has another {what} than the first: start all with the same settings and files, "
            "and a folder that all of them see"
        )


def wait_for_all() -> None:
    """Go on once all processes have come here."""
    if process_count() > 1:
        import torch.distributed as dist

        dist.barrier()


def of_first(value: T) -> T:
    """Return in all processes what the first has as this value."""
    if process_count() == 1:
        return value
    import torch.distributed as dist

    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gathered(features: "torch.Tensor") -> "torch.Tensor":
    """Return the features of the whole batch, in its order; only those of this process carry a gradient."""
    if process_count() == 1:
        return features
    import torch
    import torch.distributed as dist

    parts = [torch.empty_like(features) for _ in range(process_count())]
    dist.all_gather(parts, features.detach().contiguous())
    parts[process_rank()] = features
    return torch.cat(parts)


def add_up_gradients(parameters: "Iterable[torch.nn.Parameter]") -> None:
    """Give each process the sum of all processes' gradients."""
    if process_count() == 1:
        return
    import torch
    import torch.distributed as dist

    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    summed = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, whole in zip(gradients, summed, strict=True):
        gradient.copy_(whole.view_as(gradient))


def share_statistics(module: Any) -> None:
    """Give all processes the first one's buffers: batch statistics, which each has of its own images."""
    if process_count() == 1:
        return
    import torch.distributed as dist

    for buffer in module.buffers():
        dist.broadcast(buffer, src=0)


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
