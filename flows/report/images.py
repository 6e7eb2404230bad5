"""What the page says of images: sizes, a gallery, which were the same as others, what became of the downloads."""

import base64
import io
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from data_catalog.fetch.diagnosis import Diagnosis, diagnose
from flows.report.questions import Questions

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 160
_QUALITY = 60
# What images are published as; nothing else is given to a decoder.
_FORMATS = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture as a `data:` address, and its size in pixels."""

    address: str
    width: int
    height: int


def thumbnail(data: bytes | None) -> Thumbnail | None:
    """A published image, at most `SIDE` pixels wide and high; None if it cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data or b""), formats=_FORMATS) as image:
            image.thumbnail((SIDE, SIDE))
            return _encoded(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # as Pillow tells of broken files
        return None


def miniature(pixels: bytes | None) -> Thumbnail | None:
    """The 8 x 8 pixels that are kept of an image that is not published, drawn large; None if there are none."""
    from PIL import Image

    if pixels is None or len(pixels) != 192:
        return None
    small = Image.frombytes("RGB", (8, 8), pixels)
    return _encoded(small.resize((SIDE // 2, SIDE // 2), Image.Resampling.BICUBIC))


def _encoded(image: "Image") -> Thumbnail:
    file = io.BytesIO()
    image.save(file, format="WEBP", quality=_QUALITY, method=4)
    address = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return Thumbnail(address, image.width, image.height)


Rows = list[dict[str, Any]]

GALLERY_IMAGES = 36
# Of each reason.
MAX_TWINS = 4
MAX_GROUPS = 18

# All that is counted of published images, in one pass: their files are the largest, and without their pictures small.
# Sizes as the images came are in eighths of an octave: a cloud of few points, however many the images are.
COUNTS = """
    SELECT CASE WHEN GROUPING(split) = 0 THEN 'split' WHEN GROUPING(license) = 0 THEN 'license'
                WHEN GROUPING(per_image) = 0 THEN 'per_image' WHEN GROUPING(octave) = 0 THEN 'size'
                WHEN GROUPING(original_width) = 0 THEN 'width' ELSE 'height' END AS of,
           source, split, license, per_image, octave, original_width, original_height,
           count(*) AS num_images, sum(num_captions)::BIGINT AS num_captions, count(attribution) AS num_attributed,
           count(page_url) AS num_with_page, min(least_side) AS least_side, max(greatest_side) AS greatest_side,
           avg(original_width) AS mean_width, avg(original_height) AS mean_height
    FROM (
        SELECT source, split, license, attribution, page_url, original_width, original_height,
               len(captions) AS num_captions, len(captions) AS per_image, least(width, height) AS least_side,
               greatest(width, height) AS greatest_side,
               CASE WHEN least(original_width, original_height) > 0 THEN
                   {'width': round(8 * log2(original_width))::INTEGER,
                    'height': round(8 * log2(original_height))::INTEGER} END AS octave
        FROM pairs
    ) GROUP BY GROUPING SETS (
        (source, split), (source, license), (per_image), (octave), (original_width), (original_height)
    ) ORDER BY ALL
"""

BYTES = """
    SELECT round(4 * log2(num_bytes))::INTEGER AS value, count(*) AS num_images
    FROM image_outcomes WHERE drop_reason IS NULL AND num_bytes > 0 GROUP BY ALL ORDER BY value
"""

FORMATS = """
    SELECT original_format, count(*) AS num_images, sum(num_bytes)::BIGINT AS num_bytes
    FROM image_outcomes WHERE drop_reason IS NULL GROUP BY ALL ORDER BY num_images DESC, original_format
"""

# Chosen by hash, from each source and split in turn, by their ids alone: pictures are read of the chosen ones only.
CHOSEN = """
    SELECT source, split, count(*) AS num_images,
           min_by({{sample_id: sample_id, filename: filename}}, md5_number_lower(sample_id), {num_images}) AS chosen
    FROM pairs GROUP BY ALL ORDER BY source, split
"""

PLACES = "SELECT sample_id, filename FROM pairs WHERE sample_id IN (SELECT unnest($sample_ids))"

PICTURES = """
    SELECT sample_id, source, split, image.bytes AS data, url, page_url, license, attribution, captions,
           source_captions, source_langs
    FROM read_parquet($files, hive_partitioning = false) WHERE sample_id IN (SELECT unnest($sample_ids))
"""

DUPLICATES = """
    SELECT drop_reason, count(*) AS num_captions, count(DISTINCT sample_id) AS num_images
    FROM captions WHERE step = 'deduplicate' GROUP BY ALL ORDER BY num_images DESC, drop_reason
"""

MERGED = """
    SELECT count(*) AS num_captions, count(DISTINCT sample_id) AS num_images FROM captions WHERE merged_into IS NOT NULL
"""

# The other image stands in the detail, "same as mscoco:18472" or "looks like wit:91262 of val".
TWINS = """
    SELECT drop_reason, min_by({{sample_id: sample_id, other: other}}, md5_number_lower(sample_id), {limit}) AS twins
    FROM (
        SELECT DISTINCT sample_id, drop_reason, regexp_extract(detail, '^(?:same as|looks like) (\\S+)', 1) AS other
        FROM captions WHERE step = 'deduplicate'
        UNION ALL
        SELECT DISTINCT sample_id, 'merged', merged_into FROM captions WHERE merged_into IS NOT NULL
    ) WHERE other <> '' GROUP BY ALL ORDER BY drop_reason
"""

MINIATURES = """
    SELECT sample_id, url, thumbnail FROM image_outcomes WHERE sample_id IN (SELECT unnest($sample_ids))
"""

ASKED = """
    SELECT host, drop_reason, count(*) AS num_images
    FROM (SELECT *, lower(regexp_extract(url, '^[a-zA-Z]+://([^/?#]+)', 1)) AS host FROM image_outcomes)
    WHERE url IS NOT NULL GROUP BY ALL ORDER BY num_images DESC, host, drop_reason
"""

LOST = """
    SELECT step, drop_reason, url IS NOT NULL AS is_remote, count(*) AS num_images
    FROM image_outcomes WHERE drop_reason IS NOT NULL GROUP BY ALL ORDER BY num_images DESC, drop_reason
"""

LEAKS = """
    SELECT test_set, source, reason, outcome, count(DISTINCT sample_id) AS num_images, count(*) AS num_captions
    FROM (
        SELECT sample_id, source, split_part(detail, ': ', 1) AS test_set, drop_reason AS reason, 'dropped' AS outcome
        FROM captions WHERE drop_reason IN ('test_image', 'test_caption', 'test_pixels')
        UNION ALL
        SELECT sample_id, source, split_part(substr(mark, instr(mark, ' ') + 1), ': ', 1), split_part(mark, ' ', 1),
               'marked'
        FROM (SELECT sample_id, source, unnest(leaks) AS mark FROM captions)
    ) GROUP BY ALL ORDER BY ALL
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What is counted of published images.

    Args:
        splits: images and captions by source and split.
        licences: images by source and licence, null where upstream gives none.
        per_image: images by number of captions.
        sizes: images by width and height as they came, in eighths of an octave, with the means of both in pixels.
        usual: width and height as they came: 5 %, 50 % and 95 % of the images are no larger.
        sides: shortest and longest side of all images as they are published.
    """

    splits: Rows
    licences: Rows
    per_image: dict[int, int]
    sizes: Rows
    usual: dict[str, tuple[int, int, int]]
    sides: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image of the gallery: its facts, and the picture, None if it cannot be decoded."""

    facts: dict[str, Any]
    thumbnail: Thumbnail | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Twins:
    """An image that was dropped beside the one that stays; either may be there as a picture or not."""

    reason: str
    gone: str
    stays: str
    gone_thumbnail: Thumbnail | None
    stays_thumbnail: Thumbnail | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Images asked of one host."""

    name: str
    num_asked: int
    num_came: int
    reasons: dict[str, int]


def counts(ask: Questions) -> Counts:
    """Count published images by all that they are counted by."""
    found: dict[str, Rows] = {name: [] for name in ("split", "license", "per_image", "size", "width", "height")}
    for row in ask.rows(COUNTS):
        found[row["of"]].append(row)
    licences = sorted(found["license"], key=lambda row: (row["source"], -row["num_images"]))
    return Counts(
        splits=found["split"],
        licences=licences,
        per_image={row["per_image"]: row["num_images"] for row in found["per_image"]},
        sizes=[
            {**row["octave"], **{name: row[name] for name in ("mean_width", "mean_height", "num_images")}}
            for row in found["size"]
            if row["octave"]
        ],
        usual={
            side: _quantiles({row[f"original_{side}"]: row["num_images"] for row in found[side]})
            for side in ("width", "height")
        },
        sides=(
            min((row["least_side"] for row in found["split"]), default=0),
            max((row["greatest_side"] for row in found["split"]), default=0),
        ),
    )


def _quantiles(counts: dict[int, int]) -> tuple[int, int, int]:
    """The values that 5 %, 50 % and 95 % do not exceed; zeros where there are none."""
    known = sorted((value, count) for value, count in counts.items() if value is not None)
    sums = list(accumulate(count for _, count in known))
    if not known:
        return 0, 0, 0
    low, middle, high = (known[bisect_left(sums, share * sums[-1])][0] for share in (0.05, 0.5, 0.95))
    return low, middle, high


def gallery(ask: Questions, *, num_images: int = GALLERY_IMAGES) -> list[Picture]:
    """Published images, spread over sources and splits, in that order."""
    groups = ask.rows(CHOSEN.format(num_images=num_images))
    # Largest groups first, where there are more than the gallery has room for.
    largest = sorted(groups, key=lambda row: (-row["num_images"], row["source"], row["split"]))[:MAX_GROUPS]
    chosen = _in_turn([row["chosen"] for row in largest], num_images)
    found = {row["sample_id"]: row for row in _pictures(ask, chosen)}
    rows = sorted(found.values(), key=lambda row: (row["source"], row["split"], row["sample_id"]))
    return [Picture(facts=row, thumbnail=thumbnail(row.pop("data"))) for row in rows]


def _in_turn(groups: Sequence[Rows], limit: int) -> Rows:
    """The first of each group, then the second of each, until there are enough."""
    longest = max(map(len, groups), default=0)
    return [group[place] for place in range(longest) for group in groups if place < len(group)][:limit]


def _pictures(ask: Questions, places: Rows) -> Rows:
    """Pairs with their pictures, read from the files that they are in."""
    if not places:
        return []
    files = sorted({row["filename"] for row in places})
    return ask.rows(PICTURES, files=files, sample_ids=[row["sample_id"] for row in places])


def twins(ask: Questions) -> list[Twins]:
    """Some of the images that were dropped, or merged, because another one is the same or looks the same."""
    found = ask.rows(TWINS.format(limit=MAX_TWINS))
    rows = [{"drop_reason": row["drop_reason"], **twin} for row in found for twin in row["twins"]]
    names = sorted({name for row in rows for name in (row["sample_id"], row["other"])})
    places = ask.rows(PLACES, sample_ids=names) if names else []
    published = {row["sample_id"]: thumbnail(row["data"]) for row in _pictures(ask, places)}
    small = {row["sample_id"]: row["thumbnail"] for row in ask.rows(MINIATURES, sample_ids=names)} if names else {}

    def shown(name: str) -> Thumbnail | None:
        return published.get(name) or miniature(small.get(name))

    return [
        Twins(
            reason=row["drop_reason"],
            gone=row["sample_id"],
            stays=row["other"],
            gone_thumbnail=shown(row["sample_id"]),
            stays_thumbnail=shown(row["other"]),
        )
        for row in rows
    ]


def downloads(ask: Questions) -> tuple[Diagnosis, list[Host]]:
    """What became of the images that were asked of the web, and of which hosts, those asked most first."""
    table = ask.table(ASKED)
    hosts: dict[str, Host] = {}
    for row in table.to_pylist():
        name, count, reason = row["host"] or "", row["num_images"], row["drop_reason"]
        old = hosts.get(name) or Host(name=name, num_asked=0, num_came=0, reasons={})
        reasons = old.reasons if reason is None else {**old.reasons, reason: count}
        came = old.num_came + (count if reason is None else 0)
        hosts[name] = Host(name=name, num_asked=old.num_asked + count, num_came=came, reasons=reasons)
    return diagnose(table), sorted(hosts.values(), key=lambda host: (-host.num_asked, host.name))
