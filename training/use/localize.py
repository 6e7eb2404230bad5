"""Find the part of an image that a text describes, by covering parts of the image and comparing cosines.

The method is based on CLIP-Italian (https://arxiv.org/abs/2108.08688) and its demo's code at
https://huggingface.co/spaces/clip-italian/clip-italian-demo, which shows one strip of the image at a time. Here the
parts are squares of several sizes, and the rest gets the image's mean colour. Each square is covered once, and shown
alone once. The value of a place is the mean over the squares that contain it, in cosines.
`benchmarks/localization.py` measures both methods and the demo's.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.base.errors import InputError, SettingsError
from training.data.images import BATCH_SIZE, picture_features, read_picture
from training.data.pairs import Floats
from training.towers.model import LoadedModel, open_model, require_texts
from training.towers.preprocessing import SQUASH, Pixels
from training.use.search import query_features, require_finite

Masks = np.ndarray[Any, np.dtype[np.bool_]]

GRID = 16  # cells per side; squares align with cells
LAST_DIGITS = 1e-5  # of cosines: features of equal images differ by less than this
SQUARES = ((2, 1), (4, 2), (6, 2))  # side and stride, in cells
COVER, REVEAL, BOTH = "cover", "reveal", "both"
METHODS = {
    BOTH: "decrease when a part is covered, plus increase when it is shown alone",
    COVER: "decrease when a part is covered",
    REVEAL: "increase when a part is shown alone, over a blank image",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Localization:
    """The part of an image that a text describes, as a heat map.

    The `cosine` is that of the whole image. The heat has values of the method in cosines, row by row from the top, for
    a grid of equal cells over the upright image, whose size is in pixels; below 0, the text fits better without the
    cell. `is_cut`: the end of the text was cut off.
    """

    image: Path
    text: str
    cosine: float
    method: str
    heat: tuple[tuple[float, ...], ...]
    width: int
    height: int
    num_masks: int
    is_cut: bool
    model_sha256: str

    @property
    def peak(self) -> tuple[float, float]:
        """Return the centre (x, y) of the hottest cell, in pixels from the left and the top."""
        row, column = divmod(int(np.argmax(self.heat)), len(self.heat))
        return (column + 0.5) * self.width / len(self.heat), (row + 0.5) * self.height / len(self.heat)

    @property
    def hottest(self) -> float:
        """Return the largest heat, or 0 if no part changes the cosine noticeably."""
        largest = float(np.max(self.heat))
        return largest if largest > LAST_DIGITS else 0.0

    @property
    def changes(self) -> bool:
        """Return whether any part changes the cosine noticeably, in either direction."""
        return bool(np.abs(self.heat).max() > LAST_DIGITS)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        found = {name: value for name, value in asdict(self).items() if name != "heat"}
        grid = [list(row) for row in self.heat]
        return {**found, "image": str(self.image), "grid": grid, "peak": list(self.peak) if self.hottest else None}


def localize(image: Path, text: str, model: LoadedModel | Path, *, method: str = BOTH) -> Localization:
    """Find the part of an image file that a text describes, by one of `METHODS`."""
    require_texts([text])
    if method not in METHODS:
        raise SettingsError(f"the method must be one of {', '.join(METHODS)}, got {method!r}")
    loaded = open_model(model)
    if loaded.preprocessing.resize_mode != SQUASH:
        raise InputError("the model sees only the middle of an image, so it cannot localize in the whole of it")
    picture = read_picture(image, loaded.image_size)
    pixels = loaded.preprocessing.resized(picture.image)
    wanted = query_features(loaded, text).astype(np.float64)
    whole = float(picture_features(loaded, np.stack([pixels]))[0] @ wanted)
    masks = _square_masks(min(GRID, loaded.image_size))
    changes, num_masks = np.zeros(len(masks)), 0
    if method in (COVER, BOTH):
        changes += whole - _cosines(loaded, pixels, wanted, masks)
        num_masks += len(masks)
    if method in (REVEAL, BOTH):
        blank, *alone = _cosines(loaded, pixels, wanted, np.concatenate([np.ones_like(masks[:1]), ~masks]))
        changes += np.array(alone) - blank
        num_masks += len(masks) + 1
    # The mean of the squares that cover a cell.
    heat = np.tensordot(changes, masks.astype(np.float64), axes=1) / masks.sum(axis=0)
    require_finite(heat)
    return Localization(
        image=image,
        text=text,
        cosine=whole,
        method=method,
        heat=tuple(map(tuple, heat.tolist())),
        width=picture.width,
        height=picture.height,
        num_masks=num_masks,
        is_cut=bool(loaded.tokenizer.too_long([text])),
        model_sha256=loaded.sha256,
    )


def _square_masks(num_cells: int) -> Masks:
    """Return the cells that each square covers, shape (squares, num_cells, num_cells). Every cell is in some square."""
    masks = []
    for side, stride in SQUARES:
        starts = [*range(0, max(1, num_cells - side), stride), max(0, num_cells - side)]
        for top in starts:
            for left in starts:
                mask = np.zeros((num_cells, num_cells), dtype=bool)
                mask[top : top + side, left : left + side] = True
                masks.append(mask)
    return np.stack(masks)


def _cosines(model: LoadedModel, pixels: Pixels, wanted: Floats, masks: Masks) -> Floats:
    """Return the cosines of a text with the image, where each mask is filled with the image's mean colour."""
    colour = np.round(pixels.mean(axis=(0, 1))).astype(np.uint8)
    cell_of = np.arange(len(pixels)) * masks.shape[1] // len(pixels)
    found = []
    for start in range(0, len(masks), BATCH_SIZE):
        covers = masks[start : start + BATCH_SIZE][:, cell_of][:, :, cell_of]
        found.append(picture_features(model, np.where(covers[..., None], colour, pixels)) @ wanted)
    return np.concatenate(found)
