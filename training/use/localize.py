"""Where in an image a text is: how the cosine changes when parts of the image are covered, or nothing else is shown.

The idea is CLIP-Italian's (https://arxiv.org/abs/2108.08688; the code is that of the demo at
https://huggingface.co/spaces/clip-italian/clip-italian-demo). The demo leaves one strip of the image visible at a time,
of every height and place, then of every width and place, and fills the rest with grey. It adds up by how much strips
fit the text better than the whole image does, and takes the mean away three times, so that the result has no unit. Here
the parts are squares of several sizes, and the rest has the image's mean colour. Each square is covered once, and shown
alone once: what the text speaks of is missed in the first case, and suffices in the second. A place has the mean over
the squares that hold it, a number in cosines. The image is squashed to the model's square, as in training, where the
demo pads it. `benchmarks/localization.py` measures both ways, and the demo's.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_catalog.errors import DamagedError, SettingsError
from training.data.images import BATCH_SIZE, Pixels, picture_features, read_picture, squashed
from training.data.pairs import Floats
from training.towers.model import WEIGHTS_FILE, LoadedModel, open_model, require_texts
from training.use.search import query_features

Masks = np.ndarray[Any, np.dtype[np.bool_]]

GRID = 16  # cells a side; all borders of squares are borders of cells
LAST_DIGITS = 1e-5  # of cosines: features of equal images differ by less
SQUARES = ((2, 1), (4, 2), (6, 2))  # side and stride, in cells
COVER, REVEAL, BOTH = "cover", "reveal", "both"
METHODS = {
    BOTH: "how much it falls without a part and rises by it alone",
    COVER: "how much it falls when a part is covered",
    REVEAL: "how much a part alone raises it over a blank image",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Localization:
    """Where a text is in an image.

    Args:
        cosine: of the whole image and the text.
        method: one of `METHODS`.
        heat: what the method measures, in cosines, row by row from the top: a grid of equal cells over the whole
            upright image. Below 0 where the text fits better without what is there.
        width: of the upright image, in pixels.
        height: likewise.
        num_masks: images that were encoded beside the whole one.
        is_cut: whether the text has more tokens than the model reads, so that its end was left out.
        model_sha256: of the model's weights.
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
        """Return (x, y) of the middle of the cell that matters most, in pixels from the left and the top."""
        number = max(range(len(self.heat) ** 2), key=lambda at: self.heat[at // len(self.heat)][at % len(self.heat)])
        row, column = divmod(number, len(self.heat))
        return (column + 0.5) * self.width / len(self.heat), (row + 0.5) * self.height / len(self.heat)

    @property
    def hottest(self) -> float:
        """Return the largest heat; 0 where no part changes anything but last digits."""
        largest = max(map(max, self.heat))
        return largest if largest > LAST_DIGITS else 0.0

    @property
    def changes(self) -> bool:
        """Tell whether any part changes the cosine by more than last digits, for better or worse."""
        return max(abs(value) for row in self.heat for value in row) > LAST_DIGITS

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for a JSON file."""
        found = {name: value for name, value in asdict(self).items() if name != "heat"}
        grid = [list(row) for row in self.heat]
        return {**found, "image": str(self.image), "grid": grid, "peak": list(self.peak) if self.hottest else None}


def localize(image: Path, text: str, model: LoadedModel | Path, *, method: str = BOTH) -> Localization:
    """Find where in an image file a text is.

    Args:
        model: a folder, or a loaded model.
        method: one of `METHODS`.

    Raises:
        SettingsError: an empty text, or no such method.
        InputError: no image that can be read, or no model.
        DamagedError: the model's files are damaged.
    """
    require_texts([text])
    if method not in METHODS:
        raise SettingsError(f"the method must be one of {', '.join(METHODS)}, got {method!r}")
    loaded = open_model(model)
    picture = read_picture(image, loaded.image_size)
    pixels = squashed(picture.image, loaded.image_size)
    wanted = query_features(loaded, text)[0].astype(np.float64)
    whole = float(picture_features(loaded, np.stack([pixels]))[0] @ wanted)
    masks = square_masks(min(GRID, loaded.image_size))
    heat, num_masks = np.zeros(masks.shape[1:]), 0
    if method in (COVER, BOTH):
        heat += mean_where_covered(whole - _cosines(loaded, pixels, wanted, masks), masks)
        num_masks += len(masks)
    if method in (REVEAL, BOTH):
        blank, *alone = _cosines(loaded, pixels, wanted, np.concatenate([np.ones_like(masks[:1]), ~masks]))
        heat += mean_where_covered(np.array(alone) - blank, masks)
        num_masks += len(masks) + 1
    if not np.isfinite(heat).all():
        raise DamagedError(f"the model's features are not finite: {WEIGHTS_FILE} is broken, so train it again")
    return Localization(
        image=image,
        text=text,
        cosine=whole,
        method=method,
        heat=tuple(tuple(map(float, row)) for row in heat),
        width=picture.width,
        height=picture.height,
        num_masks=num_masks,
        is_cut=bool(loaded.tokenizer.too_long([text])),
        model_sha256=loaded.sha256,
    )


def square_masks(num_cells: int) -> Masks:
    """Return which cells each square covers: shape (squares, num_cells, num_cells); every cell is covered by some."""
    masks = []
    for side, stride in SQUARES:
        starts = [*range(0, max(1, num_cells - side), stride), max(0, num_cells - side)]
        for top in starts:
            for left in starts:
                mask = np.zeros((num_cells, num_cells), dtype=bool)
                mask[top : top + side, left : left + side] = True
                masks.append(mask)
    return np.stack(masks)


def mean_where_covered(values: Floats, masks: Masks) -> Floats:
    """Return the mean of the values of the masks that cover a cell, for each cell: shape of a mask."""
    found: Floats = np.tensordot(values, masks.astype(np.float64), axes=1) / masks.sum(axis=0)
    return found


def _cosines(model: LoadedModel, pixels: Pixels, wanted: Floats, masks: Masks) -> Floats:
    """Return the cosines of the text and the image with each mask covered by its mean colour."""
    colour = np.round(pixels.mean(axis=(0, 1))).astype(np.uint8)
    cell_of = np.arange(len(pixels)) * masks.shape[1] // len(pixels)
    found = []
    for start in range(0, len(masks), BATCH_SIZE):
        covers = masks[start : start + BATCH_SIZE][:, cell_of][:, :, cell_of]
        found.append(picture_features(model, np.where(covers[..., None], colour, pixels)) @ wanted)
    return np.concatenate(found)
