"""What the page says of images: sizes, a gallery, which were the same as others, what became of the downloads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data_catalog.images.diagnosis import Diagnosis, diagnose
from flows.report.questions import Questions
from flows.report.thumbnails import Thumbnail, miniature, thumbnail

Rows = list[dict[str, Any]]

GALLERY_IMAGES = 36
# Of each reason.
MAX_TWINS = 4
MAX_GROUPS = 18

SPLITS = """
    SELECT source, split, count(*) AS num_images, sum(len(captions))::BIGINT AS num_captions
    FROM pairs GROUP BY ALL ORDER BY source, split
"""

CAPTIONS_PER_IMAGE = "SELECT len(captions) AS value, count(*) AS num_images FROM pairs GROUP BY ALL ORDER BY value"

# Sizes as the images came, in eighths of an octave: a cloud of few points, however many the images are.
SIZES = """
    SELECT round(8 * log2(original_width))::INTEGER AS width, round(8 * log2(original_height))::INTEGER AS height,
           count(*) AS num_images
    FROM pairs WHERE least(original_width, original_height) > 0 GROUP BY ALL ORDER BY width, height
"""

SIZE_FACTS = """
    SELECT quantile_cont(original_width, [0.05, 0.5, 0.95]) AS width,
           quantile_cont(original_height, [0.05, 0.5, 0.95]) AS height,
           min(least(width, height)) AS least_side, max(greatest(width, height)) AS greatest_side
    FROM pairs
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
           min_by(sample_id, md5_number_lower(sample_id), {num_images}) AS sample_ids
    FROM pairs GROUP BY ALL ORDER BY source, split
"""

PICTURES = """
    SELECT sample_id, source, split, image.bytes AS data, url, page_url, license, attribution, captions,
           source_captions, source_langs
    FROM pairs WHERE list_contains($sample_ids, sample_id)
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
    SELECT sample_id, url, thumbnail FROM image_outcomes WHERE list_contains($sample_ids, sample_id)
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


def gallery(ask: Questions, *, num_images: int = GALLERY_IMAGES) -> list[Picture]:
    """Published images, spread over sources and splits, in that order."""
    groups = ask.rows(CHOSEN.format(num_images=num_images))
    # Largest groups first, where there are more than the gallery has room for.
    largest = sorted(groups, key=lambda row: (-row["num_images"], row["source"], row["split"]))[:MAX_GROUPS]
    chosen = _in_turn([row["sample_ids"] for row in largest], num_images)
    found = {row["sample_id"]: row for row in _pictures(ask, chosen)}
    rows = sorted((found[name] for name in chosen if name in found), key=lambda row: (row["source"], row["split"]))
    return [Picture(facts=row, thumbnail=thumbnail(row.pop("data"))) for row in rows]


def _in_turn(groups: Sequence[Sequence[str]], limit: int) -> list[str]:
    """The first of each group, then the second of each, until there are enough."""
    longest = max(map(len, groups), default=0)
    return [group[place] for place in range(longest) for group in groups if place < len(group)][:limit]


def _pictures(ask: Questions, sample_ids: Sequence[str]) -> Rows:
    return ask.rows(PICTURES, sample_ids=list(sample_ids)) if sample_ids else []


def twins(ask: Questions) -> list[Twins]:
    """Some of the images that were dropped, or merged, because another one is the same or looks the same."""
    found = ask.rows(TWINS.format(limit=MAX_TWINS))
    rows = [{"drop_reason": row["drop_reason"], **twin} for row in found for twin in row["twins"]]
    names = sorted({name for row in rows for name in (row["sample_id"], row["other"])})
    published = {row["sample_id"]: thumbnail(row["data"]) for row in _pictures(ask, names)}
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
