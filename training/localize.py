"""Where in an image a text is: how much the cosine falls when parts of the image are covered.

The idea is CLIP-Italian's (https://arxiv.org/abs/2108.08688; the code is that of the demo at
https://huggingface.co/spaces/clip-italian/clip-italian-demo). The demo leaves one strip of the image visible at a time,
of every height and place, then of every width and place, and fills the rest with grey. It adds up by how much strips
fit the text better than the whole image does, and takes the mean away three times, so that the result has no unit. Here
squares of several sizes are covered instead, with the image's mean colour, and each place has the mean fall of the
cosine over the squares that cover it: a number that can be compared. The image is squashed to the model's square, as in
training, where the demo pads it.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_catalog.errors import ConfigError
from training.encode_files import BATCH_SIZE, picture_features, read_picture
from training.images import squashed
from training.model import LoadedModel
from training.model_folder import open_model, require_texts
from training.search import query_features

if TYPE_CHECKING:
    import numpy as np

    from training.images import Pixels
    from training.nearest import Floats

    Masks = np.ndarray[Any, np.dtype[np.bool_]]

logger = logging.getLogger(__name__)

GRID = 16  # cells a side; all borders of squares are borders of cells
LAST_DIGITS = 1e-5  # of cosines: features of equal images differ by less
SQUARES = ((2, 1), (4, 1), (6, 2))  # side and stride, in cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Localization:
    """Where a text is in an image.

    Args:
        cosine: of the whole image and the text.
        drops: how much the cosine falls on average when a cell is covered, row by row from the top: a grid of equal
            cells over the whole upright image. Below 0 where the text fits better without what is there.
        width: of the upright image, in pixels.
        height: likewise.
        num_masks: images that were encoded beside the whole one.
        is_cut: whether the text has more tokens than the model reads, so that its end was left out.
        model_sha256: of the model's weights.
    """

    image: Path
    text: str
    cosine: float
    drops: tuple[tuple[float, ...], ...]
    width: int
    height: int
    num_masks: int
    is_cut: bool
    model_sha256: str

    @property
    def peak(self) -> tuple[float, float]:
        """(x, y) of the middle of the cell that matters most, in pixels from the left and the top."""
        number = max(
            range(len(self.drops) ** 2), key=lambda at: self.drops[at // len(self.drops)][at % len(self.drops)]
        )
        row, column = divmod(number, len(self.drops))
        return (column + 0.5) * self.width / len(self.drops), (row + 0.5) * self.height / len(self.drops)

    @property
    def fall(self) -> float:
        """The largest fall of the cosine; 0 where covering changes nothing but last digits."""
        largest = max(map(max, self.drops))
        return largest if largest > LAST_DIGITS else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a JSON file."""
        return {
            "image": str(self.image),
            "text": self.text,
            "cosine": self.cosine,
            "grid": [list(row) for row in self.drops],
            "width": self.width,
            "height": self.height,
            "peak": list(self.peak) if self.fall else None,
            "num_masks": self.num_masks,
            "is_cut": self.is_cut,
            "model_sha256": self.model_sha256,
        }


def localize(image: Path, text: str, model: LoadedModel | Path) -> Localization:
    """Find where in an image file a text is.

    Args:
        model: a folder, or a loaded model.

    Raises:
        ConfigError: an empty text, no image that can be read, or no model.
    """
    import numpy as np

    require_texts([text])
    loaded = open_model(model)
    picture = read_picture(image, loaded.image_size)
    pixels = squashed(picture.image, loaded.image_size)
    wanted = query_features(loaded, text)[0].astype(np.float64)
    masks = square_masks(min(GRID, loaded.image_size))
    whole = float(picture_features(loaded, np.stack([pixels]))[0] @ wanted)
    cosines = np.concatenate([picture_features(loaded, some) @ wanted for some in _covered(pixels, masks)])
    if not np.isfinite([whole, *cosines]).all():
        raise ConfigError("the model's features are not finite: it is broken, so train it again")
    return Localization(
        image=image,
        text=text,
        cosine=whole,
        drops=tuple(tuple(map(float, row)) for row in mean_where_covered(whole - cosines, masks)),
        width=picture.width,
        height=picture.height,
        num_masks=len(masks),
        is_cut=bool(loaded.tokenizer.too_long([text])),
        model_sha256=loaded.sha256,
    )


def square_masks(num_cells: int) -> "Masks":
    """Which cells each square covers: shape (squares, num_cells, num_cells); every cell is covered by some."""
    import numpy as np

    masks = []
    for side, stride in SQUARES:
        starts = [*range(0, max(1, num_cells - side), stride), max(0, num_cells - side)]
        for top in starts:
            for left in starts:
                mask = np.zeros((num_cells, num_cells), dtype=bool)
                mask[top : top + side, left : left + side] = True
                masks.append(mask)
    return np.stack(masks)


def mean_where_covered(values: "Floats", masks: "Masks") -> "Floats":
    """The mean of the values of the masks that cover a cell, for each cell: shape of a mask."""
    import numpy as np

    found: Floats = np.tensordot(values, masks.astype(np.float64), axes=1) / masks.sum(axis=0)
    return found


def _covered(pixels: "Pixels", masks: "Masks") -> "Iterator[Pixels]":
    """The image with each mask covered by its mean colour, by the batch."""
    import numpy as np

    colour = np.round(pixels.mean(axis=(0, 1))).astype(np.uint8)
    cell_of = np.arange(len(pixels)) * masks.shape[1] // len(pixels)
    for start in range(0, len(masks), BATCH_SIZE):
        covers = masks[start : start + BATCH_SIZE][:, cell_of][:, :, cell_of]
        yield np.where(covers[..., None], colour, pixels)
