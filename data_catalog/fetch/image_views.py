"""Views of test images: hashes and thumbnails of mirrored and cropped versions, which the leak guard looks for.

A training image is hashed once, whole. If it is a test image that was mirrored, or cropped by a few per cent, its hash
matches the view of the test image that was changed in the same way. Re-encoding and resizing change hashes little.
"""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from data_catalog.disk.disk_errors import disk_errors
from data_catalog.disk.row_groups import Row, write_rows
from data_catalog.fetch.workers import ImageWorkers
from data_catalog.images.normalise import NormaliseConfig, grey_miniature, normalise_image, perceptual_hash, thumbnail

VIEWS = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),  # of the image, as given by the caller
        pa.field("sha256", pa.string()),  # of its bytes, hexadecimal; null if there are none
        pa.field("view", pa.string()),  # a key of `_CUTS`, "mirrored " before it or not; null if decoding failed
        pa.field("phash", pa.string()),
        pa.field("thumbnail", pa.binary()),
        pa.field("drop_reason", pa.string()),  # reason of fetching or normalising; null if there are views
    ]
)
# Share of the width or height that a view cuts off at a side. `_CUTS` has the sides: left, top, right, bottom.
_CUT = 0.03
WHOLE = "whole"
_CUTS = {
    WHOLE: (0, 0, 0, 0),
    "middle": (1, 1, 1, 1),
    "top left": (0, 0, 1, 1),
    "top right": (1, 0, 0, 1),
    "bottom left": (0, 1, 1, 0),
    "bottom right": (1, 1, 0, 0),
}
_MIRRORED = "mirrored "
# Training images are hashed at this size by default. No test image is rejected as too small or too long.
_CONFIG = NormaliseConfig(
    encode_format="png", encode_quality=1, min_image_size=1, max_aspect_ratio=100.0, animated="first"
)


class View(NamedTuple):
    """A view of a test image."""

    view: str  # a key of `_CUTS`, with "mirrored " before it if the image was mirrored
    phash: str
    thumbnail: bytes


def image_views(raw: bytes) -> list[View]:
    """Return all views of an image file, decoded in this process."""
    return _views(normalise_image(raw, _CONFIG).data)


def write_views(location: str, names: Iterable[str], out: Path, workers: ImageWorkers) -> None:
    """Write the views of images, schema `VIEWS`, in the order of the names; one row with a reason if there are none.

    The names are those of images in a folder, a zip, an uncompressed tar, or a glob of them. The child processes of
    `workers` decode the files, so a file that crashes a decoder costs only itself.
    """
    with disk_errors(out):
        write_rows(_rows(workers.normalise_local(location, names, _CONFIG)), VIEWS, out)


def _rows(images: Iterable[Row]) -> Iterator[Row]:
    for image in images:
        known = {"name": image["sample_id"], "sha256": image["sha256"], "drop_reason": image["drop_reason"]}
        views = _views(image["bytes"]) if image["bytes"] else []
        yield from [known | view._asdict() for view in views] or [known]


def _views(png: bytes) -> list[View]:
    """Return the views of a normalised image."""
    whole = np.asarray(Image.open(io.BytesIO(png)))
    height, width = whole.shape[:2]
    found = []
    for prefix, pixels in (("", whole), (_MIRRORED, whole[:, ::-1])):
        for name, cuts in _CUTS.items():
            left, top, right, bottom = (
                round(_CUT * side * cut) for side, cut in zip((width, height) * 2, cuts, strict=True)
            )
            view = np.ascontiguousarray(pixels[top : height - bottom, left : width - right])
            phash = perceptual_hash(grey_miniature(view))
            found.append(View(view=prefix + name, phash=phash, thumbnail=thumbnail(view)))
    return found
