"""How far a training is, in files that are whole or absent: weights and the state to resume from, never a pickle.

Order and batches are functions of the seed and the epoch, so they need no state.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.errors import DamagedError, SettingsError
from data_catalog.storage.shards import save_tensors, tensors_below

if TYPE_CHECKING:
    pass

# One metadata entry only: safetensors writes several in random order.
_METADATA_KEY = "state"


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One validation.

    Args:
        seconds: of training and validating until here, over all resumes.
        cpu_seconds: the same, of processor time over all threads.
        train_loss: mean over the steps since the last point, smoothing included, in nats per token.
        held_out_loss: of the averaged weights, without smoothing, in nats per token.
        bleu: sacreBLEU's, of the held-out pairs translated greedily by the averaged weights as they would be packed.
        chrf: the same, chrF.
    """

    step: int
    epoch: int
    seconds: float
    cpu_seconds: float
    train_loss: float
    held_out_loss: float
    bleu: float
    chrf: float


@dataclass(slots=True, kw_only=True)
class TrainState:
    """How far a training is.

    Args:
        step: updates done.
        epoch: epochs finished.
        batch: batches done of the epoch under way.
        seconds: of training and validating, over all resumes.
        cpu_seconds: the same, of processor time over all threads.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    curve: list[CurvePoint] = field(default_factory=list)

    @property
    def best(self) -> CurvePoint:
        """The validation with the highest chrF, the first of equals."""
        return max(self.curve, key=lambda point: point.chrf)

    def stale_validations(self) -> int:
        """Validations since the best one."""
        return len(self.curve) - 1 - self.curve.index(self.best) if self.curve else 0


def save_weights(module: Any, path: Path) -> None:
    """Write a network's weights."""
    save_tensors(module.state_dict(), path, {"format": "pt"})


def load_weights(module: Any, path: Path) -> None:
    """Put weights back, strictly.

    Raises:
        DamagedError: the file is missing, broken, or of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        module.load_state_dict(load_file(path), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise DamagedError(f"{path} does not hold this network's weights: {error}") from error


def save_state(path: Path, *, key: str, networks: Mapping[str, Any], optimizer: Any, state: TrainState) -> None:
    """Write all that a training cannot compute again.

    Args:
        key: what the training is made of; only a training with the same key may go on from it.
        networks: modules by name, such as the network and its average.
    """
    import torch

    tensors = {
        f"{name}/{parameter}": tensor
        for name, module in networks.items()
        for parameter, tensor in module.state_dict().items()
    }
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in moments.items()}
    tensors["generator"] = torch.get_rng_state()
    save_tensors(tensors, path, {_METADATA_KEY: json.dumps({"key": key, **asdict(state)})})


def load_state(path: Path, *, key: str, networks: Mapping[str, Any], optimizer: Any) -> TrainState:
    """Put a state back into networks, optimizer and torch's generator; a fresh state if there is no file.

    Raises:
        SettingsError: the file belongs to another training.
        DamagedError: it is broken.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return TrainState()
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dict
            metadata = json.loads(file.metadata()[_METADATA_KEY])
        found_key = metadata.pop("key")
        metadata["curve"] = [CurvePoint(**point) for point in metadata["curve"]]
        state = TrainState(**metadata)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{path} is no training state ({error}): remove {path.parent} to train anew") from error
    if found_key != key:
        raise SettingsError(f"{path.parent} holds a training with other settings, pairs or libraries: {REMEDY}")
    for name, module in networks.items():
        module.load_state_dict(tensors_below(f"{name}/", tensors), strict=True)
    moments: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors_below("optimizer/", tensors).items():
        index, _, moment = name.partition("/")
        moments.setdefault(int(index), {})[moment] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["generator"])
    return state


REMEDY = "remove it to train anew, or give another --out"
