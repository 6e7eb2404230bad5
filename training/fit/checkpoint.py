"""Resume states in safetensors: one file, whole or absent, never a pickle.

A state holds what a run cannot compute again: weights, the optimizer's moments, torch's generator, the step and
the history. Order, captions and crops are functions of the seed and the step, so they need no state.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from data_catalog.errors import DamagedError, SettingsError
from data_catalog.storage.shards import save_tensors, tensors_below
from training.fit.device import generator_states, set_generator_states

STATE_FILE = "last/state.safetensors"
# One metadata entry only: safetensors writes several in random order.
_METADATA_KEY = "state"


@dataclass(slots=True, kw_only=True)
class RunState:
    """How far a run is.

    Args:
        is_frozen: whether it is still in the phase in which the towers are.
        epoch: epochs finished, of both phases.
        step: optimizer steps done, over all epochs.
        phase_epoch: epochs that were finished when the phase began.
        phase_step: likewise.
        stale_epochs: of the phase, since the validation loss was last the best.
        loss_sum: of the steps of the epoch under way.
        history: one line of metrics an epoch.
        best_epoch: whose weights are kept, 1-based; 0 before there are any.
        best_val_loss: of that epoch; None without a validation split.
    """

    is_frozen: bool = False
    epoch: int = 0
    step: int = 0
    phase_epoch: int = 0
    phase_step: int = 0
    stale_epochs: int = 0
    loss_sum: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_val_loss: float | None = None


def save_state(path: Path, *, key: str, module: Any, optimizer: Any, state: RunState) -> None:
    """Write a resume state atomically.

    Args:
        key: what the run is made of; only a run with the same key may go on from it.
    """
    tensors = {f"model.{name}": tensor for name, tensor in module.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        # AdaBelief counts its steps in a Python number.
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(moment) for name, moment in moments.items()}
    device = next(module.parameters()).device
    tensors |= {f"generator.{kind}": generator for kind, generator in generator_states(device).items()}
    save_tensors(tensors, path, {_METADATA_KEY: json.dumps({"key": key, **asdict(state)})})


def load_state(path: Path, *, key: str, module: Any, optimizer: Any) -> RunState | None:
    """Put a resume state back into model, optimizer and torch's generator; None if there is no file.

    Raises:
        SettingsError: the file belongs to another run.
        DamagedError: it is broken, or of a model that libraries made otherwise.
    """
    if not path.is_file():
        return None
    tensors, metadata = _load(path)
    if metadata.pop("key", "") != key:
        raise SettingsError(f"{path} belongs to a run with other settings or data: train into another folder")
    try:
        module.load_state_dict(tensors_below("model.", tensors), strict=True)
        moments = _moments(tensors_below("optimizer.", tensors), optimizer)
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        set_generator_states(tensors_below("generator.", tensors))
        return RunState(**metadata)
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())[:200]
        raise DamagedError(
            f"{path} does not fit the run ({told}): go on with the versions of torch, open_clip and transformers that "
            "wrote it, or remove it to train from the start"
        ) from error


def _moments(tensors: dict[str, torch.Tensor], optimizer: Any) -> dict[int, dict[str, Any]]:
    """An optimizer's moments by index of their weight, laid out in memory as that is.

    A fused step goes through memory as it lies: with moments in another order (convolutions are channels last) it would
    give each weight the moments of another one, and say nothing.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        number, _, moment = name.partition(".")
        index, value = int(number), tensor if tensor.is_floating_point() else int(tensor)
        if tensor.shape == weights[index].shape and tensor.ndim:
            value = torch.empty_like(weights[index], dtype=tensor.dtype, device=tensor.device).copy_(tensor)
        moments.setdefault(index, {})[moment] = value
    return moments


def _load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dict
            return tensors, json.loads(file.metadata()[_METADATA_KEY])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{path} is no resume state ({error}): remove it to train from the start") from error
