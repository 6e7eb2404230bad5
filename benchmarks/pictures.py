"""Distinct photographs for benchmarks: cut from COCO's if these are there, otherwise drawn."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from data_folder import DATA, PHOTOS

# With this quality, photographs of 640x480 pixels have about 35 KB.
_QUALITY = 60


def write_photographs(folder: Path, count: int, size: tuple[int, int] = (640, 480)) -> str:
    """Write distinct photographs 000000.jpg and so on, of (width, height); return a description of their origin."""
    cv2.setNumThreads(1)
    originals = [cv2.imread(str(path)) for path in sorted((DATA / PHOTOS).glob("*.jpg"))]

    def write(number: int) -> None:
        picture = _cut_out(originals, number, size) if originals else drawn(number, size)
        cv2.imwrite(str(folder / f"{number:06d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(count)))
    return f"pieces of {len(originals)} photographs of COCO" if originals else "drawn pictures"


def _cut_out(originals: Sequence[Any], seed: int, size: tuple[int, int]) -> Any:
    """Return a cut of nearly a whole photograph, at another scale, possibly mirrored."""
    rng = np.random.default_rng(seed)
    picture = originals[rng.integers(len(originals))]
    height, width = picture.shape[:2]
    scale = rng.uniform(0.75, 1.0) * min(width / size[0], height / size[1])
    cut_width, cut_height = int(size[0] * scale), int(size[1] * scale)
    left, top = rng.integers(width - cut_width + 1), rng.integers(height - cut_height + 1)
    piece = cv2.resize(picture[top : top + cut_height, left : left + cut_width], size)
    return cv2.flip(piece, 1) if rng.random() < 0.5 else piece


def drawn(seed: int, size: tuple[int, int]) -> Any:
    """Return noise at all scales, stronger at coarse ones as in photographs: uint8, shape (height, width, 3)."""
    rng = np.random.default_rng(seed)
    picture = np.full((size[1], size[0], 3), 128.0, np.float32)
    for side, strength in ((3, 60), (8, 30), (30, 20), (120, 12), (640, 5)):
        noise = rng.normal(0, strength, (max(2, side * 3 // 4), side, 3)).astype(np.float32)
        picture += cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    return picture.clip(0, 255).astype(np.uint8)


def saved(image: Any, kind: str, **options: Any) -> bytes:
    """Return the file of a Pillow image."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(image: Any, quality: int = 75) -> bytes:
    """Return the JPEG file of a Pillow image."""
    return saved(image, "JPEG", quality=quality)
