"""The DuckDB view of a root: one file of views over the newest snapshots, that any DuckDB can open and query.

The file is rebuilt beside the old one and swapped in, so open readers keep what they see, and it is never held open
for writing. Its views name every file by its absolute path: after moving a root, rebuild it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_catalog.disk_errors import disk_errors
from data_catalog.errors import ConfigError
from data_catalog.failpoints import failpoint
from data_catalog.images.reasons import FETCH_REASONS
from data_catalog.laws import CONSERVATION
from data_catalog.manifest import MARKED, SPLITS, Snapshot, current_snapshots
from data_catalog.recorded_files import recorded
from data_catalog.schema import CAPTIONS, OUTCOMES, PAIRS
from data_catalog.shards import TEMPORARY_PREFIX, sync

CATALOG_FILE = "catalog.duckdb"
# DuckDB's own command line, an older release than the library, must be able to open the file.
STORAGE_VERSION = "v1.2.0"

FUNNEL_COLUMNS = {"source": "VARCHAR", "step_number": "INTEGER", "step": "VARCHAR"} | dict.fromkeys(
    ("read", "kept", "dropped"), "BIGINT"
)

REJECTS = "SELECT * FROM captions WHERE outcome = 'rejected'"

# One row a sample: what became of its image, or at which step, the last that any caption came to, and why it was lost.
IMAGES = """
    SELECT c.dataset, c.snapshot, c.sample_id, c.source, c.url, c.path, p.split,
           coalesce(o.width, p.width) AS width, coalesce(o.height, p.height) AS height,
           coalesce(o.original_width, p.original_width) AS original_width,
           coalesce(o.original_height, p.original_height) AS original_height,
           coalesce(o.sha256, p.sha256) AS sha256, p.num_bytes, c.num_captions, c.num_kept,
           CASE WHEN p.sample_id IS NOT NULL THEN 'published' WHEN c.num_kept > 0 THEN 'merged' ELSE 'dropped' END
               AS status,
           CASE WHEN p.sample_id IS NULL THEN c.last_step END AS step,
           CASE WHEN p.sample_id IS NULL THEN c.drop_reason END AS drop_reason,
           CASE WHEN p.sample_id IS NULL AND o.drop_reason = c.drop_reason THEN o.detail END AS detail,
           o.sample_id IS NOT NULL AS asked_for, o.drop_reason IN (RETRYABLE) AS retryable, o.http_status, o.final_url,
           o.robots_tag, o.num_bytes AS original_bytes, o.original_format, o.phash
    FROM (
        SELECT dataset, snapshot, sample_id, any_value(source) AS source, any_value(url) AS url,
               any_value(path) AS path, count(*) AS num_captions, count(*) FILTER (outcome = 'kept') AS num_kept,
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

DROP_REASONS = """
    SELECT dataset, snapshot, source, step, drop_reason, count(*) AS dropped
    FROM captions WHERE outcome = 'rejected' GROUP BY ALL
"""

# Which engine made which share of the captions that came so far, and how sure it was.
TRANSLATORS = """
    SELECT dataset, snapshot, translator, source_lang, target_lang, count(*) AS num_captions,
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
    FROM captions WHERE translator IS NOT NULL
    GROUP BY dataset, snapshot, translator, source_lang, target_lang
"""


def catalog_path(root: Path) -> Path:
    """Where a root's DuckDB file lies."""
    return root / CATALOG_FILE


def rebuild(root: Path) -> Path:
    """Write the views over the newest snapshots of all datasets of a root, and swap the file in."""
    path = catalog_path(root)
    temporary = root / f"{TEMPORARY_PREFIX}{CATALOG_FILE}"
    with disk_errors(path):
        failpoint("catalog.before_write", path)
        for leftover in (temporary, temporary.with_name(f"{temporary.name}.wal")):
            leftover.unlink(missing_ok=True)
        _write_views(root, temporary)
        failpoint("catalog.after_write", path)
        sync(temporary)
        failpoint("catalog.after_fsync", path)
        with recorded(path):
            temporary.replace(path)
            failpoint("catalog.after_rename", path)
            sync(root)
            failpoint("catalog.after_folder_fsync", path)
    return path


def _write_views(root: Path, temporary: Path) -> None:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(f"ATTACH {_literal(str(temporary))} AS target (STORAGE_VERSION '{STORAGE_VERSION}')")
        connection.execute("USE target")
        for name, query in _views(list(current_snapshots(root))).items():
            connection.execute(f"CREATE VIEW {name} AS {query}")
        connection.execute("USE memory")
        connection.execute("DETACH target")


DOWNLOADS = """
    SELECT source, host, drop_reason, http_status, count(*) AS num_images
    FROM (SELECT *, regexp_extract(coalesce(url, ''), '^[a-zA-Z]+://([^/?#]+)', 1) AS host FROM image_outcomes)
    WHERE dataset = $dataset AND url IS NOT NULL GROUP BY ALL ORDER BY ALL
"""


def download_counts(root: Path, dataset: str) -> pa.Table:
    """How many images that were asked of the web came, or did not come for which reason: by source and host.

    Columns: source, host, drop_reason (null: the image is good), http_status, num_images.
    """
    return query(root, DOWNLOADS, {"dataset": dataset})


def broken_laws(snapshot: Snapshot) -> list[str]:
    """The conservation laws that a snapshot, committed or about to be, does not hold."""
    import duckdb

    with duckdb.connect() as connection:
        for name, query in _views([snapshot]).items():
            connection.execute(f"CREATE VIEW {name} AS {query}")
        return [law for law, query in CONSERVATION.items() if connection.execute(query).fetchone() is not None]


def query(root: Path, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
    """Answer a query on a root's catalog, on a connection that can read this root and nothing else.

    Args:
        root: of the catalog.
        sql: one question.
        parameters: values of what the question names as `$name`.

    Raises:
        ConfigError: there is no catalog, or DuckDB refuses the query.
    """
    import duckdb

    path = catalog_path(root)
    if not path.is_file():
        raise ConfigError(f"{root} holds no catalog: run `vernaclip build RECIPE --root {root}` first")
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            connection.execute(f"SET allowed_directories = [{_literal(str(root.absolute()))}]")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            _refuse_writing(connection.extract_statements(sql))
            return _answer(connection, sql, parameters)
    except duckdb.IOException as error:
        raise ConfigError(
            f"DuckDB cannot read the catalog ({error}): if the root has moved, "
            f"`vernaclip catalog --rebuild --root {root}` mends it"
        ) from error
    except duckdb.Error as error:
        raise ConfigError(f"DuckDB refuses the query: {error}") from error


def _refuse_writing(statements: Sequence[Any]) -> None:
    """The folders that a query may read it could write to as well: only questions are let through."""
    import duckdb

    for statement in statements:
        if statement.type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
            raise ConfigError(f"DuckDB refuses the query: {statement.type.name} is not a question, SELECT is")


def _answer(connection: Any, sql: str, parameters: Mapping[str, Any] | None) -> pa.Table:
    """Rows of a query; a statement without rows (SET, say) gives an empty table."""
    relation = connection.sql(sql, params=parameters)
    return relation.to_arrow_table() if relation is not None else pa.table({})


def _views(snapshots: Sequence[Snapshot]) -> dict[str, str]:
    """Definitions of all views, in an order in which they can be created."""
    return {
        "pairs": _union(PAIRS, [(snapshot, snapshot.all_pair_files()) for snapshot in snapshots]),
        "captions": _union(CAPTIONS, [(snapshot, snapshot.caption_files()) for snapshot in snapshots]),
        "rejects": REJECTS,
        "image_outcomes": _union(OUTCOMES, [(snapshot, snapshot.image_files()) for snapshot in snapshots]),
        "images": IMAGES.replace("STEPS", _step_order(snapshots)).replace("RETRYABLE", _retryable()),
        "funnel": _values(FUNNEL_COLUMNS, snapshots, lambda manifest: manifest["funnel"]),
        "drop_reasons": DROP_REASONS,
        "leaks": LEAKS,
        "translators": TRANSLATORS,
        "builds": _values(BUILD_COLUMNS, snapshots, lambda manifest: [_build_row(manifest)]),
    }


BUILD_COLUMNS = dict.fromkeys(("target_lang", "translator"), "VARCHAR") | dict.fromkeys(
    ("num_captions", "num_kept", "num_pairs", *(f"num_{split}" for split in (*SPLITS, MARKED)), "bytes"), "BIGINT"
)
BUILD_COLUMNS["settings"] = "JSON"


def _step_order(snapshots: Sequence[Snapshot]) -> str:
    """SQL list of the steps in the order of the funnel."""
    rows = [(row["step_number"], row["step"]) for found in snapshots for row in found.manifest["funnel"]]
    return f"[{', '.join(_literal(step) for _, step in sorted(set(rows)))}]::VARCHAR[]"


def _retryable() -> str:
    """SQL list of the reasons that may pass."""
    return ", ".join(_literal(name) for name, reason in FETCH_REASONS.items() if reason.retryable)


def _build_row(manifest: Mapping[str, Any]) -> dict[str, Any]:
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
    """SQL that reads each snapshot's explicit list of files, with `dataset` and `snapshot` in front.

    All columns of the schema are there, null where a snapshot was written before they were.
    """
    selects = [_empty(schema)] + [
        f"SELECT {_literal(snapshot.dataset)} AS dataset, {_literal(snapshot.snapshot)} AS snapshot, * FROM "
        f"read_parquet([{', '.join(_literal(str(file.absolute())) for file in files)}], union_by_name = true)"
        for snapshot, files in parts
        if files
    ]
    return " UNION ALL BY NAME ".join(selects)


def _empty(schema: pa.Schema) -> str:
    names = {"dataset": "VARCHAR", "snapshot": "VARCHAR"} | {field.name: _sql_type(field.type) for field in schema}
    return f"SELECT {', '.join(f'NULL::{kind} AS {name}' for name, kind in names.items())} WHERE false"


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        return f"STRUCT({', '.join(f'{field.name} {_sql_type(field.type)}' for field in kind)})"
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
    names = ", ".join(f"{name}::{kind} AS {name}" for name, kind in kinds.items())
    if not rows:
        return f"SELECT {', '.join(f'NULL::{kind} AS {name}' for name, kind in kinds.items())} WHERE false"
    values = ", ".join(f"({', '.join(_literal(cell) for cell in row)})" for row in rows)
    return f"SELECT {names} FROM (VALUES {values}) AS t({', '.join(kinds)})"


def _literal(value: Any) -> str:
    """An SQL literal of a string, an integer or None."""
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"
