"""Tensors in safetensors files that are whole or absent."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data_catalog.storage.shards import write_bytes

if TYPE_CHECKING:
    import torch


def save_tensors(tensors: Mapping[str, "torch.Tensor"], path: Path, metadata: dict[str, str]) -> str:
    """Write named tensors atomically; returns the file's sha256.

    Args:
        metadata: one entry only, since safetensors writes several in random order.

    Raises:
        ConfigError: the disk is full.
    """
    from safetensors.torch import save

    # Copies: safetensors refuses tensors that share memory, as averaged weights may after a load. They are the
    # processor's: a GPU's memory may have no room for a second model and its moments.
    whole = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    # As bytes: safetensors' own writer leaves a temporary file of its own behind when it is killed, and tells of a full
    # disk by an error of its own.
    content = save(whole, metadata=metadata)
    return write_bytes(path, content)


def tensors_below(prefix: str, tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
