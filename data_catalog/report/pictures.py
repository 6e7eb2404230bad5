"""The pictures of the page: a gallery of what is published, and images beside those that they are the same as."""

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

Rows = list[dict[str, Any]]
# Answers SQL, with its parameters by name, in one dict a row.
Ask = Callable[..., Rows]

_SIDE = 160
_QUALITY = 60
# What images are published as; nothing else is given to a decoder.
_FORMATS = ("JPEG", "PNG", "WEBP")
_GALLERY_IMAGES = 36
_GALLERY_GROUPS = 18
_MAX_TWINS = 4  # of each reason

# Chosen by hash, from each source and split in turn, the largest of them, by their ids alone: pictures are read of the
# chosen ones only.
CHOSEN = f"""
    SELECT chosen.sample_id AS sample_id, chosen.filename AS filename
    FROM (
        SELECT num_images, source, split, unnest(chosen) AS chosen, generate_subscripts(chosen, 1) AS turn
        FROM (
            SELECT source, split, count(*) AS num_images, min_by(
                {{'sample_id': sample_id, 'filename': filename}}, md5_number_lower(sample_id), {_GALLERY_IMAGES}
            ) AS chosen
            FROM pairs GROUP BY ALL ORDER BY num_images DESC, source, split LIMIT {_GALLERY_GROUPS}
        )
    ) ORDER BY turn, num_images DESC, source, split LIMIT {_GALLERY_IMAGES}
"""

PLACES = "SELECT sample_id, filename FROM pairs WHERE sample_id IN (SELECT unnest($sample_ids))"

PICTURES = """
    SELECT sample_id, source, split, image.bytes AS data, url, page_url, license, attribution, captions
    FROM read_parquet($files, hive_partitioning = false) WHERE sample_id IN (SELECT unnest($sample_ids))
    ORDER BY source, split, sample_id
"""

# The other image stands in the detail, "same as mscoco:18472" or "looks like wit:91262 of val".
TWINS = f"""
    SELECT reason, min_by({{'gone': gone, 'stays': stays}}, md5_number_lower(gone), {_MAX_TWINS}) AS twins
    FROM (
        SELECT DISTINCT drop_reason AS reason, sample_id AS gone,
               regexp_extract(detail, '^(?:same as|looks like) (\\S+)', 1) AS stays
        FROM captions WHERE step = 'deduplicate'
        UNION ALL
        SELECT DISTINCT 'merged', sample_id, merged_into FROM captions WHERE merged_into IS NOT NULL
    ) WHERE stays <> '' GROUP BY ALL ORDER BY reason
"""

MINIATURES = "SELECT sample_id, thumbnail FROM image_outcomes WHERE sample_id IN (SELECT unnest($sample_ids))"


def gallery(ask: Ask) -> Rows:
    """Return published images, spread over sources and splits, in that order, each with its `thumbnail`."""
    return _pictures(ask, ask(CHOSEN))


def twins(ask: Ask) -> Rows:
    """Return some of the images that were dropped, or merged, beside the one that is the same or looks the same."""
    rows = [{"reason": row["reason"], **twin} for row in ask(TWINS) for twin in row["twins"]]
    if not rows:
        return []
    names = sorted({name for row in rows for name in (row["gone"], row["stays"])})
    shown = {row["sample_id"]: _miniature(row["thumbnail"]) for row in ask(MINIATURES, sample_ids=names)}
    published = {row["sample_id"]: row["thumbnail"] for row in _pictures(ask, ask(PLACES, sample_ids=names))}
    shown |= {name: picture for name, picture in published.items() if picture is not None}
    return [{**row, **{f"{side}_thumbnail": shown.get(row[side]) for side in ("gone", "stays")}} for row in rows]


def _pictures(ask: Ask, places: Rows) -> Rows:
    """Return pairs with their thumbnails, read from the files that they are in."""
    if not places:
        return []
    files = sorted({row["filename"] for row in places})
    found = ask(PICTURES, files=files, sample_ids=[row["sample_id"] for row in places])
    return [{**row, "thumbnail": _thumbnail(row.pop("data"))} for row in found]


def _thumbnail(data: bytes | None) -> dict[str, Any] | None:
    """Return a published image, at most `_SIDE` pixels wide and high; None if it cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data or b""), formats=_FORMATS) as image:
            image.thumbnail((_SIDE, _SIDE))
            return _encoded(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # as Pillow tells of broken files
        return None


def _miniature(pixels: bytes | None) -> dict[str, Any] | None:
    """Return the 8 x 8 pixels that are kept of an image that is not published, drawn large; None if there are none."""
    from PIL import Image

    if pixels is None or len(pixels) != 192:
        return None
    small = Image.frombytes("RGB", (8, 8), pixels)
    return _encoded(small.resize((_SIDE // 2, _SIDE // 2), Image.Resampling.BICUBIC))


def _encoded(image: "Image") -> dict[str, Any]:
    """Return a picture as a `data:` address, and its size in pixels."""
    file = io.BytesIO()
    image.save(file, format="WEBP", quality=_QUALITY, method=4)
    address = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return {"address": address, "width": image.width, "height": image.height}
