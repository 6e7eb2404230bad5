"""Which weights train: in a first phase the projections into the common space alone, then all of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from data_catalog.errors import SettingsError

# Where open_clip's towers keep what comes after their backbone: its ViT, its ResNet, timm's; its own text tower,
# Hugging Face's.
_IMAGE_PROJECTIONS = ("proj", "attnpool", "head")
_TEXT_PROJECTIONS = ("text_projection", "proj")


def choose_trained(module: Any, *, frozen: bool, fixed_scale: bool, lock_image: bool) -> None:
    """Set which parameters get gradients, and the mode of both towers: a frozen one keeps its batch statistics.

    Raises:
        SettingsError: a tower is to be frozen that has no projection.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(not frozen)
    module.train()
    if frozen:
        for tower, name, attributes in _towers(module):
            tower.eval()
            found = list(_projections(tower, attributes))
            if not found:
                raise SettingsError(
                    f"the {name} tower has no projection to train while it is frozen: set train.frozen_epochs to 0"
                )
            for parameter in found:
                parameter.requires_grad_(True)
        if module.logit_bias is not None:
            module.logit_bias.requires_grad_(True)
    module.logit_scale.requires_grad_(not fixed_scale)
    if lock_image:
        module.visual.eval()
        for parameter in module.visual.parameters():
            parameter.requires_grad_(False)


@dataclass(frozen=True, slots=True)
class Kept:
    """A tower that stays as it is.

    Args:
        projection: name of the attribute that does not, which is the tower's last part; empty where nothing changes.
    """

    tower: Any
    projection: str


def kept_parts(module: Any, *, frozen: bool, lock_image: bool) -> tuple[Kept | None, Kept | None]:
    """Which of the two towers, image and text, gives the same features all through a phase, and up to where."""
    image, text = (_kept(tower, attributes) if frozen else None for tower, _, attributes in _towers(module))
    return Kept(module.visual, "") if lock_image else image, text


def _kept(tower: Any, attributes: tuple[str, ...]) -> Kept | None:
    found = [name for name in attributes if getattr(tower, name, None) is not None]
    return Kept(tower, found[0]) if len(found) == 1 else None


def _towers(module: Any) -> list[tuple[Any, str, tuple[str, ...]]]:
    return [(module.visual, "image", _IMAGE_PROJECTIONS), (module.text, "text", _TEXT_PROJECTIONS)]


def _projections(tower: Any, attributes: tuple[str, ...]) -> Iterator[torch.nn.Parameter]:

    for name in attributes:
        found = getattr(tower, name, None)
        if isinstance(found, nn.Parameter):
            yield found
        elif isinstance(found, nn.Module):
            yield from found.parameters()
