"""The texts of a catalog's views: SQL over the files that snapshots list, and over what their manifests say.

What every view and every column in it means is told in the database itself, and in docs/catalog.md.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_catalog.fetch.reasons import FETCH_REASONS
from data_catalog.schema import (
    CAPTION_COLUMNS,
    CAPTIONS,
    OUTCOME_COLUMNS,
    OUTCOMES,
    PAIR_COLUMNS,
    PAIRS,
)
from data_catalog.storage.manifest import MARKED, SPLITS, Manifest, Snapshot

VIEWS: Mapping[str, str] = {
    "pairs": "one row per published image: its pixels and parallel lists of its captions; what training reads",
    "captions": "one row per selected upstream row: where it comes from, what was measured, kept or why not",
    "rejects": "the rows of captions that a step rejected",
    "image_outcomes": "one row per image that was asked for, as fetching and normalising found it, without pixels",
    "images": "one row per sample: what became of its image, and where and why it was lost",
    "funnel": "caption rows that each step read, kept and dropped, by source; read = kept + dropped",
    "drop_reasons": "how many caption rows each step dropped for which reason, by source",
    "leaks": "what of which test set was found among the captions and images of which source, and by what",
    "translators": "what each translator, ours or upstream's, did: how many captions, how sure, what was measured",
    "builds": "one row per dataset: what its newest snapshot holds, and the settings that made it",
}

_WHERE = {
    "dataset": "name of the dataset",
    "snapshot": "id of the dataset's newest snapshot",
}
_IMAGES = {
    **{name: OUTCOME_COLUMNS[name] for name in ("sample_id", "source", "url", "path")},
    "upstream_split": "split that upstream states of it, of several the last of train, val, test; null: none",
    "split": "of the published pair; null: the image is not published",
    **{
        name: PAIR_COLUMNS[name] for name in ("width", "height", "original_width", "original_height", "sha256", "phash")
    },
    "num_bytes": "of the published picture; null: it is not published",
    "num_captions": "caption rows of the sample",
    "num_kept": "those of them that are kept",
    "status": "published; merged: its captions are published with another sample's image; or dropped",
    "step": "the step at which a sample that is dropped was lost: the last that any of its captions came to",
    "drop_reason": "why it was lost there",
    "detail": "what in particular, where the image itself was lost",
    "asked_for": "whether any of its captions came as far as fetching",
    "retryable": "whether a later try may bring the image (vernaclip build --retry-failed)",
    **{name: OUTCOME_COLUMNS[name] for name in ("http_status", "final_url", "robots_tag", "content_usage")},
    "original_bytes": "of the image as it came",
    "original_format": OUTCOME_COLUMNS["original_format"],
}

_FUNNEL = {
    "source": CAPTION_COLUMNS["source"],
    "step_number": "place of the step in the order of the build",
    "step": "name of the step",
    "read": "caption rows that came to the step",
    "kept": "rows that it let pass",
    "dropped": "rows that it rejected",
}

_DROP_REASONS = {
    "source": CAPTION_COLUMNS["source"],
    "step": "the step that rejected the rows",
    "drop_reason": "why, one word of a closed list (docs/captions.md, docs/images.md)",
    "dropped": "how many rows",
}

_LEAK_COUNTS = {
    "source": CAPTION_COLUMNS["source"],
    "test_set": "name of the test set in the recipe",
    "reason": "test_image: by the image's identity; test_caption: by a caption; test_pixels: the image looks like one",
    "outcome": "rejected, or kept where the recipe marks leaks",
    "num_images": "samples concerned",
    "num_captions": "caption rows concerned",
}

_TRANSLATORS = {
    "translator": "fingerprint of the engine, or whom upstream names; native: nobody translated",
    "origin": "as in captions",
    "source_lang": "language of the source captions; that of the target: originals are not there",
    "target_lang": "language that it translated to",
    "num_captions": "captions that it gave, kept or not",
    "share": "of all captions of the dataset that came as far as translating, 0 to 1",
    "num_kept": "those that are kept",
    "mean_score": "mean of translation_score",
    "score_p5": "translation_score that 5 % of its captions are below",
    "score_p50": "median of translation_score",
    "num_truncated": "captions of which the decoding hit its limit",
    "num_repetitive": "captions that looped",
    "mean_length_ratio": "mean of length_ratio",
    "mean_copied_share": "mean of copied_share",
    "num_numbers_lost": "captions that lack a number of their source",
    "num_numbers_invented": "captions with a number that their source lacks",
    "mean_language_margin": "mean of language_margin",
    "mean_round_trip_chrf": "mean of round_trip_chrf, where there is any",
}

_BUILDS = {
    "target_lang": "language of the dataset",
    "translator": 'fingerprint of the recipe\'s engine, or "native" where it has none',
    "num_captions": "caption rows, kept or rejected",
    "num_kept": "caption rows that are kept",
    "num_pairs": "published images",
    "num_train": "published images of the split train",
    "num_val": "published images of the split val",
    "num_test": "published images of the split test",
    "num_marked": "published images in no split, since they hold something of a test set",
    "bytes": "of the files of pairs and captions",
    "settings": "what of the recipe decides the content, as JSON",
}

COLUMNS: Mapping[str, Mapping[str, str]] = {
    view: {**_WHERE, **columns}
    for view, columns in {
        "pairs": PAIR_COLUMNS,
        "captions": CAPTION_COLUMNS,
        "rejects": CAPTION_COLUMNS,
        "image_outcomes": OUTCOME_COLUMNS,
        "images": _IMAGES,
        "funnel": _FUNNEL,
        "drop_reasons": _DROP_REASONS,
        "leaks": _LEAK_COUNTS,
        "translators": _TRANSLATORS,
        "builds": _BUILDS,
    }.items()
}

STEP_COLUMNS = {"source": "VARCHAR", "step_number": "INTEGER", "step": "VARCHAR"}
FUNNEL_COLUMNS = STEP_COLUMNS | dict.fromkeys(("read", "kept", "dropped"), "BIGINT")

REJECTS = "SELECT * FROM captions WHERE outcome = 'rejected'"

# One row a sample: what became of its image, or at which step, the last that any caption came to, and why it was lost.
IMAGES = """
    SELECT c.dataset, c.snapshot, c.sample_id, c.source, c.url, c.path, c.upstream_split, p.split,
           coalesce(o.width, p.width) AS width, coalesce(o.height, p.height) AS height,
           coalesce(o.original_width, p.original_width) AS original_width,
           coalesce(o.original_height, p.original_height) AS original_height,
           coalesce(o.sha256, p.sha256) AS sha256, p.num_bytes, c.num_captions, c.num_kept,
           CASE WHEN p.sample_id IS NOT NULL THEN 'published' WHEN c.num_kept > 0 THEN 'merged' ELSE 'dropped' END
               AS status,
           CASE WHEN p.sample_id IS NULL AND c.num_kept = 0 THEN c.last_step END AS step,
           CASE WHEN p.sample_id IS NULL AND c.num_kept = 0 THEN c.drop_reason END AS drop_reason,
           CASE WHEN p.sample_id IS NULL AND o.drop_reason = c.drop_reason THEN o.detail END AS detail,
           o.sample_id IS NOT NULL AS asked_for, coalesce(o.drop_reason IN (RETRYABLE), false) AS retryable,
           o.http_status, o.final_url, o.robots_tag, o.content_usage,
           o.num_bytes AS original_bytes, o.original_format, o.phash
    FROM (
        SELECT dataset, snapshot, sample_id, any_value(source) AS source, any_value(url) AS url,
               any_value(path) AS path, SPLITS[max(list_position(SPLITS, upstream_split))] AS upstream_split,
               count(*) AS num_captions, count(*) FILTER (outcome = 'kept') AS num_kept,
               arg_max(step, list_position(STEPS, step)) AS last_step,
               arg_max(drop_reason, list_position(STEPS, step)) AS drop_reason
        FROM captions GROUP BY dataset, snapshot, sample_id
    ) c LEFT JOIN (
        SELECT dataset, snapshot, sample_id, split, width, height, original_width, original_height, sha256,
               octet_length(image.bytes) AS num_bytes
        FROM pairs
    ) p USING (dataset, snapshot, sample_id)
    LEFT JOIN image_outcomes o USING (dataset, snapshot, sample_id)
"""

# What of which test set was found among the captions and images of which source, and by what; dropped or marked.
LEAKS = """
    SELECT dataset, snapshot, source, split_part(found, ': ', 1) AS test_set, reason, outcome,
           count(DISTINCT sample_id) AS num_images, count(*) AS num_captions
    FROM (
        SELECT *, drop_reason AS reason, detail AS found FROM captions
        WHERE drop_reason IN ('test_image', 'test_caption', 'test_pixels')
        UNION ALL BY NAME
        SELECT *, split_part(mark, ' ', 1) AS reason, substr(mark, instr(mark, ' ') + 1) AS found
        FROM (SELECT *, unnest(leaks) AS mark FROM captions)
    ) GROUP BY ALL
"""

# What each step read, kept and dropped, told by where the caption rows ended.
FUNNEL = """
    WITH counts AS MATERIALIZED (
        SELECT dataset, snapshot, source, step, count(*) AS num FROM captions GROUP BY ALL
    ), totals AS (SELECT dataset, snapshot, source, sum(num) AS num FROM counts GROUP BY ALL)
    SELECT dataset, snapshot, source, step_number, step, kept + dropped AS read, kept, dropped FROM (
        SELECT steps.*, coalesce(counts.num, 0) AS dropped,
               (coalesce(totals.num, 0) - sum(coalesce(counts.num, 0)) OVER so_far)::BIGINT AS kept
        FROM (STEPS) steps LEFT JOIN counts USING (dataset, snapshot, source, step)
        LEFT JOIN totals USING (dataset, snapshot, source)
        WINDOW so_far AS (PARTITION BY steps.dataset, steps.snapshot, steps.source ORDER BY step_number)
    )
"""

DROP_REASONS = """
    SELECT dataset, snapshot, source, step, drop_reason, count(*) AS dropped
    FROM captions WHERE outcome = 'rejected' GROUP BY ALL
"""

# Which engine made which share of the captions that came so far, and how sure it was.
TRANSLATORS = """
    SELECT dataset, snapshot, translator, origin, source_lang, target_lang, count(*) AS num_captions,
           count(*) / sum(count(*)) OVER (PARTITION BY dataset, snapshot) AS share,
           count(*) FILTER (outcome = 'kept') AS num_kept,
           avg(translation_score) AS mean_score, quantile_cont(translation_score, 0.05) AS score_p5,
           quantile_cont(translation_score, 0.5) AS score_p50,
           count(*) FILTER (translation_truncated) AS num_truncated,
           count(*) FILTER (translation_repetitive) AS num_repetitive,
           avg(length_ratio) AS mean_length_ratio, avg(copied_share) AS mean_copied_share,
           count(*) FILTER (len(numbers_lost) > 0) AS num_numbers_lost,
           count(*) FILTER (len(numbers_invented) > 0) AS num_numbers_invented,
           avg(language_margin) AS mean_language_margin, avg(round_trip_chrf) AS mean_round_trip_chrf
    FROM captions WHERE caption IS NOT NULL
    GROUP BY dataset, snapshot, translator, origin, source_lang, target_lang
"""


def view_texts(snapshots: Sequence[Snapshot]) -> dict[str, str]:
    """Return the definitions of all views, in an order in which they can be created."""
    return {
        "pairs": _union(PAIRS, [(snapshot, snapshot.all_pair_files()) for snapshot in snapshots]),
        "captions": _union(CAPTIONS, [(snapshot, snapshot.caption_files()) for snapshot in snapshots]),
        "rejects": REJECTS,
        "image_outcomes": _union(OUTCOMES, [(snapshot, snapshot.image_files()) for snapshot in snapshots]),
        "images": IMAGES.replace("STEPS", _step_order(snapshots))
        .replace("SPLITS", str(list(SPLITS)))
        .replace("RETRYABLE", ", ".join(literal(name) for name, found in FETCH_REASONS.items() if found.retryable)),
        "funnel": FUNNEL.replace("STEPS", _values(STEP_COLUMNS, snapshots, _steps)),
        "drop_reasons": DROP_REASONS,
        "leaks": LEAKS,
        "translators": TRANSLATORS,
        "builds": _values(BUILD_COLUMNS, snapshots, lambda manifest: [_build_row(manifest)]),
    }


def counted_text(snapshot: Snapshot) -> str:
    """Return SQL for the funnel as the steps of a build counted it: the columns of the view `funnel`."""
    return _values(FUNNEL_COLUMNS, [snapshot], lambda manifest: manifest["funnel"])


def comment_texts() -> list[str]:
    """Statements that say what every view, and every column of it, means."""
    views = [f"COMMENT ON VIEW {view} IS {literal(text)}" for view, text in VIEWS.items()]
    return views + [
        f"COMMENT ON COLUMN {view}.{name} IS {literal(text)}"
        for view, columns in COLUMNS.items()
        for name, text in columns.items()
    ]


BUILD_COLUMNS = dict.fromkeys(("target_lang", "translator"), "VARCHAR") | dict.fromkeys(
    ("num_captions", "num_kept", "num_pairs", *(f"num_{split}" for split in (*SPLITS, MARKED)), "bytes"), "BIGINT"
)
BUILD_COLUMNS["settings"] = "JSON"


def _step_order(snapshots: Sequence[Snapshot]) -> str:
    """Return SQL for the list of a snapshot's steps in the order of the funnel: a constant where all have the same."""
    orders = {found.snapshot: f"[{', '.join(map(literal, found.steps))}]::VARCHAR[]" for found in snapshots}
    if len(set(orders.values())) < 2:
        return next(iter(orders.values()), "[]::VARCHAR[]")
    return f"CASE snapshot {' '.join(f'WHEN {literal(name)} THEN {order}' for name, order in orders.items())} END"


def _steps(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the steps of a build in the order of the funnel, for each of its sources."""
    return [
        {"source": source, "step_number": number, "step": entry["step"]}
        for source in sorted(manifest["sources"])
        for number, entry in enumerate(manifest["steps"], start=1)
    ]


def _build_row(manifest: Manifest) -> dict[str, Any]:
    import json

    pairs, captions = manifest["files"]["pairs"], manifest["files"]["captions"]
    last_step = max((row["step_number"] for row in manifest["funnel"]), default=0)
    by_split = {split: sum(f["rows"] for f in pairs if f["split"] == split) for split in (*SPLITS, MARKED)}
    return {
        "target_lang": manifest["target_lang"],
        "translator": manifest["translator"],
        "num_captions": sum(file["rows"] for file in captions),
        "num_kept": sum(row["kept"] for row in manifest["funnel"] if row["step_number"] == last_step),
        "num_pairs": sum(file["rows"] for file in pairs),
        **{f"num_{split}": count for split, count in by_split.items()},
        "bytes": sum(file["bytes"] for file in [*pairs, *captions]),
        "settings": json.dumps(manifest["settings"], sort_keys=True, ensure_ascii=False),
    }


def _union(schema: pa.Schema, parts: Sequence[tuple[Snapshot, Sequence[Path]]]) -> str:
    """SQL that reads each snapshot's explicit list of files, with `dataset` and `snapshot` in front."""
    names = {"dataset": "VARCHAR", "snapshot": "VARCHAR"} | {field.name: _sql_type(field.type) for field in schema}
    selects = [_no_rows(names)] + [
        f"SELECT {literal(snapshot.dataset)} AS dataset, {literal(snapshot.snapshot)} AS snapshot, * FROM "
        f"read_parquet([{', '.join(literal(str(file.absolute())) for file in files)}], hive_partitioning = false)"
        for snapshot, files in parts
        if files
    ]
    return " UNION ALL BY NAME ".join(selects)


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        fields = (f'"{field.name}" {_sql_type(field.type)}' for field in kind)  # "where" is a word of SQL
        return f"STRUCT({', '.join(fields)})"
    return {
        "string": "VARCHAR",
        "binary": "BLOB",
        "int32": "INTEGER",
        "int64": "BIGINT",
        "float": "FLOAT",
        "bool": "BOOLEAN",
    }[str(kind)]


def _values(columns: Mapping[str, str], snapshots: Sequence[Snapshot], rows_of: Any) -> str:
    """SQL for a small table that is written out in the view itself."""
    kinds = {"dataset": "VARCHAR", "snapshot": "VARCHAR", **columns}
    rows = [
        [snapshot.dataset, snapshot.snapshot, *(row[name] for name in columns)]
        for snapshot in snapshots
        for row in rows_of(snapshot.manifest)
    ]
    if not rows:
        return _no_rows(kinds)
    names = ", ".join(f"{name}::{kind} AS {name}" for name, kind in kinds.items())
    values = ", ".join(f"({', '.join(literal(cell) for cell in row)})" for row in rows)
    return f"SELECT {names} FROM (VALUES {values}) AS t({', '.join(kinds)})"


def _no_rows(kinds: Mapping[str, str]) -> str:
    return f"SELECT {', '.join(f'NULL::{kind} AS {name}' for name, kind in kinds.items())} WHERE false"


def literal(value: Any) -> str:
    """An SQL literal of a string, an integer or None."""
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"
