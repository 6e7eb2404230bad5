"""Sorting and grouping of whole datasets, out of core: the one place that uses DuckDB as an engine, not as a catalog."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

MEMORY_LIMIT = "2GB"  # beyond it DuckDB spills to the temporary folder
ROWS_PER_BATCH = 20_000


def count_samples(staged: Path) -> int:
    """Number of distinct `sample_id`s in a Parquet file."""
    row = _connect(staged.parent).execute("SELECT count(DISTINCT sample_id) FROM read_parquet(?)", [str(staged)])
    return int(row.fetchall()[0][0])


def sorted_rows(staged: Path) -> Iterator[pa.RecordBatch]:
    """Rows of a staged Parquet file in the dataset's order, each with its `repeat` (1 for the first of its id).

    The order is by `order_key`, then by ids, then by file and line: it does not depend on the order of reading.
    """
    query = """
        SELECT *, row_number() OVER (PARTITION BY sample_id, caption_id ORDER BY upstream_file, upstream_line) AS repeat
        FROM read_parquet(?)
        ORDER BY order_key, sample_id, caption_id, repeat
    """
    connection = _connect(staged.parent)
    yield from connection.execute(query, [str(staged)]).to_arrow_reader(ROWS_PER_BATCH)


def duplicate_images(images: Sequence[Path], ranks: dict[str, int]) -> pa.Table:
    """Samples whose image has the same bytes as a better sample's.

    Args:
        images: Parquet files with `sample_id`, `drop_reason` and `sha256`.
        ranks: rank of each sample's source, by the prefix of its id; the lowest rank stays, then the lowest id.

    Returns:
        Columns `sample_id` and `duplicate_of`, sorted by `sample_id`.
    """
    query = """
        WITH good AS (
            SELECT sample_id, sha256, coalesce(map_extract_value($ranks, split_part(sample_id, ':', 1)), 1000000) AS rank
            FROM read_parquet($files) WHERE drop_reason IS NULL
        ), best AS (
            SELECT sample_id, first_value(sample_id) OVER (PARTITION BY sha256 ORDER BY rank, sample_id) AS duplicate_of
            FROM good
        )
        SELECT sample_id, duplicate_of FROM best WHERE sample_id <> duplicate_of ORDER BY sample_id
    """
    connection = _connect(images[0].parent)
    parameters = {"files": [str(path) for path in images], "ranks": ranks}
    return connection.execute(query, parameters).to_arrow_table()


def _connect(folder: Path) -> Any:
    import duckdb

    settings = {"memory_limit": MEMORY_LIMIT, "temp_directory": str(folder / "duckdb-spill"), "threads": 2}
    return duckdb.connect(config=settings)
