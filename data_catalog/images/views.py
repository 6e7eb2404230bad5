"""Test images as others may have changed them: hashes and thumbnails of several views, which a leak guard looks for.

Training images are hashed whole, as they come. One that is a test image mirrored, or cropped by a few per cent, is
found by a view of the test image that is mirrored or cropped alike; re-encoding and resizing change hashes little.
"""

import io
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from data_catalog.fetch.config import FetchConfig
from data_catalog.images.normalise import NormaliseConfig, grey_miniature, normalise_image, perceptual_hash, thumbnail
from data_catalog.images.tables import Row, read_groups, write_rows
from data_catalog.images.workers import ImageWorkers

VIEWS = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),  # of the image, as it was asked for
        pa.field("sha256", pa.string()),  # of its bytes, hexadecimal; null where there are none
        pa.field("view", pa.string()),  # a name of `_CUTS`, or "mirrored " and one; null where the image is no picture
        pa.field("phash", pa.string()),
        pa.field("thumbnail", pa.binary()),
        pa.field("drop_reason", pa.string()),  # why there are no views, as of any image
    ]
)
# What a view lacks of the width and height, at the left, the top, the right and the bottom.
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
# Pixels as training images have them when they are hashed, by the defaults; whatever a test set has is taken.
_CONFIG = NormaliseConfig(
    encode_format="png", encode_quality=1, min_image_size=1, max_aspect_ratio=100.0, animated="first"
)
_NAMES_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One view: a name of `_CUTS` or "mirrored " and one, 16 hexadecimal digits, and 192 bytes of 8x8 pixels of RGB."""

    view: str
    phash: str
    thumbnail: bytes


def image_views(raw: bytes) -> list[View]:
    """Return all views of an image file, decoded in this process.

    Raises:
        ImageRejectedError: it is no picture, or has one colour.
    """
    return _views(normalise_image(raw, _CONFIG).data)


def write_views(location: str, names: Iterable[str], out: Path, workers: ImageWorkers) -> None:
    """Write the views of images, schema `VIEWS`, in the order of the names; one row with a reason where there are none.

    Files are decoded by the child processes of `workers`, which may die of them.

    Args:
        location: a folder, a zip, an uncompressed tar, or a glob of them.
        names: of images therein.
        out: a new file; its folder holds the temporary files, too.
        workers: read and decode.

    Raises:
        InputError: the location can't be opened, or the child process can't work at all.
        DiskError: the disk is full, or fails.
    """
    write_rows(_rows(location, iter(names), out.parent, workers), VIEWS, out)


def _rows(location: str, names: Iterator[str], folder: Path, workers: ImageWorkers) -> Iterator[Row]:
    while some := list(islice(names, _NAMES_AT_ONCE)):
        none = pa.nulls(len(some), pa.string())
        asked = pa.table({"sample_id": some, "url": none, "path": some, "location": [location] * len(some)})
        with tempfile.TemporaryDirectory(dir=folder, prefix=".tmp-views-") as place:
            raw, images = Path(place) / "raw.parquet", Path(place) / "images.parquet"
            workers.fetch(asked, FetchConfig(), raw)
            workers.normalise(raw, _CONFIG, images)
            for image in (row for group in read_groups(images) for row in group):
                known = {"name": image["sample_id"], "sha256": image["sha256"], "drop_reason": image["drop_reason"]}
                if image["bytes"] is None:
                    yield {**known, "view": None, "phash": None, "thumbnail": None}
                else:
                    yield from ({**known, **asdict(view)} for view in _views(image["bytes"]))


def _views(png: bytes) -> list[View]:
    """Return the views of a file that we wrote ourselves."""
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
