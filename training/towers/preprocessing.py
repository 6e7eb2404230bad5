"""Describe how a model's images are resized, cropped and normalised, and do it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Interval
from PIL import Image
from pydantic import Field, Strict, TypeAdapter

if TYPE_CHECKING:
    import torch

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
_Mean = Annotated[float, Strict(), Interval(gt=-10, lt=10)]
_Std = Annotated[float, Strict(), Interval(gt=0, lt=10)]

# Squashing keeps everything that a caption may mention. Cropping cuts off the edges.
SQUASH, SHORTEST = "squash", "shortest"
# Only the middle of a longer image is resized: a strip of a million pixels would become one of gigabytes.
_MOST_SIDES = 100
_INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """A model's image preprocessing, in the terms of open_clip's `preprocess_cfg`; the defaults are CLIP's.

    "squash" resizes the whole image to a square; "shortest" resizes the shorter side, and cuts the middle.
    """

    size: Annotated[int, Strict(), Interval(ge=1)]
    mean: tuple[_Mean, _Mean, _Mean] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[_Std, _Std, _Std] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: Annotated[str, Field(pattern="^(bicubic|bilinear)$")] = "bicubic"
    resize_mode: Annotated[str, Field(pattern="^(squash|shortest)$")] = SQUASH

    @classmethod
    def from_json(cls, config: Mapping[str, Any], *, size: int) -> "Preprocessing":
        """Return the preprocessing that a `preprocess_cfg` of open_clip describes, for a model of that image size."""
        values: dict[str, Any] = {name: config[name] for name in ("interpolation", "resize_mode") if name in config}
        values |= {name: tuple(config[name]) for name in ("mean", "std") if name in config}
        TypeAdapter(cls).validate_python({"size": size, **values})
        return cls(size=size, **values)

    def to_json(self) -> dict[str, Any]:
        """Return open_clip's `preprocess_cfg`."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    def resized(self, image: Image.Image) -> Pixels:
        """Resize an RGB image to the model's square: uint8, shape (size, size, 3)."""
        resample, side = _INTERPOLATIONS[self.interpolation], self.size
        if self.resize_mode == SQUASH:
            return np.asarray(image.resize((side, side), resample))
        # As torchvision's Resize and CenterCrop, which open_clip uses.
        width, height = image.size
        shorter = min(width, height)
        if max(width, height) > _MOST_SIDES * shorter:
            across, down = (min(length, _MOST_SIDES * shorter) for length in (width, height))
            left, top = (width - across) // 2, (height - down) // 2
            image, width, height = image.crop((left, top, left + across, top + down)), across, down
        wide, high = (side * length // shorter if length != shorter else side for length in (width, height))
        left, top = round((wide - side) / 2), round((high - side) / 2)
        return np.asarray(image.resize((wide, high), resample).crop((left, top, left + side, top + side)))

    def normalised(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Convert uint8 images (batch, size, size, 3) to normalised floats (batch, 3, size, size)."""
        import torch

        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (pixels.permute(0, 3, 1, 2) / 255).sub_(mean).div_(std)


def preprocessing_of(model_config: Mapping[str, Any]) -> Preprocessing:
    """Return the image preprocessing that a model config states, or CLIP's with squashed images."""
    return Preprocessing.from_json(
        model_config.get("preprocess_cfg", {}), size=model_config["vision_cfg"]["image_size"]
    )
