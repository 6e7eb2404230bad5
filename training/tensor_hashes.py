"""One name for the weights that a model really has in memory, whatever file or place of the hub they came from."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


def tensors_sha256(tensors: "Mapping[str, Any]") -> str:
    """Hexadecimal sha256 of names, types, shapes and bytes of tensors, by name; equal for equal ones, however they lie.

    Nothing is copied but one tensor at a time, where its numbers do not lie one behind the other.

    Args:
        tensors: a model's `state_dict()`; what is no tensor in it is passed over.
    """
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, torch.Tensor):
            # The length of the head ends it, type and shape tell the number of bytes: so no two sets read alike.
            head = json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode()
            found.update(len(head).to_bytes(8, "little"))
            found.update(head)
            found.update(_bytes(tensor))
    return found.hexdigest()


def _bytes(tensor: "torch.Tensor") -> memoryview:
    """As bytes, since NumPy has no bfloat16."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
