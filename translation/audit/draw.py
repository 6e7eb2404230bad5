"""A stratified sample of a dataset's translations, for people to rate.

The sample contains distinct pairs of source and translation from captions that a build kept. A stratum consists of a
source's pairs with a warning in their quality columns, or of a third of its other pairs by translation score; by
`image_text_score` if a model judged the captions. The sample size of a stratum is proportional to its size. The weight
of a sampled pair is the number of pairs that it represents, so that weighted means estimate the means of all pairs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_catalog.base.errors import InputError, SettingsError
from data_catalog.catalog.connections import snapshot_queries
from data_catalog.catalog.manifest import require_snapshot
from data_catalog.disk.files import digest
from data_catalog.rows.origins import HAS_ORIGINAL
from data_catalog.rows.schema import IMAGE_TEXT, KEPT

# Columns of the captions table that describe the quality of a translation.
QUALITY_COLUMNS = (
    "translation_score",
    "translation_truncated",
    "translation_repetitive",
    "length_ratio",
    "copied_share",
    "repeated_ngrams",
    "numbers_lost",
    "numbers_invented",
    "language_margin",
    "round_trip_chrf",
    *IMAGE_TEXT,
)
AUDIT_COLUMNS = (
    *("audit_id", "row_id", "source_text", "text", "source_lang", "target_lang", "source", "stratum", "weight"),
    *("num_captions", "caption_id", "translator", *QUALITY_COLUMNS),
)

# Hashes decide which pairs are drawn and in which order they are shown, so that neither depends on the order of rows or
# files. The query returns the first pairs of each stratum in drawing order, at most as many as the whole sample.
_CANDIDATES = f"""
    WITH pairs AS (
        SELECT clean_caption AS source_text, caption AS text, source_lang, target_lang, source, caption_id, translator,
               {", ".join(QUALITY_COLUMNS)},
               count(*) OVER same AS num_captions, count(image_text_score) OVER () > 0 AS is_judged,
               md5(concat_ws(chr(31), $seed, 'draw', clean_caption, caption)) AS draw_key,
               md5(concat_ws(chr(31), $seed, 'show', clean_caption, caption)) AS show_key
        FROM captions
        WHERE outcome = '{KEPT}' AND {HAS_ORIGINAL}
        WINDOW same AS (PARTITION BY clean_caption, caption)
        QUALIFY row_number() OVER (same ORDER BY caption_id) = 1
    ), warned AS (
        SELECT *, if(is_judged, image_text_score, translation_score) AS grade,
               coalesce(translation_truncated, false) OR coalesce(translation_repetitive, false)
               OR coalesce(repeated_ngrams > 1, false) OR coalesce(language_margin < 0, false)
               OR coalesce(len(numbers_lost) > 0, false) OR coalesce(len(numbers_invented) > 0, false) AS has_warning
        FROM pairs
    ), thirds AS (
        SELECT *, ntile(3) OVER (
            PARTITION BY source, has_warning, grade IS NULL ORDER BY grade, draw_key
        ) AS third
        FROM warned
    ), strata AS (
        SELECT *, source || ': ' || CASE
            WHEN has_warning THEN 'warning'
            ELSE if(grade IS NULL, 'no', ['low', 'middle', 'high'][third])
                 || if(is_judged, ' image-text score', ' score') END AS stratum
        FROM thirds
    )
    SELECT * EXCLUDE (third, has_warning, is_judged, grade), count(*) OVER (PARTITION BY stratum) AS stratum_size
    FROM strata
    QUALIFY row_number() OVER (PARTITION BY stratum ORDER BY draw_key) <= $num_rows
    ORDER BY draw_key, source_text, text
"""


class Stratum(NamedTuple):
    """A stratum: the number of its distinct pairs, and the number drawn from it."""

    name: str
    num_pairs: int
    num_drawn: int


class Audit(NamedTuple):
    """A sample to be rated."""

    audit_id: str  # digest of the rows; it changes with rows, weights and order
    dataset: str
    rows: Sequence[Mapping[str, Any]]  # with `AUDIT_COLUMNS`, in the order in which raters see them
    strata: Sequence[Stratum]  # by name, those without a row included


def draw_audit(root: Path, dataset: str, *, num_rows: int, seed: int) -> Audit:
    """Draw `num_rows` distinct pairs, or all if there are fewer, from a dataset's current snapshot.

    Equal seeds draw the same pairs.
    """
    if num_rows < 1:
        raise SettingsError(f"an audit needs at least one row, got --n {num_rows}: give --n 1 or more")
    with snapshot_queries(require_snapshot(root, dataset)) as ask:
        candidates = ask(_CANDIDATES, seed=str(seed), num_rows=num_rows).to_pylist()
    if not candidates:
        raise InputError(
            f"dataset {dataset!r} of {root} has no kept captions with a translation and its original: there is nothing "
            "to audit"
        )
    sizes = dict(sorted({row["stratum"]: row["stratum_size"] for row in candidates}.items()))
    strata = list(map(Stratum, sizes, sizes.values(), allocate([*sizes.values()], num_rows)))
    drawn = [
        {**row, "weight": stratum.num_pairs / stratum.num_drawn, "row_id": row_id(row["source_text"], row["text"])}
        for stratum in strata
        for row in [row for row in candidates if row["stratum"] == stratum.name][: stratum.num_drawn]
    ]
    drawn.sort(key=lambda row: (row["show_key"], row["source_text"], row["text"]))
    rows = [{name: row[name] for name in AUDIT_COLUMNS if name != "audit_id"} for row in drawn]
    audit_id = "a" + digest(rows)[:15]
    return Audit(audit_id, dataset, [{"audit_id": audit_id, **row} for row in rows], strata)


def row_id(source_text: str, text: str) -> str:
    """Return a pair's id in an audit; it starts with a letter, because spreadsheets round number-like ids."""
    return "r" + digest([source_text, text])[:12]


def allocate(sizes: Sequence[int], num_rows: int) -> list[int]:
    """Return how many rows to draw from strata of these sizes: in proportion to them, by largest remainder.

    Each stratum that is not empty gets at least one row, if there are enough rows for that. All rows are drawn if there
    are fewer than `num_rows`. Among equal remainders, the earlier stratum gets the row.
    """
    if num_rows >= sum(sizes):
        return list(sizes)
    counts, sharing, rows_left = [0] * len(sizes), [place for place, size in enumerate(sizes) if size], num_rows
    total = sum(sizes)
    if num_rows >= len(sharing):
        while small := [place for place in sharing if sizes[place] * rows_left < total]:
            for place in small:
                counts[place] = 1
            sharing = [place for place in sharing if place not in small]
            rows_left -= len(small)
            total -= sum(sizes[place] for place in small)
    for place in sharing:
        counts[place] = sizes[place] * rows_left // total
    by_remainder = sorted(sharing, key=lambda place: -(sizes[place] * rows_left % total))
    for place in by_remainder[: num_rows - sum(counts)]:
        counts[place] += 1
    return counts
