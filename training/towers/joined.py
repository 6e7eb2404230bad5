"""Join several pretrained towers on a side of a model: their unit features side by side, under one projection.

A model config lists the further towers, after its own: `joined_images`, with `vision_cfg` of a timm backbone and
`preprocess_cfg`, and `joined_texts`, with `text_cfg` of a Hugging Face encoder. All image towers take the pixels of the
first, resized and normalised for each. The files of the further text towers are in `text-1`, `text-2`, ... of the model
folder.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from data_catalog.base.errors import InputError
from training.towers.model_files import JOINED, joined_configs
from training.towers.preprocessing import Preprocessing, preprocessing_of


class JoinedTower(nn.Module):
    """Several towers on a side, which compute one feature.

    Args:
        towers: the towers; the projection of each is dropped, the first's is replaced by one for all.
        attribute: attribute of the towers' projections.
        output_dim: size of the features.
        hidden: whether the projection has a hidden layer.
    """

    def __init__(self, towers: Sequence[Any], attribute: str, output_dim: int, *, hidden: bool) -> None:
        super().__init__()
        projections = [getattr(tower, attribute) for tower in towers]
        linear = [next((part for part in one.modules() if isinstance(part, nn.Linear)), None) for one in projections]
        if any(part is None for part in linear):
            raise InputError("a tower cannot be joined, because it has no linear projection after its backbone")
        width = sum(part.in_features for part in linear if part is not None)
        for tower in towers:
            setattr(tower, attribute, nn.Identity())
        self.towers = nn.ModuleList(towers)
        inner = (width + output_dim) // 2
        self.proj: nn.Module = (
            nn.Sequential(nn.Linear(width, inner, bias=False), nn.GELU(), nn.Linear(inner, output_dim, bias=False))
            if hidden
            else nn.Linear(width, output_dim, bias=False)
        )

    def inputs_of(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return the inputs of each tower."""
        raise NotImplementedError

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return features of shape (inputs, output dim)."""
        each = zip(self.towers, self.inputs_of(inputs), strict=True)
        found: torch.Tensor = self.proj(torch.cat([F.normalize(tower(some), dim=-1) for tower, some in each], dim=-1))
        return found


class JoinedImages(JoinedTower):
    """Image towers that share the pixels of the first.

    Args:
        towers: timm towers of open_clip.
        preprocessings: how the images of each are prepared.
        output_dim: size of the features.
        hidden: whether the projection has a hidden layer.
    """

    def __init__(
        self, towers: Sequence[Any], preprocessings: Sequence[Preprocessing], output_dim: int, *, hidden: bool
    ) -> None:
        super().__init__(towers, "head", output_dim, hidden=hidden)
        self.sizes = [each.size for each in preprocessings]
        first = preprocessings[0]
        for number, each in enumerate(preprocessings):
            scale = torch.tensor(first.std) / torch.tensor(each.std)
            shift = (torch.tensor(first.mean) - torch.tensor(each.mean)) / torch.tensor(each.std)
            self.register_buffer(f"scale{number}", scale.view(1, 3, 1, 1), persistent=False)
            self.register_buffer(f"shift{number}", shift.view(1, 3, 1, 1), persistent=False)

    def inputs_of(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return the pixels of each tower, normalised for it and resized to its size."""
        found = [inputs]
        for number, size in enumerate(self.sizes[1:], start=1):
            pixels = inputs * getattr(self, f"scale{number}") + getattr(self, f"shift{number}")
            if size != self.sizes[0]:
                pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
            found.append(pixels)
        return found


class JoinedTexts(JoinedTower):
    """Text towers, each with its own token ids: int64, shape (texts, towers, length)."""

    def __init__(self, towers: Sequence[Any], output_dim: int, *, hidden: bool) -> None:
        super().__init__(towers, "proj", output_dim, hidden=hidden)
        self.config = towers[0].config

    def inputs_of(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return the ids of each tower."""
        return list(inputs.unbind(1))


def join(module: Any, model_config: Mapping[str, Any], others: Sequence[Any]) -> None:
    """Replace the towers of a model by joined ones, on the sides that have further towers.

    Args:
        module: the open_clip model.
        model_config: its config.
        others: models of `joined_configs`, in its order, of which one tower each is taken.

    Raises:
        InputError: a tower has no projection to replace.
    """
    listed, dim = joined_configs(model_config), model_config["embed_dim"]
    sides = [side for side, _, _ in listed]
    if "image" in sides:
        visuals = [module.visual, *(one.visual for side, one in zip(sides, others, strict=True) if side == "image")]
        configs = [model_config, *(config for side, _, config in listed if side == "image")]
        module.visual = JoinedImages(
            visuals,
            [preprocessing_of(config) for config in configs],
            dim,
            hidden=model_config["vision_cfg"].get("timm_proj") == "mlp",
        )
    if "text" in sides:
        texts = [module.text, *(one.text for side, one in zip(sides, others, strict=True) if side == "text")]
        module.text = JoinedTexts(texts, dim, hidden=model_config["text_cfg"].get("hf_proj_type") == "mlp")


def why_not_joined(model_config: Mapping[str, Any]) -> str | None:
    """Return why only this project can open a model, or None if it has one tower on each side."""
    sides = [side for name, (side, _, _) in JOINED.items() if model_config.get(name)]
    return f"several {' and '.join(sides)} towers are joined in it" if sides else None
