"""Distributed training over torch.distributed, and settings of torch in each process.

`torchrun` starts the processes. Each has the whole model and a slice of every batch. Features are gathered, so that
each image is compared with the captions of all processes, and gradients are summed. The result is that of one process
with the whole batch.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from data_catalog.base.boundary import about
from data_catalog.base.errors import InputError, SettingsError
from data_catalog.base.heap import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def process_rank() -> int:
    """Return the rank of this process. Only rank 0 writes files. Without torchrun it is 0, even if RANK is set."""
    return int(os.environ.get("RANK", "0")) if process_count() > 1 else 0


def process_count() -> int:
    """Return the number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_process_count() -> int:
    """Return the number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def require_one_process(what: str) -> None:
    """Refuse work that several processes cannot share, which would do it all or wait for each other."""
    if process_count() > 1:
        raise SettingsError(f"{what} runs in one process: start it without torchrun")


def chosen_device(name: str, setting: str = "train.device") -> "torch.device":
    """Return the device that a setting names. "auto" takes a GPU if torch finds one. Each process has its own GPU."""
    import torch

    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    number, seen = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= seen:
        raise InputError(
            f"{setting} is {name}, but torch finds {seen} GPU{'' if seen == 1 else 's'}. Each process needs one: "
            f"install a CUDA build of torch, start fewer processes, or set {setting} to cpu"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def encode_where_fastest(module: Any, encode: "Callable[[Any], torch.Tensor]", inputs: Any) -> "torch.Tensor":
    """Encode images or texts on the GPU if torch finds one, and return their features on the CPU in float32.

    The model moves to the GPU and stays there. Products are computed in float32 there too, where cuDNN would round to
    TF32, so features differ from those of a CPU in the last digits only. `CUDA_VISIBLE_DEVICES=` hides the GPU.
    """
    import torch

    device = chosen_device("auto")
    if device.type == "cpu":
        return encode(inputs).float()
    module.to(device)
    with torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
        return encode(inputs.to(device)).float().cpu()


@contextmanager
def process_group(device: "torch.device") -> Iterator[None]:
    """Connect the processes that `torchrun` started, and disconnect them at the end. Do nothing with one process."""
    dist = _distributed()
    if dist is None:
        yield
        return
    remedy = "start the processes with torchrun, or unset WORLD_SIZE to train with one process"
    with about(f"WORLD_SIZE {process_count()}", kind=SettingsError, remedy=remedy):
        # Objects and CPU tensors use gloo, GPU tensors use nccl.
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise InputError(
            "another training process ended or cannot be reached. Read its output, then start all processes again: "
            "they continue from the last resume state"
        ) from error
    finally:
        dist.destroy_process_group()


def _distributed() -> Any:
    """Return torch's module of distributed training, or None with one process."""
    if process_count() == 1:
        return None
    import torch.distributed as dist

    return dist


def require_same_in_all(what: str, value: object) -> None:
    """Refuse a value that differs from the first process's, since each process would then train another model."""
    if broadcast(value) != value:
        raise SettingsError(
            f"process {process_rank()} has a different {what} than the first process. Start all processes with the "
            "same settings and files, and with a folder that all of them can access"
        )


def barrier() -> None:
    """Wait until all processes have reached this point."""
    if dist := _distributed():
        dist.barrier()


def broadcast(value: T) -> T:
    """Return the first process's value in all processes."""
    values = [value]
    if dist := _distributed():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def gather_features(features: "torch.Tensor") -> "torch.Tensor":
    """Return the features of the whole batch, in its order. Gradients flow only to those of this process."""
    dist = _distributed()
    if dist is None:
        return features
    import torch

    parts = [torch.empty_like(features) for _ in range(process_count())]
    dist.all_gather(parts, features.detach().contiguous())
    parts[process_rank()] = features
    return torch.cat(parts)


def sum_gradients(parameters: "Iterable[torch.nn.Parameter]") -> None:
    """Replace the gradients in each process by their sum over all processes."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    dist = _distributed()
    if dist is None or not gradients:
        return
    import torch

    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    summed = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, whole in zip(gradients, summed, strict=True):
        gradient.copy_(whole.view_as(gradient))


def broadcast_buffers(module: Any) -> None:
    """Copy the first process's buffers, such as batch statistics, to all processes."""
    if dist := _distributed():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def seed_process(seed: int, rank: int, step: int) -> None:
    """Seed torch's generators for one of several processes from a step on, so that each draws different dropout."""
    import numpy as np
    import torch

    torch.manual_seed(int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)[0] >> 1))


def generator_states(device: "torch.device") -> "dict[str, torch.Tensor]":
    """Return the states of torch's random generators that work on a device draws from."""
    import torch

    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def set_generator_states(states: "Mapping[str, torch.Tensor]") -> None:
    """Restore generator states. Skip the GPU's if there is no GPU, since a run may be resumed on a CPU."""
    import torch

    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def prepare_for_torch() -> None:
    """Make OpenMP threads sleep while they wait, unless the user set OMP_WAIT_POLICY, and keep freed memory.

    Spinning makes a step four times as slow where other programs use the cores too. OpenMP reads the setting once, when
    torch is loaded. Freed memory is kept because each layer of a tower allocates and frees tens of MB, and the system
    clears every page anew: half of the CPU time of features (`benchmarks/freed_memory.py`).
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    mallopt(M_MMAP_THRESHOLD, 2**27)  # a larger one makes the peak larger, and gains little
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def has_second_core(num_threads: int) -> bool:
    """Return whether torch computes on one thread while another CPU of this process is free for a second one."""
    return num_threads == 1 and _num_cores() >= 2


def _num_cores() -> int:
    """Return the number of CPUs of this process, one of those on this machine."""
    return len(os.sched_getaffinity(0)) // local_process_count()


@contextmanager
def all_cores() -> Iterator[None]:
    """Compute on all CPUs that this process may use while inside."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(before, _num_cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic_torch(*, seed: int, num_threads: int, device: "torch.device") -> Iterator[int]:
    """Set deterministic algorithms, threads and seed, and restore them on exit. Yield the number of threads.

    0 threads takes all CPUs of this process. Algorithms of GPUs stay: many have no deterministic version.
    """
    prepare_for_torch()
    import torch
    from torch.utils import deterministic

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    num_threads = num_threads or max(1, _num_cores())
    torch.set_num_threads(num_threads)
    torch.use_deterministic_algorithms(device.type == "cpu")
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # no code here reads such memory
    try:
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
            torch.manual_seed(seed)
            yield num_threads
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
