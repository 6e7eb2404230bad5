"""Take a tower apart into its backbone and the projection at its end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Attributes with the projection after a backbone, in open_clip's ViT, its ResNet and timm's towers; then in its own
# text tower and Hugging Face's.
_IMAGE_PROJECTIONS = ("proj", "attnpool", "head")
_TEXT_PROJECTIONS = ("text_projection", "proj")


@dataclass(frozen=True, slots=True)
class FrozenPart:
    """A tower that is frozen during a phase.

    `projection` is the attribute with the trained projection at its end, or "" if the whole tower is frozen.
    """

    tower: Any
    projection: str


def frozen_parts(
    module: Any, *, frozen: bool, lock_image: bool, freeze_image: bool = False
) -> tuple[FrozenPart | None, FrozenPart | None]:
    """Return the image and the text tower, each with its trained projection, or None if a tower is not frozen."""
    parts: list[FrozenPart | None] = []
    for tower, side, attributes in towers_of(module):
        found = [name for name in attributes if getattr(tower, name, None) is not None]
        is_frozen = frozen or (freeze_image and side == "image")
        parts.append(FrozenPart(tower, found[0]) if is_frozen and len(found) == 1 else None)
    image, text = parts
    return FrozenPart(module.visual, "") if lock_image else image, text


def towers_of(module: Any) -> list[tuple[Any, str, tuple[str, ...]]]:
    """Return the image and the text tower, each with its name and the possible attributes of its projection."""
    return [(module.visual, "image", _IMAGE_PROJECTIONS), (module.text, "text", _TEXT_PROJECTIONS)]


def backbone_features(part: FrozenPart, inputs: "torch.Tensor") -> Any:
    """Return a tower's output without its trained projection."""
    if not part.projection:
        return part.tower(inputs)
    with without(part.tower, part.projection):
        return part.tower(inputs)


@contextmanager
def without(tower: Any, name: str) -> Iterator[None]:
    """Replace a tower's projection of that name by the identity while inside."""
    from torch import nn

    projection = getattr(tower, name)
    setattr(tower, name, nn.Identity() if isinstance(projection, nn.Module) else None)
    try:
        yield
    finally:
        setattr(tower, name, projection)


def projected(tower: Any, name: str) -> "Callable[[torch.Tensor], torch.Tensor]":
    """Return a function that applies a tower's projection of that name to features; the identity if there is none."""

    def project(features: "torch.Tensor") -> "torch.Tensor":
        projection = getattr(tower, name) if name else None
        if projection is None:
            return features
        found: torch.Tensor = projection(features) if callable(projection) else features @ projection
        return found

    return project
