"""SQL of the catalog's views over the files that snapshots list and the facts in their manifests.

The database itself, and docs/catalog.md, describe every view and every column.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_catalog.database.connections import SHARDS, sql_type
from data_catalog.fetch.reasons import RETRYABLE
from data_catalog.schema import CAPTION_COLUMNS, OUTCOME_COLUMNS, PAIR_COLUMNS
from data_catalog.storage.manifest import MARKED, SPLITS, Manifest, Snapshot

VIEWS: Mapping[str, str] = {
    "pairs": "one row per published image: its pixels and parallel lists of its captions; what training reads",
    "captions": "one row per selected upstream row: its origin, its measures, and whether it is kept or why it is not",
    "rejects": "the rows of captions that a step rejected",
    "image_outcomes": "one row per requested image: the outcome of fetching and normalising, without pixels",
    "images": "one row per sample: the outcome of its image, and where and why it was dropped",
    "funnel": "caption rows that each step read, kept and dropped, by source; read = kept + dropped",
    "drop_reasons": "how many caption rows each step dropped for which reason, by source",
    "leaks": "overlaps with test sets: how many images and captions, by source, test set and how they were found",
    "translators": "one row per translator, ours or upstream's: its captions, their scores and measures",
    "builds": "one row per dataset: the contents of its newest snapshot, and the settings that made it",
}

_WHERE = {
    "dataset": "name of the dataset",
    "snapshot": "id of the dataset's newest snapshot",
}
_IMAGES = {
    **{name: OUTCOME_COLUMNS[name] for name in ("sample_id", "source", "url", "path")},
    "upstream_split": "split that upstream states, of several the last of train, val, test; null: none",
    "split": "split of the published pair; null: the image is not published",
    **{
        name: PAIR_COLUMNS[name] for name in ("width", "height", "original_width", "original_height", "sha256", "phash")
    },
    "num_bytes": "bytes of the published image; null: it is not published",
    "num_captions": "caption rows of the sample",
    "num_kept": "kept caption rows of the sample",
    "status": "published; merged: its captions are published with another sample's image; or dropped",
    "step": "step that dropped the sample: the last one that any of its captions reached; null: not dropped",
    "drop_reason": "reason of that drop",
    "detail": "details of the drop, if the image itself was dropped",
    "asked_for": "whether the image was requested: any of its captions reached fetching",
    "retryable": "whether a retry may get the image (vernaclip build --retry-failed)",
    **{name: OUTCOME_COLUMNS[name] for name in ("http_status", "final_url", "robots_tag", "content_usage")},
    "original_bytes": "bytes of the original image",
    "original_format": OUTCOME_COLUMNS["original_format"],
}

_FUNNEL = {
    "source": CAPTION_COLUMNS["source"],
    "step_number": "place of the step in the order of the build",
    "step": "name of the step",
    "read": "caption rows that reached the step",
    "kept": "rows that it kept",
    "dropped": "rows that it rejected",
}

_DROP_REASONS = {
    "source": CAPTION_COLUMNS["source"],
    "step": "the step that rejected the rows",
    "drop_reason": "reason, one word of a closed list (docs/captions.md, docs/images.md)",
    "dropped": "number of rows",
}

_LEAK_COUNTS = {
    "source": CAPTION_COLUMNS["source"],
    "test_set": "name of the test set in the recipe",
    "reason": "test_image: an image with the same identity; test_caption: a caption; test_pixels: a similar image",
    "outcome": "rejected, or kept if the recipe marks leaks",
    "num_images": "number of samples",
    "num_captions": "number of caption rows",
}

_TRANSLATORS = {
    "translator": "fingerprint of the engine, or the translator that upstream names; native: not translated",
    "origin": "origin of the captions, as in captions",
    "source_lang": "language of the source captions; the target language if upstream has no originals",
    "target_lang": "language of the translations",
    "num_captions": "captions by this translator, kept or dropped",
    "share": "share of all captions of the dataset that reached translating, 0 to 1",
    "num_kept": "kept captions by this translator",
    "mean_score": "mean of translation_score",
    "score_p5": "5th percentile of translation_score",
    "score_p50": "median of translation_score",
    "num_truncated": "captions whose decoding reached its length limit",
    "num_repetitive": "captions with repeated phrases, where decoding looped",
    "mean_length_ratio": "mean of length_ratio",
    "mean_copied_share": "mean of copied_share",
    "num_numbers_lost": "captions that lack a number of their source",
    "num_numbers_invented": "captions with a number that their source lacks",
    "mean_language_margin": "mean of language_margin",
    "mean_round_trip_chrf": "mean of round_trip_chrf; null: none was measured",
}

_BUILDS = {
    "target_lang": "language of the dataset",
    "translator": 'fingerprint of the recipe\'s engine, or "native" if it has none',
    "num_captions": "caption rows, kept or rejected",
    "num_kept": "kept caption rows",
    "num_pairs": "published images",
    "num_train": "published images of the split train",
    "num_val": "published images of the split val",
    "num_test": "published images of the split test",
    "num_marked": "published images in no split, since they overlap a test set",
    "bytes": "bytes of the files of pairs and captions",
    "settings": "settings of the recipe that decide the content, as JSON",
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

# One row a sample: the outcome of its image, or the last step that any of its captions reached and the drop reason.
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

# Overlaps with test sets, dropped or marked, by source, test set and the check that found them.
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

# Rows that each step read, kept and dropped, counted on the final states of the caption rows.
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

# Captions by translator, their shares and scores, among those that reached translation.
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
        **{
            name: _union(schema, [(snapshot, files_of(snapshot)) for snapshot in snapshots])
            for name, (schema, files_of) in SHARDS.items()
        },
        "rejects": REJECTS,
        "images": IMAGES.replace("STEPS", _step_order(snapshots))
        .replace("SPLITS", str(list(SPLITS)))
        .replace("RETRYABLE", ", ".join(map(literal, sorted(RETRYABLE)))),
        "funnel": FUNNEL.replace("STEPS", _values(STEP_COLUMNS, snapshots, _steps)),
        "drop_reasons": DROP_REASONS,
        "leaks": LEAKS,
        "translators": TRANSLATORS,
        "builds": _values(BUILD_COLUMNS, snapshots, lambda manifest: [_build_row(manifest)]),
    }


def counted_text(snapshot: Snapshot) -> str:
    """Return SQL for the funnel as the steps of a build counted it, with the columns of the view `funnel`."""
    return _values(FUNNEL_COLUMNS, [snapshot], lambda manifest: manifest["funnel"])


def created_text(views: Mapping[str, str]) -> str:
    """Return SQL that creates views, in their order."""
    return "; ".join(f"CREATE VIEW {name} AS {query}" for name, query in views.items())


def commented_text() -> str:
    """Return SQL that describes every view and each of its columns."""
    views = [f"COMMENT ON VIEW {view} IS {literal(text)}" for view, text in VIEWS.items()]
    columns = [
        f"COMMENT ON COLUMN {view}.{name} IS {literal(text)}"
        for view, columns in COLUMNS.items()
        for name, text in columns.items()
    ]
    return "; ".join(views + columns)


BUILD_COLUMNS = dict.fromkeys(("target_lang", "translator"), "VARCHAR") | dict.fromkeys(
    ("num_captions", "num_kept", "num_pairs", *(f"num_{split}" for split in (*SPLITS, MARKED)), "bytes"), "BIGINT"
)
BUILD_COLUMNS["settings"] = "JSON"


def _step_order(snapshots: Sequence[Snapshot]) -> str:
    """Return SQL for a snapshot's list of steps in the order of the funnel; a constant if all snapshots share it."""
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
    """Return SQL that reads each snapshot's list of files, with the columns `dataset` and `snapshot` first."""
    names = {"dataset": "VARCHAR", "snapshot": "VARCHAR"} | {field.name: sql_type(field.type) for field in schema}
    selects = [_no_rows(names)] + [
        f"SELECT {literal(snapshot.dataset)} AS dataset, {literal(snapshot.snapshot)} AS snapshot, * FROM "
        f"read_parquet([{', '.join(literal(str(file.absolute())) for file in files)}], hive_partitioning = false)"
        for snapshot, files in parts
        if files
    ]
    return " UNION ALL BY NAME ".join(selects)


def _values(columns: Mapping[str, str], snapshots: Sequence[Snapshot], rows_of: Any) -> str:
    """Return SQL for a small table whose rows are written out in the view itself."""
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
    """Return an SQL literal of a string, an integer or None."""
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"
