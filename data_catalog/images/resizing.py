"""Resize modes and sizes as img2dataset has them, and averaging over areas at less than half of OpenCV's cost."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_catalog.images.pixels import Pixels

RESIZE_MODES = ("no", "border", "keep_ratio", "keep_ratio_largest", "center_crop")
# img2dataset's names, and OpenCV's.
INTERPOLATIONS = {
    "nearest": "INTER_NEAREST",
    "linear": "INTER_LINEAR",
    "bilinear": "INTER_LINEAR",
    "cubic": "INTER_CUBIC",
    "bicubic": "INTER_CUBIC",
    "area": "INTER_AREA",
    "lanczos": "INTER_LANCZOS4",
    "lanczos4": "INTER_LANCZOS4",
}
_BY_SHORTER_SIDE = ("keep_ratio", "center_crop")
_BORDER_COLOUR = (255, 255, 255)
# Above it averaging needs more memory, for its floats, than it is worth.
_MAX_FLOAT_PIXELS = 2_000_000
# A JPEG decoded at a fraction has still at least this many times the wanted size.
_FRACTION_MARGIN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizePlan:
    """What is to be done to one picture: its size before cropping or padding, in pixels; None: it stays as it is."""

    width: int
    height: int
    interpolation: str
    mode: str
    image_size: int
    shrinks: bool

    @classmethod
    def of(
        cls, size: tuple[int, int], image_size: int, mode: str, *, only_if_bigger: bool, interpolations: tuple[str, str]
    ) -> "ResizePlan | None":
        """The plan for a picture of (width, height); `interpolations` are for shrinking and for growing."""
        side = min(size) if mode in _BY_SHORTER_SIDE else max(size)
        shrinks = side > image_size
        if mode == "no" or (only_if_bigger and not shrinks):
            return None
        scale = image_size / side
        width, height = (max(1, round(length * scale)) for length in size)
        interpolation = interpolations[0 if shrinks else 1]
        return cls(
            width=width, height=height, interpolation=interpolation, mode=mode, image_size=image_size, shrinks=shrinks
        )

    def fraction(self, size: tuple[int, int]) -> int:
        """1, 2, 4 or 8: the fraction of its (width, height) at which a JPEG may be decoded, and stay close."""
        if not self.shrinks or self.interpolation != "area":
            return 1
        times = min(size[0] / self.width, size[1] / self.height) / _FRACTION_MARGIN
        return max(fraction for fraction in (1, 2, 4, 8) if fraction <= max(1, times))


def resized(pixels: "Pixels", plan: ResizePlan) -> "Pixels":
    """The whole picture, shape (height, width, 3), at the plan's size."""
    import cv2

    height, width = pixels.shape[:2]
    if (width, height) == (plan.width, plan.height):
        return pixels
    shrinks = plan.width < width and plan.height < height
    if plan.interpolation == "area" and shrinks and not _is_quick_for_opencv(width, height, plan):
        return _averaged(pixels, plan.width, plan.height)
    interpolation = getattr(cv2, INTERPOLATIONS[plan.interpolation])
    shrunk: Pixels = cv2.resize(pixels, (plan.width, plan.height), interpolation=interpolation)
    return shrunk


def _is_quick_for_opencv(width: int, height: int, plan: ResizePlan) -> bool:
    """Whole numbers of pixels are a loop of its own there."""
    return (width % plan.width == 0 and height % plan.height == 0) or width * height > _MAX_FLOAT_PIXELS


def _averaged(pixels: "Pixels", width: int, height: int) -> "Pixels":
    """What cv2.INTER_AREA gives, within 1 of 255.

    Two products with sparse matrices run along whole rows of pixels, which a processor does many at a time.
    """
    import cv2
    import numpy as np

    rows, columns = pixels.shape[:2]
    lower = _weights(rows, height) @ pixels.reshape(rows, columns * 3).astype(np.float32)
    sideways = cv2.transpose(lower.reshape(height, columns, 3)).reshape(columns, height * 3)
    both = cv2.convertScaleAbs(_weights(columns, width) @ sideways)
    averaged: Pixels = cv2.transpose(both.reshape(width, height, 3))
    return averaged


@lru_cache(maxsize=256)
def _weights(num_before: int, num_after: int) -> Any:
    """Matrix of shape (num_after, num_before): which share of each new pixel an old one covers; rows add up to 1."""
    import numpy as np
    from scipy.sparse import csr_array

    scale = num_before / num_after
    starts = np.arange(num_after)[:, None] * scale
    covered = np.floor(starts).astype(np.int64) + np.arange(math.ceil(scale) + 1)
    shares = np.minimum(covered + 1, starts + scale) - np.maximum(covered, starts)
    real = (shares > 1e-6) & (covered < num_before)
    places = (np.broadcast_to(np.arange(num_after)[:, None], real.shape)[real], covered[real])
    return csr_array(((shares[real] / scale).astype(np.float32), places), shape=(num_after, num_before))


def finished(pixels: "Pixels", plan: ResizePlan) -> "Pixels":
    """Crop or pad the resized, upright picture where the mode asks for it."""
    if plan.mode == "center_crop":
        return _cropped(pixels, plan.image_size)
    return _padded(pixels, plan.image_size) if plan.mode == "border" else pixels


def _cropped(pixels: "Pixels", side: int) -> "Pixels":
    import numpy as np

    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def _padded(pixels: "Pixels", side: int) -> "Pixels":
    import cv2

    missing = [side - length for length in pixels.shape[:2]]
    (top, left), (bottom, right) = zip(*((gap // 2, gap - gap // 2) for gap in missing), strict=True)
    padded: Pixels = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=_BORDER_COLOUR)
    return padded
