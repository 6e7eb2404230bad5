"""Random augmentations of images, which depend only on the seed, the step and the image's place in the batch.

The random numbers are drawn here, because torchvision's random transforms use torch's global generator. A resumed run,
or one with another number of threads, must produce the same images. torchvision changes the pixels.
"""

from collections.abc import Callable, Collection
from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

Draws = np.random.Generator

LEAST_AREA = 0.9
_EMPTY: dict[str, Any] = {"interpolation": InterpolationMode.BILINEAR, "fill": [127.0]}  # grey where no pixel is left


def _affine(image: Any, draws: Draws, *, degrees: float, shift: float, scale: float, shear: float) -> Any:
    height, width = image.shape[-2:]
    return functional.affine(
        image,
        angle=draws.uniform(-degrees, degrees),
        translate=[round(draws.uniform(-shift, shift) * width), round(draws.uniform(-shift, shift) * height)],
        scale=draws.uniform(1 - scale, 1 + scale),
        shear=[draws.uniform(-shear, shear), draws.uniform(-shear, shear)],
        **_EMPTY,
    )


def _perspective(image: Any, draws: Draws) -> Any:
    """Distort the perspective of three images in ten: each corner moves inwards by up to 0.15 of each side."""
    if draws.random() >= 0.3:
        return image
    height, width = image.shape[-2:]
    inwards = (draws.random((4, 2)) * 0.3 / 2 * [width, height]).astype(int)
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]])
    moved = corners + inwards * [[1, 1], [-1, 1], [-1, -1], [1, -1]]
    return functional.perspective(image, corners.tolist(), moved.tolist(), **_EMPTY)


# In the order in which they apply. They change an image, shape (3, height, width).
CHANGES: dict[str, Callable[[Any, Draws], Any]] = {
    # By at most a tenth of the colour circle: red becomes orange or pink.
    "hue": lambda image, draws: functional.adjust_hue(image, draws.uniform(-0.1, 0.1)),
    "brightness": lambda image, draws: functional.adjust_brightness(image, draws.uniform(0.8, 1.2)),
    "contrast": lambda image, draws: functional.adjust_contrast(image, draws.uniform(0.8, 1.2)),
    "flip": lambda image, draws: image.flip(-1) if draws.random() < 0.5 else image,
    "affine": lambda image, draws: _affine(image, draws, degrees=15, shift=0.1, scale=0.2, shear=15),
    "tilt": lambda image, draws: _affine(image, draws, degrees=5, shift=0.05, scale=0.1, shear=0),
    "perspective": _perspective,
    "autocontrast": lambda image, draws: functional.autocontrast(image) if draws.random() < 0.3 else image,
    # A grey sky may become blue.
    "equalize": lambda image, draws: functional.equalize(image) if draws.random() < 0.3 else image,
}


def changed_images(
    pixels: torch.Tensor, names: Collection[str], pool: Executor, *, seed: int, step: int, first: int = 0
) -> torch.Tensor:
    """Apply the named augmentations except "crop" to each image, uint8 (batch, height, width, 3), in threads.

    The seed of the run, the optimizer step and the place in the whole batch, from `first`, decide the changes.
    """
    changes = [change for name, change in CHANGES.items() if name in names]
    if not changes:
        return pixels

    def change_one(place: int) -> Any:
        draws = np.random.Generator(np.random.Philox(key=[seed + (3 << 32), (step << 32) + first + place]))
        image: Any = pixels[place].permute(2, 0, 1)
        for change in changes:
            image = change(image, draws)
        return image.permute(1, 2, 0)

    return torch.stack(list(pool.map(change_one, range(len(pixels)))))


def random_crops(images: torch.Tensor, *, seed: int, step: int, first: int = 0) -> torch.Tensor:
    """Crop each image to 90-100 % of its area at a random place, and scale it back with bilinear interpolation.

    The images are floats, shape (batch, channels, height, width). Other arguments are those of `changed_images`.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed + (2 << 32), step]))
    drawn = generator.random((first + images.shape[0], 3))[first:]
    sides = np.sqrt(LEAST_AREA + (1 - LEAST_AREA) * drawn[:, 0])
    theta = np.zeros((images.shape[0], 2, 3), dtype=np.float32)
    theta[:, 0, 0] = theta[:, 1, 1] = sides
    theta[:, :, 2] = (1 - sides)[:, None] * (2 * drawn[:, 1:] - 1)
    grid = F.affine_grid(torch.from_numpy(theta), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
