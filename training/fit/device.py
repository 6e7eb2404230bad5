"""Where a model is trained: on the processor, or on a CUDA GPU."""

import os

import numpy as np
import torch

from data_catalog.errors import InputError


def chosen_device(name: str) -> torch.device:
    """The device that a setting stands for: "auto" takes a GPU where torch sees one; each process has its own.

    Raises:
        InputError: "cuda" is asked for, and torch sees none.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= torch.cuda.device_count():
        seen = torch.cuda.device_count()
        raise InputError(
            f"train.device is {name}, and torch sees {seen} GPU{'' if seen == 1 else 's'}, one a process: "
            "install a CUDA build of torch, start fewer processes, or set train.device to cpu"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def generator_states(device: torch.device) -> dict[str, torch.Tensor]:
    """States of torch's generators that are drawn from where work is done on a device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(states: dict[str, torch.Tensor]) -> None:
    """Put generators back; that of a GPU only where there is one, since a run may go on on a processor."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def draw_otherwise(seed: int, rank: int, step: int) -> None:
    """Seed torch's generators for one of several processes, whose dropout is not to be that of the first one's images.

    Args:
        step: optimizer step from which it trains.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)[0] >> 1))
