"""Resume states of training runs: one safetensors file, written atomically, never a pickle.

A state has everything that a run cannot compute again: weights, the optimizer's moments, random generators and
progress.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from data_catalog.base.boundary import about
from data_catalog.base.errors import DamagedError, SettingsError
from data_catalog.disk.files import save_tensors

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
# A single metadata entry: safetensors writes several in random order.
_METADATA_KEY = "state"
_REMEDY = "remove it to train from the start, or use the library versions that wrote it"


def save_resume_state(
    path: Path,
    *,
    key: str,
    modules: Mapping[str, Any],
    optimizer: Any,
    generators: Mapping[str, "torch.Tensor"],
    progress: Mapping[str, Any],
) -> None:
    """Write a resume state atomically; only a run with the same `key` may resume from it.

    `modules` and `generators` are by name, `progress` has JSON values.
    """
    import torch

    tensors = {
        f"{name}.{parameter}": tensor
        for name, module in modules.items()
        for parameter, tensor in module.state_dict().items()
    }
    for index, moments in optimizer.state_dict()["state"].items():
        # AdaBelief counts its steps in a Python number.
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(moment) for name, moment in moments.items()}
    tensors |= {f"generator.{name}": state for name, state in generators.items()}
    save_tensors(tensors, path, {_METADATA_KEY: json.dumps({"key": key, **progress})})


def load_resume_state(
    path: Path,
    *,
    key: str,
    modules: Mapping[str, Any],
    optimizer: Any,
    set_generators: Callable[[dict[str, "torch.Tensor"]], None],
    progress_of: Callable[[dict[str, Any]], T],
) -> T | None:
    """Load what `save_resume_state` wrote, if there is such a file; return what `progress_of` makes of the progress."""
    from safetensors import safe_open

    if not path.is_file():
        return None
    with about(f"{path} is not a resume state", kind=DamagedError, remedy=_REMEDY):
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dict
            progress = json.loads(file.metadata()[_METADATA_KEY])
        own_key = progress.pop("key")
    if own_key != key:
        raise SettingsError(f"{path} belongs to a run with other settings or data: train into another folder")

    def below(prefix: str) -> dict[str, "torch.Tensor"]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    with about(f"{path} does not match the run", kind=DamagedError, remedy=_REMEDY):
        for name, module in modules.items():
            module.load_state_dict(below(f"{name}."), strict=True)
        moments = _moments(below("optimizer."), optimizer)
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        set_generators(below("generator."))
        return progress_of(progress)


def _moments(tensors: Mapping[str, "torch.Tensor"], optimizer: Any) -> dict[int, dict[str, Any]]:
    """Return an optimizer's moments by the index of their weight, in the memory layout of that weight.

    A fused optimizer step runs over memory in order. With moments in another layout (convolutions are channels last) it
    would silently give each weight the moments of another one.
    """
    import torch

    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        number, _, moment = name.partition(".")
        index, value = int(number), tensor if tensor.is_floating_point() else int(tensor)
        if tensor.shape == weights[index].shape and tensor.ndim:
            value = torch.empty_like(weights[index], dtype=tensor.dtype, device=tensor.device).copy_(tensor)
        moments.setdefault(index, {})[moment] = value
    return moments
