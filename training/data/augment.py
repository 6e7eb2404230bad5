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

Change = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]

LEAST_AREA = 0.9
GREY = [127.0]


def hue(image: torch.Tensor, draws: np.random.Generator) -> torch.Tensor:
    """Shift the hue by at most a tenth of the colour circle: red becomes orange or pink."""
    found: torch.Tensor = functional.adjust_hue(image, draws.uniform(-0.1, 0.1))
    return found


def brightness(image: torch.Tensor, draws: np.random.Generator) -> torch.Tensor:
    """Make an image up to a fifth brighter or darker."""
    found: torch.Tensor = functional.adjust_brightness(image, draws.uniform(0.8, 1.2))
    return found


def contrast(image: torch.Tensor, draws: np.random.Generator) -> torch.Tensor:
    """Raise or lower the contrast by up to a fifth."""
    found: torch.Tensor = functional.adjust_contrast(image, draws.uniform(0.8, 1.2))
    return found


def flip(image: torch.Tensor, draws: np.random.Generator) -> torch.Tensor:
    """Mirror half of the images, which swaps left and right."""
    return image.flip(-1) if draws.random() < 0.5 else image


def affine(image: torch.Tensor, draws: np.random.Generator) -> torch.Tensor:
    """Rotate by up to 15 degrees, shift by a tenth of each side, scale by a fifth, and shear by 15 degrees each way."""
    return _affine(image, draws, degrees=15, shift=0.1, scale=0.2, shear=15)


def tilt(image: torch.Tensor, draws: np.random.Generator) -> torch.Tensor:
    """Rotate by up to 5 degrees, shift by a twentieth of each side, and scale by a tenth."""
    return _affine(image, draws, degrees=5, shift=0.05, scale=0.1, shear=0)


def _affine(
    image: torch.Tensor, draws: np.random.Generator, *, degrees: float, shift: float, scale: float, shear: float
) -> torch.Tensor:
    height, width = image.shape[-2:]
    found: torch.Tensor = functional.affine(
        image,
        angle=draws.uniform(-degrees, degrees),
        translate=[round(draws.uniform(-shift, shift) * width), round(draws.uniform(-shift, shift) * height)],
        scale=draws.uniform(1 - scale, 1 + scale),
        shear=[draws.uniform(-shear, shear), draws.uniform(-shear, shear)],
        interpolation=InterpolationMode.BILINEAR,
        fill=GREY,
    )
    return found


def perspective(image: torch.Tensor, draws: np.random.Generator) -> torch.Tensor:
    """Distort the perspective of three images in ten: each corner moves inwards by up to 0.15 of each side."""
    if draws.random() >= 0.3:
        return image
    height, width = image.shape[-2:]
    inwards = (draws.random((4, 2)) * 0.3 / 2 * [width, height]).astype(int).tolist()
    right, bottom = width - 1, height - 1
    corners = [[0, 0], [right, 0], [right, bottom], [0, bottom]]
    signs = [(1, 1), (-1, 1), (-1, -1), (1, -1)]
    moved = [
        [x + sign_x * by_x, y + sign_y * by_y]
        for (x, y), (sign_x, sign_y), (by_x, by_y) in zip(corners, signs, inwards, strict=True)
    ]
    found: torch.Tensor = functional.perspective(
        image, corners, moved, interpolation=InterpolationMode.BILINEAR, fill=GREY
    )
    return found


def autocontrast(image: torch.Tensor, draws: np.random.Generator) -> torch.Tensor:
    """Stretch the values of each colour channel to the full range, in three images in ten."""
    return functional.autocontrast(image) if draws.random() < 0.3 else image


def equalize(image: torch.Tensor, draws: np.random.Generator) -> torch.Tensor:
    """Equalise the histogram of each colour channel in three images in ten. A grey sky may become blue."""
    return functional.equalize(image) if draws.random() < 0.3 else image


CHANGES: dict[str, Change] = {
    "hue": hue,
    "brightness": brightness,
    "contrast": contrast,
    "flip": flip,
    "affine": affine,
    "tilt": tilt,
    "perspective": perspective,
    "autocontrast": autocontrast,
    "equalize": equalize,
}


def changed_images(
    pixels: torch.Tensor, names: Collection[str], pool: Executor, *, seed: int, step: int, first: int = 0
) -> torch.Tensor:
    """Apply the named augmentations except "crop" to each image, in the order of `CHANGES`.

    Args:
        pixels: uint8, shape (batch, height, width, 3).
        names: names from `training.config.AUGMENTATIONS`.
        pool: executor with the threads that do the work.
        seed: seed of the run. It decides the changes, together with `step` and the place in the batch.
        step: optimizer step.
        first: place of the first of these images in the whole batch.
    """
    changes = [change for name, change in CHANGES.items() if name in names]
    if not changes:
        return pixels

    def change_one(place: int) -> Any:
        draws = np.random.Generator(np.random.Philox(key=[seed + (3 << 32), (step << 32) + first + place]))
        image = pixels[place].permute(2, 0, 1)
        for change in changes:
            image = change(image, draws)
        return image.permute(1, 2, 0)

    return torch.stack(list(pool.map(change_one, range(len(pixels)))))


def random_crops(images: torch.Tensor, *, seed: int, step: int, first: int = 0) -> torch.Tensor:
    """Crop each image to 90-100 % of its area at a random place, and scale it back with bilinear interpolation.

    Args:
        images: floats, shape (batch, channels, height, width).
        seed: seed of the run. It decides the crops, together with `step` and the place in the batch.
        step: optimizer step.
        first: place of the first of these images in the whole batch.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed + (2 << 32), step]))
    drawn = generator.random((first + images.shape[0], 3))[first:]
    sides = np.sqrt(LEAST_AREA + (1 - LEAST_AREA) * drawn[:, 0])
    theta = np.zeros((images.shape[0], 2, 3), dtype=np.float32)
    theta[:, 0, 0] = theta[:, 1, 1] = sides
    theta[:, :, 2] = (1 - sides)[:, None] * (2 * drawn[:, 1:] - 1)
    grid = F.affine_grid(torch.from_numpy(theta), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
