"""Random crops of a batch, the only augmentation that says nothing false about colours, counts and sides."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LEAST_AREA = 0.9


def random_crops(images: "torch.Tensor", *, seed: int, step: int) -> "torch.Tensor":
    """Crop each image to 90-100 % of its area at a random place and scale it back up, bilinearly.

    Args:
        images: floats, shape (batch, channels, height, width).
        seed: of the run; with `step` it decides the crops.
    """
    import numpy as np
    import torch
    from torch.nn import functional as F

    generator = np.random.Generator(np.random.Philox(key=[seed + (2 << 32), step]))
    drawn = generator.random((images.shape[0], 3))
    sides = np.sqrt(LEAST_AREA + (1 - LEAST_AREA) * drawn[:, 0])
    theta = np.zeros((images.shape[0], 2, 3), dtype=np.float32)
    theta[:, 0, 0] = theta[:, 1, 1] = sides
    theta[:, :, 2] = (1 - sides)[:, None] * (2 * drawn[:, 1:] - 1)
    grid = F.affine_grid(torch.from_numpy(theta), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
